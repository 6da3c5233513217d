//! The routes, each with its documentation, and what answers everything else.

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
use axum::routing::any;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::Problem;
use super::{
    Behind, changes, fs, git, git_changes, host, logs, openapi, operations, process, processes, search,
    stored, terminal, terminals, update,
};
use crate::error::Error;
use crate::ops::{Call, Op, Reply};

/// What handlers share.
#[derive(Debug)]
pub(super) struct App {
    pub(super) behind: Behind,
    /// Held while a stored configuration file is read, changed and written.
    pub(super) stored: tokio::sync::Mutex<()>,
}

impl App {
    pub(super) fn new(behind: Behind) -> Arc<Self> {
        Arc::new(Self {
            behind,
            stored: tokio::sync::Mutex::new(()),
        })
    }

    /// Performs one operation.
    pub(super) async fn perform(&self, call: Call, op: Op) -> Result<Reply, Error> {
        self.behind.rooms.perform(&call, op).await
    }
}

/// A reply of another kind than the operation has: a bug.
pub(super) fn unexpected(reply: &Reply) -> Problem {
    Problem::ours(&Error::Internal {
        reason: format!("the operation answered {reply:?}"),
    })
}

/// Every documented route.
pub(super) fn documented() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(host::health))
        .routes(routes!(host::capabilities))
        .routes(routes!(host::metrics))
        .routes(routes!(host::prometheus))
        .routes(routes!(update::status, update::apply))
        .routes(routes!(update::check))
        .routes(routes!(processes::config, processes::set_config))
        .routes(routes!(processes::run))
        .routes(routes!(processes::batch))
        .routes(routes!(process::list, process::create))
        .routes(routes!(process::get, process::delete))
        .routes(routes!(process::stop))
        .routes(routes!(process::kill))
        .routes(routes!(process::signal))
        .routes(routes!(process::input))
        .routes(routes!(process::close_stdin))
        .routes(routes!(process::wait))
        .routes(routes!(logs::logs))
        .routes(routes!(terminal::resize))
        .routes(routes!(terminal::snapshot))
        .routes(routes!(terminal::lock))
        .routes(routes!(terminal::unlock))
        .routes(routes!(terminal::ws))
        .routes(routes!(fs::entries))
        .routes(routes!(super::file::get, super::file::put))
        .routes(routes!(fs::remove))
        .routes(routes!(fs::mkdir))
        .routes(routes!(fs::rename))
        .routes(routes!(fs::stat))
        .routes(routes!(fs::upload_batch))
        .routes(routes!(search::search))
        .routes(routes!(search::watch))
        .routes(routes!(changes::edit))
        .routes(routes!(changes::copy))
        .routes(routes!(changes::chmod))
        .routes(routes!(changes::symlink))
        .routes(routes!(changes::xattrs, changes::set_xattr))
        .routes(routes!(changes::digest))
        .routes(routes!(changes::download_batch))
        .routes(routes!(changes::abort_upload))
        .merge(repositories())
        .routes(routes!(stored::get_mcp, stored::put_mcp, stored::delete_mcp))
        .routes(routes!(
            stored::get_skills,
            stored::put_skills,
            stored::delete_skills
        ))
        .routes(routes!(operations::perform))
        .routes(routes!(openapi::document))
}

/// Those of repositories.
fn repositories() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(git::status))
        .routes(routes!(git::diff))
        .routes(routes!(git::log))
        .routes(routes!(git::show))
        .routes(routes!(git::blame))
        .routes(routes!(git::branches, git_changes::create_branch))
        .routes(routes!(git_changes::delete_branch))
        .routes(routes!(git::remotes, git_changes::set_remote))
        .routes(routes!(git::worktrees, git_changes::add_worktree))
        .routes(routes!(git_changes::remove_worktree))
        .routes(routes!(git::repositories))
        .routes(routes!(git_changes::init))
        .routes(routes!(git_changes::add))
        .routes(routes!(git_changes::restore))
        .routes(routes!(git_changes::reset))
        .routes(routes!(git_changes::commit))
        .routes(routes!(git_changes::switch))
        .routes(routes!(git_changes::stash))
        .routes(routes!(git_changes::tag))
        .routes(routes!(git_changes::clone))
        .routes(routes!(git_changes::fetch))
        .routes(routes!(git_changes::pull))
        .routes(routes!(git_changes::push))
}

/// The routes with the answers for everything else.
pub(super) fn router(app: Arc<App>) -> Router {
    let (router, _) = documented().split_for_parts();
    let mut router = router.merge(terminals::alias());
    for path in ["/v1/agents", "/v1/agents/{*rest}", "/v1/acp", "/v1/acp/{*rest}"] {
        router = router.route(path, any(not_served));
    }
    router
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
}

async fn no_route(uri: Uri) -> Problem {
    Problem::no_route(uri.path())
}

async fn not_served(uri: Uri) -> Problem {
    Problem::not_served(uri.path())
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    Problem::method(&method, uri.path())
}
