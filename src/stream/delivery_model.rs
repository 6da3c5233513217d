//! What is around a [`Delivery`] in the tests: a log, pumps, a link that loses what is on its way, and a client that
//! may say anything. [`World::take`] holds it, after each step, to what must be true in the simplest terms.

use std::collections::{BTreeMap, VecDeque};

use super::{Ack, Acked, Attach, Attached, Delivery, Frame, Lease, Offer};

/// What the log holds, in bytes of payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retained {
    /// Written and not sent.
    pub(super) unsent: u64,
    /// All of it.
    pub(super) total: u64,
    /// How much it may be.
    pub(super) limit: u64,
}

impl Retained {
    /// How much of the pipe may be read.
    pub(super) fn room(self, delivery: &Delivery) -> u64 {
        let gate = delivery.gate(self.limit);
        let window = gate.window.saturating_sub(self.unsent);
        window.min(gate.capacity.saturating_sub(self.total))
    }
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// The op writes a frame with this payload; none is progress.
    Write(u64),
    /// The op exits, by itself or cancelled.
    Exit,
    /// A pump takes a turn, again and again while it may publish.
    Pump { pump: usize, turns: usize },
    /// A pump ends on its own account.
    GiveBack(usize),
    /// Some of what is on its way arrives.
    Deliver(usize),
    /// The link is lost, and the last of what is on its way with it.
    LinkLost(usize),
    /// The full log drops this many frames.
    Drop(u64),
    Attach {
        /// Added to the client's generation, less one.
        generation: u64,
        from: Claim,
        window: u64,
    },
    Ack {
        /// Subtracted from the client's generation.
        generation: u64,
        acked: Claim,
        credit: u64,
        is_final: bool,
    },
}

/// What a client says that it has.
#[derive(Debug, Clone)]
pub(super) enum Claim {
    Honest,
    Less(u64),
    More(u64),
    Nothing,
}

#[derive(Debug)]
struct Pump {
    lease: Lease,
    generation: u64,
    /// The frame it reads from the log next.
    cursor: u64,
    holds: bool,
}

/// Everything around a [`Delivery`], and what must be true of it in the simplest terms.
#[derive(Debug)]
pub(super) struct World {
    pub(super) delivery: Delivery,
    pub(super) written: Vec<Frame>,
    /// The log holds the frames after this one.
    pub(super) released: u64,
    exited: bool,
    pumps: Vec<Pump>,
    attached: bool,
    /// Published and on their way.
    pub(super) wire: VecDeque<Frame>,
    /// The last frame that was ever published.
    pub(super) reached: u64,
    /// Of the current generation: where it began, what was published and the highest acknowledgement.
    from: u64,
    published: Vec<Frame>,
    acked: u64,
    window: u64,
    attached_window: u64,
    /// The largest payload.
    frame: u64,
    /// The highest acknowledgement of all.
    ever_acked: u64,
    /// The last frame that a full log dropped.
    dropped: u64,
    pub(super) client: Client,
    ended: bool,
}

#[derive(Debug, Default)]
pub(super) struct Client {
    generation: u64,
    /// It has everything up to here, or was told that it is lost.
    pub(super) upto: u64,
    pub(super) got: BTreeMap<u64, Frame>,
    /// Frames up to here may be missing: it was told.
    told_lost: u64,
    /// It said to have everything without having it.
    lied: bool,
}

impl World {
    /// With frames of `frame` bytes at most.
    pub(super) fn new(frame: u64) -> Self {
        let mut world = Self {
            delivery: Delivery::new(frame),
            written: Vec::new(),
            released: 0,
            exited: false,
            pumps: Vec::new(),
            attached: false,
            wire: VecDeque::new(),
            reached: 0,
            from: 0,
            published: Vec::new(),
            acked: 0,
            window: 4 << 20,
            attached_window: 4 << 20,
            frame,
            ever_acked: 0,
            dropped: 0,
            client: Client::default(),
            ended: false,
        };
        world.attach(1, 0, 10);
        world
    }

