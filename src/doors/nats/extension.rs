//! Operations by their stable name (tag 100): the JSON of HTTP in, the JSON of HTTP out.

use bytes::Bytes;

use super::error::{agent_error, with_stable_code};
use crate::error::Error;
use crate::exec::Limits;
use crate::ops::{Call, Reply, Rooms};
use crate::wire::proto::control_response::Result as Outcome;
use crate::wire::proto::{AgentError, Extension};
use crate::wire::{json, request};

/// Whether the operation of that name starts a process.
pub(super) fn is_heavy(name: &str) -> bool {
    matches!(name, "process.run" | "process.create")
}

/// Performs the operation `name`; errors carry the stable code besides what every error carries.
pub(super) async fn perform(
    rooms: &Rooms,
    call: &Call,
    name: String,
    payload: &[u8],
    limits: Limits,
    max_payload: usize,
) -> Result<Outcome, AgentError> {
    match answer(rooms, call, &name, payload, limits, max_payload as u64).await {
        Ok(payload) => Ok(Outcome::Ext(Extension { op: name, payload })),
        Err(error) => {
            let id = call.request_id.to_string();
            tracing::debug!(
                id,
                op = name,
                error = &error as &dyn std::error::Error,
                "an extension failed"
            );
            Err(with_stable_code(agent_error(&error, &name), &error, &id))
        }
    }
}

async fn answer(
    rooms: &Rooms,
    call: &Call,
    name: &str,
    payload: &[u8],
    limits: Limits,
    limit: u64,
) -> Result<Bytes, Error> {
    let decoded = json::decode_op(name, payload, &rooms.process_config())?;
    let mut call = call.clone();
    if decoded.idempotency_key.is_some() {
        call.idempotency_key = decoded.idempotency_key;
    }
    let answer = match rooms
        .perform(&call, request::limited(decoded.op, limits)?)
        .await?
    {
        Reply::File(open) => {
            let (offset, total) = (open.range().start, open.total());
            json::encode_file(&open.read_all(limit).await?, offset, total)
        }
        Reply::Packed(archive) => {
            let name = archive.name.clone();
            json::encode_archive(&name, &archive.whole(limit).await?)
        }
        reply => json::encode_reply(&reply, decoded.encoding),
    };
    let payload = answer?;
    let size = payload.len() as u64;
    if size > limit {
        return Err(Error::TooLarge {
            what: "the reply",
            size,
            limit,
        });
    }
    Ok(payload.into())
}
