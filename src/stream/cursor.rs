//! Where a reader stands in a log. Each reader has its own, so that none of them delays another.

use super::record::Channel;
use super::shelf::{Hole, Shelf};

/// A reader's position: the last record that it saw, and how far it is in each channel.
///
/// A reader that only knows a sequence (it comes back after a disconnect) learns its offsets at its first read. When that
/// sequence lies in what was dropped, what it has of it is not known any more: then the whole of what was dropped is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Sequence of the last record that was read.
    pub seq: u64,
    /// Offset of the next byte wanted of each channel.
    offsets: Option<[u64; Channel::COUNT]>,
    /// The channels that are read.
    channels: [bool; Channel::COUNT],
}

impl Cursor {
    /// Before the first record, over all channels.
    pub fn start() -> Self {
        Self {
            seq: 0,
            offsets: Some([0; Channel::COUNT]),
            channels: [true; Channel::COUNT],
        }
    }

    /// Behind the record `seq`.
    pub fn after(seq: u64) -> Self {
        Self {
            seq,
            offsets: (seq == 0).then_some([0; Channel::COUNT]),
            channels: [true; Channel::COUNT],
        }
    }

    /// Behind the record `seq` and the first `offset` bytes of `channel`, over that channel alone.
    pub(super) fn at(seq: u64, channel: Channel, offset: u64) -> Self {
        let mut offsets = [0; Channel::COUNT];
        offsets[channel.index()] = offset;
        Self {
            offsets: Some(offsets),
            ..Self::after(seq).only(&[channel])
        }
    }

    /// The same for these channels only.
    #[must_use]
    pub fn only(mut self, channels: &[Channel]) -> Self {
        self.channels = Channel::ALL.map(|channel| channels.contains(&channel));
        self
    }

    pub(super) fn reads(&self, channel: Channel) -> bool {
        self.channels[channel.index()]
    }

    /// How far this reader is in each channel.
    pub(super) fn offsets(&mut self, shelves: &[Shelf; Channel::COUNT]) -> &mut [u64; Channel::COUNT] {
        let seq = self.seq;
        self.offsets
            .get_or_insert_with(|| shelves.each_ref().map(|shelf| offset_behind(shelf, seq)))
    }
}

/// The offset of the first byte behind record `seq`, or of the hole when that record lies in it.
fn offset_behind(shelf: &Shelf, seq: u64) -> u64 {
    match shelf.hole() {
        Some(Hole { to, .. }) if seq < to => shelf
            .from(seq + 1)
            .next()
            .map_or(shelf.hole_begin(), |record| record.offset.min(shelf.hole_begin())),
        _ => shelf
            .from(seq + 1)
            .next()
            .map_or(shelf.end(), |record| record.offset),
    }
}