    pub(super) fn take(&mut self, step: &Step) {
        match step {
            Step::Write(payload) => self.write(*payload, false),
            Step::Exit => self.write(0, true),
            Step::Pump { pump, turns } => {
                for _ in 0..*turns {
                    if !self.pump(*pump) {
                        break;
                    }
                }
            }
            Step::GiveBack(pump) => self.give_back(*pump),
            Step::Deliver(frames) => self.deliver(*frames),
            Step::LinkLost(frames) => {
                let left = self.wire.len().saturating_sub(*frames);
                self.wire.truncate(left);
                self.delivery.detach();
                self.attached = false;
            }
            Step::Drop(frames) => self.drop_sent(self.released + frames),
            Step::Attach {
                generation,
                from,
                window,
            } => {
                let generation = (self.client.generation + generation).saturating_sub(1);
                let from = self.claimed(from);
                self.attach(generation, from, *window);
            }
            Step::Ack {
                generation,
                acked,
                credit,
                is_final,
            } => self.ack(Ack {
                generation: self.client.generation.saturating_sub(*generation),
                acked_seq: self.claimed(acked),
                credit_bytes: *credit,
                is_final: *is_final,
            }),
        }
        self.check();
    }

    fn claimed(&self, claim: &Claim) -> u64 {
        match claim {
            Claim::Honest => self.client.upto,
            Claim::Less(frames) => self.client.upto.saturating_sub(*frames),
            Claim::More(frames) => self.reached + frames,
            Claim::Nothing => 0,
        }
    }

    fn write(&mut self, payload: u64, exit: bool) {
        if !self.exited {
            self.exited = exit;
            let seq = self.written.len() as u64 + 1;
            self.written.push(Frame { seq, payload, exit });
        }
    }

    /// Payload in flight, counted anew.
    fn in_flight(&self) -> u64 {
        let late = self.published.iter().filter(|frame| frame.seq > self.acked);
        late.map(|frame| frame.payload).sum()
    }

    /// How much of it there may be.
    fn limit(&self) -> u64 {
        if self.window > self.attached_window {
            self.window + self.frame.saturating_sub(self.attached_window)
        } else {
            self.window
        }
    }

    /// Whether the pump may take another turn with another outcome.
    fn pump(&mut self, pump: usize) -> bool {
        if self.pumps.is_empty() {
            return false;
        }
        let index = pump % self.pumps.len();
        let (cursor, generation) = (self.pumps[index].cursor, self.pumps[index].generation);
        let stands = self.delivery.stands(&self.pumps[index].lease);
        let is_newest = index + 1 == self.pumps.len();
        assert_eq!(
            stands,
            is_newest && self.attached,
            "the newest stands while attached"
        );
        if !stands {
            let frame = Frame {
                seq: cursor,
                payload: 1,
                exit: false,
            };
            assert_eq!(self.delivery.offer(&self.pumps[index].lease, frame), Offer::LetGo);
            self.give_back(index);
            return false;
        }
        let Some(frame) = self.written.get(cursor as usize - 1).copied() else {
            return false;
        };
        assert!(cursor > self.released, "frame {cursor} is needed and gone");
        let others_hold = self.pumps[..index].iter().any(|pump| pump.holds);
        let (in_flight, free) = (self.in_flight(), frame.payload == 0 || cursor <= self.acked);
        let has_credit = free || in_flight == 0 || in_flight + frame.payload <= self.limit();
        let expected = match (others_hold, has_credit) {
            (true, _) => Offer::AwaitLease,
            (false, false) => Offer::AwaitCredit,
            (false, true) => Offer::Publish,
        };
        let offer = self.delivery.offer(&self.pumps[index].lease, frame);
        assert_eq!(
            offer,
            expected,
            "{frame:?}, {in_flight} of {} in flight",
            self.limit()
        );
        self.pumps[index].holds = !others_hold;
        if offer == Offer::Publish {
            assert_eq!(generation, self.delivery.generation());
            let before = self.published.last().map_or(self.from, |frame| frame.seq);
            assert_eq!(frame.seq, before + 1, "no hole, nothing twice, in order");
            assert!(!self.published.iter().any(|frame| frame.exit), "the exit is last");
            self.published.push(frame);
            self.reached = self.reached.max(frame.seq);
            self.wire.push_back(frame);
            self.pumps[index].cursor += 1;
        }
        offer == Offer::Publish
    }

