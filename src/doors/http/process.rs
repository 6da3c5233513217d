//! One process that is asked for by its id: made, looked at, written to, signalled, waited for, forgotten. What it wrote is
//! in `logs`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::extract::rejection::PathRejection;
use axum::http::request::Parts;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};

use super::body;
use super::codec::at_length;
use super::error::{Contract, Problem, ProblemBody};
use super::front::Caller;
use super::openapi::{ProcessRefusals, Refusals};
use super::query::Query;
use super::router::{App, unexpected};
use crate::error::Error;
use crate::exec::Process;
use crate::ids::ProcessId;
use crate::ops::{Op, Reply};
use crate::wire::json::{
    CreateRequest, Info, Infos, InputReply, InputRequest, ProcessListArguments, SignalReply, SignalRequest,
    Unknown, decode, process_id,
};

const CREATE_BYTES: u64 = 4 << 20;
const SIGNAL_BYTES: u64 = 64 << 10;
/// How much longer than its bytes an input may be as JSON: six characters for one of them.
const INPUT_FACTOR: u64 = 6;
/// How long a wait lasts unless something else is asked for, and at most.
const WAIT: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));

/// The process that a path names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Id(pub(super) ProcessId);

impl axum::extract::FromRequestParts<Arc<App>> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let path: Result<axum::extract::Path<String>, PathRejection> =
            axum::extract::Path::from_request_parts(parts, app).await;
        let text = path.map_or_else(|_| String::from("(not UTF-8)"), |path| path.0);
        Ok(Self(process_id(&text)?))
    }
}

/// The processes that are known, oldest first: those that run, and those that ended not too long ago.
#[utoipa::path(
    get, path = "/v1/processes", tag = "processes",
    params(("owner" = Option<crate::wire::json::Owner>, Query, description = "Of this owner only.")),
    responses((status = 200, body = Infos), Refusals)
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    let processes = listed(&app, caller, &query).await?;
    body::answer(&Infos::from(processes.as_slice()))
}

/// Those that a listing with this query is of.
pub(super) async fn listed(app: &App, caller: Caller, query: &Query) -> Result<Vec<Arc<Process>>, Problem> {
    let owner = query
        .text("owner")?
        .map(crate::wire::json::Owner::parse)
        .transpose()?;
    let op = ProcessListArguments { owner }.into_op();
    match app.perform(caller.call(None), op).await? {
        Reply::Processes(processes) => Ok(processes),
        other => Err(unexpected(&other)),
    }
}

/// Starts a process and answers at once. It belongs to the daemon and is asked for by its id.
#[utoipa::path(
    post, path = "/v1/processes", tag = "processes", request_body = CreateRequest,
    responses(
        (status = 200, body = Info),
        (status = 404, description = "The program or the working directory does not exist.",
         body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "Too many processes run, or the idempotency key is in use.",
         body = ProblemBody, content_type = "application/problem+json"),
        Refusals
    )
)]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let asked = create_request(request).await?;
    created(&app, caller, asked).await
}

/// Reads what is to be made.
pub(super) async fn create_request(request: Request<Body>) -> Result<CreateRequest, Problem> {
    let bytes = body::json(request, CREATE_BYTES, Contract::Compatible).await?;
    Ok(decode(&bytes, Unknown::Ignored)?)
}

/// Makes it.
pub(super) async fn created(app: &App, caller: Caller, asked: CreateRequest) -> Result<Response, Problem> {
    let config = app.behind.rooms.process_config();
    let key = asked.idempotency_key.clone();
    let create = asked.into_create(&config)?;
    info(
        app.perform(caller.call(key), Op::ProcessCreate(Box::new(create)))
            .await?,
    )
}

/// One process.
#[utoipa::path(
    get, path = "/v1/processes/{id}", tag = "processes",
    params(("id" = String, Path, description = "`proc_N`.")),
    responses((status = 200, body = Info), ProcessRefusals)
)]
pub(super) async fn get(State(app): State<Arc<App>>, caller: Caller, id: Id) -> Result<Response, Problem> {
    info(
        app.perform(caller.call(None), Op::ProcessGet { id: id.0 })
            .await?,
    )
}

/// Forgets a process that has ended, with its log. What it started lives on.
#[utoipa::path(
    delete, path = "/v1/processes/{id}", tag = "processes",
    params(("id" = String, Path, description = "`proc_N`.")),
    responses((status = 204, description = "It is forgotten."), ProcessRefusals)
)]
pub(super) async fn delete(State(app): State<Arc<App>>, caller: Caller, id: Id) -> Result<Response, Problem> {
    match app
        .perform(caller.call(None), Op::ProcessDelete { id: id.0 })
        .await?
    {
        Reply::Process(_) => Ok(StatusCode::NO_CONTENT.into_response()),
        other => Err(unexpected(&other)),
    }
}

/// Sends TERM to the whole tree. What is alive after `killAfterMs` is killed; without it nothing is.
#[utoipa::path(
    post, path = "/v1/processes/{id}/stop", tag = "processes",
    params(
        ("id" = String, Path, description = "`proc_N`."),
        ("waitMs" = Option<u64>, Query, description = "Longest wait for its end before this is answered."),
        ("killAfterMs" = Option<u64>, Query, description = "What is alive after so long is killed.")
    ),
    responses((status = 200, body = SignalReply), ProcessRefusals)
)]
pub(super) async fn stop(
    State(app): State<Arc<App>>,
    caller: Caller,
    id: Id,
    query: Query,
) -> Result<Response, Problem> {
    let op = Op::ProcessStop {
        id: id.0,
        wait: wait_ms(&query)?,
        kill_after: query.number("killAfterMs")?.map(Duration::from_millis),
    };
    signalled(app.perform(caller.call(None), op).await?)
}

