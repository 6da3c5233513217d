//! How the numbered frames of one op reach one client over a link that may be lost: what is sent next, whether credit
//! lets it go, what an acknowledgement frees, and which pump may publish.
//!
//! It knows a frame by its sequence, its payload and whether it is the exit. Bytes, subjects, messages and time are the
//! affair of the door that drives it, which owns the log and the connection and calls with one lock held.
//!
//! ```text
//!              attach (higher generation: from its from_seq; equal: where it was)
//!            +------------------------------------------------------------------+
//!            v                                                                  |
//!   pending: a lease is out, its pump waits ----offer----> publishing ----> detached (at the start, too)
//!     until the pump before it gave its lease back             |      detach,
//!                                                  final ack   |      give back
//!                                                              v
//!                                                            ended
//! ```
//!
//! **Generations.** Generation 0 and a lower one change nothing. A higher one wins: its replay begins after its `from_seq`
//! with nothing in flight, and acknowledgements of the one before are not heard any more. An equal one is the same attach
//! said again: while its attachment stands nothing happens. After the link was lost it gets a pump again, which goes
//! on behind the last frame that was sent in this generation, whatever `from_seq` says: a retry may be older than
//! what arrived since, and a frame is published once in a generation. So what was lost with the link shows to its client as
//! a gap in the sequence (or as a status with a `next_seq` it does not have), and it asks for a replay with a higher one.
//!
//! **Credit.** The window is an absolute limit on payload that was sent in this generation and not acknowledged: a frame
//! goes when it fits, and the pipe is read in pieces that fit ([`Delivery::gate`]), so that no credit stays unused. With
//! nothing in flight one frame may always go; frames without payload and frames acknowledged already cost nothing.
//! No frame is larger than half of the window that the op was started with ([`frame_limit`]), so a client that
//! acknowledges whenever half of it is used up never waits for a frame that waits for it.
//! A client may attach with less than one frame. When it grows that without ever acknowledging, by what it got, it
//! would be stuck before the first frame of full size: what it lacked is added to what it grants then, until it
//! acknowledges something.
//!
//! **What may be gone.** A frame leaves the log when it was acknowledged and sent in this generation, or when the log was
//! full of what was sent and the client had credit for more ([`Delivery::let_drop`]). Who attaches below that is told
//! where the log begins now.

use super::dialogue::{Ack, Acked, Attach, Attached, Frame, Lease, Offer, ReadGate};
use super::flight::Flight;

/// The window of a client that names none, bytes.
const DEFAULT_WINDOW: u64 = 4 << 20;

/// No window makes frames smaller than this, bytes: each costs a message, and a record of the log.
const SMALLEST_FRAME: usize = 512;

/// Payload of the largest frame of an op whose client grants `window` bytes (0 for the usual) over a link that carries
/// `most` in one message.
pub fn frame_limit(most: usize, window: u64) -> usize {
    let window = if window == 0 { DEFAULT_WINDOW } else { window };
    let half = usize::try_from(window / 2).unwrap_or(usize::MAX);
    most.min(half.max(SMALLEST_FRAME)).max(1)
}

/// The delivery of one op.
#[derive(Debug)]
pub struct Delivery {
    /// The current generation, 0 before the first.
    generation: u64,
    /// Counts the attachments, so that each pump has its own also within a generation.
    attachment: u64,
    attached: bool,
    /// The attachment whose pump may be publishing.
    publishing: Option<u64>,
    /// The frame to be sent next in this generation.
    next: u64,
    /// The last frame that was ever sent.
    reached: u64,
    /// The last frame that the client of this generation has. It may be ahead of `next`: frames of the generation before
    /// still arrive.
    acked: u64,
    /// The last frame that the log may have let go.
    gone: u64,
    /// The exit, once it was sent.
    exit: Option<u64>,
    /// Payload of the largest frame, bytes.
    frame: u64,
    /// What the client granted.
    window: u64,
    /// What it granted when it attached; beyond all once it has acknowledged something.
    attached_window: u64,
    flight: Flight,
    ended: bool,
}

impl Delivery {
    /// Nothing sent, nobody attached. Whoever starts an op attaches generation 1 from frame 0. No frame carries more than
    /// `frame` bytes of payload.
    pub fn new(frame: u64) -> Self {
        Self {
            generation: 0,
            attachment: 0,
            attached: false,
            publishing: None,
            next: 1,
            reached: 0,
            acked: 0,
            gone: 0,
            exit: None,
            frame,
            window: DEFAULT_WINDOW,
            attached_window: DEFAULT_WINDOW,
            flight: Flight::default(),
            ended: false,
        }
    }

    /// A client attaches. A `from_seq` that was never sent is not believed: the replay begins after what was.
    pub fn attach(&mut self, attach: Attach) -> Attached {
        if self.ended || attach.generation == 0 || attach.generation < self.generation {
            return Attached::Unchanged;
        }
        if attach.generation == self.generation {
            return if self.attached {
                Attached::Unchanged
            } else {
                self.lease()
            };
        }
        let from = attach.from_seq.min(self.reached);
        if from < self.gone {
            return Attached::Lost { first: self.gone + 1 };
        }
        self.generation = attach.generation;
        self.next = from + 1;
        // What another client had, this one may not have.
        self.acked = self.acked.min(from);
        self.flight.clear();
        if attach.window_bytes > 0 {
            self.window = attach.window_bytes;
            self.attached_window = attach.window_bytes;
        }
        self.lease()
    }

