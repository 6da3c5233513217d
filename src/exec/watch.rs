//! A descriptor that the runtime watches from the first time that somebody waits for it. Most commands are over
//! before anybody does, and registering what is never waited for costs more than reading it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::sys::{self, Watched};

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
    /// the runtime's context. Fails as `attempt` does, and when the runtime cannot watch one more descriptor.
    pub(super) async fn until_ready<T>(
        &mut self,
        mut attempt: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let watched = match &mut self.watched {
            Some(watched) => watched,
            none => none.insert(sys::watch(Arc::clone(&self.fd), self.interest)?),
        };
        loop {
            let mut ready = watched.ready(self.interest).await?;
            // The other outcome is that it was not ready after all, which the guard has noted.
            if let Ok(done) = ready.try_io(|fd| attempt(fd.get_ref().as_fd())) {
                return done;
            }
        }
    }
}