    fn give_back(&mut self, pump: usize) {
        if self.pumps.is_empty() {
            return;
        }
        let index = pump % self.pumps.len();
        if index + 1 == self.pumps.len() {
            self.attached = false;
        }
        let pump = self.pumps.remove(index);
        self.delivery.give_back(pump.lease);
    }

    fn deliver(&mut self, frames: usize) {
        for _ in 0..frames {
            let Some(frame) = self.wire.pop_front() else {
                return;
            };
            let known = self.client.got.entry(frame.seq).or_insert(frame);
            assert_eq!(*known, frame, "a replay is what it was");
            while self.client.got.contains_key(&(self.client.upto + 1)) {
                self.client.upto += 1;
            }
        }
    }

    fn drop_sent(&mut self, wanted: u64) {
        let last = self.published.last().map_or(self.from, |frame| frame.seq);
        let allowed = if self.attached { last.min(wanted) } else { 0 };
        let before = self.delivery.releasable();
        let upto = self.delivery.let_drop(wanted);
        assert_eq!(upto, allowed.max(before), "what was sent, to who is attached");
        self.dropped = self.dropped.max(allowed);
        self.released = upto;
    }

    fn attach(&mut self, generation: u64, from_seq: u64, window_bytes: u64) {
        let current = self.delivery.generation();
        let attach = Attach {
            generation,
            from_seq,
            window_bytes,
        };
        let is_same = generation == current && !self.attached;
        let counts = generation > 0 && !self.ended && (generation > current || is_same);
        let from = from_seq.min(self.reached);
        match self.delivery.attach(attach) {
            Attached::Unchanged => assert!(!counts, "{attach:?} counts"),
            Attached::Lost { first } => {
                assert!(
                    counts && !is_same && from + 1 < first,
                    "{attach:?} asks for nothing lost"
                );
                assert_eq!(first, self.delivery.releasable() + 1);
                if first > self.client.upto + 1 {
                    // The client acknowledges what it has and no more.
                    assert!(first - 1 <= self.dropped, "lost without having been dropped");
                    self.client.told_lost = self.client.told_lost.max(first - 1);
                }
            }
            Attached::Pump(lease) => {
                assert!(counts, "{attach:?} does not count");
                if !is_same {
                    assert!(from >= self.released, "frames after {from} are gone");
                    (self.from, self.acked) = (from, 0);
                    self.published.clear();
                    self.client.generation = generation;
                    if window_bytes > 0 {
                        self.window = window_bytes;
                        self.attached_window = window_bytes;
                    }
                }
                let cursor = self.delivery.next_seq();
                let last = self.published.last().map_or(self.from, |frame| frame.seq);
                assert_eq!(cursor, last + 1, "{attach:?}");
                self.attached = true;
                self.pumps.push(Pump {
                    lease,
                    generation,
                    cursor,
                    holds: false,
                });
            }
        }
    }

    fn ack(&mut self, ack: Ack) {
        let exit = self.exited.then_some(self.written.len() as u64);
        let exit = exit.filter(|exit| *exit <= self.reached);
        match self.delivery.ack(ack) {
            Acked::Ignored => {
                let current = ack.generation == self.delivery.generation();
                assert!(self.ended || !current, "{ack:?} was ignored");
            }
            Acked::Ended { release } => {
                assert!(ack.is_final && exit == Some(release) && ack.acked_seq >= release);
                (self.ended, self.attached) = (true, false);
                self.client.lied |= ack.acked_seq > self.client.upto;
            }
            Acked::Taken { release } => {
                assert_eq!(ack.generation, self.delivery.generation());
                assert!(!ack.is_final || exit.is_none_or(|exit| ack.acked_seq < exit));
                if ack.credit_bytes > 0 {
                    self.window = ack.credit_bytes;
                }
                if ack.acked_seq <= self.reached {
                    if ack.acked_seq > 0 {
                        self.attached_window = u64::MAX;
                    }
                    self.acked = self.acked.max(ack.acked_seq);
                    self.ever_acked = self.ever_acked.max(ack.acked_seq);
                }
                assert_eq!(release, self.delivery.releasable());
            }
        }
    }

