//! Standard input that stays open: what callers write while the process runs, in the order in which they came.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use bytes::{Buf, Bytes};
use nix::errno::Errno;
use tokio::io::Interest;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::watch::Watch;
use crate::error::Error;

/// A process that reads nothing for so long is not waited for any longer.
const STALL: Duration = Duration::from_secs(30);
/// The end of file as a terminal has it: control-D.
const END_OF_TRANSMISSION: &[u8] = b"\x04";

/// The daemon's end.
#[derive(Debug)]
pub(super) struct Input {
    /// Held while something is written, so that writes are whole; `None` once it was closed or when it never was open.
    end: Mutex<Option<Watch>>,
    is_tty: bool,
    /// The process has ended.
    over: CancellationToken,
}

impl Input {
    /// One that is at its end.
    pub(super) fn closed() -> Self {
        Self::new(None, false)
    }

    /// The daemon's end of a pipe, which does not block.
    pub(super) fn pipe(end: OwnedFd) -> Self {
        Self::new(Some(end), false)
    }

    /// The daemon's end of a terminal, which does not block.
    pub(super) fn tty(end: OwnedFd) -> Self {
        Self::new(Some(end), true)
    }

    fn new(end: Option<OwnedFd>, is_tty: bool) -> Self {
        Self {
            end: Mutex::new(end.map(|end| Watch::new(end, Interest::WRITABLE))),
            is_tty,
            over: CancellationToken::new(),
        }
    }

    /// Writes all of it, as fast as the process reads, and answers how many bytes that were. To be awaited to its end:
    /// whoever gives up does not know how much went.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when nobody reads: the input is closed, the process has ended, or takes nothing for 30 s; it
    /// says how much went.
    pub(super) async fn write(&self, bytes: Bytes) -> Result<u64, Error> {
        let mut end = self.end.lock().await;
        let Some(pipe) = end.as_mut() else {
            return Err(refused("is not open"));
        };
        let (size, mut left) = (bytes.len(), bytes);
        while !left.is_empty() {
            let before = left.len();
            let outcome = match some(pipe.as_fd(), &mut left) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let writing = tokio::time::timeout(STALL, pipe.until_ready(|pipe| some(pipe, &mut left)));
                    tokio::select! {
                        outcome = writing => outcome,
                        () = self.over.cancelled() => return Err(refused("ended with the process")),
                    }
                }
                done => {
                    tokio::task::coop::consume_budget().await;
                    Ok(done)
                }
            };
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    *end = None;
                    return Err(refused(&format!("is closed at its other end ({error})")));
                }
                Err(_) if left.len() < before => {}
                Err(_) => {
                    let taken = size - left.len();
                    return Err(refused(&format!(
                        "took {taken} of {size} bytes and then none for {} s",
                        STALL.as_secs()
                    )));
                }
            }
        }
        Ok(size as u64)
    }

    /// Ends the input behind what is being written; closing twice is once.
    ///
    /// # Errors
    ///
    /// As [`Input::write`]: the end of file of a terminal is a character.
    pub(super) async fn close(&self) -> Result<(), Error> {
        if self.is_tty {
            return self
                .write(Bytes::from_static(END_OF_TRANSMISSION))
                .await
                .map(|_| ());
        }
        *self.end.lock().await = None;
        Ok(())
    }

    /// The process has ended: nobody writes any more.
    pub(super) fn end(&self) {
        self.over.cancel();
        if let Ok(mut end) = self.end.try_lock() {
            *end = None;
        }
    }
}

fn refused(reason: &str) -> Error {
    Error::Conflict {
        what: "standard input".into(),
        reason: reason.into(),
    }
}

/// Writes once.
fn some(pipe: BorrowedFd<'_>, left: &mut Bytes) -> io::Result<()> {
    loop {
        match nix::unistd::write(pipe, left) {
            Ok(written) => {
                left.advance(written);
                return Ok(());
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
