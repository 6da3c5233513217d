//! From a message on a rpc subject to its one reply.
//!
//! Pings, refusals and everything else that needs no work are answered by the task that received the message.
//! Operations go through admission into tasks of their own, which outlive the connection.

use std::sync::Arc;

use async_nats::{Message, Subject};
use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::admission::Weight;
use super::answer::{Answer, Success};
use super::error::{Breaker, agent_error, refused};
use super::generation::Generation;
use super::link::Link;
use super::opstream::{self, Asked};
use super::subjects::{FamilyKind, may_reply_to};
use super::{content, extension, pty, route};
use crate::error::Error;
use crate::exec::{Keep, Limits};
use crate::ids::RequestId;
use crate::ops::{self, Call, Op, Reply};
use crate::wire::proto::control_request::Op as WireOp;
use crate::wire::proto::control_response::Result as Outcome;
use crate::wire::proto::{AgentError, ControlRequest, OpStart, OpStatus, PingResponse, WriteChunk, op_start};
use crate::wire::{reply, request};

/// The name of this door in metrics.
pub(super) const DOOR: &str = "nats";

/// Takes one message; never waits.
pub(super) fn take(generation: &Arc<Generation>, message: Message, buffer: &mut BytesMut) {
    let root = generation.config.root(&generation.link.door.config.root);
    let Some(subject) = message.reply.filter(|reply| may_reply_to(root, reply)) else {
        tracing::warn!(subject = %message.subject, "a request without an acceptable reply subject was dropped");
        return;
    };
    // Only what came on a subject of ours is here.
    let family = generation.family(&message.subject).unwrap_or(FamilyKind::Plain);
    let bytes = message.payload.len();
    generation.link.door.metrics.bytes_in(DOOR, bytes as u64);
    let answer = match ControlRequest::decode(message.payload) {
        Ok(request) => match answer_inline(generation, family, request) {
            Inline::Answer(answer) => answer,
            Inline::Work(work) => return spawn(generation, subject, bytes, work),
        },
        Err(error) => {
            let reason = format!("the payload is not a ControlRequest: {error}");
            Answer::error(String::new(), "request", &Error::Protocol { reason })
        }
    };
    if let Some(payload) = answer.encode(generation.max_payload, buffer) {
        generation.link.door.metrics.bytes_out(DOOR, payload.len() as u64);
        generation.reply_now(subject, payload);
    }
}

/// An operation to be performed.
struct Work {
    request_id: String,
    op: &'static str,
    body: Body,
}

enum Body {
    Op(Op),
    /// A run of the git program.
    Git {
        run: Op,
        is_status: bool,
    },
    Extension {
        name: String,
        payload: Bytes,
        limits: Limits,
    },
    Start {
        family: FamilyKind,
        start: Box<OpStart>,
        limits: Limits,
    },
    Chunk(WriteChunk),
    /// Of a terminal.
    Pty {
        op: Box<WireOp>,
        limits: Limits,
    },
}

enum Inline {
    Answer(Answer),
    Work(Work),
}

