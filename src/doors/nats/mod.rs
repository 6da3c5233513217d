//! The NATS door: links to brokers, requests on their rpc subjects, hello and heartbeats.
//!
//! ```text
//!   connections/*.json ─ directory ─┐
//!   flags ──────────────────────────┴─> link (supervisor, backoff) ─> generation (control + bulk connection)
//!                                                                        │ receive ─> dispatch ─> ops::perform
//!                                                                        │ heartbeat, hello          │
//!                                                                        └ outbound <────────────────┘
//! ```
//!
//! The door never issues a NATS request and makes no inbox. Streamed operations (`opstream`, `op`, `publish`) belong to their link and
//! outlive its connections. The composition root
//! calls [`start`], waits for [`Nats::first_attempts`], and on its way out calls [`Nats::going_offline`].

mod admission;
mod answer;
mod backoff;
mod broker_error;
mod clone;
mod config;
mod connect;
mod connection_file;
mod content;
mod digest;
mod directory;
mod dispatch;
mod doubles;
mod error;
mod extension;
mod fair;
mod farewell;
mod generation;
mod hello;
mod link;
mod op;
mod op_events;
mod opstream;
mod outbound;
mod pty;
mod publish;
mod route;
mod signs;
mod socket;
mod source;
mod subjects;

mod twins;
mod upload;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use self::admission::Admission;
use self::clone::Clocks;
use self::directory::Directory;
use self::doubles::Doubles;
use self::link::Link;
use self::twins::{Served, Twins};
use crate::doors::relay::Ports;
use crate::error::Error;
use crate::ids::InstanceId;
use crate::lifecycle::Tasks;
use crate::ops::Rooms;
use crate::telemetry::Metrics;

pub use self::config::{Config, Credential, Families, LinkConfig, OpConfig};
pub use self::digest::ExecutableDigest;
pub use self::link::LinkState;

/// Time between looks at the connection files.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Longest wait for clients that take no more to be sent how their operations ended.
const LAST_EXITS: Duration = Duration::from_millis(500);
/// Longest that a farewell may take.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// What every link of the door shares.
struct Door {
    config: Config,
    rooms: Arc<Rooms>,
    tasks: Tasks,
    instance: watch::Sender<InstanceId>,
    admission: Arc<Admission>,
    digest: ExecutableDigest,
    metrics: Arc<Metrics>,
    /// Channels of terminals over relays.
    ports: Arc<Ports>,
    /// Which link serves which agent at which broker.
    served: Served,
    /// Which other processes do.
    doubles: Doubles,
    /// Going offline was said: no more heartbeats.
    offline: AtomicBool,
}

impl Door {
    fn is_offline(&self) -> bool {
        self.offline.load(Ordering::Acquire)
    }

    /// The instance that links are made as.
    fn instance(&self) -> InstanceId {
        *self.instance.borrow()
    }

    fn client_name(&self, instance: InstanceId) -> String {
        let name = self.config.client_name.clone();
        name.unwrap_or_else(|| format!("opengeni-agent/connection/{instance}"))
    }
}

/// A link as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatus {
    /// Its name among the links.
    pub connection_id: String,
    /// First id of its subjects.
    pub workspace_id: String,
    /// Second id of its subjects.
    pub agent_id: String,
    /// Where it stands.
    pub state: LinkState,
}

/// The running door.
pub struct Nats {
    door: Arc<Door>,
    links: Mutex<BTreeMap<String, Running>>,
    /// How often the connection files were looked at, and the links made those.
    scanned: watch::Sender<u64>,
}

struct Running {
    link: Arc<Link>,
    supervisor: JoinHandle<()>,
}

impl std::fmt::Debug for Nats {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Nats")
            .field("links", &self.links())
            .finish_non_exhaustive()
    }
}

/// The link that the text of a connection file describes; `stem` is the name of the file.
///
/// # Errors
///
/// [`Error::Invalid`] saying what is missing or wrong.
pub fn connection(stem: &str, text: &str) -> Result<LinkConfig, Error> {
    connection_file::parse(stem, text)
}

