//! Reading one output pipe: a buffer that grows with the flow, and bytes handed on without a copy.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::Interest;

use super::sys;
use super::watch::Watch;

/// First buffer: most commands print little.
const SMALLEST: usize = 4 * 1024;
/// Largest buffer: twice what a pipe holds.
const LARGEST: usize = 128 * 1024;
/// What [`Reader::read_now`] takes at most: a full pipe.
const PIPE: usize = 64 * 1024;

/// The daemon's end of an output pipe.
#[derive(Debug)]
pub(super) struct Reader {
    /// `None` once the end of file was read.
    pipe: Option<Watch>,
    buffer: BytesMut,
    size: usize,
}

impl Reader {
    /// Of an end that does not block.
    pub(super) fn new(pipe: impl Into<Arc<OwnedFd>>) -> Self {
        Self {
            pipe: Some(Watch::new(pipe, Interest::READABLE)),
            buffer: BytesMut::new(),
            size: SMALLEST,
        }
    }

    /// Of nothing: it has ended.
    pub(super) fn none() -> Self {
        Self {
            pipe: None,
            buffer: BytesMut::new(),
            size: SMALLEST,
        }
    }

    /// Whether the end of file was read.
    pub(super) fn ended(&self) -> bool {
        self.pipe.is_none()
    }

    /// The pipe, while it is open.
    pub(super) fn open(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// The inode of the pipe while it is open, by which its holders are found in `/proc`.
    pub(super) fn inode(&self) -> Option<u64> {
        let stat = nix::sys::stat::fstat(self.open()?);
        stat.ok().map(|stat| stat.st_ino)
    }

    /// The next bytes, at most `most` of them and never none; `None` at the end. Cancel-safe.
    pub(super) async fn next(&mut self, most: usize) -> Option<Bytes> {
        let (size, buffer) = (self.size, &mut self.buffer);
        let read = self
            .pipe
            .as_mut()?
            .until_ready(|pipe| read(pipe, buffer, size, most))
            .await;
        // A pipe that cannot be read has no more to give.
        self.took(read.unwrap_or(0))
    }

    /// Hands on what can be read without waiting, at most a full pipe. It asks the kernel and not what the runtime has
    /// heard of it: what a leader wrote before it ended is in the pipe by then, while the event that tells of it may
    /// still be on its way.
    pub(super) fn read_now(&mut self, mut take: impl FnMut(Bytes)) {
        let mut left = PIPE;
        while left > 0 {
            let Some(pipe) = &self.pipe else { return };
            let read = read(pipe.as_fd(), &mut self.buffer, self.size, left);
            if matches!(&read, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                return;
            }
            let Some(bytes) = self.took(read.unwrap_or(0)) else {
                return;
            };
            left = left.saturating_sub(bytes.len());
            take(bytes);
        }
    }

    /// What one read of `length` bytes has put into the buffer; none of them are the end.
    fn took(&mut self, length: usize) -> Option<Bytes> {
        if length == 0 {
            self.pipe = None;
            return None;
        }
        if length >= self.size {
            self.size = (self.size * 2).min(LARGEST);
        }
        Some(self.buffer.split().freeze())
    }
}

/// Reads at most `most` bytes once into the empty `buffer`, which gets new room of `size` bytes when little is left.
fn read(pipe: BorrowedFd<'_>, buffer: &mut BytesMut, size: usize, most: usize) -> io::Result<usize> {
    if buffer.capacity() < size / 4 {
        buffer.reserve(size);
    }
    sys::read_into(pipe, buffer, most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::OFlag;

    #[test]
    fn what_was_written_is_read_before_the_runtime_hears_of_it() {
        // No runtime: no event can have been seen.
        let (ours, other) = nix::unistd::pipe2(OFlag::O_NONBLOCK).unwrap();
        let mut reader = Reader::new(ours);
        nix::unistd::write(&other, b"last words").unwrap();
        let mut seen = Vec::new();
        reader.read_now(|bytes| seen.extend_from_slice(&bytes));
        assert_eq!(seen, b"last words");
        assert!(!reader.ended());
        drop(other);
        reader.read_now(|bytes| seen.extend_from_slice(&bytes));
        assert!(reader.ended());
    }
}
