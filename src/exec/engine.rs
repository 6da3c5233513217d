//! The engine's handle: starts processes and counts them.

use std::ffi::OsString;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};

use super::attached::Attached;
use super::environment::{Base, MARKER};
use super::inherit::Inherited;
use super::kill::{self, Leader, Tree};
use super::proc;
use super::reap::{Reaped, Reaper};
use super::run::{Pump, Running};
use super::spawn::{self, Birth, Pipes};
use super::spec::{Command, Environment, Finished, RunSpec};
use super::sys;
use crate::capability::Capability;
use crate::error::Error;
use crate::ids::{InstanceId, ProcessId};
use crate::lifecycle::Tasks;
use crate::stream::Log;

/// Settings of the engine.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long the end of output is awaited after the leader's exit while a descendant holds the pipe.
    pub linger: Duration,
    /// How long a tree has between TERM and KILL when the daemon stops.
    pub kill_grace: Duration,
    /// The daemon's environment without anything of its own.
    pub environment: Vec<(OsString, OsString)>,
    /// What the daemon changed about itself and children get back.
    pub inherited: Inherited,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(20),
            kill_grace: Duration::from_millis(500),
            environment: Vec::new(),
            inherited: Inherited::default(),
        }
    }
}

/// The process engine.
#[derive(Debug)]
pub struct Engine {
    linger: Duration,
    kill_grace: Duration,
    inherited: Inherited,
    base: Base,
    instance: InstanceId,
    next_id: AtomicU64,
    reaper: Arc<Reaper>,
    /// A birth blocks its thread while the program is loaded, see [`births_at_once`].
    births: Semaphore,
    tasks: Tasks,
}

impl Engine {
    /// Makes the engine and starts its reaper. `instance` marks every process that is born.
    pub fn start(config: Config, instance: InstanceId, tasks: &Tasks) -> Arc<Self> {
        let reaper = Arc::new(Reaper::default());
        tasks.pillar("reaper", Arc::clone(&reaper).run(tasks.clone()));
        Arc::new(Self {
            linger: config.linger,
            kill_grace: config.kill_grace,
            inherited: config.inherited,
            base: Base::new(config.environment),
            instance,
            next_id: AtomicU64::new(1),
            reaper,
            births: Semaphore::new(births_at_once()),
            tasks: tasks.clone(),
        })
    }

    /// Runs a command to its end. The future must not be dropped half way: run it in a task of its own, so that the
    /// command outlives whoever asked for it.
    pub async fn run(self: Arc<Self>, spec: RunSpec) -> Result<Finished, Error> {
        let permit = self.births.acquire().await.map_err(|_| Error::Stopping)?;
        let (running, pump) = match spawn::directory_at_hand(&spec.cwd) {
            // It takes no longer than handing it to another thread and back, and permits leave workers for the rest.
            Some(cwd) => self.give_birth(spec, cwd)?,
            None => {
                let engine = Arc::clone(&self);
                let birth =
                    move || spawn::open_directory(&spec.cwd).and_then(|cwd| engine.give_birth(spec, cwd));
                tokio::task::spawn_blocking(birth)
                    .await
                    .map_err(|panic| Error::Internal {
                        reason: format!("a birth panicked: {panic}"),
                    })??
            }
        };
        drop(permit);
        running.finish(pump, &self.tasks).await
    }

    /// Starts a command on the daemon's own standard input and output. Blocks for one birth.
    pub fn attach(&self, command: &Command, cwd: &Path) -> Result<Attached, Error> {
        let own = [0, 1, 2].map(duplicate);
        let [stdin, stdout, stderr] = own;
        let stdio = [stdin?, stdout?, stderr?];
        let directory = (cwd, spawn::open_directory(cwd)?);
        let newborn = self.bear(command, directory, &Environment::Overlay(Vec::new()), &stdio)?;
        Ok(Attached {
            id: newborn.id,
            tree: newborn.tree,
            exited: newborn.exited,
        })
    }

