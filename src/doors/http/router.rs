//! The routes, each with its documentation, and what answers everything else.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::http::{Method, Uri};
use axum::routing::{MethodRouter, any};
use utoipa::Path;
use utoipa_axum::PathItemExt;

use super::error::Problem;
use super::{
    Behind, changes, file, fs, git, git_changes, host, logs, openapi, operations, process, processes, search,
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

/// Makes the routes of the handlers of each module, and their documentation for those who write it down.
macro_rules! routes {
    ($($module:ident: $($handler:ident),+;)+) => {
        pastey::paste! {
            fn documented() -> Router<Arc<App>> {
                Router::new()
                    $($(.merge(route::<$module::[<__path_ $handler>], _, _>(&$module::$handler)))+)+
            }
        }

        /// The documentation of every route.
        #[cfg(test)]
        pub(super) fn documentation() -> utoipa::openapi::OpenApi {
            utoipa_axum::router::OpenApiRouter::<Arc<App>>::with_openapi(super::documentation::base())
                $($(.routes(utoipa_axum::routes!($module::$handler)))+)+
                .into_openapi()
        }
    };
}

routes! {
    host: health, capabilities, metrics, prometheus;
    update: status, apply, check;
    processes: config, set_config, run, batch;
    process: list, create, get, delete, stop, kill, signal, input, close_stdin, wait;
    logs: logs;
    terminal: resize, snapshot, lock, unlock, ws;
    fs: entries, remove, mkdir, rename, stat, upload_batch;
    file: get, put;
    search: search, watch;
    changes: edit, copy, chmod, symlink, xattrs, set_xattr, digest, download_batch, abort_upload;
    stored: get_mcp, put_mcp, delete_mcp, get_skills, put_skills, delete_skills;
    operations: perform;
    openapi: document;
    git: status, diff, log, show, blame, branches, remotes, worktrees, repositories;
    git_changes: create_branch, delete_branch, set_remote, add_worktree, remove_worktree, init, add, restore,
        reset, commit, switch, stash, tag, clone, fetch, pull, push;
}

/// Has `handler` answer where its documentation says.
fn route<P: Path, H: Handler<T, Arc<App>>, T: 'static>(handler: &H) -> Router<Arc<App>> {
    let mut answered = MethodRouter::new();
    for method in P::methods() {
        answered = answered.on(method.to_method_filter(), handler.clone());
    }
    Router::new().route(&P::path(), answered)
}

/// The routes with the answers for everything else.
pub(super) fn router(app: Arc<App>) -> Router {
    let mut router = documented().merge(terminals::alias());
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