fn answer_inline(generation: &Arc<Generation>, family: FamilyKind, request: ControlRequest) -> Inline {
    let ControlRequest {
        request_id,
        epoch,
        resource_policy,
        op,
    } = request;
    let name = op.as_ref().map_or("request", route::name);
    let held = generation.link.held_epoch();
    if epoch != 0 && epoch < held {
        let fenced = Error::Fenced { request: epoch, held };
        return Inline::Answer(Answer::error(request_id, name, &fenced));
    }
    if let Some(WireOp::Ping(ping)) = &op {
        let agent_monotonic_ms = generation.link.door.rooms.uptime_ms();
        let pong = PingResponse {
            nonce: ping.nonce,
            agent_monotonic_ms,
        };
        return Inline::Answer(Answer {
            request_id,
            op: name,
            outcome: Ok(Success::Outcome(Outcome::Ping(pong))),
        });
    }
    if let Some(op) = &op
        && let Some(status) = control(generation, op)
    {
        let outcome = match status {
            Ok(status) => Ok(Success::Outcome(Outcome::OpStatus(status))),
            Err(error) => Err(agent_error(&error, name)),
        };
        return Inline::Answer(Answer {
            request_id,
            op: name,
            outcome,
        });
    }
    let Some(op) = op else {
        let reason = "the request names no operation that this version knows".into();
        return Inline::Answer(Answer::error(request_id, name, &Error::Protocol { reason }));
    };
    let limits = resource_policy
        .as_ref()
        .map_or(Ok(Limits::default()), request::resource_policy);
    let body = limits.and_then(|limits| match op {
        WireOp::Ext(extension) => Ok(Body::Extension {
            name: extension.op,
            payload: extension.payload,
            limits,
        }),
        WireOp::OpStart(start) => Ok(Body::Start {
            family,
            start: Box::new(start),
            limits,
        }),
        WireOp::WriteChunk(chunk) => Ok(Body::Chunk(chunk)),
        op if pty::is_ours(&op) => Ok(Body::Pty {
            op: Box::new(op),
            limits,
        }),
        WireOp::Git(asked) => {
            let (run, is_status) = request::git(asked, Keep::first(generation.max_payload as u64))?;
            let run = request::limited(run, limits)?;
            Ok(Body::Git { run, is_status })
        }
        op => {
            let mut op = route::operation(op, generation.max_payload as u64)?;
            if let Op::UpdateApply(apply) = &mut op {
                apply.agent_id = Some(generation.link.config().agent_id.clone());
            }
            request::limited(op, limits).map(Body::Op)
        }
    });
    match body {
        Ok(_) if generation.link.door.tasks.is_stopping() => {
            Inline::Answer(Answer::error(request_id, name, &Error::Stopping))
        }
        Ok(body) => Inline::Work(Work {
            request_id,
            op: name,
            body,
        }),
        Err(error) => Inline::Answer(Answer::error(request_id, name, &error)),
    }
}

/// Asking, cancelling and attaching change nothing that has to be waited for; all answer the state at this moment.
fn control(generation: &Arc<Generation>, op: &WireOp) -> Option<Result<OpStatus, Error>> {
    let (ops, rooms) = (&generation.link.ops, &generation.link.door.rooms);
    let principal = generation.link.principal();
    let unary = |id: &str| rooms.outcome(&principal, id);
    let state = |id: &str| {
        let streamed = ops.status(id);
        streamed.unwrap_or_else(|| crate::wire::status::op_status(id.to_owned(), &unary(id)))
    };
    Some(match op {
        WireOp::OpQuery(query) => Ok(state(&query.op_id)),
        WireOp::OpCancel(cancel) => {
            let known = !matches!(unary(&cancel.op_id), ops::Outcome::Unknown);
            ops.cancel(&cancel.op_id, known);
            Ok(state(&cancel.op_id))
        }
        WireOp::OpAttach(attach) => ops.attach(generation, attach).map(|()| state(&attach.op_id)),
        _ => return None,
    })
}

fn spawn(generation: &Arc<Generation>, subject: Subject, bytes: usize, work: Work) {
    let generation = Arc::clone(generation);
    let (link, max_payload) = (Arc::clone(&generation.link), generation.max_payload);
    let tasks = link.door.tasks.clone();
    drop(tasks.spawn("rpc", async move {
        let answer = perform(&generation, work, bytes).await;
        if let Some(payload) = answer.encode(max_payload, &mut BytesMut::new()) {
            link.door.metrics.bytes_out(DOOR, payload.len() as u64);
            link.reply(subject, payload).await;
        }
    }));
}

