//! Processes: a command run to its end, and the limits for what is made over HTTP.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use bytes::Bytes;

use super::accept::Accept;
use super::body;
use super::codec::{at_length, length};
use super::error::{Contract, Problem, ProblemBody};
use super::events;
use super::front::Caller;
use super::openapi::Refusals;
use super::router::{App, unexpected};
use crate::error::Error;
use crate::ops::{Feed, LogForm, LogStream, Logs, LogsReply, Op, ProcessConfig, Reply, Run};
use crate::wire::json::{
    BatchReply, BatchRequest, Config, ConfigPatch, Encoding, Framing, RunReply, RunRequest, Unknown, decode,
    encode_reply,
};

/// Bytes of a run request: tens of megabytes of standard input, in base64.
const RUN_BYTES: u64 = 64 << 20;
const CONFIG_BYTES: u64 = 64 << 10;

/// The limits for processes made over HTTP.
#[utoipa::path(
    get, path = "/v1/processes/config", tag = "processes",
    responses((status = 200, body = Config), Refusals)
)]
pub(super) async fn config(State(app): State<Arc<App>>, caller: Caller) -> Result<Response, Problem> {
    limits(app.perform(caller.call(None), Op::ProcessConfigGet).await?)
}

/// Changes some of the limits; those left out stay as they are.
#[utoipa::path(
    post, path = "/v1/processes/config", tag = "processes", request_body = ConfigPatch,
    responses((status = 200, body = Config), Refusals)
)]
pub(super) async fn set_config(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let bytes = body::json(request, CONFIG_BYTES, Contract::Compatible).await?;
    let patch: ConfigPatch = decode(&bytes, Unknown::Ignored)?;
    limits(
        app.perform(caller.call(None), Op::ProcessConfigSet(patch.into()))
            .await?,
    )
}

fn limits(reply: Reply) -> Result<Response, Problem> {
    match reply {
        Reply::ProcessConfig(config) => body::answer(&Config::from(config)),
        other => Err(unexpected(&other)),
    }
}

/// Runs a command to its end and answers its output. It runs on when the caller goes away. Who accepts only
/// `text/event-stream` or `application/x-ndjson` gets events: `started` with the id of the process, its log, its `exit`.
#[utoipa::path(
    post, path = "/v1/processes/run", tag = "processes", request_body = RunRequest,
    responses(
        (status = 200, body = RunReply),
        (status = 404, description = "The program or the working directory does not exist.",
         body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "Too many processes run, or the idempotency key is in use.",
         body = ProblemBody, content_type = "application/problem+json"),
        Refusals
    )
)]
pub(super) async fn run(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let stream = Accept::of(request.headers()).only();
    let bytes = body::json(request, RUN_BYTES, Contract::Compatible).await?;
    let config = app.behind.rooms.process_config();
    if let Some(framing) = stream {
        return run_streamed(&app, caller, bytes, config, framing).await;
    }
    let asked = at_length(bytes.len(), move || Asked::decode(&bytes, &config)).await?;
    let Asked {
        run,
        key,
        encoding,
        timeout_ms,
    } = asked;
    let reply = app.perform(caller.call(key), Op::ProcessRun(run)).await?;
    let length = length(&reply);
    let Reply::Ran(finished) = reply else {
        return Err(unexpected(&reply));
    };
    let encode = move || body::encode(&RunReply::new(&finished, encoding, Some(timeout_ms)));
    Ok(body::raw_json(at_length(length, encode).await?))
}

/// Runs several commands, some at a time, and answers in their order what came of each.
#[utoipa::path(
    post, path = "/v1/processes/batch", tag = "processes", request_body = BatchRequest,
    responses((status = 200, body = BatchReply), Refusals)
)]
pub(super) async fn batch(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let bytes = body::json(request, RUN_BYTES, Contract::Ours).await?;
    let ours = |error: Error| Problem::ours(&error);
    let config = app.behind.rooms.process_config();
    let decoded = move |bytes: &[u8]| decode::<BatchRequest>(bytes, Unknown::Refused)?.into_batch(&config);
    let batch = at_length(bytes.len(), move || decoded(&bytes))
        .await
        .map_err(ours)?;
    let reply = app.perform(caller.call(None), Op::ProcessBatch(batch)).await;
    let reply = reply.map_err(ours)?;
    let encode = move |reply: &Reply| encode_reply(reply, Encoding::default());
    Ok(body::raw_json(
        at_length(length(&reply), move || encode(&reply)).await?,
    ))
}

/// The same run as a process that this stream is the first to follow.
async fn run_streamed(
    app: &Arc<App>,
    caller: Caller,
    bytes: Bytes,
    config: ProcessConfig,
    framing: Framing,
) -> Result<Response, Problem> {
    let (place, size) = (caller.follow(app)?, bytes.len());
    let decoded = move || {
        let asked: RunRequest = decode(&bytes, Unknown::Ignored)?;
        let key = asked.idempotency_key.clone();
        Ok((asked.into_create(&config)?, key))
    };
    let (create, key) = at_length(size, decoded).await?;
    let create = Op::ProcessCreate(Box::new(create));
    let id = match app.perform(caller.clone().call(key), create).await? {
        Reply::Process(process) => process.id(),
        other => return Err(unexpected(&other)),
    };
    let logs = Logs {
        id,
        stream: LogStream::Combined,
        since: 0,
        form: LogForm::Follow { tail: None },
    };
    match app
        .perform(caller.call(None), Op::ProcessLogs(Box::new(logs)))
        .await?
    {
        Reply::Logs(LogsReply::Reader(reader)) => {
            let feed = Feed::of_new_process(*reader, place);
            Ok(events::response(feed, framing, &app.behind.metrics))
        }
        other => Err(unexpected(&other)),
    }
}

/// A run request, understood.
struct Asked {
    run: Box<Run>,
    key: Option<String>,
    encoding: Encoding,
    timeout_ms: u64,
}

impl Asked {
    fn decode(bytes: &[u8], config: &ProcessConfig) -> Result<Self, Error> {
        let mut asked: RunRequest = decode(bytes, Unknown::Ignored)?;
        Ok(Self {
            timeout_ms: asked.effective_timeout_ms(config),
            encoding: asked.encoding.take().unwrap_or_default(),
            key: asked.idempotency_key.clone(),
            run: Box::new(asked.into_run(config)?),
        })
    }
}
