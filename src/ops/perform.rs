//! `perform`: the one function between the doors and the rooms. It checks the principal, keeps the promise that a
//! repeated request is never run twice, resolves paths, and asks the room.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_util::FutureExt;
use parking_lot::RwLock;
use tracing::Instrument;

use super::logs::Followers;
use super::once::Ledger;
use super::uploads::Uploads;
use super::{Op, Outcome, Principal, ProcessConfig, Reply, operation};
use crate::capability::Capability;
use crate::error::Error;
use crate::exec::{Engine, Registry};
use crate::fs::{Begin, Files, Upload};
use crate::git::Git;
use crate::host::Host;
use crate::ids::RequestId;
use crate::lifecycle::Tasks;
use crate::pty::{self, Terminals};
use crate::search::Searches;
use crate::telemetry::Metrics;
use crate::update::Updater;
use crate::watch::Watches;
use crate::workspace::Workspace;

/// One request: who asks, under which id, and whether a repeat must not run again.
#[derive(Debug, Clone)]
pub struct Call {
    /// Who asks.
    pub principal: Principal,
    /// The id that errors and log lines carry.
    pub request_id: RequestId,
    /// Same key and principal: the same outcome, never run twice. `None` runs always.
    pub idempotency_key: Option<String>,
}

/// Every room, behind the one function that the doors call.
#[derive(Debug)]
pub struct Rooms {
    pub(super) workspace: Workspace,
    pub(super) engine: Arc<Engine>,
    pub(super) processes: Arc<Registry>,
    pub(super) terminals: Arc<Terminals>,
    pub(super) files: Arc<Files>,
    pub(super) uploads: Uploads,
    pub(super) searches: Searches,
    pub(super) watches: Arc<Watches>,
    pub(super) git: Arc<Git>,
    host: Arc<Host>,
    updater: Arc<Updater>,
    pub(super) ledger: Ledger,
    pub(super) process_config: RwLock<ProcessConfig>,
    /// Operations that were answered.
    performed: AtomicU64,
    /// Processes made over HTTP that run now.
    pub(super) http_processes: Arc<AtomicU64>,
    pub(super) followers: Followers,
    /// `fs.confine`.
    pub(super) confine: bool,
    metrics: Arc<Metrics>,
    pub(super) tasks: Tasks,
    started: Instant,
}

/// What [`Rooms`] is put together from.
#[derive(Debug)]
pub struct Parts {
    /// What paths mean.
    pub workspace: Workspace,
    /// Processes.
    pub engine: Arc<Engine>,
    /// How long terminals live that nobody looks at.
    pub pty: pty::Config,
    /// Files.
    pub files: Arc<Files>,
    /// Repositories.
    pub git: Arc<Git>,
    /// Metrics and capacity.
    pub host: Arc<Host>,
    /// The daemon's own executable.
    pub updater: Arc<Updater>,
    /// What was run under which key.
    pub ledger: Ledger,
    /// Where operations are counted.
    pub metrics: Arc<Metrics>,
    /// `fs.confine`: paths of every caller stay beneath the workspace root.
    pub confine: bool,
    /// Where work is started and stopped.
    pub tasks: Tasks,
    /// When the daemon began, for uptime.
    pub started: Instant,
}