/// Starts the door: its links come up by themselves, and files that come later make more of them.
///
/// # Errors
///
/// [`Error::Invalid`] when `nats.root` cannot be part of a subject.
pub fn start(
    config: Config,
    digest: ExecutableDigest,
    rooms: Arc<Rooms>,
    tasks: Tasks,
    instance: InstanceId,
    metrics: Arc<Metrics>,
) -> Result<Arc<Nats>, Error> {
    if !subjects::is_token(&config.root) {
        let reason = format!("{:?} cannot be one token of a NATS subject", config.root);
        return Err(Error::Invalid {
            field: "nats.root",
            reason,
        });
    }
    let admission = Admission::new(Arc::clone(rooms.host()), tasks.clone());
    let offline = AtomicBool::new(false);
    let doubles = Doubles::default();
    doubles.is_ours(instance);
    let instance = watch::Sender::new(instance);
    let ports = Ports::new(rooms.terminals(), &tasks);
    let door = Arc::new(Door {
        config,
        rooms,
        tasks,
        ports,
        instance,
        admission,
        digest,
        metrics,
        served: Served::default(),
        doubles,
        offline,
    });
    let nats = Arc::new(Nats {
        door,
        links: Mutex::default(),
        scanned: watch::Sender::new(0),
    });
    let watching = Arc::clone(&nats);
    nats.door
        .tasks
        .pillar("nats", async move { watching.watch().await });
    Ok(nats)
}

impl Nats {
    /// Every link and where it stands, by connection id.
    pub fn links(&self) -> Vec<LinkStatus> {
        self.links
            .lock()
            .values()
            .map(|running| status(&running.link))
            .collect()
    }

    /// The links that there are at the start, once each has been tried, for the ready file.
    pub async fn first_attempts(&self) -> Vec<LinkStatus> {
        let mut scanned = self.scanned.subscribe();
        // What `wait_for` gives back locks the channel; kept across the attempts it would block the next look.
        drop(scanned.wait_for(|looks| *looks > 0).await);
        let links: Vec<Arc<Link>> = self
            .links
            .lock()
            .values()
            .map(|running| Arc::clone(&running.link))
            .collect();
        join_all(links.iter().map(|link| link.tried())).await;
        links.iter().map(|link| status(link)).collect()
    }

    /// Resolves when the connection files as they are now have been read, at most a second later. Cancel-safe.
    pub async fn look_again(&self) {
        let mut scanned = self.scanned.subscribe();
        // The look that is under way may have read some of them before.
        let enough = *scanned.borrow_and_update() + 2;
        // Nobody looks any more when the daemon stops, and then nobody waits for it either.
        drop(scanned.wait_for(|looks| *looks >= enough).await);
    }

    /// Says on every link that the daemon leaves and why, and writes it out; at most a second. Heartbeats end;
    /// replies to running operations still go out.
    pub async fn going_offline(&self) {
        self.door.offline.store(true, Ordering::Release);
        let links = self.generations();
        if links.is_empty() {
            return;
        }
        let reason = farewell::reason(&self.door.rooms).await;
        let said = join_all(links.iter().map(|generation| generation.going_offline(reason)));
        if tokio::time::timeout(FAREWELL_LIMIT, said).await.is_err() {
            tracing::warn!("a broker did not take going offline in time");
        }
    }

    /// Writes out the last replies and how the streamed operations ended, and closes every link; at most two and a half seconds.
    pub async fn close(&self) {
        let links = self.generations();
        let told = join_all(links.iter().map(|generation| generation.link.ops.have_told()));
        let told = futures_util::future::join(told, self.door.ports.farewell(LAST_EXITS));
        if tokio::time::timeout(LAST_EXITS, told).await.is_err() {
            tracing::debug!("a client takes no more of an operation, and does not learn how it ended");
        }
        let written = join_all(links.iter().map(|generation| generation.flush()));
        if tokio::time::timeout(FAREWELL_LIMIT, written).await.is_err() {
            tracing::warn!("a broker did not take the last replies in time");
        }
        let running = std::mem::take(&mut *self.links.lock());
        for running in running.values() {
            running.link.remove();
        }
        let ended = join_all(running.into_values().map(|running| running.supervisor));
        if tokio::time::timeout(FAREWELL_LIMIT, ended).await.is_err() {
            tracing::debug!("a link did not close in time");
        }
    }

