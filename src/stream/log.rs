//! The numbered output log of one process.
//!
//! Every byte a process writes becomes part of a [`Record`] with one sequence over all channels and a byte offset
//! within its channel. How much stays is the business of [`Keep`]; what does not is counted and shows as a [`super::record::Gap`].
//! [`Log::totals`] gives the number and the blake3 digest of everything that was written, kept or not.
//!
//! ```text
//!            append              append              append
//!   head [ 1 | 2 | 4 ]   gap { 5..=9, bytes }   tail [ 10 | 11 | 13 ]   next_seq = 14
//! ```
//!
//! Small appends are gathered per channel in `pending` until the other channel writes in a later millisecond, it
//! grows, or somebody reads: a program that writes byte by byte costs its bytes, not a record for each.

use bytes::{Bytes, BytesMut};

use super::cursor::Cursor;
use super::keep::{ChannelTotals, Keep, Kept, Tail, Totals};
use super::record::{Channel, Record, Spilled, Stored};
use super::shelf::Shelf;

/// Appends below this are gathered; larger ones are kept as they are, without a copy.
const GATHER_BELOW: usize = 4 * 1024;
/// A gathered record is closed at this size.
const GATHER_LIMIT: usize = 32 * 1024;
/// Bytes of one record unless something smaller was asked for.
pub const RECORD_LIMIT: usize = 128 * 1024;

/// The log of one process.
#[derive(Debug)]
pub struct Log {
    next_seq: u64,
    pub(super) shelves: [Shelf; Channel::COUNT],
    counts: [Count; Channel::COUNT],
    pending: [Option<Pending>; Channel::COUNT],
    keep: Keep,
    record_limit: usize,
    /// Bytes of tails that are in memory.
    in_memory: u64,
}

#[derive(Debug)]
struct Pending {
    channel: Channel,
    at_ms: u64,
    bytes: BytesMut,
}

#[derive(Debug, Default)]
struct Count {
    total: u64,
    digest: Digest,
}

/// The digest of what a channel carried.
#[derive(Debug, Default)]
enum Digest {
    /// It carried nothing.
    #[default]
    Empty,
    /// More may come. Boxed: a hasher is 2 KiB and most commands write to one channel or none.
    Open(Box<blake3::Hasher>),
    /// Nothing comes any more.
    Closed(blake3::Hash),
}

impl Digest {
    fn update(&mut self, bytes: &[u8]) {
        if matches!(self, Self::Empty) {
            *self = Self::Open(Box::default());
        }
        if let Self::Open(hasher) = self {
            hasher.update(bytes);
        }
    }

    fn value(&self) -> blake3::Hash {
        match self {
            Self::Empty => blake3::hash(b""),
            Self::Open(hasher) => hasher.finalize(),
            Self::Closed(digest) => *digest,
        }
    }
}

impl Log {
    /// An empty log that keeps this much.
    pub fn new(keep: Keep) -> Self {
        Self {
            next_seq: 1,
            shelves: Default::default(),
            counts: Default::default(),
            pending: Default::default(),
            keep,
            record_limit: RECORD_LIMIT,
            in_memory: 0,
        }
    }

    /// The same with records of at most `limit` bytes.
    #[must_use]
    pub fn with_record_limit(mut self, limit: usize) -> Self {
        self.record_limit = limit.clamp(1, RECORD_LIMIT);
        self
    }

    /// How much it keeps.
    pub fn keep(&self) -> Keep {
        self.keep
    }

    /// Adds bytes that arrived at `now_ms` (unix milliseconds). Empty bytes are nothing.
    pub fn append(&mut self, channel: Channel, mut bytes: Bytes, now_ms: u64) {
        if bytes.is_empty() {
            return;
        }
        let count = &mut self.counts[channel.index()];
        count.total += bytes.len() as u64;
        count.digest.update(&bytes);
        if bytes.len() < GATHER_BELOW.min(self.record_limit) {
            return self.gather(channel, &bytes, now_ms);
        }
        self.close_pending();
        while bytes.len() > self.record_limit {
            let piece = bytes.split_to(self.record_limit);
            self.push(channel, piece, now_ms);
        }
        self.push(channel, bytes, now_ms);
    }

