//! The numbered output log of one process.
//!
//! Every byte a process writes becomes part of a [`Record`] with one sequence over all channels and a byte offset
//! within its channel. Per channel the first and the last bytes are kept up to [`Keep`]; what lies between is counted
//! and shows as one [`Item::Gap`]. Sealing gives the totals and the blake3 digest of everything that was written,
//! kept or not.
//!
//! ```text
//!            append              append              append
//!   head [ 1 | 2 | 4 ]   gap { 5..=9, bytes }   tail [ 10 | 11 | 13 ]   next_seq = 14
//! ```
//!
//! Small appends are gathered per channel in `pending` until the other channel writes in a later millisecond, it
//! grows, or somebody reads: a program that writes byte by byte costs its bytes, not a record for each.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// Appends below this are gathered; larger ones are kept as they are, without a copy.
const GATHER_BELOW: usize = 4 * 1024;
/// A gathered record is closed at this size.
const GATHER_LIMIT: usize = 32 * 1024;

/// Where the bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Channel {
    /// Both, in the order that tables use.
    pub const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    fn index(self) -> usize {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
        }
    }
}

/// How many bytes of each channel are kept: the first `head` and the last `tail` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Bytes kept from the beginning of the channel.
    pub head: u64,
    /// Bytes kept from the end of the channel.
    pub tail: u64,
}

impl Keep {
    /// Keeps `bytes` from the beginning and nothing of what comes later: for answers that are whole or refused.
    pub fn first(bytes: u64) -> Self {
        Self { head: bytes, tail: 0 }
    }

    /// Splits `bytes` evenly between head and tail.
    pub fn both_ends(bytes: u64) -> Self {
        Self {
            head: bytes - bytes / 2,
            tail: bytes / 2,
        }
    }
}

/// Some bytes of one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Position in the process's one sequence, from 1.
    pub seq: u64,
    /// The channel.
    pub channel: Channel,
    /// When the first of the bytes arrived, unix milliseconds.
    pub at_ms: u64,
    /// Offset of the first byte within its channel.
    pub offset: u64,
    /// The bytes, never empty.
    pub bytes: Bytes,
}

/// What a reader gets next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Bytes.
    Record(Record),
    /// Bytes of a channel that were counted and dropped.
    Gap {
        /// The channel.
        channel: Channel,
        /// Sequence of the first record that is missing.
        from: u64,
        /// Sequence of the last record that is missing (others of another channel may lie between).
        to: u64,
        /// How many bytes are missing.
        bytes: u64,
    },
}

/// What was kept of one channel, put together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    /// The first bytes; all of them when nothing was dropped.
    pub head: Bytes,
    /// The last bytes, empty unless something was dropped.
    pub tail: Bytes,
    /// Bytes between them that were counted and dropped.
    pub omitted: u64,
}

/// What a channel carried until the log was sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelTotals {
    /// Bytes written.
    pub total: u64,
    /// blake3 of those bytes.
    pub digest: blake3::Hash,
}

/// The log of one process.
#[derive(Debug)]
pub struct Log {
    next_seq: u64,
    channels: [ChannelLog; 2],
    pending: [Option<Pending>; 2],
    keep: Keep,
}

#[derive(Debug)]
struct Pending {
    channel: Channel,
    at_ms: u64,
    bytes: BytesMut,
}

#[derive(Debug, Default)]
struct ChannelLog {
    total: u64,
    /// Boxed: a hasher is 2 KiB and most commands write to one channel or none.
    hasher: Option<Box<blake3::Hasher>>,
    head: Vec<Record>,
    head_bytes: u64,
    tail: VecDeque<Record>,
    tail_bytes: u64,
    gap: Option<Gap>,
}

#[derive(Debug, Clone, Copy)]
struct Gap {
    from: u64,
    to: u64,
    bytes: u64,
}

impl Log {
    /// An empty log that keeps this much of each channel.
    pub fn new(keep: Keep) -> Self {
        Self {
            next_seq: 1,
            channels: [ChannelLog::default(), ChannelLog::default()],
            pending: [None, None],
            keep,
        }
    }

    /// Adds bytes that arrived at `now_ms` (unix milliseconds). Empty bytes are nothing.
    pub fn append(&mut self, channel: Channel, bytes: Bytes, now_ms: u64) {
        if bytes.is_empty() {
            return;
        }
        let log = &mut self.channels[channel.index()];
        log.total += bytes.len() as u64;
        log.hasher.get_or_insert_with(Box::default).update(&bytes);
        if bytes.len() < GATHER_BELOW {
            self.gather(channel, &bytes, now_ms);
        } else {
            self.close_pending();
            self.push(channel, bytes, now_ms);
        }
    }

