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
use crate::ops::{self, Call, LogReader, LogsReply, Reply};
use crate::stream::Channel;
use crate::wire::json::{FollowArguments, Framing, Unknown, decode};
use crate::wire::proto::Extension;

/// The names there are.
const NAMES: [&str; 1] = ["process.follow"];
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
    if !NAMES.contains(&extension.op.as_str()) {
        return Err(Error::Unsupported {
            what: format!("streaming operation {:?}", extension.op),
            why: format!("this build streams {}", NAMES.join(", ")),
            fix: None,
        });
    }
    let arguments: FollowArguments = decode(&extension.payload, Unknown::Refused)?;
    let place = link.door.rooms.follow(&call.principal.id)?;
    let logs = ops::Op::ProcessLogs(Box::new(arguments.into_logs()?));
    let Reply::Logs(LogsReply::Reader(reader)) = link.door.rooms.perform(call, logs).await? else {
        return Err(Error::Internal {
            reason: "a log was answered as something else".into(),
        });
    };
    serve_content(link, op, bounds, move |output| async move {
        let _place = place;
        follow(*reader, &output).await
    });
    Ok(())
}

/// Writes events until the end of what is read. A cancel may cut the last line: the exit says that there was one.
async fn follow(mut reader: LogReader, output: &Output) -> Result<(), Error> {
    loop {
        let mut lines = Vec::new();
        match tokio::time::timeout(QUIET, reader.next()).await {
            Err(_) => Framing::Ndjson.ping(&mut lines)?,
            Ok(items) => {
                let items = items?;
                if items.is_empty() {
                    if reader.process().end().is_some() {
                        Framing::Ndjson.exit(reader.process(), &mut lines)?;
                        output.write(Channel::Content, Bytes::from(lines)).await;
                    }
                    return Ok(());
                }
                for item in &items {
                    Framing::Ndjson.item(item, &mut lines)?;
                }
            }
        }
        output.write(Channel::Content, Bytes::from(lines)).await;
    }
}
