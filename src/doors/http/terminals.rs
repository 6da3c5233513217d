//! `/v1/terminals*`: processes that have a terminal, under a name of their own. What is below an id is what is below that
//! of the process; only what makes and lists them differs.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use axum::routing::{get, post};

use super::error::Problem;
use super::front::Caller;
use super::query::Query;
use super::router::App;
use super::{body, logs, process, terminal};
use crate::wire::json::{CreateRequest, Infos};

/// The routes; they are documented once, as those of processes.
pub(super) fn alias() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/terminals", get(list).post(create))
        .route("/v1/terminals/{id}", get(process::get).delete(process::delete))
        .route("/v1/terminals/{id}/stop", post(process::stop))
        .route("/v1/terminals/{id}/kill", post(process::kill))
        .route("/v1/terminals/{id}/signal", post(process::signal))
        .route("/v1/terminals/{id}/input", post(process::input))
        .route("/v1/terminals/{id}/stdin/close", post(process::close_stdin))
        .route("/v1/terminals/{id}/wait", get(process::wait))
        .route("/v1/terminals/{id}/logs", get(logs::logs))
        .route("/v1/terminals/{id}/resize", post(terminal::resize))
        .route("/v1/terminals/{id}/snapshot", get(terminal::snapshot))
        .route("/v1/terminals/{id}/lock", post(terminal::lock))
        .route("/v1/terminals/{id}/unlock", post(terminal::unlock))
        .route("/v1/terminals/{id}/ws", get(terminal::ws))
}

async fn list(State(app): State<Arc<App>>, caller: Caller, query: Query) -> Result<Response, Problem> {
    let mut processes = process::listed(&app, caller, &query).await?;
    processes.retain(|process| process.has_terminal());
    body::answer(&Infos::from(processes.as_slice()))
}

async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let asked = process::create_request(request).await?;
    let with_terminal = CreateRequest {
        tty: Some(true),
        ..asked
    };
    process::created(&app, caller, with_terminal).await
}
