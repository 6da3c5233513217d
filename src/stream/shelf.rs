//! What is kept of one channel: its first records, its last records, and the count of what lay between.
//!
//! ```text
//!   head [ 1 | 2 | 4 ]   hole { 5..=9, bytes }   tail [ 10 | 11 | 13 ]
//!                                                       `-- spilled --'`-- in memory
//! ```

use std::collections::VecDeque;

use bytes::Bytes;

use super::record::{Record, Spilled, Stored};

/// Records of one channel by age.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    head: Vec<Record<Stored>>,
    head_bytes: u64,
    tail: VecDeque<Record<Stored>>,
    tail_bytes: u64,
    /// Records at the beginning of the tail whose bytes are not in memory.
    spilled: usize,
    hole: Option<Hole>,
}

/// What was dropped between head and tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) bytes: u64,
}

impl Shelf {
    /// Bytes that still fit into a head of `limit`; none once anything lies behind it.
    pub(super) fn head_room(&self, limit: u64) -> u64 {
        if self.tail.is_empty() && self.hole.is_none() {
            limit.saturating_sub(self.head_bytes)
        } else {
            0
        }
    }

    /// Offset of the next byte of the channel among those that have a number.
    pub(super) fn end(&self) -> u64 {
        self.hole_end() + self.tail_bytes
    }

    /// Offset of the first byte that was dropped, when any was.
    pub(super) fn hole_begin(&self) -> u64 {
        self.head_bytes
    }

    /// Offset of the first byte behind the hole.
    pub(super) fn hole_end(&self) -> u64 {
        self.head_bytes + self.hole.map_or(0, |hole| hole.bytes)
    }

    pub(super) fn hole(&self) -> Option<Hole> {
        self.hole
    }

    pub(super) fn push_head(&mut self, record: Record<Stored>) {
        self.head_bytes += record.bytes.len();
        self.head.push(record);
    }

    pub(super) fn push_tail(&mut self, record: Record<Stored>) {
        self.tail_bytes += record.bytes.len();
        self.tail.push_back(record);
    }

    /// Bytes of the tail.
    pub(super) fn tail_bytes(&self) -> u64 {
        self.tail_bytes
    }

    /// The oldest record of the tail.
    pub(super) fn oldest(&self) -> Option<&Record<Stored>> {
        self.tail.front()
    }

    /// Drops the oldest record of the tail and counts it; answers the bytes that this took out of memory.
    pub(super) fn drop_oldest(&mut self) -> u64 {
        let Some(record) = self.tail.pop_front() else {
            return 0;
        };
        let length = record.bytes.len();
        self.tail_bytes -= length;
        let hole = self.hole.get_or_insert(Hole {
            from: record.seq,
            to: record.seq,
            bytes: 0,
        });
        hole.to = record.seq;
        hole.bytes += length;
        if self.spilled > 0 {
            self.spilled -= 1;
            return 0;
        }
        length
    }

    /// The oldest record of the tail whose bytes are in memory, behind the first `skip` of those.
    pub(super) fn in_memory(&self, skip: usize) -> Option<(u64, &Bytes)> {
        let record = self.tail.get(self.spilled + skip)?;
        match &record.bytes {
            Stored::Memory(bytes) => Some((record.seq, bytes)),
            Stored::Spilled(_) => None,
        }
    }

    /// The bytes of record `seq` are elsewhere now; answers how many left memory. One that was dropped meanwhile, or is
    /// not the oldest in memory, stays as it is.
    pub(super) fn spill(&mut self, seq: u64, spilled: Spilled) -> u64 {
        let Some(record) = self.tail.get_mut(self.spilled).filter(|record| record.seq == seq) else {
            return 0;
        };
        let length = record.bytes.len();
        record.bytes = Stored::Spilled(spilled);
        self.spilled += 1;
        length
    }

    /// Records from sequence `seq` on, oldest first.
    pub(super) fn from(&self, seq: u64) -> impl Iterator<Item = &Record<Stored>> {
        let head = self.head.partition_point(|record| record.seq < seq);
        let tail = self.tail.partition_point(|record| record.seq < seq);
        self.head[head..].iter().chain(self.tail.range(tail..))
    }

    /// Sequence of the first record that ends behind `offset`.
    pub(super) fn record_at(&self, offset: u64) -> Option<u64> {
        let ends_before = |record: &Record<Stored>| record.offset + record.bytes.len() <= offset;
        let head = self.head.partition_point(ends_before);
        let tail = self.tail.partition_point(ends_before);
        let record = self.head.get(head).or_else(|| self.tail.get(tail));
        record.map(|record| record.seq)
    }

    /// Takes no more room than its records need.
    pub(super) fn shrink(&mut self) {
        self.head.shrink_to_fit();
        self.tail.shrink_to_fit();
    }

    /// Head and tail.
    pub(super) fn parts(
        &self,
    ) -> (
        impl DoubleEndedIterator<Item = &Record<Stored>>,
        impl DoubleEndedIterator<Item = &Record<Stored>>,
    ) {
        (self.head.iter(), self.tail.iter())
    }
}