    /// What must be true at any time.
    fn check(&mut self) {
        let releasable = self.delivery.releasable();
        let last = self.published.last().map_or(self.from, |frame| frame.seq);
        assert_eq!(self.delivery.is_ended(), self.ended);
        assert_eq!(self.delivery.is_attached(), self.attached);
        if !self.ended {
            assert!(
                releasable <= self.ever_acked.max(self.dropped),
                "nobody has these"
            );
            assert!(releasable <= last, "the generation needs these");
            assert!(releasable >= self.acked.min(last), "these were acknowledged");
        }
        assert!(self.pumps.iter().filter(|pump| pump.holds).count() <= 1);
        self.released = self.released.max(releasable);
        self.check_gate();
    }

    /// What a log that keeps `limit` would tell.
    pub(super) fn retained(&self, limit: u64) -> Retained {
        let payload_after = |seq: u64| -> u64 {
            let frames = self.written.iter().filter(|frame| frame.seq > seq);
            frames.map(|frame| frame.payload).sum()
        };
        let last = self.published.last().map_or(self.from, |frame| frame.seq);
        Retained {
            unsent: payload_after(last),
            total: payload_after(self.released),
            limit,
        }
    }

    fn check_gate(&self) {
        for limit in [1, 10, 1000] {
            let retained = self.retained(limit);
            let room = retained.room(&self.delivery);
            if !self.attached {
                assert_eq!(room, limit.saturating_sub(retained.total), "{retained:?}");
                continue;
            }
            let credit = match self.in_flight() {
                0 => self.limit().max(self.frame),
                in_flight => self.limit().saturating_sub(in_flight),
            };
            // Where all was sent and the client can take more, there is room, however full the log is.
            let most = credit.min(limit.max(1));
            assert_eq!(room, most.saturating_sub(retained.unsent), "{retained:?}");
        }
    }

    /// From here on the link holds and the client is honest: it gets everything, and the op ends.
    pub(super) fn finish(&mut self) {
        self.take(&Step::Exit);
        let exit = self.written.len() as u64;
        for _ in 0..2 * self.written.len() + 10 {
            let has_hole = self.wire.is_empty() && self.client.upto < self.reached;
            if (!self.attached || has_hole) && !self.ended {
                let before = self.client.generation;
                self.attach(before + 1, self.client.upto, 0);
                if self.client.generation == before {
                    // It was told that these are lost: nothing else could be done.
                    assert!(self.client.told_lost > self.client.upto);
                    self.client.upto = self.client.told_lost;
                    self.attach(before + 1, self.client.upto, 0);
                }
                assert!(self.attached);
            }
            for pump in (0..self.pumps.len()).rev() {
                while self.pump(pump) {}
            }
            while self.pump(0) {}
            self.deliver(usize::MAX);
            self.ack(Ack {
                generation: self.client.generation,
                acked_seq: self.client.upto,
                credit_bytes: 0,
                is_final: self.client.upto >= exit,
            });
            self.check();
        }
        assert!(self.ended, "an honest client gets to the end: {self:?}");
        for frame in &self.written {
            let got = self.client.got.get(&frame.seq);
            let may_miss = frame.seq <= self.client.told_lost || self.client.lied;
            assert!(
                got == Some(frame) || (got.is_none() && may_miss),
                "{frame:?}: {got:?}"
            );
        }
    }
}
