//! How much of a log stays, and what stayed of a channel put together again.

use std::ops::Index;
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::log::Log;
use super::record::{Channel, Record, Stored};
use super::shelf::Shelf;

/// How many bytes are kept: the first `head` of each channel, and what `tail` says of the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Keep {
    /// Bytes kept from the beginning of each channel.
    pub head: u64,
    /// What is kept behind them.
    pub tail: Tail,
}

/// How many of the newest bytes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tail {
    /// At least so many of each channel, and at most a record more.
    EachChannel(u64),
    /// At most so many of all channels together; older records go first.
    Together(u64),
    /// All of them, until [`Log::release`] lets go of them.
    All,
}

impl Keep {
    /// Keeps `bytes` from the beginning of each channel and nothing of what comes later: for answers that are whole or
    /// refused.
    pub const fn first(bytes: u64) -> Self {
        Self {
            head: bytes,
            tail: Tail::EachChannel(0),
        }
    }

    /// Splits `bytes` of each channel evenly between head and tail.
    pub const fn both_ends(bytes: u64) -> Self {
        Self {
            head: bytes - bytes / 2,
            tail: Tail::EachChannel(bytes / 2),
        }
    }

    /// Keeps the newest `bytes` of all channels together.
    pub const fn newest(bytes: u64) -> Self {
        Self {
            head: 0,
            tail: Tail::Together(bytes),
        }
    }

    /// Keeps everything until it is released.
    pub const fn all() -> Self {
        Self {
            head: 0,
            tail: Tail::All,
        }
    }
}

/// What was kept of a channel, put together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Kept {
    /// The first bytes; all of them when nothing was dropped.
    pub head: Bytes,
    /// The last bytes, empty unless something was dropped.
    pub tail: Bytes,
    /// Bytes between them that were counted and dropped.
    pub omitted: u64,
}

/// What a channel carried until the log was sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelTotals {
    /// Bytes written.
    pub total: u64,
    /// blake3 of those bytes.
    pub digest: blake3::Hash,
}

/// The totals of every channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Of those that carried something, in the order of the channels: most commands use one or none, and thousands of
    /// ends are remembered.
    used: Vec<(Channel, ChannelTotals)>,
}

/// Of a channel that carried nothing.
static NOTHING: LazyLock<ChannelTotals> = LazyLock::new(|| ChannelTotals {
    total: 0,
    digest: blake3::hash(b""),
});

impl Totals {
    pub(super) fn new(used: impl Iterator<Item = (Channel, ChannelTotals)>) -> Self {
        Self { used: used.collect() }
    }

    /// Of channels that carried these bytes and no others.
    pub fn of(carried: &[(Channel, &[u8])]) -> Self {
        let mut log = Log::new(Keep::first(0));
        for (channel, bytes) in carried {
            log.append(*channel, Bytes::copy_from_slice(bytes), 0);
        }
        log.totals()
    }
}

impl Index<Channel> for Totals {
    type Output = ChannelTotals;

    fn index(&self, channel: Channel) -> &ChannelTotals {
        let used = self.used.iter().find(|(used, _)| *used == channel);
        used.map_or_else(|| &*NOTHING, |(_, totals)| totals)
    }
}

impl Kept {
    pub(super) fn of(shelf: &Shelf, keep: Keep) -> Self {
        let (head, tail) = shelf.parts();
        let tail_limit = match keep.tail {
            Tail::EachChannel(bytes) | Tail::Together(bytes) => bytes,
            Tail::All => u64::MAX,
        };
        if shelf.hole().is_none() && shelf.end() <= keep.head.saturating_add(tail_limit) {
            return Self {
                head: join(head.chain(tail).filter_map(memory).cloned().collect()),
                ..Self::default()
            };
        }
        let mut left = keep.head;
        let head = join(
            head.filter_map(memory)
                .map(|bytes| cut(bytes, &mut left, End::First))
                .collect(),
        );
        let mut left = tail_limit;
        let mut last: Vec<Bytes> = tail
            .rev()
            .filter_map(memory)
            .map(|bytes| cut(bytes, &mut left, End::Last))
            .collect();
        last.reverse();
        let tail = join(last);
        let omitted = shelf.end() - (head.len() + tail.len()) as u64;
        Self { head, tail, omitted }
    }
}

fn memory(record: &Record<Stored>) -> Option<&Bytes> {
    match &record.bytes {
        Stored::Memory(bytes) => Some(bytes),
        Stored::Spilled(_) => None,
    }
}

/// Which end of some bytes stays.
#[derive(Debug, Clone, Copy)]
enum End {
    First,
    Last,
}

/// At most `left` of the bytes, which is lowered by what was taken.
fn cut(bytes: &Bytes, left: &mut u64, end: End) -> Bytes {
    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
    *left -= taken as u64;
    match end {
        End::First => bytes.slice(..taken),
        End::Last => bytes.slice(bytes.len() - taken..),
    }
}

fn join(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() < 2 {
        return pieces.pop().unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in &pieces {
        all.extend_from_slice(piece);
    }
    all.freeze()
}
