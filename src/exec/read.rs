//! Reading one output pipe: a buffer that grows with the flow, and bytes handed on without a copy.

use bytes::{Bytes, BytesMut};
use nix::errno::Errno;
use tokio::net::unix::pipe;

/// First buffer: most commands print little.
const SMALLEST: usize = 4 * 1024;
/// Largest buffer: twice what a pipe holds.
const LARGEST: usize = 128 * 1024;
/// What [`Reader::read_now`] takes at most: a full pipe.
const PIPE: usize = 64 * 1024;

/// Whether a pipe may still give bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Somebody holds the other end.
    Waiting,
    /// End of file.
    Ended,
}

/// The daemon's end of an output pipe.
#[derive(Debug)]
pub(super) struct Reader {
    pipe: Option<pipe::Receiver>,
    buffer: BytesMut,
    size: usize,
}

impl Reader {
    pub(super) fn new(pipe: pipe::Receiver) -> Self {
        Self {
            pipe: Some(pipe),
            buffer: BytesMut::new(),
            size: SMALLEST,
        }
    }

    /// Whether the end of file was read.
    pub(super) fn ended(&self) -> bool {
        self.pipe.is_none()
    }

    /// The pipe, when it is still open; this reader is ended then.
    pub(super) fn take(&mut self) -> Option<pipe::Receiver> {
        self.pipe.take()
    }

    /// The next bytes, never empty; never resolves once the pipe has ended. Cancel-safe.
    pub(super) async fn next(&mut self) -> Bytes {
        loop {
            let Some(pipe) = &self.pipe else {
                return std::future::pending().await;
            };
            if pipe.readable().await.is_err() {
                self.pipe = None;
                continue;
            }
            if let Some(bytes) = self.try_read() {
                return bytes;
            }
        }
    }

    /// Hands on what can be read without waiting, at most a full pipe.
    pub(super) fn read_now(&mut self, mut take: impl FnMut(Bytes)) {
        let mut left = PIPE;
        while left > 0 {
            let Some(bytes) = self.read_at_once() else { return };
            left = left.saturating_sub(bytes.len());
            take(bytes);
        }
    }

    /// One read that asks the kernel and not what the runtime has heard of it: what a leader wrote before it ended is in
    /// the pipe by now, while the event that tells of it may still be on its way.
    fn read_at_once(&mut self) -> Option<Bytes> {
        let pipe = self.pipe.as_ref()?;
        self.buffer.resize(self.size, 0);
        let read = loop {
            match nix::unistd::read(pipe, &mut self.buffer) {
                Err(Errno::EINTR) => {}
                outcome => break outcome,
            }
        };
        self.buffer.truncate(read.unwrap_or(0));
        match read {
            Ok(0) => self.pipe = None,
            Ok(_) => return Some(self.buffer.split().freeze()),
            Err(Errno::EAGAIN) => {}
            Err(_) => self.pipe = None,
        }
        None
    }

    /// One read. `None` when there is nothing now or the pipe has ended, which [`Reader::ended`] then says.
    fn try_read(&mut self) -> Option<Bytes> {
        let pipe = self.pipe.as_ref()?;
        self.buffer.reserve(self.size);
        match pipe.try_read_buf(&mut self.buffer) {
            Ok(0) => {
                self.pipe = None;
                None
            }
            Ok(read) => {
                if read == self.size {
                    self.size = (self.size * 2).min(LARGEST);
                }
                Some(self.buffer.split().freeze())
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => self.try_read(),
            Err(_) => {
                self.pipe = None;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_written_is_read_before_the_runtime_hears_of_it() {
        let (sender, receiver) = pipe::pipe().unwrap();
        let mut reader = Reader::new(receiver);
        // Nothing here yields, so no event can have been seen.
        nix::unistd::write(&sender, b"last words").unwrap();
        let mut seen = Vec::new();
        reader.read_now(|bytes| seen.extend_from_slice(&bytes));
        assert_eq!(seen, b"last words");
        assert!(!reader.ended());
        drop(sender);
        reader.read_now(|bytes| seen.extend_from_slice(&bytes));
        assert!(reader.ended());
    }
}