    fn give_birth(&self, spec: RunSpec, cwd: OwnedFd) -> Result<(Running, Pump), Error> {
        let pipes = Pipes::open(!spec.stdin.is_empty())?;
        let newborn = self.bear(&spec.command, (&spec.cwd, cwd), &spec.environment, &pipes.child)?;
        let running = Running {
            id: newborn.id,
            tree: newborn.tree,
            exited: newborn.exited,
            timeout: spec.timeout,
            linger: self.linger,
            kill_grace: self.kill_grace,
            started: newborn.started,
        };
        let Pipes {
            stdin,
            stdout,
            stderr,
            ..
        } = pipes;
        Ok((
            running,
            Pump {
                log: Log::new(spec.keep),
                stdout,
                stderr,
                stdin,
                input: spec.stdin,
            },
        ))
    }

    /// The one way from a command to a registered child.
    fn bear(
        &self,
        command: &Command,
        cwd: (&Path, OwnedFd),
        environment: &Environment,
        stdio: &[OwnedFd; 3],
    ) -> Result<Newborn, Error> {
        let marker = format!("{}:{:016x}", self.instance, fastrand::u64(..));
        let birth = Birth::prepare(command, cwd, self.base.build(environment, &marker)?)?;
        let started = Instant::now();
        let (born, exited) = self
            .reaper
            .register(|| birth.spawn(stdio, &self.inherited).map(|born| (born.pid, born)))
            .map_err(|failure| birth.blame(failure))?;
        let leader = Some(Leader {
            pid: born.pid,
            pidfd: Arc::new(born.pidfd),
        });
        Ok(Newborn {
            id: ProcessId(self.next_id.fetch_add(1, Ordering::Relaxed)),
            tree: Tree {
                leader,
                marker: format!("{MARKER}={marker}").into_bytes(),
            },
            exited,
            started,
        })
    }

    /// Kills every process that this daemon ever started and that is still alive, background children too. Blocks.
    pub fn kill_everything(&self) -> usize {
        let marker = format!("{MARKER}={}:", self.instance).into_bytes();
        kill::kill_tree(&Tree { leader: None, marker }).pids.len()
    }

    /// Stops what a daemon that was killed has left running: TERM, [`Config::kill_grace`], KILL. Answers how many.
    pub async fn stop_leftovers(&self, killed: InstanceId) -> Result<usize, Error> {
        let tree = Tree {
            leader: None,
            marker: format!("{MARKER}={killed}:").into_bytes(),
        };
        if proc::carries(std::process::id() as i32, &tree.marker) {
            // We are part of that tree ourselves: started by one of its commands.
            return Ok(0);
        }
        let panicked = |panic: tokio::task::JoinError| Error::Internal {
            reason: panic.to_string(),
        };
        let asked = tree.clone();
        let found = tokio::task::spawn_blocking(move || kill::signal_tree(&asked, libc::SIGTERM));
        let found = found.await.map_err(panicked)?.len();
        if found > 0 {
            kill::ended_within(&tree, self.kill_grace).await;
            tokio::task::spawn_blocking(move || kill::kill_tree(&tree))
                .await
                .map_err(panicked)?;
        }
        Ok(found)
    }

    /// Whether any process was born since the start: without one there is nothing to look for at the end.
    pub fn bore_any(&self) -> bool {
        self.next_id.load(Ordering::Relaxed) > 1
    }

    /// Processes whose leader is alive.
    pub fn living(&self) -> usize {
        self.reaper.living()
    }

    /// Orphans of others that were adopted and reaped since the start.
    pub fn orphans_reaped(&self) -> u64 {
        self.reaper.orphans()
    }

    /// What works here now.
    pub fn capabilities(&self) -> Vec<Capability> {
        ["process.run", "process.config.get", "process.config.set"]
            .map(Capability::available)
            .into()
    }
}

/// How many births there are at once: one per processor, since more gain nothing, and a few at the most. A birth holds
/// a worker of the runtime for the better part of a millisecond, so there must be more workers than this.
pub fn births_at_once() -> usize {
    std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, 8)
}

/// A registered child whose pipes are not served yet.
struct Newborn {
    id: ProcessId,
    tree: Tree,
    exited: oneshot::Receiver<Reaped>,
    started: Instant,
}

/// A copy of one of the daemon's own descriptors, above the three that children get.
fn duplicate(fd: RawFd) -> Result<OwnedFd, Error> {
    sys::duplicate(fd).map_err(|source| Error::Io {
        doing: format!("duplicate descriptor {fd}"),
        source,
    })
}
