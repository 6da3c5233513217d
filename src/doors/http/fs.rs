//! Files: listing, looking, making, moving, removing, unpacking. Content goes through `file.rs`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request};
use axum::response::Response;

use super::body;
use super::error::{Contract, Problem};
use super::file::refuse_conditions;
use super::front::Caller;
use super::listing;
use super::openapi::{EntryPath, FileRefusals, OptionalPath};
use super::query::Query;
use super::router::{App, unexpected};
use crate::error::Error;
use crate::fs;
use crate::ops::{Op, Reply};
use crate::wire::json::{self, Unknown, decode};

const MOVE_BYTES: u64 = 64 << 10;
/// How many entries of a listing could not be read; `fs.list` tells which and why.
const UNREADABLE: HeaderName = HeaderName::from_static("x-unreadable-entries");
/// Where a listing that was limited goes on.
const NEXT: HeaderName = HeaderName::from_static("x-next-cursor");

/// The entries of a directory, sorted by path; symbolic links are not followed.
#[utoipa::path(
    get, path = "/v1/fs/entries", tag = "files",
    params(
        OptionalPath,
        ("recursive" = Option<bool>, Query, description = "Descend into directories."),
        ("depth" = Option<u64>, Query, description = "With `recursive`: levels below the directory, from 1."),
        ("hidden" = Option<bool>, Query, description = "Names that begin with a dot; true when absent."),
        ("ignoreFiles" = Option<bool>, Query, description = "Leave out what `.gitignore` and `.ignore` files name."),
        ("glob" = Option<String>, Query, description = "Only what this glob names; with `!` in front, not that."),
        ("limit" = Option<u64>, Query, description = "Entries at most, from 1."),
        ("cursor" = Option<String>, Query, description = "What `x-next-cursor` said: only what comes behind it."),
    ),
    responses(
        (status = 200, body = Vec<json::Entry>,
         headers(
             ("x-unreadable-entries" = Option<u64>, description = "Entries that could not be read."),
             ("x-next-cursor" = Option<String>, description = "There is more: the `cursor` that goes on.")
         )),
        FileRefusals
    )
)]
pub(super) async fn entries(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    let text = |name| query.text(name).map(|text| text.map(str::to_owned));
    let arguments = json::ListArguments {
        recursive: query.flag("recursive")?,
        depth: query.number("depth")?,
        hidden: query.has("hidden").then(|| query.flag("hidden")).transpose()?,
        ignore_files: query.flag("ignoreFiles")?,
        glob: text("glob")?.map(json::Globs::One),
        limit: query.number("limit")?,
        cursor: text("cursor")?,
        ..json::ListArguments::default()
    };
    let list = fs::List {
        path: query.optional_path()?.unwrap_or_default(),
        ..arguments.into_op()?
    };
    match app.perform(caller.call(None), Op::FsList(list)).await? {
        Reply::Listing(listing) => {
            let next = json::next_cursor(&listing);
            let mut response = listing::answer(listing.entries, &app.behind.metrics)?;
            let headers = response.headers_mut();
            if !listing.unreadable.is_empty() {
                headers.insert(UNREADABLE, HeaderValue::from(listing.unreadable.len()));
            }
            if let Some(next) = next.and_then(|next| HeaderValue::try_from(next).ok()) {
                headers.insert(NEXT, next);
            }
            Ok(response)
        }
        other => Err(unexpected(&other)),
    }
}

/// One entry; 404 when there is none.
#[utoipa::path(
    get, path = "/v1/fs/stat", tag = "files", params(EntryPath),
    responses((status = 200, body = json::Entry), FileRefusals)
)]
pub(super) async fn stat(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    let path = query.path()?;
    let name = path.to_string_lossy().into_owned();
    match app.perform(caller.call(None), Op::FsStat { path }).await? {
        Reply::Stat(Some(entry)) => body::answer(&json::Entry::from(&entry)),
        Reply::Stat(None) => Err(Error::NotFound { what: "path", name }.into()),
        other => Err(unexpected(&other)),
    }
}

/// Makes a directory with its missing parents; one that exists is fine.
#[utoipa::path(
    post, path = "/v1/fs/mkdir", tag = "files",
    params(EntryPath, ("mode" = Option<String>, Query, description = "Permission bits in octal: 0755.")),
    responses((status = 200, body = json::PathReply), FileRefusals)
)]
pub(super) async fn mkdir(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    let mkdir = fs::Mkdir {
        path: query.path()?,
        parents: true,
        mode: query.mode()?,
    };
    path_reply(&app.perform(caller.call(None), Op::FsMkdir(mkdir)).await?)
}

/// Removes a file, a symbolic link, or a directory.
#[utoipa::path(
    delete, path = "/v1/fs/entry", tag = "files",
    params(EntryPath, ("recursive" = Option<bool>, Query, description = "Remove a directory with its content.")),
    responses((status = 200, body = json::PathReply), FileRefusals)
)]
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    refuse_conditions("DELETE", &headers)?;
    let remove = fs::Remove {
        path: query.path()?,
        recursive: query.flag("recursive")?,
    };
    path_reply(&app.perform(caller.call(None), Op::FsRemove(remove)).await?)
}

fn path_reply(reply: &Reply) -> Result<Response, Problem> {
    match reply {
        Reply::Path(path) => body::answer(&json::PathReply::from(path.as_path())),
        other => Err(unexpected(other)),
    }
}

/// Moves or renames.
#[utoipa::path(
    post, path = "/v1/fs/move", tag = "files", request_body = json::MoveRequest,
    responses((status = 200, body = json::Moved), FileRefusals)
)]
pub(super) async fn rename(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let bytes = body::json(request, MOVE_BYTES, Contract::Compatible).await?;
    let asked: json::MoveRequest = decode(&bytes, Unknown::Ignored)?;
    match app
        .perform(caller.call(None), Op::FsMove(asked.into_op()?))
        .await?
    {
        Reply::Moved(moved) => body::answer(&json::Moved::from(&moved)),
        other => Err(unexpected(&other)),
    }
}

/// Unpacks a tar or tar.gz archive below a directory; nothing is written outside of it.
#[utoipa::path(
    post, path = "/v1/fs/upload-batch", tag = "files", params(OptionalPath),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 200, body = json::Unpacked), FileRefusals)
)]
pub(super) async fn upload_batch(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let path = query.optional_path()?.unwrap_or_default();
    let unpack = fs::Unpack {
        path,
        body: body::content(request.into_body()),
    };
    match app.perform(caller.call(None), Op::FsUnpack(unpack)).await? {
        Reply::Unpacked(unpacked) => body::answer(&json::Unpacked::from(&unpacked)),
        other => Err(unexpected(&other)),
    }
}