    fn lease(&mut self) -> Attached {
        self.attached = true;
        self.attachment += 1;
        Attached::Pump(Lease {
            attachment: self.attachment,
        })
    }

    /// The link of the attachment was lost: wake its pump, which lets go.
    pub fn detach(&mut self) {
        self.attached = false;
    }

    /// A pump ends. If nobody has attached since, nobody is attached any more.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a lease that was given back is used up"
    )]
    pub fn give_back(&mut self, lease: Lease) {
        if self.publishing == Some(lease.attachment) {
            self.publishing = None;
        }
        if self.attachment == lease.attachment {
            self.attached = false;
        }
    }

    /// Whether the attachment of this lease stands; a pump that waits for the log asks when it is woken.
    pub fn stands(&self, lease: &Lease) -> bool {
        self.attached && self.attachment == lease.attachment
    }

    /// A pump holds `frame` and asks whether to publish it.
    pub fn offer(&mut self, lease: &Lease, frame: Frame) -> Offer {
        if !self.stands(lease) {
            return Offer::LetGo;
        }
        if *self.publishing.get_or_insert(lease.attachment) != lease.attachment {
            return Offer::AwaitLease;
        }
        if frame.seq != self.next || self.exit.is_some_and(|exit| frame.seq > exit) {
            return Offer::Refused;
        }
        if frame.payload > 0 && frame.seq > self.acked {
            if self.flight.bytes() > 0 && frame.payload > self.credit() {
                return Offer::AwaitCredit;
            }
            self.flight.sent(frame.seq, frame.payload);
        }
        self.next += 1;
        self.reached = self.reached.max(frame.seq);
        if frame.exit {
            self.exit = Some(frame.seq);
        }
        self.settle();
        Offer::Publish
    }

    /// A client acknowledges. An `acked_seq` that was never sent is not believed, the rest of the message is.
    pub fn ack(&mut self, ack: Ack) -> Acked {
        if self.ended || ack.generation == 0 || ack.generation != self.generation {
            return Acked::Ignored;
        }
        if ack.credit_bytes > 0 {
            self.window = ack.credit_bytes;
        }
        if let Some(exit) = self.exit.filter(|exit| ack.is_final && ack.acked_seq >= *exit) {
            self.end(exit);
            return Acked::Ended { release: exit };
        }
        if ack.acked_seq <= self.reached {
            if ack.acked_seq > 0 {
                // It acknowledges: its window needs no help.
                self.attached_window = u64::MAX;
            }
            self.acked = self.acked.max(ack.acked_seq);
            self.flight.acked(self.acked);
            self.settle();
        }
        Acked::Taken { release: self.gone }
    }

    /// Payload that may be sent now, bytes.
    fn credit(&self) -> u64 {
        let has_grown = self.window > self.attached_window;
        let lack = self.frame.saturating_sub(self.attached_window);
        let limit = self.window.saturating_add(if has_grown { lack } else { 0 });
        limit.saturating_sub(self.flight.bytes())
    }

    /// What was acknowledged is freed when it was sent in this generation too: a replay has no hole.
    fn settle(&mut self) {
        self.gone = self.gone.max(self.acked.min(self.next - 1));
    }

    fn end(&mut self, exit: u64) {
        self.ended = true;
        self.attached = false;
        self.gone = exit;
        self.flight.clear();
    }

    /// The log may release the frames up to this one. Acknowledgements raise it, and so does a frame that is sent again
    /// after it was acknowledged.
    pub fn releasable(&self) -> u64 {
        self.gone
    }

    /// The frame to be sent next in this generation; a pump reads the log from here.
    pub fn next_seq(&self) -> u64 {
        self.next
    }

    /// When the pipe may be read. Attached: while what is unsent fits in the credit, and there is room or room can be made
    /// ([`Delivery::let_drop`]). Detached: until the log is full. It holds until the next thing that happens here.
    pub fn gate(&self, limit: u64) -> ReadGate {
        let after = self.next - 1;
        if !self.attached {
            return ReadGate {
                after,
                window: u64::MAX,
                worthwhile: 0,
                capacity: limit,
            };
        }
        let window = match self.flight.bytes() {
            // One frame may always be on its way.
            0 => self.credit().max(self.frame),
            _ => self.credit(),
        };
        ReadGate {
            after,
            window: window.min(limit.max(1)),
            worthwhile: self.frame.min(self.window / 2).min(limit / 2),
            capacity: u64::MAX,
        }
    }

    /// Up to which frame a full log may drop what was sent and not acknowledged. Without this a client that never acknowledges
    /// and only grows its credit would be stuck. While nobody is attached nothing is dropped: who comes next may need it.
    pub fn droppable(&self) -> u64 {
        if self.attached { self.next - 1 } else { self.gone }
    }

    /// The log is full and would drop the frames up to `seq`: answers up to which it does. From here on they count as gone,
    /// so ask before dropping, and for no more than is needed.
    #[must_use]
    pub fn let_drop(&mut self, seq: u64) -> u64 {
        self.gone = self.gone.max(seq.min(self.droppable()));
        self.gone
    }

    /// The current generation, 0 before the first.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a client is attached, also one whose pump still waits for the one before it.
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Whether the client has said that it has everything.
    pub fn is_ended(&self) -> bool {
        self.ended
    }
}
