//! One link: its configuration as it is now, its state, and the supervisor that keeps it connected.
//!
//! ```text
//!            ┌────────────── backoff, or at once when the credential expired or changed ◄─┐
//!            ▼                                                                            │
//!   connecting ──> connected ── lost ──────────────────────────────────────> waiting ─────┤
//!            ├──> refused (authentication: logged with the fix, tried for ever) ──────────┤
//!            └──> unusable (empty bearer, plaintext to another machine) ── changed ───────┘
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::Door;
use super::backoff::Backoff;
use super::config::LinkConfig;
use super::connect::{Failure, without_secret};
use super::generation::{End, Generation};
use super::opstream::Ops;
use crate::error::Error;
use crate::ids::InstanceId;
use crate::ops::{self, Principal, Scope};

/// How long a reply is kept for the next generation when its own was lost.
const REPLY_LIMIT: Duration = Duration::from_secs(60);
/// File content that may be in memory on its way to the broker, KiB: a slow way must not fill the machine.
const CONTENT_ROOM: u32 = 64 << 10;
/// Longest wait for room in it.
const ROOM_LIMIT: Duration = Duration::from_secs(10);
/// How often a link that cannot be dialled as configured looks at its credential file again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Different complaints that are remembered; after more, each may be in the log again.
const COMPLAINTS: usize = 64;

/// Where a link stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// The first attempt has not ended.
    Connecting,
    /// Hello was said.
    Connected,
    /// The broker could not be reached or the connection was lost; tried again by itself.
    Waiting,
    /// The broker does not accept the credential; tried again by itself.
    Refused,
    /// It cannot be dialled as it is configured.
    Unusable,
}

impl LinkState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Connecting,
        Self::Connected,
        Self::Waiting,
        Self::Refused,
        Self::Unusable,
    ];

    /// The name in the ready file and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Waiting => "waiting",
            Self::Refused => "refused",
            Self::Unusable => "unusable",
        }
    }
}

/// A link and what it knows.
pub(super) struct Link {
    /// The door it belongs to.
    pub(super) door: Arc<Door>,
    /// `link:<connection id>`: its principal, and its origin in the queue.
    pub(super) origin: Arc<str>,
    scopes: Arc<[Scope]>,
    config: watch::Sender<Arc<LinkConfig>>,
    state: watch::Sender<LinkState>,
    current: watch::Sender<Option<Arc<Generation>>>,
    removed: CancellationToken,
    /// Its streamed operations.
    pub(super) ops: Ops,
    /// See [`Link::content_room`].
    content: Arc<Semaphore>,
}

impl Link {
    /// A link that is not connected yet.
    pub(super) fn new(door: &Arc<Door>, config: LinkConfig) -> Arc<Self> {
        Arc::new(Self {
            door: Arc::clone(door),
            origin: format!("link:{}", config.connection_id).into(),
            scopes: Arc::new([Scope::Full]),
            config: watch::Sender::new(Arc::new(config)),
            state: watch::Sender::new(LinkState::Connecting),
            current: watch::Sender::new(None),
            removed: CancellationToken::new(),
            ops: Ops::default(),
            content: Arc::new(Semaphore::new(CONTENT_ROOM as usize)),
        })
    }

    /// The configuration as it is now.
    pub(super) fn config(&self) -> Arc<LinkConfig> {
        Arc::clone(&self.config.borrow())
    }

    /// Epoch below which requests are refused.
    pub(super) fn held_epoch(&self) -> u32 {
        self.config.borrow().held_epoch
    }

    /// Takes a changed configuration. A new credential is for the next attempt; another place moves the link.
    pub(super) fn configure(&self, config: LinkConfig) {
        self.config.send_if_modified(|held| {
            let changed = **held != config;
            if changed {
                *held = Arc::new(config);
            }
            changed
        });
    }

    /// Ends the link for good.
    pub(super) fn remove(&self) {
        self.removed.cancel();
    }

    /// Where it stands.
    pub(super) fn state(&self) -> LinkState {
        *self.state.borrow()
    }

