//! The engine's handle: starts processes and counts them.

use std::ffi::OsString;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::attached::Attached;
use super::birth::{Birth, SPARE_BIRTHS, processors, usual_births};
use super::confine::{Confinement, Warden};
use super::crowds::{Counted, Crowds};
use super::ends::Ends;
use super::environment::{Base, MARKER, Surroundings};
use super::headcount::Headcount;
use super::kill;
use super::limits::Limits;
use super::members::{Leader, Tree};
use super::output::{Gate, Output};
use super::prepare::Prepared;
use super::process::{About, Parts, Process};
use super::pump::Pump;
use super::reap::{Child, Reaper};
use super::run::Running;
use super::spawn::Start;
use super::spec::{Command, EndRecord, Environment, Finished, ProcessSpec, Promise, Retention, Stdin};
use super::spool::Spool;
use super::sprint;
use super::sys;
use super::user::User;
use crate::capability::Capability;
use crate::error::Error;
use crate::ids::{InstanceId, ProcessId};
use crate::lifecycle::Tasks;
use crate::stream::{Keep, Log};

/// A birth takes a millisecond; after this long without a permit, those who hold one hang.
const BIRTHS_HANG: Duration = Duration::from_millis(500);

/// Settings of the engine.
#[derive(Debug)]
pub struct Config {
    /// How long the end of output is awaited after the leader's exit while a descendant holds the pipe.
    pub linger: Duration,
    /// How long a tree has between TERM and KILL when the daemon stops.
    pub kill_grace: Duration,
    /// The daemon's environment without anything of its own.
    pub environment: Vec<(OsString, OsString)>,
    /// This process as it was prepared for being the daemon.
    pub prepared: Prepared,
    /// Where output goes that does not fit in memory.
    pub spool: Arc<Spool>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(20),
            kill_grace: Duration::from_millis(500),
            environment: Vec::new(),
            prepared: Prepared::default(),
            spool: Spool::new(None, 0),
        }
    }
}

/// The process engine.
#[derive(Debug)]
pub struct Engine {
    linger: Duration,
    pub(super) kill_grace: Duration,
    prepared: Prepared,
    base: Base,
    pub(super) instance: InstanceId,
    next_id: AtomicU64,
    reaper: Arc<Reaper>,
    /// A birth blocks its thread while the program is loaded; with twice as many as processors, one waits for the disk
    /// while another has the processor.
    pub(super) births: Arc<Semaphore>,
    /// For when the usual ones are all held by births that hang.
    pub(super) spare_births: Arc<Semaphore>,
    /// Pid of what was attached; 0 before.
    main: AtomicI32,
    /// Threads lent to the first milliseconds of commands.
    sprints: Semaphore,
    spool: Arc<Spool>,
    pub(super) warden: Warden,
    /// Commands that were confined so far.
    confined: AtomicU64,
    crowds: Arc<Crowds>,
    tasks: Tasks,
}

impl Engine {
    /// Makes the engine and starts its reaper. `instance` marks every process that is born.
    pub fn start(config: Config, instance: InstanceId, tasks: &Tasks) -> Arc<Self> {
        let reaper = Arc::new(Reaper::default());
        tasks.pillar("reaper", Arc::clone(&reaper).run(tasks.clone()));
        let crowds = Arc::new(Crowds::default());
        let (headcount, killed) = (Headcount::new(Path::new("/"), instance), Arc::clone(&crowds));
        tasks.pillar(
            "headcount",
            headcount.run(tasks.clone(), move |culprit| killed.punish(culprit)),
        );
        Arc::new(Self {
            linger: config.linger,
            kill_grace: config.kill_grace,
            prepared: config.prepared,
            base: Base::new(config.environment),
            instance,
            next_id: AtomicU64::new(1),
            reaper,
            births: Arc::new(Semaphore::new(usual_births())),
            spare_births: Arc::new(Semaphore::new(SPARE_BIRTHS)),
            main: AtomicI32::new(0),
            sprints: Semaphore::new(4 * processors()),
            spool: config.spool,
            warden: Warden::discover(Path::new("/"), instance),
            confined: AtomicU64::new(0),
            crowds,
            tasks: tasks.clone(),
        })
    }

