//! The composition root: configuration -> rooms -> doors -> wait -> stop.
//!
//! Nothing is decided here but the order. Starting: state directory, rooms, HTTP listeners bound, NATS links tried,
//! ready file. Stopping is in `stop`, signals in `signals`, what a service manager is told in `manager`.

mod compose;
mod housekeeping;
mod main_command;
mod manager;
pub mod relay;
mod signals;
mod stop;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::capability::Capability;
use crate::config::Config;
use crate::doors::{http, nats};
use crate::error::Error;
use crate::exec::{Exit, Prepared};
use crate::ids::InstanceId;
use crate::lifecycle::Tasks;
use crate::ops::Rooms;
use crate::state::{LinkState, Ready, State};
use crate::telemetry::{Metrics, Secret};
use crate::update::{Origin, Updater};

pub use signals::hold as hold_signals;

use main_command::MainCommand;
use manager::Manager;

/// The image's own main command, which `boxd run -- CMD` starts beside the doors.
#[derive(Debug, Clone)]
pub struct Main {
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// Whether the daemon ends when it ends, with its exit code.
    pub exit_with_main: bool,
}

/// What a person wants to see when the daemon is ready.
#[derive(Debug)]
pub struct Announcement {
    /// What the ready file says.
    pub ready: Ready,
    /// The bearer token, when there is one.
    pub token: Option<Secret<String>>,
    /// What relative paths mean.
    pub workspace_root: PathBuf,
    /// What works here and what does not.
    pub capabilities: Vec<Capability>,
}

/// Everything that runs, for as long as it runs.
struct Daemon {
    tasks: Tasks,
    rooms: Arc<Rooms>,
    nats: Arc<nats::Nats>,
    main: Option<MainCommand>,
    manager: Manager,
    grace: Duration,
    /// The most that a stop takes.
    longest_stop: Duration,
    /// Held until the end: it carries the lock.
    _state: State,
}

/// How the daemon ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With this exit code: 0, or that of the main command.
    Exit(u8),
    /// As it was told to, but these processes could not be killed.
    Survived(Vec<i32>),
    /// For an update: the new executable is in place and is to be started.
    Restart,
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
///
/// What kept it from starting, or the pillar that ended by itself.
pub fn run(
    config: Config,
    main: Option<Main>,
    origin: Origin,
    announce: impl FnOnce(&Announcement),
) -> Result<End, Error> {
    let started = Instant::now();
    let prepared = Prepared::before_threads()?;
    let before = prepared.before();
    let birth = compose::Birth { prepared, origin };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .thread_name("boxd")
        .thread_keep_alive(Duration::from_secs(3))
        .enable_all()
        .build()
        .map_err(|source| Error::Io {
            doing: "start the runtime".into(),
            source,
        })?;
    let outcome = runtime.block_on(async {
        let mut signals = signals::Signals::listen()?;
        let daemon = Daemon::start(config, birth, main, started, &mut signals, announce).await?;
        daemon.serve(signals).await
    });
    // Blocking work that hangs (a dead network file system) is left behind.
    runtime.shutdown_timeout(Duration::from_millis(200));
    // Another executable may take the place of this one, now or as the one before.
    before.restore();
    outcome
}

/// One worker per processor, at least two so that one long poll delays nobody, at most four: work is in children.
fn workers() -> usize {
    std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, 4)
}

impl Daemon {
    async fn start(
        config: Config,
        birth: compose::Birth,
        main: Option<Main>,
        started: Instant,
        signals: &mut signals::Signals,
        announce: impl FnOnce(&Announcement),
    ) -> Result<Self, Error> {
        let (tasks, instance) = (Tasks::new(), InstanceId::mint());
        let digest = nats::ExecutableDigest::start(config.state_dir.clone(), &tasks);
        let manager = Manager::of(&config.supervisor);
        let mut state = State::open(&config.state_dir)?;
        let earlier = state.begin(instance)?;
        if let Some(reason) = state.unavailable() {
            tracing::warn!(
                reason,
                "no state directory: the token and what ran are forgotten at the end"
            );
        }
        let metrics = Arc::new(Metrics::new()?);
        let compose::Admission {
            access,
            token,
            token_file,
        } = compose::access(&config, &state)?;
        let rooms = compose::rooms(
            &config,
            birth,
            &state,
            instance,
            &tasks,
            Arc::clone(&metrics),
            started,
        )?;
        if !earlier.killed.is_empty() {
            let leftovers = housekeeping::stop_leftovers(earlier, Arc::clone(rooms.engine()));
            drop(tasks.spawn("leftovers", leftovers));
        }
        tasks.pillar(
            "memory",
            housekeeping::keep_small(Arc::clone(&rooms), tasks.clone()),
        );
        let bound = http::bind(compose::http(&config, access))?;
        let addresses = bound.addresses();
        bound.serve(
            http::Behind {
                rooms: Arc::clone(&rooms),
                metrics: Arc::clone(&metrics),
                instance,
            },
            &tasks,
        );
        let links = compose::nats(&config);
        let nats = nats::start(
            links,
            digest,
            Arc::clone(&rooms),
            tasks.clone(),
            instance,
            metrics,
        )?;
        let main = main.map(|main| MainCommand::start(&rooms, main)).transpose()?;
        let (links, has_come_up) = tokio::select! {
            links = nats.first_attempts() => (links, true),
            // A broker that says nothing does not keep the daemon from stopping.
            () = signals.stop_foreseen() => (nats.links(), false),
        };
        let ready = Ready {
            pid: std::process::id(),
            http: addresses,
            token_file,
            instance: instance.to_string(),
            links: links.into_iter().map(link_state).collect(),
        };
        // Before anybody hears that we serve. What is told to stop before that is on trial again at its next start.
        if has_come_up {
            confirm_update(Arc::clone(rooms.updater())).await;
        }
        state.write_ready(&ready, config.ready_file.as_deref())?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), http = ?ready.http, took = ?started.elapsed(), "ready");
        let status = manager::Status {
            listeners: ready.http.clone(),
            nats: Arc::clone(&nats),
            rooms: Arc::clone(&rooms),
        };
        manager.ready(status, &tasks).await;
        let workspace_root = config.workspace.root.clone();
        announce(&Announcement {
            ready,
            token,
            workspace_root,
            capabilities: rooms.capabilities(),
        });
        Ok(Self {
            tasks,
            rooms,
            nats,
            main,
            manager,
            grace: config.shutdown_grace,
            longest_stop: stop::longest(config.shutdown_grace, config.exec.kill_grace),
            _state: state,
        })
    }
}

/// An update that led here has come up.
async fn confirm_update(updater: Arc<Updater>) {
    let confirmed = tokio::task::spawn_blocking(move || updater.confirm()).await;
    if let Ok(Err(error)) = confirmed {
        tracing::error!(%error, "that the update has come up cannot be noted, it may be taken back");
    }
}

fn link_state(status: nats::LinkStatus) -> LinkState {
    LinkState {
        workspace_id: status.workspace_id,
        agent_id: status.agent_id,
        state: status.state.as_str().to_owned(),
    }
}

/// The exit code that stands for how a main command ended.
fn exit_code(exit: Exit) -> u8 {
    match exit {
        Exit::Code(code) => u8::try_from(code).unwrap_or(u8::MAX),
        Exit::Signal { number, .. } => u8::try_from(128 + number).unwrap_or(u8::MAX),
    }
}