    /// Resolves when the first attempt has ended, well or not.
    pub(super) async fn tried(&self) {
        let mut state = self.state.subscribe();
        drop(state.wait_for(|state| *state != LinkState::Connecting).await);
    }

    /// The generation that stands now.
    pub(super) fn current(&self) -> Option<Arc<Generation>> {
        self.current.borrow().clone()
    }

    /// Who asks when this link asks.
    pub(super) fn principal(&self) -> Principal {
        Principal {
            id: Arc::clone(&self.origin),
            door: ops::Door::Nats,
            scopes: Arc::clone(&self.scopes),
            whole_machine: self.config.borrow().whole_machine,
        }
    }

    /// Room for `bytes` of file content, to be held until its reply is sent; more than there ever is waits for all.
    pub(super) async fn content_room(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Error> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(CONTENT_ROOM);
        let room = Arc::clone(&self.content).acquire_many_owned(kib.min(CONTENT_ROOM));
        let room = tokio::time::timeout(ROOM_LIMIT, room).await;
        room.ok().and_then(Result::ok).ok_or_else(|| Error::Overloaded {
            what: "the way to the broker",
            reason: format!("earlier replies were not sent within {} s", ROOM_LIMIT.as_secs()),
        })
    }

    /// Sends the answer to an operation over the generation that stands, or over the next one: a caller that
    /// reconnects as we do still gets it.
    pub(super) async fn reply(&self, subject: Subject, payload: Bytes) {
        loop {
            let generation = match self.standing().await {
                Ok(generation) => generation,
                Err(reason) => return tracing::warn!(%subject, reason, "a reply was not sent"),
            };
            if payload.len() > generation.max_payload {
                let (size, limit) = (payload.len(), generation.max_payload);
                return tracing::error!(
                    size,
                    limit,
                    "a reply was not sent: this broker carries less than the one before"
                );
            }
            if generation.reply(subject.clone(), payload.clone()).await.is_ok() {
                return;
            }
        }
    }

    /// The generation that stands, or the next one; the error says why there will be none soon enough.
    async fn standing(&self) -> Result<Arc<Generation>, &'static str> {
        let mut current = self.current.subscribe();
        let stands = |held: &Option<Arc<Generation>>| held.as_ref().is_some_and(|held| !held.has_ended());
        tokio::select! {
            biased;
            standing = current.wait_for(stands) => {
                let standing = standing.ok().and_then(|held| held.clone());
                standing.ok_or("the link is no more")
            }
            () = self.removed.cancelled() => Err("the link was removed"),
            // The supervisor makes no further attempt.
            () = self.door.tasks.stopping() => Err("the daemon stops and the link is down"),
            () = tokio::time::sleep(REPLY_LIMIT) => Err("the link did not come back in time"),
        }
    }

    /// Resolves when this link is to leave the place it was dialled at, or to come back as another instance.
    pub(super) async fn uprooted(&self, dialled: &LinkConfig, instance: InstanceId) -> End {
        let mut config = self.config.subscribe();
        let mut current = self.door.instance.subscribe();
        tokio::select! {
            () = self.removed.cancelled() => End::Removed,
            _ = config.wait_for(|now| !now.same_place(dialled)) => End::Moved,
            _ = current.wait_for(|now| *now != instance) => End::Moved,
        }
    }

    /// Keeps the link connected until it is removed or the daemon stops.
    pub(super) async fn supervise(self: Arc<Self>) {
        let mut supervisor = Supervisor {
            link: self,
            backoff: Backoff::default(),
            turn: 0,
            said: BTreeSet::new(),
        };
        while let Some(pause) = Box::pin(supervisor.live()).await {
            if !supervisor.pause(pause).await {
                break;
            }
        }
        supervisor.link.state.send_replace(LinkState::Waiting);
    }
}

struct Supervisor {
    link: Arc<Link>,
    backoff: Backoff,
    /// Which URL is next.
    turn: usize,
    /// The complaints since it was connected, so that the same one is not an error in the log again and again.
    said: BTreeSet<String>,
}