    /// Adds a sign of life.
    pub fn mark(&mut self, now_ms: u64) {
        self.close_pending();
        let record = self.numbered(Channel::Progress, 0, now_ms, Bytes::new());
        self.shelves[Channel::Progress.index()].push_tail(record);
    }

    fn gather(&mut self, channel: Channel, bytes: &[u8], now_ms: u64) {
        // What the other channel began in an earlier millisecond comes first; within one, the order of two pipes cannot
        // be told anyway.
        let earlier = self
            .pending
            .iter()
            .flatten()
            .any(|other| other.channel != channel && other.at_ms < now_ms);
        let limit = GATHER_LIMIT.min(self.record_limit);
        let full = self.pending[channel.index()]
            .as_ref()
            .is_some_and(|pending| pending.bytes.len() + bytes.len() > limit);
        if earlier || full {
            self.close_pending();
        }
        let pending = self.pending[channel.index()].get_or_insert_with(|| Pending {
            channel,
            at_ms: now_ms,
            bytes: BytesMut::with_capacity(bytes.len()),
        });
        pending.bytes.extend_from_slice(bytes);
    }

    pub(super) fn close_pending(&mut self) {
        if self.pending.iter().all(Option::is_none) {
            return;
        }
        let mut pending = std::mem::take(&mut self.pending);
        pending.sort_by_key(|pending| pending.as_ref().map_or(u64::MAX, |pending| pending.at_ms));
        for pending in pending.into_iter().flatten() {
            self.push(pending.channel, pending.bytes.freeze(), pending.at_ms);
        }
    }

    fn numbered(&mut self, channel: Channel, offset: u64, at_ms: u64, bytes: Bytes) -> Record<Stored> {
        let seq = self.next_seq;
        self.next_seq += 1;
        Record {
            seq,
            channel,
            at_ms,
            offset,
            bytes: Stored::Memory(bytes),
        }
    }

