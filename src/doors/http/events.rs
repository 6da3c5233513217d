//! A stream of events as a body: read when the body is asked for more, so that a slow reader costs its place and nothing
//! else. What makes the events notices when the body is dropped, and decides itself what that means.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use bytes::Bytes;

use super::meter;
use crate::error::Error;
use crate::ops::Feed;
use crate::telemetry::Metrics;
use crate::wire::json::Framing;

/// How long nothing is said before a sign of life.
const QUIET: Duration = Duration::from_secs(15);

/// A stream that is being written down.
struct Events {
    feed: Feed,
    framing: Framing,
    is_over: bool,
    metrics: Arc<Metrics>,
}

impl Events {
    /// The next events; `None` behind the end. A failure is an event too, the last one.
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        let mut piece = Vec::new();
        if let Err(error) = self.write(&mut piece).await {
            self.is_over = true;
            tracing::warn!(%error, "a stream of events cannot go on");
            if let Err(error) = self.framing.failed(&error, &mut piece) {
                tracing::warn!(%error, "a failure cannot be told");
            }
        }
        (!piece.is_empty()).then(|| piece.into())
    }

    async fn write(&mut self, piece: &mut Vec<u8>) -> Result<(), Error> {
        let Ok(events) = tokio::time::timeout(QUIET, self.feed.next()).await else {
            return self.framing.ping(piece);
        };
        let events = events?;
        self.is_over = events.is_empty();
        for event in &events {
            self.framing.write(event, piece)?;
        }
        Ok(())
    }
}

/// The answer that is such a stream.
pub(super) fn response(feed: Feed, framing: Framing, metrics: &Arc<Metrics>) -> Response {
    let events = Events {
        feed,
        framing,
        is_over: false,
        metrics: Arc::clone(metrics),
    };
    let events = futures_util::stream::unfold(events, |mut events| async move {
        // A fast reader would be served to the end without a pause otherwise.
        tokio::task::yield_now().await;
        let piece = events.next().await?;
        meter::count_piece(&events.metrics, &piece);
        Some((Ok::<_, Error>(piece), events))
    });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static(framing.content_type());
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
