//! One life of a link: a *control* connection (requests, replies, hello, events) and a *bulk* connection (large
//! payloads, so that a ping never waits behind one). Losing either ends both; the supervisor makes the next.
//!
//! ```text
//!   open ──> subscribe rpc and ack, flush ──> hello ──> current ──(lost, stalled, expired, moved, removed)──> closed
//!                                                         │ heartbeat at once, then every interval
//! ```

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{Client, Subject, Subscriber};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::broker_error::BrokerError;
use super::config::LinkConfig;
use super::connect::{self, Connection, Failure, News, Target};
use super::link::Link;
use super::outbound::{Gone, Outbound};
use super::subjects::{self, Family, FamilyKind};
use super::{dispatch, hello};
use crate::ids::InstanceId;
use crate::wire::proto::{AgentEvent, GoingOfflineReason, OpAck};

/// How long Hello waits for the executable's digest; it is sent again when that comes later.
const DIGEST_WAIT: Duration = Duration::from_millis(250);
/// How long the first steps on a fresh connection may take.
const SETUP_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection that ends may take to write what it holds.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// Bytes that the control connection reads at once: requests, some of them large.
const CONTROL_READS: u16 = u16::MAX;
/// Bytes that the bulk connection reads at once: nothing but pongs.
const BULK_READS: u16 = 1024;
/// Bytes of replies that go to the control connection at once: pings and heartbeats wait behind no more than these,
/// also where the way to the broker is slow.
const CONTROL_WINDOW: usize = 256 << 10;
/// The same for the bulk connection, where one reply may be larger.
const BULK_WINDOW: usize = 1 << 20;
/// Replies from this size on go over the bulk connection, bytes.
const BULK_FROM: usize = 64 << 10;

/// Why a generation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The credential ran out: dial again at once.
    Expired,
    /// A connection was lost or made no progress.
    Lost,
    /// The link's configuration names another place now.
    Moved,
    /// The link is no more.
    Removed,
}

/// A link's connections while they stand.
pub(super) struct Generation {
    /// The link that this is a life of.
    pub(super) link: Arc<Link>,
    /// Largest payload that both connections carry, bytes.
    pub(super) max_payload: usize,
    control: Arc<Outbound>,
    bulk: Arc<Outbound>,
    /// The configuration that was dialled.
    pub(super) config: Arc<LinkConfig>,
    /// The instance that it was dialled as.
    instance: InstanceId,
    pub(super) families: Vec<Family>,
    /// Where other processes that answer as this agent would be heard.
    hellos: Option<String>,
    /// Subjects of ours that the account may not use: a warning each, once.
    denied: Mutex<HashSet<String>>,
    /// The account may not publish replies, which was said.
    replies_denied: AtomicBool,
    ended: CancellationToken,
    end: Mutex<End>,
}

/// What [`Generation::open`] made.
pub(super) struct Opened {
    generation: Arc<Generation>,
    control: Connection,
    bulk: Connection,
}

impl Generation {
    /// Dials both connections of `link` at `url`.
    pub(super) async fn open(
        link: &Arc<Link>,
        config: &Arc<LinkConfig>,
        url: &str,
    ) -> Result<Opened, Failure> {
        let door = &link.door;
        let instance = door.instance();
        let target = Target {
            url,
            credential: &config.credential,
            client_name: &door.client_name(instance),
            allow_plaintext: door.config.allow_plaintext,
        };
        let (control, bulk) = tokio::try_join!(
            connect::connect(&target, CONTROL_READS),
            connect::connect(&target, BULK_READS)
        )?;
        let families = subjects::families(
            config.root(&door.config.root),
            &config.workspace_id,
            &config.agent_id,
            instance,
            door.config.subjects,
        );
        let is_listening = families.iter().any(|family| family.kind == FamilyKind::Instance);
        let hellos = subjects::hellos(
            config.root(&door.config.root),
            &config.workspace_id,
            &config.agent_id,
        );
        let generation = Arc::new(Self {
            hellos: is_listening.then_some(hellos),
            link: Arc::clone(link),
            max_payload: control.max_payload.min(bulk.max_payload),
            control: Arc::new(Outbound::new(control.client.clone(), CONTROL_WINDOW)),
            bulk: Arc::new(Outbound::new(bulk.client.clone(), BULK_WINDOW)),
            config: Arc::clone(config),
            instance,
            families,
            denied: Mutex::default(),
            replies_denied: AtomicBool::new(false),
            ended: CancellationToken::new(),
            end: Mutex::new(End::Lost),
        });
        Ok(Opened {
            generation,
            control,
            bulk,
        })
    }

    /// Whether nothing can be sent any more.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Sends an answer that was made inline.
    pub(super) fn reply_now(&self, subject: Subject, payload: Bytes) {
        if self.control.send_urgent(subject, payload).is_err() {
            self.finish(End::Lost);
        }
    }

