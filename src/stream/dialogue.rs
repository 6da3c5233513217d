//! What clients, pumps and the log say to a [`Delivery`](super::Delivery), and what it answers. Plain values; the
//! decisions are in `delivery.rs`, the messages that carry them are the affair of the door.

/// What there is to know of a record of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Its sequence, from 1, without holes.
    pub seq: u64,
    /// Bytes that count against the window: none for progress and exit.
    pub payload: u64,
    /// Whether it is the exit: nothing comes after it.
    pub exit: bool,
}

/// A client asks to be sent the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attach {
    /// Which of its attachments this is; they grow.
    pub generation: u64,
    /// The last frame that it has.
    pub from_seq: u64,
    /// Its window, 0 to leave it as it is.
    pub window_bytes: u64,
}

/// What came of an [`Attach`].
#[derive(Debug)]
#[must_use]
pub enum Attached {
    /// It stands: start a pump with this lease, and wake those that wait.
    Pump(Lease),
    /// It changes nothing, the state is the answer: old, said again, or after the end.
    Unchanged,
    /// Frames that it asks for are gone, so nothing was changed: whoever was attached still is.
    Lost {
        /// The first frame that is still there.
        first: u64,
    },
}

/// A client tells what it has and what it can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The attachment that it is about.
    pub generation: u64,
    /// The last frame that it has, 0 to say nothing about that.
    pub acked_seq: u64,
    /// Its window from now on, 0 to leave it as it is.
    pub credit_bytes: u64,
    /// Whether it needs nothing any more, once it has the exit.
    pub is_final: bool,
}

/// What came of an [`Ack`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Acked {
    /// Of another generation, or after the end.
    Ignored,
    /// It was heard: wake the pump.
    Taken {
        /// The log may release the frames up to this one.
        release: u64,
    },
    /// The client has everything: wake the pump, the op is over.
    Ended {
        /// The exit: the log may release everything.
        release: u64,
    },
}

/// The right of one pump to publish, once the pump before it gave its own back. A pump gives it back when it ends, however
/// it ends: its successor waits for that.
#[derive(Debug)]
#[must_use = "the next pump waits until it is given back"]
pub struct Lease {
    pub(super) attachment: u64,
}

/// Whether the frame that a pump holds may be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Offer {
    /// Publish it: from here on it counts as sent.
    Publish,
    /// Not before an acknowledgement: the window is used up.
    AwaitCredit,
    /// Not before the pump of an earlier attachment gave its lease back.
    AwaitLease,
    /// This attachment is over: give the lease back.
    LetGo,
    /// Not the frame that comes next ([`Delivery::next_seq`](super::Delivery::next_seq)), or one after the exit: the log and this disagree.
    Refused,
}

/// When more may be written to the log: while less than `window` bytes stand behind frame `after`, and less than `capacity`
/// are kept in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadGate {
    /// The last frame that was sent.
    pub after: u64,
    /// Bytes that may stand behind it.
    pub window: u64,
    /// What is worth a read: for less than this it is better to wait a moment, as an acknowledgement may make it more.
    pub worthwhile: u64,
    /// Bytes that may be kept.
    pub capacity: u64,
}
