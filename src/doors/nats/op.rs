//! One streamed operation: its log, how far its client is, and its end. It outlives every connection.
//!
//! ```text
//!   source (process, file) --append--> output --publish (pump)--> frames
//!          ^                             |
//!          +---- gate: credit, room <----+---- delivery: acks, attaches
//! ```

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::subjects::FamilyKind;
use crate::exec::{Gate, Output, Process};
use crate::fs::Pieces;
use crate::stream::{Ack, Acked, Attach, Attached, Delivery, Frame, Lease, Offer};
use crate::wire::opstream::{self, Failure};
use crate::wire::proto::{OpExit, OpState, OpStatus};

/// An op of one link.
pub(super) struct Op {
    /// Its id, which is the request id of its start.
    pub(super) id: String,
    /// The subjects that its start came on, and its frames go to.
    pub(super) family: FamilyKind,
    /// There once it runs.
    running: OnceLock<Running>,
    delivery: Mutex<Delivery>,
    /// Something changed for whoever publishes.
    wake: Notify,
    /// The start has come to an end, well or not.
    started: CancellationToken,
    /// It is to end as cancelled.
    cancelled: CancellationToken,
    failure: Mutex<Option<Failure>>,
    exit: OnceLock<Exit>,
    /// The exit was sent to somebody.
    told: CancellationToken,
    /// Since when nobody is attached and no more can be kept.
    stuck: Mutex<Option<Instant>>,
}

/// What an op is once it runs.
pub(super) struct Running {
    pub(super) output: Arc<Output>,
    /// Bytes that may be kept.
    pub(super) capacity: u64,
    /// The process that writes it, where one does.
    pub(super) process: Option<Arc<Process>>,
    /// The file that it takes, where it takes one.
    pub(super) upload: Option<Arc<Pieces>>,
}

/// The last frame.
#[derive(Debug, Clone)]
pub(super) struct Exit {
    pub(super) seq: u64,
    pub(super) message: OpExit,
}

