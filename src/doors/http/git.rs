//! Repositories: what is asked of them, and how what changes them (`git_changes.rs`) is done. Who accepts only `application/x-ndjson` or `text/event-stream` of a transfer gets its `progress`, and
//! `done` with what git said; who goes away then ends it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use serde_json::{Map, Value};

use super::accept::Accept;
use super::changes::answer;
use super::error::{Contract, Problem};
use super::front::Caller;
use super::openapi::{FileRefusals, OptionalPath};
use super::query::Query;
use super::router::App;
use super::{body, events};
use crate::error::Error;
use crate::wire::json::{decode_op, decode_stream};

const REQUEST_BYTES: u64 = 4 << 20;

/// How a parameter is read.
enum Kind {
    Text,
    Flag,
    Number,
    /// One path, which is a list of one.
    List,
}

/// A question of `name`, with its parameters as the fields of its payload.
async fn ask(
    app: &App,
    caller: Caller,
    query: &Query,
    name: &str,
    known: &[(&'static str, Kind)],
) -> Result<Response, Problem> {
    let fields = fields(query, known).map_err(|error| Problem::ours(&error))?;
    perform(
        app,
        caller,
        name,
        &serde_json::to_vec(&fields).unwrap_or_default(),
    )
    .await
}

fn fields(query: &Query, known: &[(&'static str, Kind)]) -> Result<Map<String, Value>, Error> {
    let mut fields = Map::new();
    for name in ["path", "pathB64", "fileB64"] {
        if let Some(text) = query.text(name)? {
            fields.insert(name.to_owned(), text.into());
        }
    }
    for (name, kind) in known {
        if !query.has(name) {
            continue;
        }
        let value = match kind {
            Kind::Text => query.text(name)?.into(),
            Kind::Flag => query.flag(name)?.into(),
            Kind::Number => query.number(name)?.into(),
            Kind::List => vec![query.text(name)?].into(),
        };
        fields.insert((*name).to_owned(), value);
    }
    Ok(fields)
}

async fn perform(app: &App, caller: Caller, name: &str, payload: &[u8]) -> Result<Response, Problem> {
    let decoded = decode_op(name, payload, &app.behind.rooms.process_config());
    answer(app, caller, decoded.map(|decoded| decoded.op)).await
}

pub(super) async fn change(
    app: &App,
    caller: Caller,
    request: Request<Body>,
    name: &str,
) -> Result<Response, Problem> {
    let bytes = body::json(request, REQUEST_BYTES, Contract::Ours).await?;
    perform(app, caller, name, &bytes).await
}

pub(super) async fn transfer(
    app: &App,
    caller: Caller,
    request: Request<Body>,
    name: &str,
) -> Result<Response, Problem> {
    let stream = Accept::of(request.headers()).only();
    let bytes = body::json(request, REQUEST_BYTES, Contract::Ours).await?;
    let Some(framing) = stream else {
        return perform(app, caller, name, &bytes).await;
    };
    let ours = |error: Error| Problem::ours(&error);
    let streamed = decode_stream(name, &bytes).map_err(ours)?;
    let feed = app
        .behind
        .rooms
        .stream(&caller.call(None), streamed)
        .await
        .map_err(ours)?;
    Ok(events::response(feed, framing, &app.behind.metrics))
}

/// What is changed in a repository, entry by entry; the user's index is not written.
#[utoipa::path(
    get, path = "/v1/git/status", tag = "git",
    params(OptionalPath,
        ("ignored" = Option<bool>, Query, description = "Ignored files too."),
        ("untracked" = Option<bool>, Query, description = "Untracked files; true when absent."),
    ),
    responses((status = 200, description = "See docs/git.md.", body = Object), FileRefusals)
)]
pub(super) async fn status(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    ask(
        &app,
        caller,
        &query,
        "git.status",
        &[("ignored", Kind::Flag), ("untracked", Kind::Flag)],
    )
    .await
}

/// What the changes are: by file, hunk and line, and as a unified diff.
#[utoipa::path(
    get, path = "/v1/git/diff", tag = "git",
    params(OptionalPath,
        ("of" = Option<String>, Query, description = "`worktree` (when absent), `index` or `head`."),
        ("from" = Option<String>, Query, description = "From this revision."),
        ("to" = Option<String>, Query, description = "To this revision; the worktree when absent."),
        ("files" = Option<String>, Query, description = "Only this file or directory."),
        ("context" = Option<u64>, Query, description = "Lines around a change."),
        ("stat" = Option<bool>, Query, description = "Numbers of lines and no text."),
    ),
    responses((status = 200, description = "See docs/git.md.", body = Object), FileRefusals)
)]
pub(super) async fn diff(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    ask(
        &app,
        caller,
        &query,
        "git.diff",
        &[
            ("of", Kind::Text),
            ("from", Kind::Text),
            ("to", Kind::Text),
            ("files", Kind::List),
            ("context", Kind::Number),
            ("stat", Kind::Flag),
        ],
    )
    .await
}

