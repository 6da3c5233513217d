//! The terminal operations of the wire. A terminal is a process like any other; what is particular here is the channel over
//! which its bytes flow.

use std::sync::Arc;
use std::time::Duration;

use super::error::agent_error;
use super::link::Link;
use crate::doors::relay::{Endpoint, Owner, Whereabouts};
use crate::error::Error;
use crate::exec::{Exit, Limits};
use crate::ids::ProcessId;
use crate::ops::{Call, Op, Reply};
use crate::wire::proto::control_request::Op as WireOp;
use crate::wire::proto::control_response::Result as Outcome;
use crate::wire::proto::{
    AgentError, ErrorCode, PtyCloseResponse, PtyOpenRequest, PtyOpenResponse, PtyResizeResponse,
    PtyWriteResponse,
};
use crate::wire::request;

/// How long it may take until bytes can flow.
const REGISTER: Duration = Duration::from_secs(5);
/// How long a close waits for the end of a killed tree.
const END: Duration = Duration::from_secs(10);

/// Whether it is one of them.
pub(super) fn is_ours(op: &WireOp) -> bool {
    matches!(
        op,
        WireOp::PtyOpen(_) | WireOp::PtyWrite(_) | WireOp::PtyResize(_) | WireOp::PtyClose(_)
    )
}

/// Performs one of them.
pub(super) async fn perform(
    link: &Arc<Link>,
    call: &Call,
    name: &str,
    op: WireOp,
    limits: Limits,
) -> Result<Outcome, AgentError> {
    let outcome = match op {
        WireOp::PtyOpen(open) => return Box::pin(open_terminal(link, call, name, open, limits)).await,
        _ if limits != Limits::default() => Err(Error::Unsupported {
            what: format!("resource_policy for {name}"),
            why: "it starts no process that could be limited".into(),
            fix: Some("send the request without resource_policy".into()),
        }),
        WireOp::PtyWrite(write) => write_to(link, call, &write.pty_id, write.data).await,
        WireOp::PtyResize(resize) => {
            let size = crate::exec::Size::new(resize.cols, resize.rows);
            resize_to(link, call, &resize.pty_id, size).await
        }
        WireOp::PtyClose(close) => end(link, call, &close.pty_id).await,
        other => Err(Error::Internal {
            reason: format!("{} is no terminal operation", super::route::name(&other)),
        }),
    };
    outcome.map_err(|error| agent_error(&error, name))
}

async fn open_terminal(
    link: &Arc<Link>,
    call: &Call,
    name: &str,
    open: PtyOpenRequest,
    limits: Limits,
) -> Result<Outcome, AgentError> {
    let plain = |error: Error| agent_error(&error, name);
    let config = link.config();
    let endpoint = config.relay.clone().ok_or_else(|| plain(no_relay()))?;
    let owner = Owner {
        workspace_id: config.workspace_id.clone(),
        agent_id: config.agent_id.clone(),
        // What is shared belongs to nobody in particular.
        ends_with_viewer: open.scope_id.is_empty(),
    };
    let create = request::pty_open(open).and_then(|create| request::limited(create, limits));
    let create = create.map_err(plain)?;
    let created = link.door.rooms.perform(call, create).await.map_err(plain)?;
    let Reply::Process(process) = created else {
        return Err(plain(unexpected()));
    };
    // Tokens are renewed in the link's file: whenever the relay is dialed, it is with what stands there.
    let present = Arc::clone(link);
    let whereabouts: Whereabouts = Arc::new(move || {
        let endpoint = present.config().relay.clone()?;
        Some(Endpoint {
            allow_plaintext: present.door.config.allow_plaintext,
            ..endpoint
        })
    });
    let ports = link
        .door
        .ports
        .terminal(&endpoint.url, whereabouts, &owner, &process);
    let channel = match tokio::time::timeout(REGISTER, ports).await {
        Ok(channel) => channel,
        Err(_) => Err(Error::Timeout {
            what: "the relay",
            after: REGISTER,
        }),
    };
    channel
        .map(|channel| {
            Outcome::PtyOpen(PtyOpenResponse {
                pty_id: process.id().to_string(),
                channel: Some(channel),
            })
        })
        .map_err(|error| {
            // Nobody could reach what was opened for this alone.
            if owner.ends_with_viewer {
                process.cancel();
            }
            of_the_stream(&error, name)
        })
}

/// An error of the channel, which the wire has a code of its own for.
fn of_the_stream(error: &Error, name: &str) -> AgentError {
    let mut wire = agent_error(error, name);
    if matches!(
        error,
        Error::Forbidden { .. } | Error::Unavailable { .. } | Error::Protocol { .. }
    ) {
        wire.code = ErrorCode::Stream.into();
        wire.retryable = matches!(error, Error::Unavailable { .. });
    }
    wire
}

fn no_relay() -> Error {
    Error::Unsupported {
        what: "pty_open".into(),
        why: "this connection has no relay that its bytes could flow over".into(),
        fix: Some("enroll again with a control plane that names one, or start boxd with --relay-url".into()),
    }
}

fn id_of(pty_id: &str) -> Result<ProcessId, Error> {
    pty_id.parse().map_err(|_| Error::NotFound {
        what: "terminal",
        name: pty_id.to_owned(),
    })
}

async fn write_to(link: &Link, call: &Call, pty_id: &str, bytes: bytes::Bytes) -> Result<Outcome, Error> {
    let op = Op::ProcessInput {
        id: id_of(pty_id)?,
        bytes,
        holder: String::new(),
    };
    match link.door.rooms.perform(call, op).await? {
        Reply::Input(bytes_written) => Ok(Outcome::PtyWrite(PtyWriteResponse { bytes_written })),
        _ => Err(unexpected()),
    }
}

async fn resize_to(
    link: &Link,
    call: &Call,
    pty_id: &str,
    size: Result<crate::exec::Size, Error>,
) -> Result<Outcome, Error> {
    let op = Op::ProcessResize {
        id: id_of(pty_id)?,
        size: size?,
    };
    link.door.rooms.perform(call, op).await?;
    Ok(Outcome::PtyResize(PtyResizeResponse {}))
}

/// Kills the tree; the exit code is that of a terminal that had ended by itself.
async fn end(link: &Link, call: &Call, pty_id: &str) -> Result<Outcome, Error> {
    let id = id_of(pty_id)?;
    let found = link.door.rooms.perform(call, Op::ProcessGet { id }).await?;
    let Reply::Process(process) = found else {
        return Err(unexpected());
    };
    let exit_code = match process.end().map(|end| end.exit) {
        Some(Exit::Code(code)) => code,
        Some(Exit::Signal { .. }) => -1,
        None => {
            let kill = Op::ProcessKill { id, wait: END };
            link.door.rooms.perform(call, kill).await?;
            -1
        }
    };
    Ok(Outcome::PtyClose(PtyCloseResponse { exit_code }))
}

fn unexpected() -> Error {
    Error::Internal {
        reason: "the operation answered something else".into(),
    }
}

/// What a link's file or flags say of its relay.
pub(super) fn endpoint(url: Option<&str>, token: Option<&str>) -> Option<Endpoint> {
    let url = url.filter(|url| !url.is_empty())?;
    Some(Endpoint {
        url: url.to_owned(),
        token: crate::telemetry::Secret::new(token.unwrap_or_default().to_owned()),
        allow_plaintext: false,
    })
}
