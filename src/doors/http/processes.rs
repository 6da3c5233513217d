//! Processes: a command run to its end, and the limits for what is made over HTTP.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, Request};
use axum::response::Response;

use super::body;
use super::codec::{at_length, length};
use super::error::{Contract, Problem, ProblemBody};
use super::front::Caller;
use super::openapi::Refusals;
use super::router::{App, unexpected};
use crate::error::Error;
use crate::ops::{Op, ProcessConfig, Reply, Run};
use crate::wire::json::{Config, ConfigPatch, Encoding, RunReply, RunRequest, Unknown, decode};

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

/// Runs a command to its end and answers its output. It runs on when the caller goes away.
#[utoipa::path(
    post, path = "/v1/processes/run", tag = "processes", request_body = RunRequest,
    responses(
        (status = 200, body = RunReply),
        (status = 404, description = "The program or the working directory does not exist.",
         body = ProblemBody, content_type = "application/problem+json"),
        (status = 406, description = "Streamed runs were asked for.",
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
    refuse_streams(request.headers())?;
    let bytes = body::json(request, RUN_BYTES, Contract::Compatible).await?;
    let config = app.behind.rooms.process_config();
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

/// A caller that only takes a stream must not get one JSON object at the end instead.
fn refuse_streams(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(accept) = headers.get(ACCEPT).and_then(|value| value.to_str().ok()) else {
        return Ok(());
    };
    let offers = |wanted: &[&str]| {
        accept.split(',').any(|range| {
            let media = range.split(';').next().unwrap_or_default().trim();
            wanted.iter().any(|name| media.eq_ignore_ascii_case(name))
        })
    };
    let streams = offers(&["text/event-stream", "application/x-ndjson"]);
    if streams && !offers(&["application/json", "application/*", "*/*"]) {
        return Err(Problem::not_acceptable(accept));
    }
    Ok(())
}
