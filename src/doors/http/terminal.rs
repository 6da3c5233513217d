//! Terminals: their size, what they show, who may write, and their bytes both ways over a `WebSocket`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use utoipa::IntoParams;

use super::body;
use super::error::{Contract, Problem, ProblemBody};
use super::front::Caller;
use super::openapi::Refusals;
use super::query::Query;
use super::router::{App, unexpected};
use super::viewer::Viewer;
use super::websocket;
use crate::error::Error;
use crate::exec::Process;
use crate::ids::ProcessId;
use crate::ops::{Op, Reply};
use crate::stream::Channel;
use crate::wire::json::{
    LockRequest, ResizeRequest, SizeReply, Snapshot, SnapshotArguments, Unknown, decode, process_id,
};

/// Bytes of the small requests here.
const REQUEST_BYTES: u64 = 64 << 10;
/// The lease of a writer lock that names none.
const LEASE: Duration = Duration::from_secs(60);

/// Changes the size of a terminal; the program is told.
#[utoipa::path(
    post, path = "/v1/processes/{id}/terminal/resize", tag = "terminals", request_body = ResizeRequest,
    params(("id" = String, Path, description = "`proc_N`.")),
    responses(
        (status = 200, body = SizeReply),
        (status = 404, description = "There is no such process.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It has no terminal, or has ended.", body = ProblemBody, content_type = "application/problem+json"),
        Refusals
    )
)]
pub(super) async fn resize(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let id = process_id(&id)?;
    let bytes = body::json(request, REQUEST_BYTES, Contract::Compatible).await?;
    let asked: ResizeRequest = decode(&bytes, Unknown::Ignored)?;
    match app.perform(caller.call(None), asked.into_op(Some(id))?).await? {
        Reply::Resized(size) => body::answer(&SizeReply::from(size)),
        other => Err(unexpected(&other)),
    }
}

/// What of a screen is wanted.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "only its documentation is used; query.rs reads the parameters"
)]
pub(super) struct SnapshotParameters {
    /// `true` for the cells with their attributes, too.
    cells: Option<bool>,
    /// So many lines that scrolled away, too.
    #[param(rename = "historyLines")]
    history_lines: Option<u64>,
    /// The first of them, counted from 0 for the first that ever scrolled away.
    #[param(rename = "historyFrom")]
    history_from: Option<u64>,
}