    /// Sends the answer to an operation, waiting for room.
    pub(super) async fn reply(&self, subject: Subject, payload: Bytes) -> Result<(), Gone> {
        let outbound = if payload.len() >= BULK_FROM {
            &self.bulk
        } else {
            &self.control
        };
        outbound.send(subject, payload).await
    }

    /// Resolves when nothing can be sent any more. Cancel-safe.
    pub(super) fn ended(&self) -> WaitForCancellationFuture<'_> {
        self.ended.cancelled()
    }

    /// The family that a message came on.
    pub(super) fn family(&self, subject: &str) -> Option<FamilyKind> {
        let families = self.families.iter();
        let of_it = |family: &&Family| family.subjects().contains(&subject);
        families.clone().find(of_it).map(|family| family.kind)
    }

    /// Where the frames of an op go; `None` when that family is not served.
    pub(super) fn op_subject(&self, kind: FamilyKind, id: &str) -> Option<Subject> {
        let family = self.families.iter().find(|family| family.kind == kind)?;
        Some(Subject::from(family.op(id)))
    }

    /// Publishes a frame, waiting for room.
    pub(super) async fn publish_frame(&self, subject: Subject, payload: Bytes) -> Result<(), Gone> {
        self.link
            .door
            .metrics
            .bytes_out(dispatch::DOOR, payload.len() as u64);
        self.bulk.send(subject, payload).await
    }

    /// Publishes going offline on every family, and waits until that and all replies so far are written.
    pub(super) async fn going_offline(&self, reason: GoingOfflineReason) -> Result<(), Gone> {
        let agent_id = self.link.config().agent_id.clone();
        if reason == GoingOfflineReason::Update {
            self.say_progress(&agent_id)?;
        }
        self.publish_event(&hello::going_offline(&agent_id, reason))?;
        self.flush().await
    }

    /// Waits until everything sent so far is written.
    pub(super) async fn flush(&self) -> Result<(), Gone> {
        tokio::try_join!(self.control.flush(), self.bulk.flush()).map(|_| ())
    }

    pub(super) fn finish(&self, end: End) {
        let mut slot = self.end.lock();
        if !self.ended.is_cancelled() {
            *slot = end;
            self.ended.cancel();
        }
    }

    pub(super) fn publish_event(&self, event: &AgentEvent) -> Result<(), Gone> {
        let payload = Bytes::from(event.encode_to_vec());
        self.families
            .iter()
            .try_for_each(|family| self.publish(&family.events, &payload))
    }

    pub(super) fn publish(&self, subject: &str, payload: &Bytes) -> Result<(), Gone> {
        if self.denied.lock().contains(subject) {
            return Ok(());
        }
        self.control.send_urgent(Subject::from(subject), payload.clone())
    }

    async fn subscribe(&self, client: &Client) -> Result<Vec<(Subscriber, Inlet)>, Gone> {
        let mut subscribers = Vec::new();
        for family in &self.families {
            for (subject, inlet) in [
                (&family.rpc, Inlet::Requests),
                (&family.ack, Inlet::Acknowledgements),
            ] {
                let subscriber = client.subscribe(subject.clone()).await.map_err(|_| Gone)?;
                subscribers.push((subscriber, inlet));
            }
        }
        if let Some(hellos) = &self.hellos {
            let subscriber = client.subscribe(hellos.clone()).await.map_err(|_| Gone)?;
            subscribers.push((subscriber, Inlet::Hellos));
        }
        client.flush().await.map_err(|_| Gone)?;
        Ok(subscribers)
    }

    async fn receive(self: Arc<Self>, mut messages: Subscriber, inlet: Inlet) {
        let mut buffer = BytesMut::new();
        while let Some(message) = messages.next().await {
            match inlet {
                Inlet::Requests => dispatch::take(&self, message, &mut buffer),
                Inlet::Acknowledgements => match OpAck::decode(message.payload) {
                    Ok(ack) => self.link.ops.acknowledge(&ack),
                    Err(error) => tracing::debug!(%error, "an acknowledgement that is none was dropped"),
                },
                Inlet::Hellos => self.hear_hello(&message.subject).await,
            }
        }
        self.finish(End::Lost);
    }

    async fn hear(self: Arc<Self>, mut news: mpsc::Receiver<News>) {
        while let Some(news) = news.recv().await {
            match news {
                News::Said(BrokerError::Expired) => self.finish(End::Expired),
                News::Said(BrokerError::Denied { what, subject }) => self.note_denied(what, &subject),
                News::Said(said) => tracing::warn!(?said, "the broker complains"),
                News::LameDuck => tracing::info!("the broker is about to shut down"),
                News::Dropped => {
                    tracing::error!(
                        "requests came faster than they could be taken, and some were dropped unanswered"
                    );
                }
            }
        }
    }

    fn note_denied(&self, what: &'static str, subject: &str) {
        if self.hellos.as_deref() == Some(subject) {
            return tracing::debug!(
                subject,
                "the account may not listen there: a copy of this machine would not be noticed"
            );
        }
        let ours = |family: &Family| family.subjects().contains(&subject);
        if !self.families.iter().any(ours) {
            // The subject of a reply is another one each time.
            if !self.replies_denied.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    what,
                    subject,
                    "the account may not publish replies: requests are performed and their answers are lost"
                );
            }
            return;
        }
        let mut denied = self.denied.lock();
        if !denied.insert(subject.to_owned()) {
            return;
        }
        if self.families.iter().all(|family| denied.contains(&family.rpc)) {
            tracing::error!(
                what,
                subject,
                "the account may subscribe to no rpc subject: no request can arrive"
            );
        } else {
            tracing::warn!(
                what,
                subject,
                "the account may not use this subject; the link goes on with the others \
                 (nats.subjects chooses the families)"
            );
        }
    }
}

