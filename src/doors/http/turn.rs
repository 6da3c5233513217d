//! Whether what hyper writes to a connection belongs to an answer of ours. Pure.
//!
//! ```text
//!   Silent --request--> Answering --whole answer handed over--> Handed --flushed--> Silent
//! ```
//!
//! While nobody has asked anything, only hyper itself can have something to say: that what it read is not HTTP.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

const SILENT: u8 = 0;
const ANSWERING: u8 = 1;
const HANDED: u8 = 2;

/// The state of one connection.
#[derive(Debug, Default)]
pub(super) struct Turn {
    state: AtomicU8,
    had_request: AtomicBool,
}

impl Turn {
    /// A request was parsed.
    pub(super) fn begin(&self) {
        self.had_request.store(true, Ordering::Relaxed);
        self.state.store(ANSWERING, Ordering::Relaxed);
    }

    /// Everything that was written has left.
    pub(super) fn flushed(&self) {
        let _not_handed = self
            .state
            .compare_exchange(HANDED, SILENT, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// No answer of ours is under way.
    pub(super) fn is_silent(&self) -> bool {
        self.state.load(Ordering::Relaxed) == SILENT
    }

    /// Whether there ever was a request.
    pub(super) fn had_request(&self) -> bool {
        self.had_request.load(Ordering::Relaxed)
    }
}

/// The body of an answer. Dropped when the last of it was handed to hyper.
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
    turn: Arc<Turn>,
}

impl Answer {
    pub(super) fn new(body: Body, turn: Arc<Turn>) -> Self {
        Self { body, turn }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.turn.state.store(HANDED, Ordering::Relaxed);
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_flush_behind_the_whole_answer_ends_a_turn() {
        let turn = Arc::new(Turn::default());
        assert!(turn.is_silent() && !turn.had_request());
        turn.begin();
        turn.flushed();
        assert!(!turn.is_silent(), "a part of the answer was flushed");
        drop(Answer::new(Body::empty(), Arc::clone(&turn)));
        assert!(!turn.is_silent(), "its end may still be in a buffer");
        turn.flushed();
        assert!(turn.is_silent() && turn.had_request());
    }
}