    fn generations(&self) -> Vec<Arc<generation::Generation>> {
        self.links
            .lock()
            .values()
            .filter_map(|running| running.link.current())
            .collect()
    }

    /// The pillar: follows the connection files until the daemon stops, and notices a supervisor that died.
    async fn watch(&self) -> Result<(), Error> {
        let mut directory = self.door.config.config_dir.clone().map(Directory::new);
        let (mut clocks, mut twins) = (Clocks::default(), Twins::default());
        let mut collected = Instant::now();
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = self.door.tasks.stopping() => return Ok(()),
            }
            let mut wanted: Vec<LinkConfig> = self.door.config.flag_link.iter().cloned().collect();
            if let Some(mut files) = directory.take() {
                let scan = tokio::task::spawn_blocking(move || (files.scan(), files));
                let (links, files) = scan.await.map_err(|panic| Error::Internal {
                    reason: format!("a scan panicked: {panic}"),
                })?;
                wanted.extend(links);
                directory = Some(files);
            }
            if let Some(asleep) = clocks.jump(clone::readings()) {
                let instance = InstanceId::mint();
                self.door.doubles.is_ours(instance);
                tracing::warn!(?asleep, %instance, "the machine was resumed or cloned, every link is made anew");
                self.door.instance.send_replace(instance);
            }
            self.reconcile(twins.without(wanted));
            self.scanned.send_modify(|looks| *looks += 1);
            self.check_supervisors()?;
            self.count_links();
            // Often enough to keep to a time that is shorter.
            if collected.elapsed() >= opstream::COLLECT.min(self.door.config.op.abandon) {
                collected = Instant::now();
                self.collect_ops(collected);
            }
        }
    }

    /// Makes the running links those that are wanted.
    fn reconcile(&self, wanted: BTreeMap<String, LinkConfig>) {
        let mut links = self.links.lock();
        links.retain(|id, running| {
            let config = running.link.config();
            let stays = wanted.get(id).is_some_and(|wanted| {
                wanted.workspace_id == config.workspace_id && wanted.agent_id == config.agent_id
            });
            if !stays {
                running.link.remove();
            }
            stays
        });
        for (id, config) in wanted {
            if let Some(running) = links.get(&id) {
                running.link.configure(config);
                continue;
            }
            let link = Link::new(&self.door, config);
            let supervisor = self.door.tasks.detach("nats-link", Arc::clone(&link).supervise());
            links.insert(id, Running { link, supervisor });
        }
    }

    fn collect_ops(&self, now: Instant) {
        for running in self.links.lock().values() {
            running.link.ops.collect(now, self.door.config.op.abandon);
        }
    }

    fn count_links(&self) {
        let links = self.links.lock();
        for state in LinkState::ALL {
            let count = links
                .values()
                .filter(|running| running.link.state() == state)
                .count();
            self.door.metrics.set_links(state.as_str(), count as u64);
        }
    }

    fn check_supervisors(&self) -> Result<(), Error> {
        for (id, running) in self.links.lock().iter() {
            if running.supervisor.is_finished() && !self.door.tasks.is_stopping() {
                return Err(Error::Internal {
                    reason: format!("the supervisor of link {id} ended by itself"),
                });
            }
        }
        Ok(())
    }
}

fn status(link: &Link) -> LinkStatus {
    let config = link.config();
    LinkStatus {
        connection_id: config.connection_id.clone(),
        workspace_id: config.workspace_id.clone(),
        agent_id: config.agent_id.clone(),
        state: link.state(),
    }
}

/// For fuzzers: from the bytes of a request to the operation that it stands for, which nobody performs.
///
/// # Errors
///
/// What the request would be answered.
#[cfg(fuzzing)]
pub fn fuzzed_request(bytes: &[u8]) -> Result<crate::ops::Op, Error> {
    use prost::Message as _;

    use crate::wire::proto::ControlRequest;

    let request = ControlRequest::decode(bytes).map_err(|error| Error::Protocol {
        reason: error.to_string(),
    })?;
    let op = request.op.ok_or_else(|| Error::Protocol {
        reason: "no operation".into(),
    })?;
    let _ = route::name(&op);
    route::operation(op, 1 << 20)
}