async fn perform(generation: &Arc<Generation>, work: Work, bytes: usize) -> Answer {
    let (link, max_payload) = (&generation.link, generation.max_payload);
    let Work { request_id, op, body } = work;
    let weight = match &body {
        Body::Op(Op::ProcessRun(_)) | Body::Git { .. } => Weight::Heavy,
        Body::Extension { name, .. } if extension::is_heavy(name) => Weight::Heavy,
        Body::Start { start, .. } if matches!(start.op, Some(op_start::Op::Exec(_))) => Weight::Heavy,
        Body::Pty { op, .. } if matches!(**op, WireOp::PtyOpen(_)) => Weight::Heavy,
        Body::Op(_) | Body::Extension { .. } | Body::Start { .. } | Body::Chunk(_) | Body::Pty { .. } => {
            Weight::Light
        }
    };
    let permit = match link.door.admission.admit(&link.origin, weight, bytes).await {
        Ok(permit) => permit,
        Err((error, breaker)) => {
            let outcome = Err(refused(&error, breaker, op));
            return Answer {
                request_id,
                op,
                outcome,
            };
        }
    };
    let call = Call {
        principal: link.principal(),
        request_id: if request_id.is_empty() {
            RequestId::mint()
        } else {
            RequestId(request_id.clone())
        },
        // Without an id there is nothing that a repeat could be recognised by.
        idempotency_key: (!request_id.is_empty()).then(|| request_id.clone()),
    };
    let outcome = match body {
        Body::Op(Op::ProcessRun(_)) | Body::Git { .. } if link.ops.knows(&request_id) => {
            let used = Error::Conflict {
                what: format!("request {request_id:?}"),
                reason: "a streamed operation has this id".into(),
            };
            Err(agent_error(&used, op))
        }
        Body::Git { run, is_status } => {
            let ran = link.door.rooms.perform(&call, run).await;
            let told = ran.and_then(|ran| reply::git(&ran, is_status, max_payload as u64));
            told.map(Success::Outcome)
                .map_err(|error| failed(&call, op, &error))
        }
        Body::Op(operation) => perform_op(link, &call, &request_id, op, operation, max_payload).await,
        Body::Extension {
            name,
            payload,
            limits,
        } => {
            let rooms = &link.door.rooms;
            let outcome = extension::perform(rooms, &call, name, &payload, limits, max_payload).await;
            outcome.map(Success::Outcome)
        }
        Body::Start {
            family,
            start,
            limits,
        } => {
            let asked = Asked {
                call,
                family,
                limits,
                start: *start,
            };
            let started = opstream::start(generation, &request_id, asked).await;
            let started = started.map(|started| Success::Outcome(Outcome::OpStart(started)));
            started.map_err(|error| agent_error(&error, op))
        }
        Body::Chunk(chunk) => {
            let taken = link.ops.take_chunk(chunk).await;
            let taken = taken.map(|ack| Success::Outcome(Outcome::WriteChunk(ack)));
            taken.map_err(|error| agent_error(&error, op))
        }
        Body::Pty { op: asked, limits } => {
            let outcome = pty::perform(link, &call, op, *asked, limits).await;
            outcome.map(Success::Outcome)
        }
    };
    drop(permit);
    Answer {
        request_id,
        op,
        outcome,
    }
}

async fn perform_op(
    link: &Link,
    call: &Call,
    request_id: &str,
    op: &'static str,
    operation: Op,
    max_payload: usize,
) -> Result<Success, AgentError> {
    let name = operation.name();
    let limit = max_payload as u64;
    let outcome = match link.door.rooms.perform(call, operation).await {
        Ok(Reply::File(open)) => content::read(link, open, request_id, limit)
            .await
            .map(Success::Encoded),
        Ok(reply) => reply::outcome(name, reply, limit).map(Success::Outcome),
        Err(error) => Err(error),
    };
    outcome.map_err(|error| failed(call, op, &error))
}

/// What is told of a failure.
fn failed(call: &Call, op: &'static str, error: &Error) -> AgentError {
    tracing::debug!(id = %call.request_id, op, error = error as &dyn std::error::Error, "an operation failed");
    match error {
        Error::Overloaded { .. } => refused(error, Breaker::Wait, op),
        error => agent_error(error, op),
    }
}
