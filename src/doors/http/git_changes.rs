//! Repositories: what changes them, a route each.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;

use super::error::Problem;
use super::front::Caller;
use super::git::{change, transfer};
use super::openapi::FileRefusals;
use super::router::App;
use crate::wire::json::{GitChange, GitTransfer};

/// Makes a repository.
#[utoipa::path(
    post, path = "/v1/git/init", tag = "git", request_body = GitChange,
    responses((status = 200, description = "What git said.", body = Object), FileRefusals)
)]
pub(super) async fn init(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    change(&app, caller, request, "git.init").await
}

/// Puts content into the index.
#[utoipa::path(
    post, path = "/v1/git/add", tag = "git", request_body = GitChange,
    responses((status = 200, description = "What git said.", body = Object), FileRefusals)
)]
pub(super) async fn add(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    change(&app, caller, request, "git.add").await
}

/// Takes content back, into the worktree or the index.
#[utoipa::path(
    post, path = "/v1/git/restore", tag = "git", request_body = GitChange,
    responses((status = 200, description = "What git said.", body = Object), FileRefusals)
)]
pub(super) async fn restore(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    change(&app, caller, request, "git.restore").await
}

/// Moves HEAD, and the index and files with it.
#[utoipa::path(
    post, path = "/v1/git/reset", tag = "git", request_body = GitChange,
    responses((status = 200, description = "What git said.", body = Object), FileRefusals)
)]
pub(super) async fn reset(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    change(&app, caller, request, "git.reset").await
}

/// Commits what the index holds; hooks run.
#[utoipa::path(
    post, path = "/v1/git/commit", tag = "git", request_body = GitChange,
    responses((status = 200, description = "What git said.", body = Object), FileRefusals)
)]
pub(super) async fn commit(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    change(&app, caller, request, "git.commit").await
}

/// Makes a branch.
#[utoipa::path(
    post, path = "/v1/git/branches", tag = "git", request_body = GitChange,
    responses((status = 200, description = "What git said.", body = Object), FileRefusals)
)]
pub(super) async fn create_branch(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    change(&app, caller, request, "git.branch.create").await
}

/// Deletes a branch.
#[utoipa::path(
    post, path = "/v1/git/branches/delete", tag = "git", request_body = GitChange,
    responses((status = 200, description = "What git said.", body = Object), FileRefusals)
)]
pub(super) async fn delete_branch(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    change(&app, caller, request, "git.branch.delete").await
}

/// Goes to a branch or commit.
#[utoipa::path(
    post, path = "/v1/git/switch", tag = "git", request_body = GitChange,
    responses((status = 200, description = "What git said.", body = Object), FileRefusals)
)]
pub(super) async fn switch(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    change(&app, caller, request, "git.switch").await
}

/// Puts changes aside or takes them back.
#[utoipa::path(
    post, path = "/v1/git/stash", tag = "git", request_body = GitChange,
    responses((status = 200, description = "What git said.", body = Object), FileRefusals)
)]
pub(super) async fn stash(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    change(&app, caller, request, "git.stash").await
}

/// Makes or deletes a tag.
#[utoipa::path(
    post, path = "/v1/git/tags", tag = "git", request_body = GitChange,
    responses((status = 200, description = "What git said.", body = Object), FileRefusals)
)]
pub(super) async fn tag(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    change(&app, caller, request, "git.tag").await
}

/// Adds, changes or removes a remote.
#[utoipa::path(
    post, path = "/v1/git/remotes", tag = "git", request_body = GitChange,
    responses((status = 200, description = "What git said.", body = Object), FileRefusals)
)]
pub(super) async fn set_remote(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    change(&app, caller, request, "git.remote.set").await
}

/// Adds a worktree.
#[utoipa::path(
    post, path = "/v1/git/worktrees", tag = "git", request_body = GitChange,
    responses((status = 200, description = "What git said.", body = Object), FileRefusals)
)]
pub(super) async fn add_worktree(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    change(&app, caller, request, "git.worktree.add").await
}

/// Removes a worktree.
#[utoipa::path(
    post, path = "/v1/git/worktrees/remove", tag = "git", request_body = GitChange,
    responses((status = 200, description = "What git said.", body = Object), FileRefusals)
)]
pub(super) async fn remove_worktree(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    change(&app, caller, request, "git.worktree.remove").await
}

/// Clones a repository.
#[utoipa::path(
    post, path = "/v1/git/clone", tag = "git", request_body = GitTransfer,
    responses((status = 200, description = "What git said.", body = Object), FileRefusals)
)]
pub(super) async fn clone(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    transfer(&app, caller, request, "git.clone").await
}

/// Brings what a remote has.
#[utoipa::path(
    post, path = "/v1/git/fetch", tag = "git", request_body = GitTransfer,
    responses((status = 200, description = "What git said.", body = Object), FileRefusals)
)]
pub(super) async fn fetch(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    transfer(&app, caller, request, "git.fetch").await
}

/// Brings what a remote has, and puts it into the branch.
#[utoipa::path(
    post, path = "/v1/git/pull", tag = "git", request_body = GitTransfer,
    responses((status = 200, description = "What git said.", body = Object), FileRefusals)
)]
pub(super) async fn pull(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    transfer(&app, caller, request, "git.pull").await
}

/// Takes commits to a remote.
#[utoipa::path(
    post, path = "/v1/git/push", tag = "git", request_body = GitTransfer,
    responses((status = 200, description = "What git said.", body = Object), FileRefusals)
)]
pub(super) async fn push(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    transfer(&app, caller, request, "git.push").await
}
