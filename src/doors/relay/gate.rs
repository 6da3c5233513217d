//! A socket of somebody who has shown no token yet: little is read of it, so that nobody fills the memory with a first
//! message that has no end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes after which nothing more is read until it is opened.
const BYTES: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Gate<S> {
    inner: S,
    read: usize,
    is_open: Arc<AtomicBool>,
}

/// Opens a gate.
#[derive(Debug)]
pub(super) struct Opener(Arc<AtomicBool>);

impl<S> Gate<S> {
    pub(super) fn new(inner: S) -> (Self, Opener) {
        let is_open = Arc::<AtomicBool>::default();
        let gate = Self {
            inner,
            read: 0,
            is_open: Arc::clone(&is_open),
        };
        (gate, Opener(is_open))
    }
}

impl Opener {
    /// Everything may come. Nobody is woken: to be called by whoever reads, before it reads on.
    pub(super) fn open(self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_open.load(Ordering::Relaxed) {
            return Pin::new(&mut self.inner).poll_read(context, buffer);
        }
        if self.read >= BYTES {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        self.read += buffer.filled().len() - before;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
