//! Any operation by its stable name: the same payloads as extensions over NATS.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Request;
use axum::response::Response;
use bytes::Bytes;

use super::body;
use super::codec::{at_length, length};
use super::error::{Contract, Problem};
use super::front::Caller;
use super::openapi::Refusals;
use super::router::App;
use crate::error::Error;
use crate::ops::Reply;
use crate::wire::json::{decode_op, encode_archive, encode_file, encode_reply};

/// Bytes of a payload, and of file content in an answer.
const PAYLOAD_BYTES: u64 = 64 << 20;

/// Does the operation `name` with its JSON payload; unknown fields are refused.
#[utoipa::path(
    post, path = "/v1/ops/{name}", tag = "operations",
    params(("name" = String, Path, description = "A name of the operations table: `fs.list`.")),
    request_body(content = Object, content_type = "application/json"),
    responses((status = 200, description = "The answer of the operation.", body = Object), Refusals)
)]
pub(super) async fn perform(
    State(app): State<Arc<App>>,
    caller: Caller,
    name: Result<Path<String>, PathRejection>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let Path(name) = name.map_err(|_| {
        Problem::ours(&Error::Invalid {
            field: "name",
            reason: "is not UTF-8".into(),
        })
    })?;
    let payload = body::json(request, PAYLOAD_BYTES, Contract::Ours).await?;
    answer(&app, caller, name, payload)
        .await
        .map_err(|error| Problem::ours(&error))
}

async fn answer(app: &Arc<App>, caller: Caller, name: String, payload: Bytes) -> Result<Response, Error> {
    let config = app.behind.rooms.process_config();
    let decoded = at_length(payload.len(), move || decode_op(&name, &payload, &config)).await?;
    let bytes = match app
        .perform(caller.call(decoded.idempotency_key), decoded.op)
        .await?
    {
        Reply::File(file) => {
            let (offset, total) = (file.range().start, file.total());
            let content = file.read_all(PAYLOAD_BYTES).await?;
            at_length(content.len(), move || encode_file(&content, offset, total)).await?
        }
        Reply::Packed(archive) => {
            let name = archive.name.clone();
            let content = archive.whole(PAYLOAD_BYTES).await?;
            at_length(content.len(), move || encode_archive(&name, &content)).await?
        }
        reply => at_length(length(&reply), move || encode_reply(&reply, decoded.encoding)).await?,
    };
    Ok(body::raw_json(bytes))
}
