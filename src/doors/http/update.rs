//! Updates of the daemon itself.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};

use super::body;
use super::error::{Contract, Problem};
use super::front::Caller;
use super::openapi::Refusals;
use super::router::{App, unexpected};
use crate::ops::{Op, Reply};
use crate::wire::json::{self, Unknown};

/// Bytes of a request.
const REQUEST: u64 = 64 << 10;

/// How far an update is, and which one led to this daemon.
#[utoipa::path(get, path = "/v1/update", tag = "host", responses((status = 200, body = json::UpdateStatus), Refusals))]
pub(super) async fn status(State(app): State<Arc<App>>, caller: Caller) -> Result<Response, Problem> {
    match app.perform(caller.call(None), Op::UpdateStatus).await? {
        Reply::UpdateStatus(status) => body::answer(&json::UpdateStatus::from(&status)),
        other => Err(unexpected(&other)),
    }
}

/// Begins an update; what comes of it is told by GET. The daemon restarts when it is in place.
#[utoipa::path(
    post, path = "/v1/update", tag = "host", request_body = json::UpdateRequest,
    responses((status = 202, body = json::UpdateBegun), Refusals)
)]
pub(super) async fn apply(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let asked = asked(request).await?;
    match app
        .perform(caller.call(None), Op::UpdateApply(asked.into()))
        .await?
    {
        Reply::UpdateBegun(applied) => {
            let begun = body::answer(&json::UpdateBegun::from(&applied))?;
            Ok((StatusCode::ACCEPTED, begun).into_response())
        }
        other => Err(unexpected(&other)),
    }
}

/// Looks whether there is a newer release, and changes nothing.
#[utoipa::path(
    post, path = "/v1/update/check", tag = "host", request_body = json::UpdateRequest,
    responses((status = 200, body = json::UpdateAvailable), Refusals)
)]
pub(super) async fn check(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let asked = asked(request).await?;
    match app
        .perform(caller.call(None), Op::UpdateCheck(asked.into()))
        .await?
    {
        Reply::UpdateAvailable(available) => body::answer(&json::UpdateAvailable::from(&available)),
        other => Err(unexpected(&other)),
    }
}

async fn asked(request: Request<Body>) -> Result<json::UpdateRequest, Problem> {
    let payload = body::json(request, REQUEST, Contract::Ours).await?;
    json::decode(&payload, Unknown::Refused).map_err(|error| Problem::ours(&error))
}
