//! Rooms of our own, put together as the daemon does but with no door: what they can do here, and whether they do it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Finding;
use crate::capability::Capability;
use crate::config::Config;
use crate::error::Error;
use crate::exec::{self, Engine};
use crate::fs::{self, Files};
use crate::git::Git;
use crate::host::Host;
use crate::ids::{InstanceId, RequestId};
use crate::lifecycle::Tasks;
use crate::ops::{Call, Door, Launch, Ledger, LedgerConfig, Op, Parts, Principal, Reply, Rooms, Run};
use crate::telemetry::Metrics;
use crate::update::{self, Updater};

/// How long the command of the self-test may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// More than a command of the self-test prints or a file of it holds.
const ENOUGH: u64 = 64 * 1024;

/// Rooms that live as long as this.
pub(super) struct Trial {
    rooms: Rooms,
    tasks: Tasks,
}

impl Trial {
    /// Puts the rooms together; must be called on a runtime.
    pub(super) fn new(config: &Config) -> Result<Self, Error> {
        let (tasks, workspace) = (Tasks::new(), config.workspace.clone());
        let path = config
            .children
            .iter()
            .find(|(name, _)| name == "PATH")
            .map(|(_, value)| value.clone());
        let engine = exec::Config {
            linger: config.exec.linger,
            kill_grace: config.exec.kill_grace,
            environment: config.children.clone(),
            ..exec::Config::default()
        };
        let engine = Engine::start(engine, InstanceId::mint(), &tasks);
        let origin = update::Origin {
            place: update::Place::of_this_program(None),
            start: update::Start::default(),
        };
        let files = Arc::new(Files::new(config.fs.clone(), workspace.clone()));
        let transfers = files.transfers();
        let parts = Parts {
            updater: Updater::new(config.update.clone(), origin, Arc::clone(&engine), transfers),
            pty: config.pty,
            files,
            git: Arc::new(Git::new(Arc::clone(&engine), path.as_deref())),
            engine,
            host: Arc::new(Host::new(workspace.root.clone())),
            ledger: Ledger::open(LedgerConfig {
                directory: None,
                fsync: false,
            })?,
            metrics: Arc::new(Metrics::new()?),
            confine: false,
            tasks: tasks.clone(),
            started: Instant::now(),
            workspace,
        };
        Ok(Self {
            rooms: Rooms::new(parts),
            tasks,
        })
    }

    /// What works here.
    pub(super) fn capabilities(&self) -> Vec<Capability> {
        self.rooms.capabilities()
    }

    /// Runs a command and writes, reads and removes a file in `directory`.
    pub(super) async fn self_test(&self, directory: &Path) -> Vec<Finding> {
        let mut findings = vec![verdict("self-test run", self.run_ourselves().await)];
        findings.push(verdict("self-test files", self.round_trip(directory).await));
        findings
    }

    /// The only program that is certain to exist is this one.
    async fn run_ourselves(&self) -> Result<String, Error> {
        let program = std::env::current_exe().map_err(|source| Error::Io {
            doing: "find the running executable".into(),
            source,
        })?;
        let run = Run {
            launch: Launch {
                timeout: Some(PATIENCE),
                ..Launch::new(exec::Command::Argv(vec![program.into(), "version".into()]))
            },
            stdin: Bytes::new(),
            keep: exec::Keep::first(ENOUGH),
            log_bytes: None,
        };
        let Reply::Ran(finished) = self.perform(Op::ProcessRun(Box::new(run))).await? else {
            return Err(Error::Internal {
                reason: "a run was answered with something else".into(),
            });
        };
        let expected = format!("boxd {}\n", env!("CARGO_PKG_VERSION"));
        if finished.end.exit == exec::Exit::Code(0) && finished.stdout.head == expected {
            return Ok(format!(
                "a command ran in {:.1} ms",
                finished.end.wall.as_secs_f64() * 1e3
            ));
        }
        Err(Error::Internal {
            reason: format!("`boxd version` ended with {:?}", finished.end.exit),
        })
    }

    async fn round_trip(&self, directory: &Path) -> Result<String, Error> {
        let path = directory.join(format!(".boxd-self-test-{}", std::process::id()));
        let content = Bytes::from(RequestId::mint().0);
        let body = fs::Body::Bytes(content.clone());
        let write = fs::Write {
            path: path.clone(),
            create_parents: false,
            append: false,
            mode: Some(0o600),
            in_place: fs::InPlace::IfConfigured,
            base: None,
            body,
        };
        self.perform(Op::FsWrite(write)).await?;
        let read = self
            .perform(Op::FsRead(fs::Read {
                path: path.clone(),
                offset: 0,
                length: None,
            }))
            .await;
        self.perform(Op::FsRemove(fs::Remove {
            path,
            recursive: false,
        }))
        .await?;
        let Reply::File(file) = read? else {
            return Err(Error::Internal {
                reason: "a read was answered with something else".into(),
            });
        };
        if file.read_all(ENOUGH).await? == content {
            return Ok(format!(
                "a file was written, read and removed in {}",
                directory.display()
            ));
        }
        Err(Error::Internal {
            reason: "a file was read back with another content".into(),
        })
    }

    async fn perform(&self, op: Op) -> Result<Reply, Error> {
        let call = Call {
            principal: Principal::full("doctor", Door::Http),
            request_id: RequestId::mint(),
            idempotency_key: None,
        };
        self.rooms.perform(&call, op).await
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.tasks.stop();
        self.tasks.kill();
    }
}

fn verdict(what: &str, outcome: Result<String, Error>) -> Finding {
    match outcome {
        Ok(note) => Finding::good(what, note),
        Err(error) => Finding {
            what: what.to_owned(),
            ok: false,
            note: error.to_string(),
            fix: error.hint(),
        },
    }
}