    /// Starts a command; its time limit covers the start too. What was started must be [finished](Started::finish) in
    /// a task of its own, so that it outlives whoever asked for it. An error means that nothing runs.
    pub async fn spawn(self: &Arc<Self>, spec: ProcessSpec) -> Result<Started, Error> {
        let (asked, limit) = (Instant::now(), spec.timeout.unwrap_or(Duration::MAX));
        let timed_out = |_| Error::Timeout {
            what: "the start of the program",
            after: limit,
        };
        let permit = tokio::time::timeout(limit, self.birth_permit()).await;
        let (engine, permit) = (Arc::clone(self), permit.map_err(timed_out)??);
        let birth = Arc::new(Birth::default());
        let (deliver, mut delivered) = oneshot::channel();
        let under_way = Arc::clone(&birth);
        // A birth can hang with the file system that holds the program: it has a thread of its own and may be given up.
        drop(tokio::task::spawn_blocking(move || {
            let mut born = engine.give_birth(spec, asked, &under_way);
            drop(permit);
            if let Ok(started) = &mut born {
                engine.stay_with(started, asked.checked_add(limit));
            }
            if let Err(Ok(unwanted)) = deliver.send(born) {
                kill::kill_tree(&unwanted.running.process.tree());
            }
        }));
        let left = limit.saturating_sub(asked.elapsed());
        let born = match tokio::time::timeout(left, &mut delivered).await {
            Ok(born) => born,
            Err(elapsed) if birth.give_up() => return Err(timed_out(elapsed)),
            // It came about at this very moment.
            Err(_) => delivered.await,
        };
        born.map_err(|_| Error::Internal {
            reason: "a birth panicked".into(),
        })?
    }

    /// Runs a command to its end, for an answer that keeps this much: see [`Engine::spawn`].
    pub async fn run(self: &Arc<Self>, spec: ProcessSpec, keep: Keep) -> Result<Finished, Error> {
        self.spawn(spec).await?.finish(keep).await
    }

    /// Starts a process and accompanies it, whoever asked for it: see [`Engine::spawn`].
    pub async fn start_process(self: &Arc<Self>, spec: ProcessSpec) -> Result<Arc<Process>, Error> {
        let started = self.spawn(spec).await?;
        let process = Arc::clone(started.process());
        let id = process.id();
        // The daemon's stop does not wait for it: it may run for ever.
        drop(self.tasks.detach("process", async move {
            if let Err(error) = started.accompany().await {
                tracing::error!(%id, %error, "a process was lost");
            }
        }));
        Ok(process)
    }

    /// Lends the thread to a newborn, unless many are lent or its time limit is near: that is kept elsewhere.
    fn stay_with(&self, started: &mut Started, limit: Option<Instant>) {
        let Ok(_lent) = self.sprints.try_acquire() else {
            return;
        };
        let longest = Instant::now() + sprint::LENGTH;
        let before_limit = limit.and_then(|limit| limit.checked_sub(sprint::LENGTH));
        let until = before_limit.map_or(longest, |limit| longest.min(limit));
        sprint::sprint(&mut started.running.child, &mut started.pump, until);
    }

