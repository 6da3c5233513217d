//! What is said to a peer that does not speak HTTP, or sends a head beyond all limits.
//!
//! Such bytes never become a request: hyper answers them itself, with a status and nothing else. This wrapper of a
//! stream knows that until the first request was seen everything that is written is such an answer, and writes a
//! problem with the same status in its place. On a connection that had a request before, hyper's own answer stands,
//! because there it cannot be told for certain from the rest of an earlier one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::error::Problem;
use crate::ids::RequestId;

/// A stream with the answers to what could not be parsed replaced.
#[derive(Debug)]
pub(super) struct Unparsed<S> {
    stream: S,
    /// Set when the first request of the connection was parsed.
    parsed: Arc<AtomicBool>,
    /// The answer that is written instead, and how much of it is out.
    answer: Option<(Vec<u8>, usize)>,
}

impl<S> Unparsed<S> {
    pub(super) fn new(stream: S, parsed: Arc<AtomicBool>) -> Self {
        Self {
            stream,
            parsed,
            answer: None,
        }
    }
}

impl<S: AsyncWrite + Unpin> Unparsed<S> {
    /// Writes the problem instead of an answer that begins with `head`.
    fn replace(&mut self, context: &mut Context<'_>, head: &[u8]) -> Poll<io::Result<()>> {
        let (answer, written) = self.answer.get_or_insert_with(|| (answer_to(head), 0));
        while *written < answer.len() {
            let more = ready!(Pin::new(&mut self.stream).poll_write(context, &answer[*written..]))?;
            if more == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *written += more;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Unparsed<S> {
    /// Says why the connection is closed before its first request was there.
    pub(super) async fn refuse(&mut self, problem: &Problem) -> io::Result<()> {
        self.stream.write_all(&response(problem)).await
    }
}

/// A whole response, by the status in the one that hyper would have sent.
fn answer_to(head: &[u8]) -> Vec<u8> {
    let status = head
        .get(9..12)
        .and_then(|digits| std::str::from_utf8(digits).ok());
    let problem = match status {
        Some("431") => Problem::headers(super::connection::HEAD_BYTES),
        Some("414") => Problem::target(usize::from(u16::MAX)),
        _ => Problem::bad_request("what was sent is not a request of HTTP/1.1"),
    };
    response(&problem)
}

fn response(problem: &Problem) -> Vec<u8> {
    let id = RequestId::mint();
    let (status, body) = problem.body(&id.0);
    let mut answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nx-request-id: {id}\r\n\
         connection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend(body);
    answer
}

impl<S: AsyncRead + Unpin> AsyncRead for Unparsed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unparsed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.parsed.load(Ordering::Relaxed) {
            return Pin::new(&mut self.stream).poll_write(context, bytes);
        }
        ready!(self.replace(context, bytes))?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.parsed.load(Ordering::Relaxed) {
            return Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        }
        let head = slices.iter().find(|slice| !slice.is_empty());
        ready!(self.replace(context, head.map_or(&[], |slice| slice)))?;
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
