//! Writing standard input: as fast as the program reads it, then end of file.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::{Buf, Bytes};
use nix::errno::Errno;
use tokio::io::Interest;

use super::watch::Watch;

/// The daemon's end of standard input, and what is still to be written to it.
#[derive(Debug)]
pub(super) struct Feeder {
    /// `None` once everything was written or nobody reads.
    pipe: Option<Watch>,
    input: Bytes,
}

impl Feeder {
    /// Of an end that does not block; `None` when there is no input.
    pub(super) fn new(pipe: Option<OwnedFd>, input: Bytes) -> Self {
        Self {
            pipe: pipe.map(|pipe| Watch::new(pipe, Interest::WRITABLE)),
            input,
        }
    }

    /// Whether there is nothing left to do.
    pub(super) fn ended(&self) -> bool {
        self.pipe.is_none()
    }

    /// Writes what goes without waiting.
    pub(super) fn write_now(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        let written = write(pipe.as_fd(), &mut self.input);
        if !matches!(&written, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.pipe = None;
        }
    }

    /// Writes the input, closes, and never resolves again. Cancel-safe.
    pub(super) async fn feed(&mut self) -> std::convert::Infallible {
        if let Some(pipe) = &mut self.pipe {
            let input = &mut self.input;
            // However it ends: a child that closed its input has no reader for what is left of ours.
            let _ended = pipe.until_ready(|pipe| write(pipe, input)).await;
            self.pipe = None;
        }
        std::future::pending().await
    }

    /// Gives up what was not written.
    pub(super) fn close(&mut self) {
        self.pipe = None;
    }
}

/// Writes until nothing is left, or fails: `WouldBlock` when the pipe is full.
fn write(pipe: BorrowedFd<'_>, input: &mut Bytes) -> io::Result<()> {
    while !input.is_empty() {
        match nix::unistd::write(pipe, input) {
            Ok(written) => input.advance(written),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