    /// Leave to give birth. When all permits are held for long, births hang: then a few more are let through, so that
    /// one dead file system does not stop the commands that do not need it.
    async fn birth_permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        let (usual, spare) = (Arc::clone(&self.births), Arc::clone(&self.spare_births));
        let patient = tokio::time::timeout(BIRTHS_HANG, Arc::clone(&usual).acquire_owned());
        let permit = if let Ok(permit) = patient.await {
            permit
        } else {
            tokio::select! {
                permit = usual.acquire_owned() => permit,
                permit = spare.acquire_owned() => permit,
            }
        };
        permit.map_err(|_| Error::Stopping)
    }

    /// Starts a command on the daemon's own standard input and output. Blocks for one birth.
    pub fn attach(&self, command: &Command, cwd: &Path) -> Result<Attached, Error> {
        let own = [0, 1, 2].map(duplicate);
        let [stdin, stdout, stderr] = own;
        let stdio = [stdin?, stdout?, stderr?];
        let newcomer = Newcomer {
            command,
            cwd,
            environment: Environment::Overlay(Vec::new()),
            user: None,
            has_terminal: false,
            nofile: None,
            confinement: None,
            stdio: &stdio,
        };
        let newborn = self.bear(newcomer, &Arc::default())?;
        self.main.store(newborn.child.pid(), Ordering::Relaxed);
        Ok(Attached {
            id: newborn.id,
            tree: newborn.tree,
            child: newborn.child,
            _counted: newborn.counted,
        })
    }

    /// The time limit of what was `asked` for then counts from then.
    fn give_birth(&self, spec: ProcessSpec, asked: Instant, birth: &Arc<Birth>) -> Result<Started, Error> {
        let interactive = spec.stdin == Stdin::Open;
        let ends = Ends::open(spec.stdin, spec.tty)?;
        let mut confinement = self.confine(&spec.limits)?;
        let newborn = self.bear(
            Newcomer {
                command: &spec.command,
                cwd: &spec.cwd,
                environment: spec.environment,
                user: spec.user.as_deref(),
                has_terminal: ends.terminal.is_some(),
                nofile: spec.limits.nofile,
                confinement: confinement.as_ref(),
                stdio: &ends.child,
            },
            birth,
        )?;
        let spent = newborn.started.saturating_duration_since(asked);
        if let Some(confinement) = &mut confinement {
            confinement.attend(&newborn.tree);
        }
        let output = self.output(spec.retention, spec.record_limit);
        if let Some(limit) = spec.limits.output_max {
            output.limit(limit);
        }
        let pump = Pump {
            output: Arc::clone(&output),
            stdin: ends.stdin,
            taps: ends.taps,
        };
        let about = About {
            command: spec.command,
            cwd: spec.cwd,
            interactive,
            owner: spec.owner,
            labels: spec.labels,
            created_at: SystemTime::now(),
            pid: newborn.child.pid(),
        };
        let process = Process::new(Parts {
            id: newborn.id,
            about,
            tree: newborn.tree,
            reach: confinement.as_ref().and_then(Confinement::reach),
            promise: confinement
                .as_ref()
                .map_or(Promise::BestEffort, Confinement::tree),
            input: ends.input,
            terminal: ends.terminal,
            output,
        });
        let running = Running {
            process,
            child: newborn.child,
            counted: newborn.counted,
            confinement,
            kept_otherwise: spec.limits.kept_without_group(),
            timeout: spec.timeout.map(|limit| limit.saturating_sub(spent)),
            on_exit: spec.on_exit,
            linger: self.linger,
            kill_grace: self.kill_grace,
            started: newborn.started,
        };
        Ok(Started {
            running,
            pump,
            tasks: self.tasks.clone(),
        })
    }

    /// What keeps a command within its limits; `None` when they need nothing.
    fn confine(&self, limits: &Limits) -> Result<Option<Confinement>, Error> {
        limits.validate()?;
        if self.warden.mechanism(limits)?.is_none() {
            return Ok(None);
        }
        let id = self.confined.fetch_add(1, Ordering::Relaxed);
        self.warden.confine(limits, &id.to_string()).map(Some)
    }

    fn output(&self, retention: Retention, record_limit: usize) -> Arc<Output> {
        let spooled = |keep| Output::spooled(Log::new(keep).with_record_limit(record_limit), &self.spool);
        match retention {
            Retention::Answer(keep) => Output::in_memory(keep),
            Retention::Ends(keep) => spooled(keep),
            Retention::DropOldest(bytes) => spooled(Keep::newest(bytes)),
            Retention::Block(capacity) => {
                let output = spooled(Keep::all());
                output.set_gate(Gate {
                    capacity,
                    ..Gate::OPEN
                });
                output
            }
            Retention::Fail(limit) => {
                let output = spooled(Keep::all());
                output.limit(limit);
                output
            }
        }
    }

    /// Where output goes that does not fit in memory.
    pub fn spool(&self) -> &Arc<Spool> {
        &self.spool
    }

    /// The one way from a command to a registered child.
    fn bear(&self, newcomer: Newcomer<'_>, birth: &Arc<Birth>) -> Result<Newborn, Error> {
        let marker = format!("{}:{:016x}", self.instance, fastrand::u64(..));
        let user = newcomer.user.map(User::find).transpose()?;
        let environment = match &user {
            Some(user) => user.beneath(newcomer.environment),
            None => newcomer.environment,
        };
        let surroundings = if newcomer.has_terminal {
            Surroundings::Terminal
        } else {
            Surroundings::Pipes
        };
        let environment = self.base.build(&environment, &marker, surroundings)?;
        let mut start = Start::prepare(newcomer.command, newcomer.cwd, environment)?;
        if newcomer.has_terminal {
            start = start.on_terminal();
        }
        if let Some(user) = user {
            start = start.becoming(user);
        }
        if let Some(most) = newcomer.nofile {
            start = start.with_descriptors(most)?;
        }
        if let Some(confinement) = newcomer.confinement {
            start = start.placed(confinement.placement()?);
        }
        let started = Instant::now();
        let child = self
            .reaper
            .register(birth, |birth| start.spawn(newcomer.stdio, birth, &self.prepared))
            .map_err(|failure| start.blame(failure))?;
        let leader = Some(Leader {
            pid: child.pid(),
            pidfd: Arc::clone(child.pidfd()),
        });
        let tree = Tree {
            leader,
            marker: format!("{MARKER}={marker}").into_bytes(),
            orphans: false,
            siblings: Some(Arc::clone(&self.reaper)),
        };
        Ok(Newborn {
            id: ProcessId(self.next_id.fetch_add(1, Ordering::Relaxed)),
            counted: self.crowds.count(&tree),
            tree,
            child,
            started,
        })
    }

    /// Whether any process was born since the start: without one there is nothing to look for at the end.
    pub fn bore_any(&self) -> bool {
        self.next_id.load(Ordering::Relaxed) > 1
    }

    /// Processes whose leader is alive.
    pub fn living(&self) -> usize {
        self.reaper.living()
    }

    /// Whether the main command is alive.
    pub fn main_lives(&self) -> bool {
        self.reaper.knows(self.main.load(Ordering::Relaxed))
    }

    /// Orphans of others that were adopted and reaped since the start.
    pub fn orphans_reaped(&self) -> u64 {
        self.reaper.orphans()
    }

    /// What works here now.
    pub fn capabilities(&self) -> Vec<Capability> {
        let operations = [
            "process.run",
            "process.batch",
            "process.create",
            "process.list",
            "process.get",
            "process.wait",
            "process.input",
            "process.stdin.close",
            "process.signal",
            "process.stop",
            "process.kill",
            "process.resize",
            "process.snapshot",
            "process.delete",
            "process.logs",
            "process.config.get",
            "process.config.set",
        ];
        let mut rows: Vec<_> = operations.map(Capability::available).into();
        rows.extend(self.warden.capabilities());
        rows
    }
}