/// What a subscription carries.
#[derive(Debug, Clone, Copy)]
enum Inlet {
    Requests,
    Acknowledgements,
    Hellos,
}

impl Opened {
    /// What the broker calls itself.
    pub(super) fn server_id(&self) -> &str {
        &self.control.server_id
    }

    /// Serves until the generation ends; `standing` is called when hello is out.
    pub(super) async fn serve(self, standing: impl FnOnce(&Arc<Generation>)) -> End {
        let Self {
            generation,
            control,
            bulk,
        } = self;
        let clients = [control.client.clone(), bulk.client.clone()];
        let lost = [control.lost.clone(), bulk.lost.clone()];
        let subscribed = tokio::time::timeout(SETUP_LIMIT, generation.subscribe(&control.client)).await;
        let Ok(Ok(subscribers)) = subscribed else {
            close(&generation, clients).await;
            return End::Lost;
        };
        let mut running = start(&generation, subscribers, [control.news, bulk.news]);
        let hello = generation.hello();
        match tokio::time::timeout(SETUP_LIMIT, generation.say_hello(hello.clone(), DIGEST_WAIT)).await {
            Ok(Ok(digest_said)) => {
                standing(&generation);
                let beat = Arc::clone(&generation).beat_until_gone(hello, digest_said);
                let tasks = &generation.link.door.tasks;
                running.push(tasks.detach("nats-heartbeat", beat).abort_handle());
            }
            Ok(Err(Gone)) | Err(_) => generation.finish(End::Lost),
        }
        tokio::select! {
            () = generation.ended.cancelled() => {}
            () = lost[0].cancelled() => generation.finish_after_news().await,
            () = lost[1].cancelled() => generation.finish_after_news().await,
            end = generation.link.uprooted(&generation.config, generation.instance) => {
                if end == End::Removed && !generation.link.door.is_offline() {
                    let farewell = generation.going_offline(GoingOfflineReason::UserStop);
                    let _in_time = tokio::time::timeout(CLOSE_LIMIT, farewell).await;
                }
                generation.finish(end);
            }
        }
        running.iter().for_each(AbortHandle::abort);
        close(&generation, clients).await;
        generation.end.lock().clone()
    }
}

impl Generation {
    /// A broker says why before it closes; that is told by another task, which gets a moment to say it.
    async fn finish_after_news(&self) {
        let _said = tokio::time::timeout(Duration::from_millis(10), self.ended.cancelled()).await;
        self.finish(End::Lost);
    }
}

/// The tasks of a generation but for its heartbeat. Work that they start is not among them: it outlives the connection.
fn start(
    generation: &Arc<Generation>,
    subscribers: Vec<(Subscriber, Inlet)>,
    news: [mpsc::Receiver<News>; 2],
) -> Vec<AbortHandle> {
    let tasks = &generation.link.door.tasks;
    let mut running = Vec::new();
    for (subscriber, inlet) in subscribers {
        let receive = Arc::clone(generation).receive(subscriber, inlet);
        running.push(tasks.detach("nats-receive", receive).abort_handle());
    }
    for news in news {
        running.push(
            tasks
                .detach("nats-news", Arc::clone(generation).hear(news))
                .abort_handle(),
        );
    }
    for outbound in [&generation.control, &generation.bulk] {
        let (generation, outbound) = (Arc::clone(generation), Arc::clone(outbound));
        let send = async move {
            outbound.run().await;
            generation.finish(End::Lost);
        };
        running.push(tasks.detach("nats-send", send).abort_handle());
    }
    running
}

/// Refuses further messages and lets the client's own tasks end.
async fn close(generation: &Generation, clients: [Client; 2]) {
    generation.ended.cancel();
    generation.control.close();
    generation.bulk.close();
    for client in clients {
        // A client that is reconnecting or stalled does not take this; it ends for want of a credential or a pong.
        let _drained = tokio::time::timeout(CLOSE_LIMIT, client.drain()).await;
    }
}
