//! Following a process: its log as events until its end. The log is read when the body is asked for more, so a slow
//! follower costs a cursor and nothing else; when it is dropped the process does not notice.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use bytes::Bytes;

use super::meter;
use crate::error::Error;
use crate::ops::{Following, LogReader};
use crate::telemetry::Metrics;
use crate::wire::json::Framing;

/// How long nothing is said before a sign of life.
const QUIET: Duration = Duration::from_secs(15);

/// Where one follower stands.
pub(super) struct Follower {
    reader: LogReader,
    framing: Framing,
    stage: Stage,
    _place: Following,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The process was made for this stream, which is to be said.
    Started,
    /// Its log.
    Log,
    /// Its end was said.
    Over,
}

impl Follower {
    /// Of a process that there was before.
    pub(super) fn new(reader: LogReader, framing: Framing, place: Following) -> Self {
        Self {
            reader,
            framing,
            stage: Stage::Log,
            _place: place,
        }
    }

    /// Of a process that was made for it.
    pub(super) fn of_new(reader: LogReader, framing: Framing, place: Following) -> Self {
        Self {
            stage: Stage::Started,
            ..Self::new(reader, framing, place)
        }
    }

    /// The next events; `None` behind the end. A failure is an event too, the last one.
    async fn next(&mut self) -> Option<Bytes> {
        if self.stage == Stage::Over {
            return None;
        }
        let mut piece = Vec::new();
        if let Err(error) = self.write(&mut piece).await {
            self.stage = Stage::Over;
            tracing::warn!(%error, "a log cannot be followed any further");
            if let Err(error) = self.framing.failed(&error, &mut piece) {
                tracing::warn!(%error, "a failure cannot be told");
            }
        }
        Some(piece.into())
    }

    async fn write(&mut self, piece: &mut Vec<u8>) -> Result<(), Error> {
        if self.stage == Stage::Started {
            self.stage = Stage::Log;
            return self.framing.started(self.reader.process(), piece);
        }
        let Ok(items) = tokio::time::timeout(QUIET, self.reader.next()).await else {
            return self.framing.ping(piece);
        };
        let items = items?;
        for item in &items {
            self.framing.item(item, piece)?;
        }
        if items.is_empty() {
            self.stage = Stage::Over;
            self.framing.exit(self.reader.process(), piece)?;
        }
        Ok(())
    }
}

/// The answer that is such a stream.
pub(super) fn response(follower: Follower, metrics: &Arc<Metrics>) -> Response {
    let kind = follower.framing.content_type();
    let rest = (follower, Arc::clone(metrics));
    let events = futures_util::stream::unfold(rest, |(mut follower, metrics)| async move {
        // A fast reader would be served to the end without a pause otherwise.
        tokio::task::yield_now().await;
        let piece = follower.next().await?;
        meter::count_piece(&metrics, &piece);
        Some((Ok::<_, Error>(piece), (follower, metrics)))
    });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