/// Kills the whole tree.
#[utoipa::path(
    post, path = "/v1/processes/{id}/kill", tag = "processes",
    params(
        ("id" = String, Path, description = "`proc_N`."),
        ("waitMs" = Option<u64>, Query, description = "Longest wait for its end before this is answered.")
    ),
    responses((status = 200, body = SignalReply), ProcessRefusals)
)]
pub(super) async fn kill(
    State(app): State<Arc<App>>,
    caller: Caller,
    id: Id,
    query: Query,
) -> Result<Response, Problem> {
    let wait = wait_ms(&query)?;
    signalled(
        app.perform(caller.call(None), Op::ProcessKill { id: id.0, wait })
            .await?,
    )
}

/// Writes to its standard input, all of it.
#[utoipa::path(
    post, path = "/v1/processes/{id}/input", tag = "processes", request_body = InputRequest,
    params(("id" = String, Path, description = "`proc_N`.")),
    responses((status = 200, body = InputReply), ProcessRefusals)
)]
pub(super) async fn input(
    State(app): State<Arc<App>>,
    caller: Caller,
    id: Id,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let config = app.behind.rooms.process_config();
    let limit = config
        .max_input_bytes_per_request
        .saturating_mul(INPUT_FACTOR)
        .saturating_add(4096);
    let bytes = body::json(request, limit, Contract::Compatible).await?;
    let decoded = move || decode::<InputRequest>(&bytes, Unknown::Ignored)?.into_op(Some(id.0), &config);
    let op = at_length(usize::try_from(limit).unwrap_or(usize::MAX), decoded).await?;
    match app.perform(caller.call(None), op).await? {
        Reply::Input(bytes_written) => body::answer(&InputReply { bytes_written }),
        other => Err(unexpected(&other)),
    }
}

/// Sends any signal to the whole tree, or to the process alone.
#[utoipa::path(
    post, path = "/v1/processes/{id}/signal", tag = "processes", request_body = SignalRequest,
    params(("id" = String, Path, description = "`proc_N`.")),
    responses((status = 200, body = SignalReply), ProcessRefusals)
)]
pub(super) async fn signal(
    State(app): State<Arc<App>>,
    caller: Caller,
    id: Id,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let bytes = body::json(request, SIGNAL_BYTES, Contract::Ours).await?;
    let op = decode::<SignalRequest>(&bytes, Unknown::Refused).and_then(|asked| asked.into_op(Some(id.0)));
    let op = op.map_err(|error| Problem::ours(&error))?;
    let reply = app.perform(caller.call(None), op).await;
    signalled(reply.map_err(|error| Problem::ours(&error))?)
}

/// Ends its standard input.
#[utoipa::path(
    post, path = "/v1/processes/{id}/stdin/close", tag = "processes",
    params(("id" = String, Path, description = "`proc_N`.")),
    responses((status = 200, body = Info), ProcessRefusals)
)]
pub(super) async fn close_stdin(
    State(app): State<Arc<App>>,
    caller: Caller,
    id: Id,
) -> Result<Response, Problem> {
    let reply = app
        .perform(caller.call(None), Op::ProcessCloseStdin { id: id.0 })
        .await;
    info(reply.map_err(|error| Problem::ours(&error))?)
}

/// Waits for its end and answers it as it is then: `exited`, or `running` when the time is over.
#[utoipa::path(
    get, path = "/v1/processes/{id}/wait", tag = "processes",
    params(
        ("id" = String, Path, description = "`proc_N`."),
        ("timeoutMs" = Option<u64>, Query, description = "Longest wait, 30 s unless given, an hour at most.")
    ),
    responses((status = 200, body = Info), ProcessRefusals)
)]
pub(super) async fn wait(
    State(app): State<Arc<App>>,
    caller: Caller,
    id: Id,
    query: Query,
) -> Result<Response, Problem> {
    let (usual, most) = WAIT;
    let asked = query.number("timeoutMs").map_err(|error| Problem::ours(&error))?;
    let limit = Some(asked.map_or(usual, Duration::from_millis).min(most));
    let reply = app
        .perform(caller.call(None), Op::ProcessWait { id: id.0, limit })
        .await;
    info(reply.map_err(|error| Problem::ours(&error))?)
}

fn wait_ms(query: &Query) -> Result<Duration, Error> {
    let (_, most) = WAIT;
    let asked = query.number("waitMs")?.unwrap_or(0);
    Ok(Duration::from_millis(asked).min(most))
}

fn info(reply: Reply) -> Result<Response, Problem> {
    match reply {
        Reply::Process(process) => body::answer(&Info::from(&*process)),
        other => Err(unexpected(&other)),
    }
}

fn signalled(reply: Reply) -> Result<Response, Problem> {
    match reply {
        Reply::Signalled { process, signalled } => body::answer(&SignalReply::new(&process, &signalled)),
        other => Err(unexpected(&other)),
    }
}