    fn gather(&mut self, channel: Channel, bytes: &[u8], now_ms: u64) {
        // What the other channel began in an earlier millisecond comes first; within one, the order of two pipes cannot
        // be told anyway.
        let earlier = self
            .pending
            .iter()
            .flatten()
            .any(|other| other.channel != channel && other.at_ms < now_ms);
        let full = self.pending[channel.index()]
            .as_ref()
            .is_some_and(|pending| pending.bytes.len() + bytes.len() > GATHER_LIMIT);
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

    fn close_pending(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        pending.sort_by_key(|pending| pending.as_ref().map_or(u64::MAX, |pending| pending.at_ms));
        for pending in pending.into_iter().flatten() {
            self.push(pending.channel, pending.bytes.freeze(), pending.at_ms);
        }
    }

    /// Files closed bytes under head, tail or gap; they are split where the head is full.
    fn push(&mut self, channel: Channel, mut bytes: Bytes, at_ms: u64) {
        let keep = self.keep;
        let log = &mut self.channels[channel.index()];
        let room = keep.head.saturating_sub(log.head_bytes);
        if room > 0 && log.gap.is_none() && log.tail.is_empty() {
            let first = bytes.split_to(usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len()));
            let record = Record {
                seq: self.next_seq,
                channel,
                at_ms,
                offset: log.head_bytes,
                bytes: first,
            };
            self.next_seq += 1;
            log.head_bytes += record.bytes.len() as u64;
            log.head.push(record);
        }
        if !bytes.is_empty() {
            let offset = log.head_bytes + log.gap.map_or(0, |gap| gap.bytes) + log.tail_bytes;
            log.tail_bytes += bytes.len() as u64;
            log.tail.push_back(Record {
                seq: self.next_seq,
                channel,
                at_ms,
                offset,
                bytes,
            });
            self.next_seq += 1;
            log.trim_tail(keep.tail);
        }
    }

    /// The sequence that the next record, or the end record, will get.
    pub fn next_seq(&mut self) -> u64 {
        self.close_pending();
        self.next_seq
    }

    /// What is kept, from sequence `from` on, in order; a gap stands where its first missing record was.
    pub fn read_from(&mut self, from: u64) -> Vec<Item> {
        self.close_pending();
        // A gap sorts before a record of the same sequence: that record lost its first bytes to it.
        let mut items: Vec<((u64, bool), Item)> = Vec::new();
        for (channel, log) in Channel::ALL.into_iter().zip(&self.channels) {
            let records = log
                .head
                .iter()
                .chain(&log.tail)
                .filter(|record| record.seq >= from);
            items.extend(records.map(|record| ((record.seq, true), Item::Record(record.clone()))));
            if let Some(gap) = log.gap.filter(|gap| gap.to >= from) {
                items.push((
                    (gap.from, false),
                    Item::Gap {
                        channel,
                        from: gap.from,
                        to: gap.to,
                        bytes: gap.bytes,
                    },
                ));
            }
        }
        items.sort_by_key(|(position, _)| *position);
        items.into_iter().map(|(_, item)| item).collect()
    }

    /// What was kept of a channel, put together.
    pub fn kept(&mut self, channel: Channel) -> Kept {
        self.close_pending();
        let log = &self.channels[channel.index()];
        let (head, tail) = (join(log.head.iter()), join(log.tail.iter()));
        match log.gap {
            Some(gap) => Kept {
                head,
                tail,
                omitted: gap.bytes,
            },
            None if tail.is_empty() => Kept {
                head,
                tail,
                omitted: 0,
            },
            None => Kept {
                head: join(log.head.iter().chain(&log.tail)),
                tail: Bytes::new(),
                omitted: 0,
            },
        }
    }

    /// Totals and digest of a channel so far.
    pub fn totals(&self, channel: Channel) -> ChannelTotals {
        let log = &self.channels[channel.index()];
        let digest = log
            .hasher
            .as_ref()
            .map_or_else(|| blake3::hash(b""), |hasher| hasher.finalize());
        ChannelTotals {
            total: log.total,
            digest,
        }
    }
}

impl ChannelLog {
    /// Drops the oldest of the tail until at most `limit` bytes are left, and counts what went.
    fn trim_tail(&mut self, limit: u64) {
        while self.tail_bytes > limit {
            let excess = self.tail_bytes - limit;
            let Some(oldest) = self.tail.front_mut() else {
                return;
            };
            let seq = oldest.seq;
            let dropped = excess.min(oldest.bytes.len() as u64);
            if dropped == oldest.bytes.len() as u64 {
                self.tail.pop_front();
            } else {
                oldest.bytes.advance(dropped as usize);
                oldest.offset += dropped;
            }
            self.tail_bytes -= dropped;
            let gap = self.gap.get_or_insert(Gap {
                from: seq,
                to: seq,
                bytes: 0,
            });
            gap.to = seq;
            gap.bytes += dropped;
        }
    }
}

