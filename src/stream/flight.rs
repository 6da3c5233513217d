//! Payload that was sent and not acknowledged, in bounded memory.
//!
//! Up to [`MOST`] frames each is known by itself. A client that never acknowledges and only grows its credit may have
//! more of them: then neighbours are counted together, in grains of a few thousandths of what is unacknowledged. An
//! acknowledgement of a part of a grain counts as one of the whole: slightly too much in flight harms nobody, too
//! little could stall a client that acknowledges only when its window is used up to the last byte.

use std::collections::VecDeque;

/// Entries kept: 1 MiB of memory, for the one client in thousands that comes so far.
const MOST: usize = 64 * 1024;
/// Entries left at least after neighbours were put together.
const GRAINS: usize = MOST / 4;

/// What is in flight.
#[derive(Debug, Default)]
pub(super) struct Flight {
    grains: VecDeque<Grain>,
    bytes: u64,
}

/// One frame, or neighbours that are counted together.
#[derive(Debug)]
struct Grain {
    /// Sequence of the first frame in it.
    first: u64,
    bytes: u64,
}

impl Flight {
    /// Payload bytes in flight.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A frame was sent; sequences only grow. One without payload leaves no trace.
    pub(super) fn sent(&mut self, seq: u64, payload: u64) {
        if payload == 0 {
            return;
        }
        self.grains.push_back(Grain {
            first: seq,
            bytes: payload,
        });
        self.bytes += payload;
        if self.grains.len() > MOST {
            self.coarsen();
        }
    }

    /// Everything up to `seq` arrived.
    pub(super) fn acked(&mut self, seq: u64) {
        while let Some(grain) = self.grains.front().filter(|grain| grain.first <= seq) {
            self.bytes -= grain.bytes;
            self.grains.pop_front();
        }
    }

    /// Nothing is in flight any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Puts neighbours together where they stay small beside the whole; about half of the entries are left at most.
    fn coarsen(&mut self) {
        let grain = self.bytes / GRAINS as u64;
        let mut coarse: VecDeque<Grain> = VecDeque::with_capacity(MOST);
        for next in self.grains.drain(..) {
            match coarse.back_mut() {
                Some(last) if last.bytes + next.bytes <= grain => last.bytes += next.bytes,
                _ => coarse.push_back(next),
            }
        }
        self.grains = coarse;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_frame_counts_until_it_is_acknowledged() {
        let mut flight = Flight::default();
        for (seq, payload) in [(1, 10), (2, 0), (3, 5), (4, 1)] {
            flight.sent(seq, payload);
        }
        for (acked, left) in [(0, 16), (1, 6), (2, 6), (3, 1), (3, 1), (9, 0)] {
            flight.acked(acked);
            assert_eq!(flight.bytes(), left, "after the acknowledgement of {acked}");
        }
    }

    #[test]
    fn a_client_that_never_acknowledges_costs_bounded_memory_and_loses_little_precision() {
        let mut flight = Flight::default();
        // Lines of terminal size, with a large frame now and then.
        let payload = |seq: u64| {
            if seq.is_multiple_of(1000) {
                128 * 1024
            } else {
                1 + seq % 80
            }
        };
        let frames = 5 * MOST as u64;
        let mut sent = 0;
        for seq in 1..=frames {
            flight.sent(seq, payload(seq));
            sent += payload(seq);
            assert_eq!(flight.bytes(), sent);
            assert!(flight.grains.len() <= MOST);
        }
        let mut left = sent;
        for seq in 1..=frames {
            left -= payload(seq);
            flight.acked(seq);
            assert!(flight.bytes() <= left, "never more than there is");
            assert!(
                left - flight.bytes() <= sent / GRAINS as u64,
                "off by a grain at most"
            );
        }
        assert_eq!(flight.bytes(), 0);
    }
}