    /// Files closed bytes under head or tail; they are split where the head is full.
    fn push(&mut self, channel: Channel, mut bytes: Bytes, at_ms: u64) {
        let index = channel.index();
        let room = self.shelves[index].head_room(self.keep.head);
        if room > 0 {
            let first = bytes.split_to(usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len()));
            let record = self.numbered(channel, self.shelves[index].end(), at_ms, first);
            self.shelves[index].push_head(record);
        }
        if !bytes.is_empty() {
            let record = self.numbered(channel, self.shelves[index].end(), at_ms, bytes);
            self.in_memory += record.bytes.len();
            self.shelves[index].push_tail(record);
            self.trim(channel);
        }
    }

    /// Drops what is not to be kept.
    fn trim(&mut self, channel: Channel) {
        match self.keep.tail {
            Tail::All => {}
            Tail::EachChannel(limit) => {
                let shelf = &mut self.shelves[channel.index()];
                while let Some(oldest) = shelf.oldest()
                    && shelf.tail_bytes() - oldest.bytes.len() >= limit
                {
                    self.in_memory -= shelf.drop_oldest();
                }
            }
            Tail::Together(limit) => while self.kept_bytes() > limit && self.drop_oldest() {},
        }
    }

    /// Drops the oldest record of all tails; says whether there was one.
    fn drop_oldest(&mut self) -> bool {
        let oldest = self
            .shelves
            .iter_mut()
            .filter(|shelf| shelf.oldest().is_some())
            .min_by_key(|shelf| shelf.oldest().map(|record| record.seq));
        let Some(shelf) = oldest else { return false };
        self.in_memory -= shelf.drop_oldest();
        true
    }

    fn kept_bytes(&self) -> u64 {
        self.shelves.iter().map(Shelf::tail_bytes).sum()
    }

    fn pending_bytes(&self) -> u64 {
        let pending = self.pending.iter().flatten();
        pending.map(|pending| pending.bytes.len() as u64).sum()
    }

    /// Lets go of every record of the tails up to `seq`.
    pub fn release(&mut self, seq: u64) {
        for shelf in &mut self.shelves {
            while shelf.oldest().is_some_and(|record| record.seq <= seq) {
                self.in_memory -= shelf.drop_oldest();
            }
        }
    }

    /// Lets go of the oldest records, of those up to `seq` only, until at most `bytes` are kept; answers the last one that
    /// went.
    pub fn release_down_to(&mut self, bytes: u64, seq: u64) -> Option<u64> {
        let mut last = None;
        while self.retained() > bytes {
            let oldest = self
                .shelves
                .iter()
                .filter_map(Shelf::oldest)
                .map(|record| record.seq)
                .min();
            let Some(oldest) = oldest.filter(|oldest| *oldest <= seq) else {
                break;
            };
            self.drop_oldest();
            last = Some(oldest);
        }
        last
    }

    /// Bytes that are kept behind the heads, gathered ones among them.
    pub fn retained(&self) -> u64 {
        self.kept_bytes() + self.pending_bytes()
    }

    /// Bytes behind record `seq`, kept or not.
    pub fn behind(&self, seq: u64) -> u64 {
        let behind = |shelf: &Shelf| {
            let next = shelf.from(seq + 1).next();
            next.map_or(0, |record| shelf.end() - record.offset)
        };
        self.shelves.iter().map(behind).sum::<u64>() + self.pending_bytes()
    }

    /// Bytes of tails that are in memory, gathered ones among them.
    pub fn in_memory(&self) -> u64 {
        self.in_memory + self.pending_bytes()
    }

    /// The oldest records that are in memory, so many that at most `keep` bytes stay there; empty when that is so already.
    pub fn excess(&self, keep: u64) -> Vec<(u64, Channel, Bytes)> {
        let (mut left, mut skip, mut excess) = (self.in_memory, [0; Channel::COUNT], Vec::new());
        while left > keep {
            let oldest = Channel::ALL.into_iter().filter_map(|channel| {
                let (seq, bytes) = self.shelves[channel.index()].in_memory(skip[channel.index()])?;
                Some((seq, channel, bytes))
            });
            let Some((seq, channel, bytes)) = oldest.min_by_key(|(seq, ..)| *seq) else {
                break;
            };
            skip[channel.index()] += 1;
            left -= bytes.len() as u64;
            excess.push((seq, channel, bytes.clone()));
        }
        excess
    }

    /// The bytes of a record of [`Log::excess`] are elsewhere now. To be called in the order in which they were given.
    pub fn spilled(&mut self, seq: u64, channel: Channel, spilled: Spilled) {
        self.in_memory -= self.shelves[channel.index()].spill(seq, spilled);
    }

    /// The sequence that the next record, or the end record, will get.
    pub fn next_seq(&mut self) -> u64 {
        self.close_pending();
        self.next_seq
    }

    /// What was kept of a channel, put together: all of it, or the first and the last bytes as far as `keep` goes.
    /// Spilled bytes are not among them.
    pub fn kept(&mut self, channel: Channel, keep: Keep) -> Kept {
        self.close_pending();
        Kept::of(&self.shelves[channel.index()], keep)
    }

    /// The position of a reader that has the first `offset` bytes of `channel` and reads nothing else. The first record it
    /// gets may begin before them.
    pub fn cursor_at(&mut self, channel: Channel, offset: u64) -> Cursor {
        self.close_pending();
        let seq = self.shelves[channel.index()]
            .record_at(offset)
            .unwrap_or(self.next_seq);
        Cursor::at(seq - 1, channel, offset)
    }

    /// Totals and digest of every channel so far.
    pub fn totals(&self) -> Totals {
        let used = Channel::ALL.into_iter().zip(&self.counts);
        let used = used.filter(|(_, count)| count.total > 0);
        Totals::new(used.map(|(channel, count)| {
            let totals = ChannelTotals {
                total: count.total,
                digest: count.digest.value(),
            };
            (channel, totals)
        }))
    }

    /// Nothing is added any more: what only a growing log needs is given up.
    pub fn finish(&mut self) {
        self.close_pending();
        for count in &mut self.counts {
            if matches!(count.digest, Digest::Open(_)) {
                count.digest = Digest::Closed(count.digest.value());
            }
        }
        self.shelves.iter_mut().for_each(Shelf::shrink);
    }

    /// Bytes written to all channels so far.
    pub fn written(&self) -> u64 {
        self.counts.iter().map(|count| count.total).sum()
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