/// What a terminal shows now, as text.
#[utoipa::path(
    get, path = "/v1/processes/{id}/terminal/snapshot", tag = "terminals",
    params(("id" = String, Path, description = "`proc_N`."), SnapshotParameters),
    responses(
        (status = 200, body = Snapshot),
        (status = 404, description = "There is no such process.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It has no terminal.", body = ProblemBody, content_type = "application/problem+json"),
        Refusals
    )
)]
pub(super) async fn snapshot(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response, Problem> {
    let ours = |error: Error| Problem::ours(&error);
    let arguments = SnapshotArguments {
        id: None,
        cells: query.flag("cells").map_err(ours)?,
        history_lines: query
            .number("historyLines")
            .map_err(ours)?
            .map(|lines| lines as usize),
        history_from: query.number("historyFrom").map_err(ours)?,
    };
    let op = arguments.into_op(Some(process_id(&id)?)).map_err(ours)?;
    match app.perform(caller.call(None), op).await? {
        Reply::Shown(shown) => body::answer(&Snapshot::from(&*shown)),
        other => Err(unexpected(&other)),
    }
}

/// Takes the writer lock of a terminal: input of anybody else is refused while it is held.
#[utoipa::path(
    post, path = "/v1/processes/{id}/terminal/lock", tag = "terminals", request_body = LockRequest,
    params(("id" = String, Path, description = "`proc_N`.")),
    responses(
        (status = 204, description = "Held."),
        (status = 404, description = "There is no such live terminal.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "Somebody else holds it.", body = ProblemBody, content_type = "application/problem+json"),
        Refusals
    )
)]
pub(super) async fn lock(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let (id, asked, holder) = lock_request(id, request).await?;
    let process = found(&app, caller, id).await?;
    let lease = asked.lease_ms.map_or(LEASE, Duration::from_millis);
    let terminals = app.behind.rooms.terminals();
    let locked = terminals.lock(process.id(), &holder, lease, asked.steal.unwrap_or(false));
    locked.map_err(|error| Problem::ours(&error))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Gives the writer lock of a terminal up.
#[utoipa::path(
    post, path = "/v1/processes/{id}/terminal/unlock", tag = "terminals", request_body = LockRequest,
    params(("id" = String, Path, description = "`proc_N`.")),
    responses(
        (status = 204, description = "Nobody holds it."),
        (status = 404, description = "There is no such live terminal.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "Somebody else holds it.", body = ProblemBody, content_type = "application/problem+json"),
        Refusals
    )
)]
pub(super) async fn unlock(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let (id, _, holder) = lock_request(id, request).await?;
    let process = found(&app, caller, id).await?;
    let unlocked = app.behind.rooms.terminals().unlock(process.id(), &holder);
    unlocked.map_err(|error| Problem::ours(&error))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn lock_request(
    id: String,
    request: Request<Body>,
) -> Result<(ProcessId, LockRequest, String), Problem> {
    let id = process_id(&id)?;
    let bytes = body::json(request, REQUEST_BYTES, Contract::Ours).await?;
    let ours = |error: Error| Problem::ours(&error);
    let asked: LockRequest = decode(&bytes, Unknown::Refused).map_err(ours)?;
    let holder = asked.holder.clone().filter(|holder| !holder.is_empty());
    let holder = holder.ok_or(Error::Invalid {
        field: "holder",
        reason: "is required".into(),
    });
    Ok((id, asked, holder.map_err(ours)?))
}

async fn found(app: &Arc<App>, caller: Caller, id: ProcessId) -> Result<Arc<Process>, Problem> {
    match app.perform(caller.call(None), Op::ProcessGet { id }).await? {
        Reply::Process(process) => Ok(process),
        other => Err(unexpected(&other)),
    }
}

/// How a viewer looks at a terminal.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "only its documentation is used; query.rs reads the parameters"
)]
pub(super) struct ViewerParameters {
    /// `true` sends a frame first that redraws the screen as it is.
    restore: Option<bool>,
    /// First byte of output wanted; without it, and without `restore`, everything that is kept.
    offset: Option<u64>,
    /// The name by which this viewer may hold the writer lock.
    viewer: Option<String>,
}

/// A terminal's bytes both ways. Binary messages are output and input; text messages are JSON: `ready` first, `exit` last.
#[utoipa::path(
    get, path = "/v1/processes/{id}/terminal/ws", tag = "terminals",
    params(("id" = String, Path, description = "`proc_N`."), ViewerParameters),
    responses(
        (status = 101, description = "A WebSocket."),
        (status = 404, description = "There is no such process.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It has no terminal.", body = ProblemBody, content_type = "application/problem+json"),
        Refusals
    )
)]
pub(super) async fn ws(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = process_id(&id)?;
    let process = found(&app, caller.clone(), id).await?;
    if !process.has_terminal() {
        return Err(Problem::from(Error::Conflict {
            what: id.to_string(),
            reason: "it has no terminal; make it with \"tty\": true".into(),
        }));
    }
    let offset = query.number("offset")?;
    let written = process.output().totals()[Channel::Tty].total;
    if let Some(offset) = offset.filter(|offset| *offset > written) {
        return Err(Problem::from(Error::Invalid {
            field: "offset",
            reason: format!("{offset} lies behind the last byte of output, of which there are {written}"),
        }));
    }
    let viewer = Viewer {
        app: Arc::clone(&app),
        caller,
        process,
        restore: query.flag("restore")?,
        offset,
        name: query.text("viewer")?.map(str::to_owned),
    };
    websocket::accept(&headers, move |socket| viewer.serve(socket))
}
