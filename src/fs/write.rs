//! The pump from a body to the sink that `plan.rs` chose.
//!
//! It holds no thread while it waits for the peer: it collects about a batch, hands it to the blocking pool and
//! collects the next one meanwhile, unless the file is all memory. When the caller goes away the sink is dropped, which undoes what was begun.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::task::spawn_blocking;

use super::base::{exchange, expect};
use super::batch::next_batch;
use super::blocking::{self, Parked};
use super::path::Location;
use super::plan::{Order, Plan, plan};
use super::request::{Base, Body, Reach, Write, Written};
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
        base,
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
    let ending = Ending {
        shared: Arc::clone(&shared),
        base,
    };
    let body = match body {
        Body::Bytes(bytes) => return write_at_once(order, ending, bytes).await,
        Body::Stream(body) => body,
    };
    let planned = blocking::run(move || {
        let plan = ending.plan(&order)?;
        Ok((plan, ending, order))
    });
    match planned.await? {
        (Plan::Sink(sink), ending, order) => pump(sink, body, move |sink| ending.end(&order, sink)).await,
        (Plan::Fifo(path, fifo), ..) => fifo::feed(path, fifo, body).await,
    }
}

/// What a write is held to from its plan to its end.
struct Ending {
    shared: Arc<Shared>,
    base: Option<Base>,
}

impl Ending {
    /// The way to write, once what is there is what it is to be.
    fn plan(&self, order: &Order) -> Result<Plan, Error> {
        let Some(base) = &self.base else {
            return plan(&self.shared, order);
        };
        let only_replaced = |what: &str| Error::Invalid {
            field: "ifMatch",
            reason: format!("cannot be combined with {what}, which is not replaced as a whole"),
        };
        if order.append {
            return Err(only_replaced("append"));
        }
        expect(&self.location(order)?, base)?;
        match plan(&self.shared, order)? {
            Plan::Sink(sink) if sink.collected().is_some() => Ok(Plan::Sink(sink)),
            Plan::Sink(_) | Plan::Fifo(..) => Err(only_replaced("a device or a fifo")),
        }
    }

    fn end(&self, order: &Order, sink: Sink) -> Result<Written, Error> {
        match &self.base {
            None => sink.finish(),
            Some(base) => exchange(&self.shared, &self.location(order)?, Some(base), sink),
        }
    }

    fn location(&self, order: &Order) -> Result<Location, Error> {
        Location::new(order.reach, &self.shared.workspace, &order.path)
    }
}

async fn write_at_once(order: Order, ending: Ending, bytes: Bytes) -> Result<Written, Error> {
    let work = move || match ending.plan(&order)? {
        Plan::Sink(sink) => ending.end(&order, sink.write(&[bytes])?).map(Ok),
        Plan::Fifo(path, fifo) => Ok(Err((path, fifo, bytes))),
    };
    match blocking::run(work).await? {
        Ok(written) => Ok(written),
        Err((path, fifo, bytes)) => fifo::feed(path, fifo, Box::pin(stream::iter([Ok(bytes)]))).await,
    }
}

/// Moves the body into the sink, a batch at a time, collecting the next one while one is written. Where the file is nothing
/// but memory, nothing is waited for: there a batch is copied sooner than another thread takes it over.
async fn pump<S, E>(sink: Box<Sink>, mut body: S, end: E) -> Result<Written, Error>
where
    S: Stream<Item = Result<Bytes, Error>> + Unpin,
    E: FnOnce(Sink) -> Result<Written, Error> + Send + 'static,
{
    let at_once = sink.is_in_memory();
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
            return blocking::run(move || end(sink.write(&batch.chunks)?)).await;
        }
        if at_once {
            idle = Parked::new(sink.write(&batch.chunks)?);
            drop(batch);
            next = next_batch(&mut body).await;
            continue;
        }
        let busy = spawn_blocking(move || sink.write(&batch.chunks).map(Parked::new));
        next = next_batch(&mut body).await;
        idle = blocking::joined(busy).await?;
    }
}
