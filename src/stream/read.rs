//! Reading a log: records of all channels merged by their sequence, gaps where something is missing.

use super::cursor::Cursor;
use super::log::Log;
use super::record::{Channel, Gap, Item, Stored};
use super::shelf::Shelf;

impl Log {
    /// What stands behind `cursor`, in order, about `max` bytes and at least one item of it; nothing when there is
    /// nothing new. Moves the cursor.
    pub fn read(&mut self, cursor: &mut Cursor, max: u64) -> Vec<Item<Stored>> {
        self.close_pending();
        let mut offsets = *cursor.offsets(&self.shelves);
        let seq = cursor.seq;
        let mut ways = Channel::ALL.map(|channel| {
            let wanted = cursor.reads(channel);
            self.shelves[channel.index()]
                .from(if wanted { seq + 1 } else { u64::MAX })
                .peekable()
        });
        let (mut items, mut bytes) = (Vec::new(), 0);
        loop {
            let next = Channel::ALL.into_iter().filter_map(|channel| {
                let record = ways[channel.index()].peek()?;
                Some((record.seq, channel))
            });
            let next = next.min().map(|(_, channel)| channel);
            // Told before anything that lies behind where it begins.
            let missing = Channel::ALL.into_iter().find(|channel| {
                let hole_end = self.shelves[channel.index()].hole_end();
                let next = ways[channel.index()].peek();
                cursor.reads(*channel)
                    && offsets[channel.index()] < hole_end
                    && next.is_none_or(|record| record.offset >= hole_end)
            });
            if let Some(channel) = missing {
                let shelf = &self.shelves[channel.index()];
                items.push(Item::Gap(gap(
                    channel,
                    shelf,
                    offsets[channel.index()],
                    cursor.seq,
                )));
                offsets[channel.index()] = shelf.hole_end();
                continue;
            }
            let Some(channel) = next else { break };
            if bytes >= max && !items.is_empty() {
                break;
            }
            let Some(record) = ways[channel.index()].next() else {
                break;
            };
            offsets[channel.index()] = record.offset + record.bytes.len();
            cursor.seq = record.seq;
            bytes += record.bytes.len();
            items.push(Item::Record(record.clone()));
        }
        *cursor.offsets(&self.shelves) = offsets;
        items
    }
}

/// What a reader at `offset` misses of a channel, whose last record was `seen`.
fn gap(channel: Channel, shelf: &Shelf, offset: u64, seen: u64) -> Gap {
    let (from, to) = shelf.hole().map_or((seen + 1, seen), |hole| (hole.from, hole.to));
    Gap {
        channel,
        from: if offset == shelf.hole_begin() {
            from
        } else {
            seen + 1
        },
        to,
        bytes: shelf.hole_end() - offset,
    }
}
