//! Which of the numbered pieces of a whole have come, in whatever order: what is to be done with one that comes, and when
//! none is missing. Pure: where the pieces are put is the affair of the caller, who says when a piece is there.
//!
//! ```text
//!   unknown --come--> busy --put--> there        a piece that is busy or there is not taken again: the first one wins
//!      ^-----failed----/
//! ```

use std::collections::{BTreeMap, BTreeSet};

/// How many runs of pieces may have gaps between them; it bounds what a peer that sends every other piece can cost.
const RUNS: usize = 64 * 1024;

/// What has come of one whole.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// The pieces that are there: the first and the last of each run.
    there: BTreeMap<u64, u64>,
    /// The pieces that are being put there.
    busy: BTreeSet<u64>,
    /// The last piece of all, once it is known.
    last: Option<u64>,
}

/// What is to be done with a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Arrival {
    /// Put it where it belongs, then say [`Arrivals::put`] or [`Arrivals::failed`].
    Fresh,
    /// The same one is being put there: wait for what comes of that, and ask again.
    Busy,
    /// It is there already.
    There,
    /// It does not fit to what has come, and changes nothing.
    Refused(&'static str),
}

impl Arrivals {
    /// Nothing has come.
    pub fn new() -> Self {
        Self::default()
    }

    /// The piece `seq` comes; `is_last` says that none is behind it.
    pub fn come(&mut self, seq: u64, is_last: bool) -> Arrival {
        if self.is_there(seq) {
            return Arrival::There;
        }
        if self.busy.contains(&seq) {
            return Arrival::Busy;
        }
        if seq == 0 {
            return Arrival::Refused("pieces are numbered from 1");
        }
        if self.last.is_some_and(|last| seq > last || is_last) {
            return Arrival::Refused("another piece was said to be the last");
        }
        if is_last && self.highest() > seq {
            return Arrival::Refused("it is said to be the last, and later ones have come");
        }
        if self.there.len() + self.busy.len() >= RUNS && !self.is_there(seq - 1) {
            return Arrival::Refused("too many pieces before it are missing");
        }
        self.busy.insert(seq);
        if is_last {
            self.last = Some(seq);
        }
        Arrival::Fresh
    }

    /// A fresh piece is where it belongs.
    pub fn put(&mut self, seq: u64) {
        if !self.busy.remove(&seq) {
            return;
        }
        let (mut first, mut last) = (seq, seq);
        if let Some((&before, &end)) = self.there.range(..seq).next_back()
            && end + 1 == seq
        {
            first = before;
        }
        if let Some(end) = seq.checked_add(1).and_then(|next| self.there.remove(&next)) {
            last = end;
        }
        self.there.insert(first, last);
    }

    /// A fresh piece could not be put where it belongs: it may come again.
    pub fn failed(&mut self, seq: u64) {
        if self.busy.remove(&seq) && self.last == Some(seq) {
            self.last = None;
        }
    }

    /// Whether every piece up to the last is there.
    pub fn are_complete(&self) -> bool {
        self.last.is_some_and(|last| self.there.get(&1) == Some(&last))
    }

    fn is_there(&self, seq: u64) -> bool {
        let run = self.there.range(..=seq).next_back();
        run.is_some_and(|(_, last)| seq <= *last)
    }

    fn highest(&self) -> u64 {
        let there = self.there.last_key_value().map_or(0, |(_, last)| *last);
        there.max(self.busy.last().copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pieces_come_in_any_order_and_the_first_of_each_wins() {
        let mut arrivals = Arrivals::new();
        assert_eq!(arrivals.come(3, true), Arrival::Fresh);
        assert_eq!(arrivals.come(3, true), Arrival::Busy);
        arrivals.put(3);
        assert_eq!(arrivals.come(3, false), Arrival::There);
        for seq in [1, 2] {
            assert!(!arrivals.are_complete());
            assert_eq!(arrivals.come(seq, false), Arrival::Fresh);
            arrivals.put(seq);
        }
        assert!(arrivals.are_complete());
        assert!(matches!(arrivals.come(4, false), Arrival::Refused(_)));
        assert!(matches!(arrivals.come(0, false), Arrival::Refused(_)));
    }

    #[test]
    fn there_is_one_last_piece() {
        let mut arrivals = Arrivals::new();
        assert_eq!(arrivals.come(5, false), Arrival::Fresh);
        assert!(matches!(arrivals.come(4, true), Arrival::Refused(_)));
        assert_eq!(arrivals.come(6, true), Arrival::Fresh);
        assert!(matches!(arrivals.come(2, true), Arrival::Refused(_)));
        arrivals.failed(6);
        assert_eq!(
            arrivals.come(7, true),
            Arrival::Fresh,
            "what was not put there said nothing"
        );
    }

    #[test]
    fn a_peer_that_leaves_gaps_everywhere_costs_a_bounded_amount() {
        let mut arrivals = Arrivals::new();
        for piece in 1..=RUNS as u64 {
            assert_eq!(arrivals.come(2 * piece, false), Arrival::Fresh);
            arrivals.put(2 * piece);
        }
        let next = 2 * RUNS as u64 + 2;
        assert!(matches!(arrivals.come(next, false), Arrival::Refused(_)));
        assert_eq!(
            arrivals.come(next - 1, false),
            Arrival::Fresh,
            "one that fits to a run is taken"
        );
    }

    proptest! {
        #[test]
        fn it_is_complete_exactly_when_every_piece_was_put(
            pieces in 1..40_u64,
            events in proptest::collection::vec((0..42_u64, 0..3_u8), 0..300),
        ) {
            let mut arrivals = Arrivals::new();
            let (mut there, mut busy) = (BTreeSet::new(), BTreeSet::new());
            for (seq, event) in events {
                match event {
                    0 => {
                        let arrival = arrivals.come(seq, seq == pieces);
                        let expected = if there.contains(&seq) {
                            Some(Arrival::There)
                        } else if busy.contains(&seq) {
                            Some(Arrival::Busy)
                        } else {
                            None
                        };
                        match expected {
                            Some(expected) => prop_assert_eq!(arrival, expected),
                            None if arrival == Arrival::Fresh => {
                                prop_assert!(seq > 0);
                                busy.insert(seq);
                            }
                            None => prop_assert!(matches!(arrival, Arrival::Refused(_))),
                        }
                    }
                    1 => {
                        arrivals.put(seq);
                        if busy.remove(&seq) {
                            there.insert(seq);
                        }
                    }
                    _ => {
                        arrivals.failed(seq);
                        busy.remove(&seq);
                    }
                }
                let whole = there.len() as u64 == pieces && there.last() == Some(&pieces);
                prop_assert_eq!(arrivals.are_complete(), whole);
            }
        }

        #[test]
        fn any_order_with_any_doubling_completes(
            order in Just((1..=60_u64).collect::<Vec<_>>()).prop_shuffle(),
            again in proptest::collection::vec(1..=60_u64, 0..60),
        ) {
            let mut arrivals = Arrivals::new();
            for (seq, again) in order.iter().zip(again.iter().chain(std::iter::repeat(&1))) {
                for seq in [seq, again] {
                    if arrivals.come(*seq, *seq == 60) == Arrival::Fresh {
                        arrivals.put(*seq);
                    }
                }
            }
            prop_assert!(arrivals.are_complete());
        }
    }
}