/// A command that runs and waits to be accompanied to its end.
pub struct Started {
    running: Running,
    pump: Pump,
    tasks: Tasks,
}

impl Started {
    /// The process.
    pub fn process(&self) -> &Arc<Process> {
        &self.running.process
    }

    /// Accompanies it to its end. Not to be dropped half way: the command would lose its reader.
    pub async fn accompany(self) -> Result<Arc<EndRecord>, Error> {
        self.running.finish(self.pump, &self.tasks).await
    }

    /// The same, for an answer that keeps this much of the output.
    pub async fn finish(self, keep: Keep) -> Result<Finished, Error> {
        let process = Arc::clone(self.process());
        self.accompany().await?;
        process.gathered(keep).await
    }
}

/// Somebody to be born.
struct Newcomer<'a> {
    command: &'a Command,
    cwd: &'a Path,
    environment: Environment,
    user: Option<&'a str>,
    has_terminal: bool,
    nofile: Option<u64>,
    confinement: Option<&'a Confinement>,
    stdio: &'a [OwnedFd; 3],
}

/// A registered child whose pipes are not served yet.
struct Newborn {
    id: ProcessId,
    counted: Counted,
    tree: Tree,
    child: Child,
    started: Instant,
}

/// A copy of one of the daemon's own descriptors, above the three that children get.
fn duplicate(fd: RawFd) -> Result<OwnedFd, Error> {
    sys::duplicate(fd).map_err(|source| Error::Io {
        doing: format!("duplicate descriptor {fd}"),
        source,
    })
}