impl Op {
    /// An op that is about to be started, whose frames carry at most `frame_bytes`.
    pub(super) fn new(id: String, family: FamilyKind, frame_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            id,
            family,
            running: OnceLock::new(),
            delivery: Mutex::new(Delivery::new(frame_bytes as u64)),
            wake: Notify::new(),
            started: CancellationToken::new(),
            cancelled: CancellationToken::new(),
            failure: Mutex::default(),
            exit: OnceLock::new(),
            told: CancellationToken::new(),
            stuck: Mutex::default(),
        })
    }

    /// It runs from now on; a cancel that came before is kept.
    pub(super) fn run(&self, running: Running) {
        // Only the one who started it says so.
        let _ = self.running.set(running);
        // After it was set: a cancel sees the process, or is seen here.
        if self.cancelled.is_cancelled() {
            self.cancel();
        }
        self.update_gate(&self.delivery.lock());
        self.started.cancel();
    }

    /// It did not come to run.
    pub(super) fn give_up(&self) {
        self.started.cancel();
    }

    /// Resolves when the start has come to an end; says whether it runs or ran.
    pub(super) async fn has_started(&self) -> bool {
        self.started.cancelled().await;
        self.running.get().is_some()
    }

    /// What it is, once it runs.
    pub(super) fn running(&self) -> Option<&Running> {
        self.running.get()
    }

    /// How it ended, when it has.
    pub(super) fn exit(&self) -> Option<&Exit> {
        self.exit.get()
    }

    /// It has ended: the exit is the frame `seq`.
    pub(super) fn complete(&self, seq: u64, message: OpExit) {
        // An op ends once.
        let _ = self.exit.set(Exit { seq, message });
        self.wake.notify_waiters();
    }

    /// The exit was sent.
    pub(super) fn exit_was_sent(&self) {
        self.told.cancel();
        self.wake.notify_waiters();
    }

    /// Resolves when the exit was sent, or nobody is attached that it could be sent to. Cancel-safe.
    pub(super) async fn has_told(&self) {
        loop {
            let mut news = std::pin::pin!(self.news());
            news.as_mut().enable();
            if self.told.is_cancelled() || !self.delivery.lock().is_attached() {
                return;
            }
            news.await;
        }
    }

    /// Resolves when something changed for whoever publishes. To be enabled before looking.
    pub(super) fn news(&self) -> tokio::sync::futures::Notified<'_> {
        self.wake.notified()
    }

    /// Ends it as cancelled.
    pub(super) fn cancel(&self) {
        self.cancelled.cancel();
        if let Some(process) = self.running().and_then(|running| running.process.as_ref()) {
            process.cancel();
        }
    }

    /// Resolves when it is to end as cancelled. Cancel-safe.
    pub(super) async fn is_cancelled(&self) {
        self.cancelled.cancelled().await;
    }

    /// Ends it with a failure of the runner.
    pub(super) fn fail(&self, failure: Failure) {
        self.failure.lock().get_or_insert(failure);
        self.cancel();
    }

    /// The failure that ends it, where one does.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.failure.lock().clone()
    }

    /// A client attaches.
    pub(super) fn attach(&self, attach: Attach) -> Attached {
        self.change(|delivery| delivery.attach(attach))
    }

    /// A client acknowledges; says whether it has everything now.
    pub(super) fn acknowledge(&self, ack: Ack) -> bool {
        let acked = self.change(|delivery| delivery.ack(ack));
        let (release, ended) = match acked {
            Acked::Ignored => return false,
            Acked::Taken { release } => (release, false),
            Acked::Ended { release } => (release, true),
        };
        if let Some(running) = self.running() {
            running.output.release(release);
        }
        ended
    }

    /// The link of whoever publishes was lost.
    pub(super) fn give_back(&self, lease: Lease) {
        self.change(|delivery| delivery.give_back(lease));
    }

    /// Whether the attachment of this lease stands.
    pub(super) fn stands(&self, lease: &Lease) -> bool {
        self.delivery.lock().stands(lease)
    }

    /// The frame that is to be sent next.
    pub(super) fn next_seq(&self) -> u64 {
        self.delivery.lock().next_seq()
    }

    /// Whether a frame may be published; it counts as sent then.
    pub(super) fn offer(&self, lease: &Lease, frame: Frame) -> Offer {
        let mut delivery = self.delivery.lock();
        let offer = delivery.offer(lease, frame);
        if offer == Offer::Publish {
            self.make_room(&mut delivery);
            self.update_gate(&delivery);
        }
        offer
    }

    /// A full log lets go of what was acknowledged, and of what was sent where its client takes more without ever
    /// acknowledging.
    fn make_room(&self, delivery: &mut Delivery) {
        let Some(Running { output, capacity, .. }) = self.running() else {
            return;
        };
        output.release(delivery.releasable());
        if output.retained() > *capacity
            && let Some(last) = output.release_down_to(*capacity, delivery.droppable())
        {
            // It was asked up to where; no more than that went.
            let _ = delivery.let_drop(last);
        }
    }

    /// Neither memory nor disk takes more, and everything was sent: the older half goes, so that a client that never
    /// acknowledges is not stuck.
    pub(super) fn drop_sent(&self) {
        let Some(Running { output, .. }) = self.running() else {
            return;
        };
        let mut delivery = self.delivery.lock();
        if let Some(last) = output.release_down_to(output.retained() / 2, delivery.droppable()) {
            // As in `make_room`.
            let _ = delivery.let_drop(last);
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Delivery) -> T) -> T {
        let mut delivery = self.delivery.lock();
        let changed = change(&mut delivery);
        self.update_gate(&delivery);
        drop(delivery);
        self.wake.notify_waiters();
        changed
    }

    fn update_gate(&self, delivery: &Delivery) {
        if let Some(Running { output, capacity, .. }) = self.running() {
            let gate = delivery.gate(*capacity);
            output.set_gate(Gate {
                after: gate.after,
                window: gate.window,
                worthwhile: gate.worthwhile,
                capacity: gate.capacity,
            });
        }
    }

    /// Notes whether nobody is attached and no more can be kept; ends it when that is so for `limit`.
    pub(super) fn look_after(&self, now: Instant, limit: Duration) {
        let Some(Running { output, capacity, .. }) = self.running().filter(|_| self.exit().is_none()) else {
            return;
        };
        let retained = output.retained();
        let mut stuck = self.stuck.lock();
        let is_full = retained >= *capacity || output.is_full();
        if self.delivery.lock().is_attached() || !is_full {
            *stuck = None;
            return;
        }
        let since = *stuck.get_or_insert(now);
        drop(stuck);
        if now.saturating_duration_since(since) >= limit {
            self.fail(Failure::overflow(retained));
        }
    }

    /// Its state at this moment.
    pub(super) fn status(&self) -> OpStatus {
        if let Some(exit) = self.exit() {
            let message = exit.message.clone();
            return opstream::status(&self.id, OpState::Complete, exit.seq + 1, Some(message));
        }
        match self.running() {
            None => opstream::status(&self.id, OpState::Accepted, 1, None),
            Some(running) => opstream::status(&self.id, OpState::Running, running.output.next_seq(), None),
        }
    }
}
