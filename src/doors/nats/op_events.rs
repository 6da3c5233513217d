//! Streaming operations by their stable name: their events are lines of JSON on the content channel, the same as over HTTP,
//! and their end is an ordinary exit.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::link::Link;
use super::op::Op;
use super::source::{Bounds, serve_content};
use crate::error::Error;
use crate::exec::Output;
use crate::ops::{self, Call, Feed, Reply};
use crate::stream::Channel;
use crate::wire::json::{Framing, PackArguments, Unknown, decode, decode_stream};
use crate::wire::proto::Extension;

/// How long nothing is said before a sign of life.
const QUIET: Duration = Duration::from_secs(15);

/// Starts the streaming operation of an extension.
pub(super) async fn stream(
    link: &Arc<Link>,
    op: &Arc<Op>,
    call: &Call,
    extension: &Extension,
    bounds: Bounds,
) -> Result<(), Error> {
    if extension.op == "fs.pack" {
        return pack(link, op, call, extension, bounds).await;
    }
    let streamed = decode_stream(&extension.op, &extension.payload)?;
    let feed = link.door.rooms.stream(call, streamed).await?;
    serve_content(link, op, bounds, move |output| async move {
        write(feed, &output).await
    });
    Ok(())
}

/// An archive is bytes, not events.
async fn pack(
    link: &Arc<Link>,
    op: &Arc<Op>,
    call: &Call,
    extension: &Extension,
    bounds: Bounds,
) -> Result<(), Error> {
    let asked: PackArguments = decode(&extension.payload, Unknown::Refused)?;
    let packed = link
        .door
        .rooms
        .perform(call, ops::Op::FsPack(asked.into_op()?))
        .await?;
    let Reply::Packed(mut archive) = packed else {
        return Err(Error::Internal {
            reason: "an archive was answered as something else".into(),
        });
    };
    serve_content(link, op, bounds, move |output| async move {
        while let Some(piece) = archive.next().await {
            output.write(Channel::Content, piece?).await;
        }
        Ok(())
    });
    Ok(())
}

/// Writes events to their end. A cancel may cut the last line: the exit says that there was one.
async fn write(mut feed: Feed, output: &Output) -> Result<(), Error> {
    loop {
        let mut lines = Vec::new();
        match tokio::time::timeout(QUIET, feed.next()).await {
            Err(_) => Framing::Ndjson.ping(&mut lines)?,
            Ok(events) => {
                let events = events?;
                if events.is_empty() {
                    return Ok(());
                }
                for event in &events {
                    Framing::Ndjson.write(event, &mut lines)?;
                }
            }
        }
        output.write(Channel::Content, Bytes::from(lines)).await;
    }
}
