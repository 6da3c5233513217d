//! Files, besides what the compatible contract has: edits, copies, rights, links, attributes, digests, archives out.
//! Unknown fields are refused, as everywhere on our own surface.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderValue, Request};
use axum::response::Response;
use serde::de::DeserializeOwned;

use super::codec::{at_length, length};
use super::error::{Contract, Problem};
use super::front::Caller;
use super::openapi::{EntryPath, FileRefusals, OptionalPath};
use super::query::Query;
use super::router::{App, unexpected};
use super::{body, meter};
use crate::error::Error;
use crate::ops::{Op, Reply};
use crate::wire::json::{self, Encoding, Unknown, decode, encode_reply};

/// A replacement may be as large as what is edited.
const REQUEST_BYTES: u64 = 64 << 20;

/// Decodes a body of our own surface, does the operation that it asks for, and answers in its JSON.
pub(super) async fn ours<T, F>(
    app: &App,
    caller: Caller,
    request: Request<Body>,
    op: F,
) -> Result<Response, Problem>
where
    T: DeserializeOwned,
    F: FnOnce(T) -> Result<Op, Error> + Send + 'static,
{
    let bytes = body::json(request, REQUEST_BYTES, Contract::Ours).await?;
    let decoded = at_length(bytes.len(), move || op(decode::<T>(&bytes, Unknown::Refused)?)).await;
    answer(app, caller, decoded).await
}

/// Does an operation and answers in its JSON.
pub(super) async fn answer(app: &App, caller: Caller, op: Result<Op, Error>) -> Result<Response, Problem> {
    let ours = |error: Error| Problem::ours(&error);
    let reply = app
        .perform(caller.call(None), op.map_err(ours)?)
        .await
        .map_err(ours)?;
    let encode = move |reply: &Reply| encode_reply(reply, Encoding::default());
    let encoded = at_length(length(&reply), move || encode(&reply)).await;
    Ok(body::raw_json(encoded.map_err(ours)?))
}

/// Changes a file, whole or not at all, and answers what was changed. A change that does not fit is refused with the
/// place that is most like what it looks for.
#[utoipa::path(
    post, path = "/v1/fs/edit", tag = "files", request_body = json::EditRequest,
    responses((status = 200, body = json::Edited), FileRefusals)
)]
pub(super) async fn edit(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    ours::<json::EditRequest, _>(&app, caller, request, |asked| asked.into_op().map(Op::FsEdit)).await
}

/// Copies a file or a directory with everything in it; setuid, setgid and owners are not copied.
#[utoipa::path(
    post, path = "/v1/fs/copy", tag = "files", request_body = json::MoveRequest,
    responses((status = 200, body = json::Moved), FileRefusals)
)]
pub(super) async fn copy(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    ours::<json::MoveRequest, _>(&app, caller, request, |asked| asked.into_op().map(Op::FsCopy)).await
}

/// Changes permission bits or owners, of one entry or of a tree.
#[utoipa::path(
    post, path = "/v1/fs/chmod", tag = "files", request_body = json::ChmodRequest,
    responses((status = 200, body = json::Changed), FileRefusals)
)]
pub(super) async fn chmod(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    ours::<json::ChmodRequest, _>(&app, caller, request, |asked| asked.into_op().map(Op::FsChmod)).await
}

/// Makes a symbolic link. Where it points is written down and not looked at; `GET /v1/fs/stat` tells it as `target`.
#[utoipa::path(
    post, path = "/v1/fs/symlink", tag = "files", request_body = json::SymlinkRequest,
    responses((status = 200, body = json::PathReply), FileRefusals)
)]
pub(super) async fn symlink(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let op = |asked: json::SymlinkRequest| {
        let (path, target) = asked.into_paths()?;
        Ok(Op::FsSymlink { path, target })
    };
    ours(&app, caller, request, op).await
}

/// The extended attributes of an entry.
#[utoipa::path(
    get, path = "/v1/fs/xattrs", tag = "files", params(EntryPath),
    responses((status = 200, body = json::Xattrs), FileRefusals)
)]
pub(super) async fn xattrs(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    let path = query.path()?;
    answer(&app, caller, Ok(Op::FsXattrs { path })).await
}

/// Sets or removes an extended attribute.
#[utoipa::path(
    post, path = "/v1/fs/xattrs", tag = "files", request_body = json::XattrRequest,
    responses((status = 200, body = json::PathReply), FileRefusals)
)]
pub(super) async fn set_xattr(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    ours::<json::XattrRequest, _>(&app, caller, request, |asked| asked.into_op().map(Op::FsXattrSet)).await
}

/// The BLAKE3 digest of all that a file holds.
#[utoipa::path(
    get, path = "/v1/fs/digest", tag = "files", params(EntryPath),
    responses((status = 200, body = json::DigestReply), FileRefusals)
)]
pub(super) async fn digest(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    let path = query.path()?;
    answer(&app, caller, Ok(Op::FsDigest { path })).await
}

/// A directory or a file as a tar archive, packed while it is sent. Links are packed as links; sockets, fifos and devices
/// are not packed, which a comment at the end of the archive says. A failure in the middle cuts the body.
#[utoipa::path(
    get, path = "/v1/fs/download-batch", tag = "files",
    params(OptionalPath, ("format" = Option<String>, Query, description = "`tar.gz`, when absent, or `tar`.")),
    responses(
        (status = 200, description = "The archive.", body = Vec<u8>, content_type = "application/gzip"),
        FileRefusals
    )
)]
pub(super) async fn download_batch(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    let arguments = json::PackArguments {
        format: query.text("format")?.map(str::to_owned),
        ..json::PackArguments::default()
    };
    let mut pack = arguments.into_op()?;
    pack.path = query.optional_path()?.unwrap_or_default();
    let kind = if pack.gzip {
        "application/gzip"
    } else {
        "application/x-tar"
    };
    let archive = match app.perform(caller.call(None), Op::FsPack(pack)).await? {
        Reply::Packed(archive) => archive,
        other => return Err(unexpected(&other)),
    };
    let name = attachment(&archive.name);
    let rest = (archive, Arc::clone(&app.behind.metrics));
    let pieces = futures_util::stream::unfold(rest, |(mut archive, metrics)| async move {
        let piece = archive.next().await?;
        match &piece {
            Ok(piece) => meter::count_piece(&metrics, piece),
            Err(error) => tracing::warn!(%error, "an archive ends in the middle"),
        }
        Some((piece, (archive, metrics)))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    if let Ok(name) = HeaderValue::try_from(name) {
        headers.insert(CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

/// What a browser saves it as (RFC 6266): letters that need no escape, the others as underscores.
fn attachment(name: &str) -> String {
    let plain = |letter: char| {
        let is_plain = letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_');
        if is_plain { letter } else { '_' }
    };
    let name: String = name.chars().map(plain).collect();
    format!("attachment; filename=\"{name}\"")
}

/// Gives up an upload in pieces; nothing of it is left.
#[utoipa::path(
    delete, path = "/v1/fs/upload", tag = "files",
    params(("id" = String, Query, description = "The upload, as its sender calls it.")),
    responses((status = 200, body = json::Done), FileRefusals)
)]
pub(super) async fn abort_upload(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    let asked = json::UploadId {
        id: query.text("id")?.map(str::to_owned),
    };
    answer(&app, caller, asked.required().map(|id| Op::FsUploadAbort { id })).await
}
