//! Counts the payload bytes of this door: bodies of requests as they arrive, bodies of answers by their length.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::telemetry::Metrics;

/// The label of this door in every series.
const DOOR: &str = "http";

/// A request's body that counts what comes in.
#[derive(Debug)]
pub(super) struct Metered {
    incoming: Incoming,
    metrics: Arc<Metrics>,
}

impl Metered {
    pub(super) fn new(incoming: Incoming, metrics: Arc<Metrics>) -> Self {
        Self { incoming, metrics }
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.incoming).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            this.metrics.bytes_in(DOOR, data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Counts an answer by its length; a connection that is lost in between counts as whole. What is sent without a length
/// is counted by [`count_piece`].
pub(super) fn count_answer<B: Body>(metrics: &Metrics, headers: &HeaderMap, body: &B) {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    if let Some(bytes) = body.size_hint().exact().or(announced) {
        metrics.bytes_out(DOOR, bytes);
    }
}

/// Counts a piece of an answer whose length is not known before its end.
pub(super) fn count_piece(metrics: &Metrics, piece: &Bytes) {
    metrics.bytes_out(DOOR, piece.len() as u64);
}