fn join<'a>(records: impl Iterator<Item = &'a Record> + Clone) -> Bytes {
    let mut rest = records.clone();
    match (rest.next(), rest.next()) {
        (None, _) => Bytes::new(),
        (Some(only), None) => only.bytes.clone(),
        _ => {
            let size = records.clone().map(|record| record.bytes.len()).sum();
            let mut all = BytesMut::with_capacity(size);
            records.for_each(|record| all.extend_from_slice(&record.bytes));
            all.freeze()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(chunks: &[(bool, Vec<u8>)], channel: Channel) -> Vec<u8> {
        let wanted = channel == Channel::Stderr;
        chunks
            .iter()
            .filter(|(stderr, _)| *stderr == wanted)
            .flat_map(|(_, bytes)| bytes.clone())
            .collect()
    }

    proptest! {
        #[test]
        fn head_tail_gap_and_digest_account_for_every_byte(
            head in 0_u64..6000, tail in 0_u64..6000,
            chunks in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..5000)), 0..12),
        ) {
            let mut log = Log::new(Keep { head, tail });
            for (stderr, bytes) in &chunks {
                let channel = if *stderr { Channel::Stderr } else { Channel::Stdout };
                log.append(channel, Bytes::copy_from_slice(bytes), 1);
            }
            for channel in Channel::ALL {
                let all = written(&chunks, channel);
                let kept = log.kept(channel);
                let totals = log.totals(channel);
                prop_assert_eq!(totals.total, all.len() as u64);
                prop_assert_eq!(totals.digest, blake3::hash(&all));
                prop_assert_eq!(kept.head.len() as u64 + kept.omitted + kept.tail.len() as u64, all.len() as u64);
                prop_assert!(all.starts_with(&kept.head) && all.ends_with(&kept.tail));
                prop_assert_eq!(kept.omitted, (all.len() as u64).saturating_sub(head + tail));
            }
        }

        #[test]
        fn sequences_and_offsets_have_no_hole_but_the_gap(
            keep in 0_u64..3000,
            chunks in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 1..5000)), 1..12),
        ) {
            let mut log = Log::new(Keep::both_ends(keep));
            for (stderr, bytes) in &chunks {
                let channel = if *stderr { Channel::Stderr } else { Channel::Stdout };
                log.append(channel, Bytes::copy_from_slice(bytes), 1);
            }
            let next = log.next_seq();
            let items = log.read_from(0);
            let mut offsets = [0_u64; 2];
            let mut covered = std::collections::BTreeSet::new();
            for item in items {
                match item {
                    Item::Record(record) => {
                        prop_assert_eq!(record.offset, offsets[record.channel.index()]);
                        offsets[record.channel.index()] += record.bytes.len() as u64;
                        prop_assert!(covered.insert(record.seq) || keep > 0);
                    }
                    Item::Gap { channel, from, to, bytes } => {
                        offsets[channel.index()] += bytes;
                        covered.extend(from..=to);
                    }
                }
            }
            prop_assert_eq!(covered.into_iter().collect::<Vec<_>>(), (1..next).collect::<Vec<_>>());
        }
    }

    #[test]
    fn byte_by_byte_output_is_gathered() {
        let mut log = Log::new(Keep::first(1 << 20));
        for _ in 0..100_000 {
            log.append(Channel::Stdout, Bytes::from_static(b"x"), 5);
        }
        assert!(log.next_seq() < 10, "{} records", log.next_seq());
        assert_eq!(log.kept(Channel::Stdout).head.len(), 100_000);
    }

    #[test]
    fn alternating_bytes_are_gathered_and_the_order_across_milliseconds_is_kept() {
        let mut log = Log::new(Keep::first(1 << 20));
        for step in 0..100_000 {
            log.append(
                Channel::ALL[step % 2],
                Bytes::from_static(b"x"),
                step as u64 / 10_000,
            );
        }
        assert!(log.next_seq() < 50, "{} records", log.next_seq());
        let mut log = Log::new(Keep::first(100));
        for (at, channel) in [(1, Channel::Stderr), (2, Channel::Stdout), (3, Channel::Stderr)] {
            log.append(channel, Bytes::from_static(b"x"), at);
        }
        let order = log.read_from(0).into_iter().map(|item| match item {
            Item::Record(record) => record.channel,
            Item::Gap { channel, .. } => channel,
        });
        assert_eq!(
            order.collect::<Vec<_>>(),
            [Channel::Stderr, Channel::Stdout, Channel::Stderr]
        );
    }
}
