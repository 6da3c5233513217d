//! The pump from a body to the sink that `plan.rs` chose.
//!
//! It holds no thread while it waits for the peer: it collects about a batch, hands it to the blocking pool and
//! collects the next one meanwhile. When the caller goes away the sink is dropped, which undoes what was begun.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::task::spawn_blocking;

use super::batch::next_batch;
use super::blocking::{self, Parked};
use super::plan::{Order, Plan, plan};
use super::request::{Body, Reach, Write, Written};
use super::sink::Sink;
use super::{Shared, fifo};
use crate::error::Error;

/// Writes `request`, see the module.
pub(super) async fn write(shared: Arc<Shared>, reach: Reach, request: Write) -> Result<Written, Error> {
    let Write {
        path,
        create_parents,
        append,
        mode,
        in_place,
        body,
    } = request;
    let order = Order {
        reach,
        path,
        create_parents,
        append,
        mode,
        in_place,
    };
    let body = match body {
        Body::Bytes(bytes) => return write_at_once(shared, order, bytes).await,
        Body::Stream(body) => body,
    };
    match blocking::run(move || plan(&shared, &order)).await? {
        Plan::Sink(sink) => pump(sink, body).await,
        Plan::Fifo(path, fifo) => fifo::feed(path, fifo, body).await,
    }
}

async fn write_at_once(shared: Arc<Shared>, order: Order, bytes: Bytes) -> Result<Written, Error> {
    let work = move || match plan(&shared, &order)? {
        Plan::Sink(sink) => sink.write(&[bytes])?.finish().map(Ok),
        Plan::Fifo(path, fifo) => Ok(Err((path, fifo, bytes))),
    };
    match blocking::run(work).await? {
        Ok(written) => Ok(written),
        Err((path, fifo, bytes)) => fifo::feed(path, fifo, Box::pin(stream::iter([Ok(bytes)]))).await,
    }
}

/// Moves the body into the sink, a batch at a time, collecting the next one while one is written.
async fn pump<S>(sink: Box<Sink>, mut body: S) -> Result<Written, Error>
where
    S: Stream<Item = Result<Bytes, Error>> + Unpin,
{
    let mut idle = Parked::new(*sink);
    let mut next = next_batch(&mut body).await;
    loop {
        let batch = match next {
            Ok(batch) => batch,
            Err(error) => {
                // Answered when everything is undone.
                idle.discard().await?;
                return Err(error);
            }
        };
        let sink = idle.take()?;
        if batch.is_last {
            return blocking::run(move || sink.write(&batch.chunks)?.finish()).await;
        }
        let busy = spawn_blocking(move || sink.write(&batch.chunks).map(Parked::new));
        next = next_batch(&mut body).await;
        idle = blocking::joined(busy).await?;
    }
}