impl Rooms {
    /// Puts the rooms together.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            workspace,
            engine,
            pty,
            files,
            git,
            host,
            updater,
            ledger,
            metrics,
            confine,
            tasks,
            started,
        } = parts;
        Self {
            workspace,
            engine,
            processes: Arc::default(),
            terminals: Terminals::start(pty, &tasks),
            files,
            uploads: Uploads::default(),
            searches: Searches::default(),
            watches: Arc::new(Watches::new(tasks.clone())),
            git,
            host,
            updater,
            ledger,
            process_config: RwLock::default(),
            performed: AtomicU64::new(0),
            http_processes: Arc::default(),
            followers: Followers::default(),
            metrics,
            confine,
            tasks,
            started,
        }
    }

    /// The engine, for doors that attach streams and report counts.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Every process that can be asked for, for heartbeats and events.
    pub fn processes(&self) -> &Registry {
        &self.processes
    }

    /// The terminals, for doors that show them.
    pub fn terminals(&self) -> &Arc<Terminals> {
        &self.terminals
    }

    /// The host room, for heartbeats and metrics pages.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// The daemon's own executable, for Hello and the end of the daemon.
    pub fn updater(&self) -> &Arc<Updater> {
        &self.updater
    }

    /// The workspace, for Hello and the banner.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// The limits for processes made over HTTP.
    pub fn process_config(&self) -> ProcessConfig {
        *self.process_config.read()
    }

    /// What is known of the command that `principal` ran under this key.
    pub fn outcome(&self, principal: &Principal, key: &str) -> Outcome {
        self.ledger.outcome(&principal.id, key)
    }

    /// Lets go of outcomes and processes that are remembered no longer.
    pub fn forget_old(&self) {
        let renewed = self.ledger.renew(&self.processes.running_keys(), Instant::now());
        if let Err(error) = renewed {
            tracing::warn!(%error, "the journal does not know all that runs");
        }
        self.ledger.forget_old();
        self.git.forget_old();
        self.uploads.forget_old(Instant::now());
        self.processes.forget_old(Instant::now());
        self.terminals.retain(|id| self.processes.get(id).is_ok());
    }

    /// Moves the output of processes that have ended out of memory. Cancel-safe.
    pub async fn rest(&self) {
        self.processes.rest().await;
    }

    /// Operations answered since the start.
    pub fn performed(&self) -> u64 {
        self.performed.load(Ordering::Relaxed)
    }

    /// Milliseconds since the daemon started, monotonic.
    pub fn uptime_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// What works here now, one row per feature.
    pub fn capabilities(&self) -> Vec<Capability> {
        let mut rows = vec![Capability::available("ping")];
        rows.extend(self.engine.capabilities());
        rows.extend(self.files.capabilities());
        rows.extend(self.searches.capabilities());
        rows.extend(self.watches.capabilities());
        rows.extend(self.git.capabilities());
        rows.extend(self.host.capabilities());
        rows
    }

    /// Does `op` for `call`. Refused before anything is touched when the daemon is stopping (ping is answered all
    /// the same) or the principal lacks the scope.
    pub async fn perform(&self, call: &Call, op: Op) -> Result<Reply, Error> {
        let (name, began) = (op.name(), Instant::now());
        let outcome = told(name, self.checked(call, name, op)).await;
        self.performed.fetch_add(1, Ordering::Relaxed);
        let code = outcome
            .as_ref()
            .map_or_else(|error| error.code().as_str(), |_| "ok");
        self.metrics
            .operation(name, call.principal.door.as_str(), code, began.elapsed());
        outcome
    }

    /// Begins to write a file piece by piece: `fs.write` for a door that streams, under its name, scope and reach.
    ///
    /// # Errors
    ///
    /// As `fs.write`, and [`Error::Stale`] when the file is not what it is to be.
    pub async fn upload(&self, call: &Call, begin: Begin) -> Result<Upload, Error> {
        self.admit(call, "fs.write")?;
        self.files.upload(self.reach(call), begin).await
    }

    async fn checked(&self, call: &Call, name: &'static str, op: Op) -> Result<Reply, Error> {
        self.admit(call, name)?;
        let span = tracing::debug_span!("op", id = %call.request_id, name, door = ?call.principal.door);
        self.dispatch(call, op).instrument(span).await
    }

    pub(super) fn admit(&self, call: &Call, name: &'static str) -> Result<(), Error> {
        if self.tasks.is_stopping() && name != "ping" {
            return Err(Error::Stopping);
        }
        let row = operation(name).ok_or_else(|| Error::Internal {
            reason: format!("{name} has no row"),
        })?;
        if call.principal.allows(row.scope) {
            return Ok(());
        }
        Err(Error::Forbidden {
            reason: format!("{name} needs the {:?} scope", row.scope),
        })
    }

    async fn dispatch(&self, call: &Call, op: Op) -> Result<Reply, Error> {
        match op {
            Op::Ping { nonce } => Ok(Reply::Pong {
                nonce,
                uptime_ms: self.uptime_ms(),
            }),
            Op::ProcessRun(_)
            | Op::ProcessBatch(_)
            | Op::ProcessCreate(_)
            | Op::ProcessList { .. }
            | Op::ProcessGet { .. }
            | Op::ProcessWait { .. }
            | Op::ProcessInput { .. }
            | Op::ProcessCloseStdin { .. }
            | Op::ProcessSignal { .. }
            | Op::ProcessStop { .. }
            | Op::ProcessKill { .. }
            | Op::ProcessResize { .. }
            | Op::ProcessSnapshot { .. }
            | Op::ProcessDelete { .. }
            | Op::ProcessLogs(_)
            | Op::ProcessConfigGet
            | Op::ProcessConfigSet(_) => self.dispatch_process(call, op).await,
            Op::FsRead(_)
            | Op::FsWrite(_)
            | Op::FsEdit(_)
            | Op::FsUpload(_)
            | Op::FsUploadAbort { .. }
            | Op::FsList(_)
            | Op::FsMkdir(_)
            | Op::FsMove(_)
            | Op::FsCopy(_)
            | Op::FsStat { .. }
            | Op::FsDigest { .. }
            | Op::FsChmod(_)
            | Op::FsSymlink { .. }
            | Op::FsXattrs { .. }
            | Op::FsXattrSet(_)
            | Op::FsRemove(_)
            | Op::FsUnpack(_)
            | Op::FsPack(_)
            | Op::FsSearch(_)
            | Op::FsWatch { .. } => self.dispatch_files(call, op).await,
            Op::GitAsk { .. } | Op::GitAct { .. } | Op::GitTransfer { .. } => {
                self.dispatch_git(call, op).await
            }
            Op::HostMetrics => Ok(Reply::Metrics(self.host.sample())),
            Op::HostCapabilities => Ok(Reply::Capabilities(self.capabilities())),
            Op::UpdateStatus => Ok(Reply::UpdateStatus(self.updater.status())),
            Op::UpdateCheck(apply) => self.updater.check(&apply).await.map(Reply::UpdateAvailable),
            Op::UpdateApply(apply) => {
                let begun = self.updater.begin(apply, &self.tasks).await;
                begun.map(Reply::UpdateBegun)
            }
        }
    }
}

/// A bug in one operation is an answer to its caller like any other, and nobody else's affair.
async fn told(name: &'static str, work: impl Future<Output = Result<Reply, Error>>) -> Result<Reply, Error> {
    let outcome = AssertUnwindSafe(work).catch_unwind().await;
    outcome.unwrap_or_else(|_panic| {
        tracing::error!(name, "an operation panicked");
        Err(Error::Internal {
            reason: format!("{name} panicked"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[tokio::test]
    async fn a_panic_is_an_answer() {
        let outcome = told("ping", async { panic!("a bug") }).await;
        assert_eq!(outcome.unwrap_err().code(), Code::Internal);
    }
}