/// Commits, newest first.
#[utoipa::path(
    get, path = "/v1/git/log", tag = "git",
    params(OptionalPath,
        ("revision" = Option<String>, Query, description = "The revision; `HEAD` when absent."),
        ("file" = Option<String>, Query, description = "The file, relative to the worktree."),
        ("skip" = Option<u64>, Query, description = "So many are left out."),
        ("limit" = Option<u64>, Query, description = "So many at most, 1 to 1000; 50 when absent."),
    ),
    responses((status = 200, description = "See docs/git.md.", body = Object), FileRefusals)
)]
pub(super) async fn log(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    ask(
        &app,
        caller,
        &query,
        "git.log",
        &[
            ("revision", Kind::Text),
            ("file", Kind::Text),
            ("skip", Kind::Number),
            ("limit", Kind::Number),
        ],
    )
    .await
}

/// A commit with its changes, or a file (or directory) as it was.
#[utoipa::path(
    get, path = "/v1/git/show", tag = "git",
    params(OptionalPath,
        ("revision" = Option<String>, Query, description = "The revision; `HEAD` when absent."),
        ("file" = Option<String>, Query, description = "The file, relative to the worktree."),
    ),
    responses((status = 200, description = "See docs/git.md.", body = Object), FileRefusals)
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    ask(
        &app,
        caller,
        &query,
        "git.show",
        &[("revision", Kind::Text), ("file", Kind::Text)],
    )
    .await
}

/// Who wrote which lines of a file.
#[utoipa::path(
    get, path = "/v1/git/blame", tag = "git",
    params(OptionalPath,
        ("file" = Option<String>, Query, description = "The file, relative to the worktree."),
        ("revision" = Option<String>, Query, description = "The revision; `HEAD` when absent."),
    ),
    responses((status = 200, description = "See docs/git.md.", body = Object), FileRefusals)
)]
pub(super) async fn blame(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    ask(
        &app,
        caller,
        &query,
        "git.blame",
        &[("file", Kind::Text), ("revision", Kind::Text)],
    )
    .await
}

/// Local and remote branches.
#[utoipa::path(
    get, path = "/v1/git/branches", tag = "git",
    params(OptionalPath,
    ),
    responses((status = 200, description = "See docs/git.md.", body = Object), FileRefusals)
)]
pub(super) async fn branches(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    ask(&app, caller, &query, "git.branches", &[]).await
}

/// Remotes; passwords in URLs are not shown.
#[utoipa::path(
    get, path = "/v1/git/remotes", tag = "git",
    params(OptionalPath,
    ),
    responses((status = 200, description = "See docs/git.md.", body = Object), FileRefusals)
)]
pub(super) async fn remotes(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    ask(&app, caller, &query, "git.remotes", &[]).await
}

/// Worktrees of a repository.
#[utoipa::path(
    get, path = "/v1/git/worktrees", tag = "git",
    params(OptionalPath,
    ),
    responses((status = 200, description = "See docs/git.md.", body = Object), FileRefusals)
)]
pub(super) async fn worktrees(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    ask(&app, caller, &query, "git.worktrees", &[]).await
}

/// Repositories at and below a directory.
#[utoipa::path(
    get, path = "/v1/git/repositories", tag = "git",
    params(OptionalPath,
        ("depth" = Option<u64>, Query, description = "Levels that are searched; 4 when absent."),
    ),
    responses((status = 200, description = "See docs/git.md.", body = Object), FileRefusals)
)]
pub(super) async fn repositories(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    ask(&app, caller, &query, "git.discover", &[("depth", Kind::Number)]).await
}
