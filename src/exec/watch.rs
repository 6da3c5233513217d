//! A descriptor that the runtime watches from the first time that somebody waits for it. Most commands are over
//! before anybody does, and registering what is never waited for costs more than reading it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::sys::{self, Watched};

/// What the runtime cannot watch is asked this often: one answer late is better than output lost.
const PAUSE: Duration = Duration::from_millis(10);

/// A descriptor that does not block, watched or not yet.
#[derive(Debug)]
pub(super) struct Watch {
    fd: Arc<OwnedFd>,
    interest: Interest,
    watched: Option<AsyncFd<Watched>>,
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Watch {
    /// Of a descriptor on which `attempt` of [`Watch::until_ready`] never blocks.
    pub(super) fn new(fd: impl Into<Arc<OwnedFd>>, interest: Interest) -> Self {
        Self {
            fd: fd.into(),
            interest,
            watched: None,
        }
    }

    /// Repeats `attempt`, whenever the descriptor is ready, until it no longer answers `WouldBlock`. Cancel-safe. Needs
    /// the runtime's context. Fails as `attempt` does.
    pub(super) async fn until_ready<T>(
        &mut self,
        mut attempt: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            if self.watched.is_none() {
                // Out of memory, or of what the kernel lets one user watch: tried again at the next turn.
                self.watched = sys::watch(Arc::clone(&self.fd), self.interest).ok();
            }
            let Some(watched) = &self.watched else {
                // Who is always ready is not to keep others from their turn.
                tokio::task::yield_now().await;
                match attempt(self.fd.as_fd()) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        tokio::time::sleep(PAUSE).await;
                    }
                    done => return done,
                }
                continue;
            };
            let mut ready = watched.ready(self.interest).await?;
            // The other outcome is that it was not ready after all, which the guard has noted.
            if let Ok(done) = ready.try_io(|fd| attempt(fd.get_ref().as_fd())) {
                return done;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_the_runtime_cannot_watch_is_asked_until_it_answers() {
        // The kernel watches no regular files.
        let file = tempfile::tempfile().unwrap();
        let mut watch = Watch::new(OwnedFd::from(file), Interest::READABLE);
        let mut answers = [Err(io::ErrorKind::WouldBlock.into()), Ok("bytes")].into_iter();
        let answer = watch.until_ready(|_| answers.next().unwrap()).await;
        assert_eq!(answer.unwrap(), "bytes");
    }
}