impl Supervisor {
    /// One attempt and, when it succeeds, the life of its generation; the pause before the next, `None` for no next.
    async fn live(&mut self) -> Option<Duration> {
        let config = self.link.config();
        let url = &config.urls[self.turn % config.urls.len()];
        self.turn += 1;
        let opened = tokio::select! {
            opened = Generation::open(&self.link, &config, url) => opened,
            () = self.link.removed.cancelled() => return None,
            // Hello after going offline would be a lie.
            () = self.link.door.tasks.stopping() => return None,
        };
        match opened {
            Ok(opened) => {
                let claim = self.link.door.served.claim(opened.server_id(), &config);
                let _claim = match claim {
                    Ok(claim) => claim,
                    Err(taken) => return Some(self.failed(Failure::Unusable(taken))),
                };
                let link = Arc::clone(&self.link);
                let end = opened.serve(|generation| self.stands(generation, url)).await;
                link.current.send_replace(None);
                link.state.send_replace(LinkState::Waiting);
                self.ended(&end)
            }
            Err(failure) => Some(self.failed(failure)),
        }
    }

    fn stands(&mut self, generation: &Arc<Generation>, url: &str) {
        self.backoff.reset();
        self.said.clear();
        let config = self.link.config();
        tracing::info!(
            connection = config.connection_id,
            broker = without_secret(url),
            max_payload = generation.max_payload,
            "link connected"
        );
        self.link.current.send_replace(Some(Arc::clone(generation)));
        self.link.state.send_replace(LinkState::Connected);
    }

    fn ended(&mut self, end: &End) -> Option<Duration> {
        let connection = self.link.config().connection_id.clone();
        match end {
            End::Removed => {
                tracing::info!(connection, "link removed");
                None
            }
            End::Expired | End::Moved => {
                tracing::info!(connection, ?end, "link reconnects");
                Some(Duration::ZERO)
            }
            End::Lost => {
                tracing::warn!(connection, "link lost");
                Some(self.backoff.next(random_fraction()))
            }
        }
    }

    fn failed(&mut self, failure: Failure) -> Duration {
        let connection = self.link.config().connection_id.clone();
        let (state, reason, pause) = match failure {
            Failure::Refused(reason) => (LinkState::Refused, reason, self.backoff.next(random_fraction())),
            Failure::Unreachable(reason) => {
                (LinkState::Waiting, reason, self.backoff.next(random_fraction()))
            }
            Failure::Unusable(error) => (LinkState::Unusable, error.to_string(), LOOK_AGAIN),
        };
        if self.said.len() > COMPLAINTS {
            self.said.clear();
        }
        if !self.said.insert(reason.clone()) {
            tracing::debug!(connection, reason, "link still not connected");
            self.link.state.send_replace(state);
            return pause;
        }
        match state {
            LinkState::Waiting => {
                tracing::warn!(
                    connection,
                    reason,
                    "the broker cannot be reached, trying for ever"
                );
            }
            LinkState::Refused => tracing::error!(
                connection,
                reason,
                fix = "put a valid bearer into the connection file (it is read again by itself), or enroll again",
                "the link cannot be connected"
            ),
            _ => tracing::error!(
                connection,
                reason,
                "the link cannot be connected as it is configured"
            ),
        }
        self.link.state.send_replace(state);
        pause
    }

    /// Waits, shorter when the configuration changes; says whether to go on.
    async fn pause(&self, pause: Duration) -> bool {
        let mut config = self.link.config.subscribe();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = config.changed() => {}
            () = self.link.removed.cancelled() => return false,
            () = self.link.door.tasks.stopping() => return false,
        }
        !self.link.door.tasks.is_stopping()
    }
}

/// Uniform in `[0, 1)`, from the kernel: clones of one machine would agree on what a generator of ours says, and all
/// come back in the same moment.
fn random_fraction() -> f64 {
    let mut bytes = [0; 4];
    if getrandom::fill(&mut bytes).is_err() {
        return 0.5;
    }
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}
