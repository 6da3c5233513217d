//! What is said to a peer that does not speak HTTP, or sends a head beyond all limits.
//!
//! Such bytes never become a request: hyper answers them itself, with a status and nothing else. This wrapper of a
//! stream knows from [`Turn`] when no answer of ours is under way; what is written then is such an answer, and a
//! problem with the same status takes its place.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::error::Problem;
use super::turn::Turn;
use crate::ids::RequestId;

/// A stream with the answers to what could not be parsed replaced.
#[derive(Debug)]
pub(super) struct Unparsed<S> {
    stream: S,
    turn: Arc<Turn>,
    /// The answer that is written instead, and how much of it is out.
    answer: Option<(Vec<u8>, usize)>,
}

impl<S> Unparsed<S> {
    pub(super) fn new(stream: S, turn: Arc<Turn>) -> Self {
        Self {
            stream,
            turn,
            answer: None,
        }
    }

    /// The stream, for whoever speaks something else on it from now on.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// Whether the peer was told what was wrong.
    pub(super) fn has_refused(&self) -> bool {
        self.answer.is_some()
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
    /// Says why the connection is closed, while no answer is under way.
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
        Some("431") => Problem::head(super::connection::HEAD_FIELDS, super::connection::HEAD_BYTES),
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
        if !self.turn.is_silent() {
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
        if !self.turn.is_silent() {
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
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        // hyper asks for this when it has nothing left in its own buffer.
        self.turn.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
