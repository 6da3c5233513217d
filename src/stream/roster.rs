//! The ops of one link by their ids: who runs, what is complete, and which ids are remembered after that. Deliberately
//! without a clock: callers pass `now`, and [`Roster::collect`] from time to time.
//!
//! ```text
//!             begin             complete             1 h, or 2048 newer ones            24 h
//!   unknown --------> running ----------> complete ------------------------> evicted --------> unknown
//!      |  ^------------/ withdraw
//!      |   tombstone: cancelled before it was seen                           15 min
//!      +------------------------------------------------------> tombstoned --------> unknown
//! ```
//!
//! Running ops are never collected. Where there are too many complete ones, those go first whose client has everything.
//! An evicted id stays known, so that a late repeat is told and not run again.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many complete ops are kept.
const COMPLETE: usize = 2048;
/// How long a complete op is kept.
const KEEP_COMPLETE: Duration = Duration::from_secs(60 * 60);
/// How long an id that was cancelled before it was seen is refused.
const KEEP_TOMBSTONE: Duration = Duration::from_secs(15 * 60);
/// How long an evicted id is known.
const KEEP_EVICTED: Duration = Duration::from_secs(24 * 60 * 60);
/// How many evicted ids, and how many tombstones, are known: the oldest are forgotten early.
const IDS: usize = 16 * 1024;

/// The ops of one link.
#[derive(Debug)]
pub struct Roster<T> {
    ops: HashMap<Arc<str>, Op<T>>,
    /// Complete ops whose client has everything, oldest first, by the number of their completion.
    acked: BTreeMap<u64, Arc<str>>,
    /// Complete ops whose client has not said so, likewise.
    unacked: BTreeMap<u64, Arc<str>>,
    completions: u64,
    most: usize,
    evicted: Remembered,
    tombstones: Remembered,
    evictions: Evictions,
}

/// What is known of an id.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing<T> {
    /// It runs.
    Running(T),
    /// It ended, and its outcome is kept.
    Complete(T),
    /// It ran, its outcome had to go.
    Evicted,
    /// It was cancelled before it was seen, and may not begin.
    Tombstoned,
    /// It was never seen here, or is forgotten.
    Unknown,
}

/// Complete ops that were let go, counted from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Evictions {
    /// All of them.
    pub all: u64,
    /// Those whose client had not acknowledged everything.
    pub unacked: u64,
}

#[derive(Debug)]
struct Op<T> {
    value: T,
    acked: bool,
    complete: Option<Completion>,
}

#[derive(Debug, Clone, Copy)]
struct Completion {
    number: u64,
    at: Instant,
}

/// Ids that are known for a while, at most [`IDS`] of them.
#[derive(Debug, Default)]
struct Remembered {
    ids: HashSet<Arc<str>>,
    order: VecDeque<(Instant, Arc<str>)>,
}

impl<T> Default for Roster<T> {
    fn default() -> Self {
        Self {
            ops: HashMap::new(),
            acked: BTreeMap::new(),
            unacked: BTreeMap::new(),
            completions: 0,
            most: COMPLETE,
            evicted: Remembered::default(),
            tombstones: Remembered::default(),
            evictions: Evictions::default(),
        }
    }
}

impl<T> Roster<T> {
    /// Knows nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is known of `id`.
    pub fn look_up(&self, id: &str) -> Standing<&T> {
        match self.ops.get(id) {
            Some(op) if op.complete.is_some() => Standing::Complete(&op.value),
            Some(op) => Standing::Running(&op.value),
            None if self.evicted.ids.contains(id) => Standing::Evicted,
            None if self.tombstones.ids.contains(id) => Standing::Tombstoned,
            None => Standing::Unknown,
        }
    }

    /// An op begins to run. An id that is known in any way stays what it is, and `value` comes back.
    pub fn begin(&mut self, id: &str, value: T) -> Result<(), T> {
        if !matches!(self.look_up(id), Standing::Unknown) {
            return Err(value);
        }
        let op = Op {
            value,
            acked: false,
            complete: None,
        };
        self.ops.insert(Arc::from(id), op);
        Ok(())
    }

    /// A running op did not come to run after all: its id may be used again.
    pub fn withdraw(&mut self, id: &str) -> Option<T> {
        self.ops.get(id).filter(|op| op.complete.is_none())?;
        self.ops.remove(id).map(|op| op.value)
    }

    /// A running op has ended. Answers the op that has to go for it, if any, to be dropped where nobody waits.
    #[must_use]
    pub fn complete(&mut self, id: &str, now: Instant) -> Option<T> {
        let (id, _) = self.ops.get_key_value(id)?;
        let id = Arc::clone(id);
        let op = self.ops.get_mut(&id).filter(|op| op.complete.is_none())?;
        self.completions += 1;
        let number = self.completions;
        op.complete = Some(Completion { number, at: now });
        let line = if op.acked {
            &mut self.acked
        } else {
            &mut self.unacked
        };
        line.insert(number, id);
        if self.acked.len() + self.unacked.len() <= self.most {
            return None;
        }
        let oldest = self.acked.first_key_value().or(self.unacked.first_key_value());
        let oldest = oldest.map(|(_, id)| Arc::clone(id))?;
        self.evict(&oldest, now)
    }

    /// The client of an op has everything.
    pub fn acked(&mut self, id: &str) {
        let Some(op) = self.ops.get_mut(id) else {
            return;
        };
        op.acked = true;
        if let Some(completion) = op.complete
            && let Some(id) = self.unacked.remove(&completion.number)
        {
            self.acked.insert(completion.number, id);
        }
    }

    /// An id is cancelled: if it was never seen, it may not begin from now on. Says whether that is so.
    pub fn tombstone(&mut self, id: &str, now: Instant) -> bool {
        if matches!(self.look_up(id), Standing::Unknown) {
            self.tombstones.add(Arc::from(id), now);
        }
        matches!(self.look_up(id), Standing::Tombstoned)
    }

    /// Lets go of what is older than it needs to be. Answers the ops, to be dropped where nobody waits.
    #[must_use]
    pub fn collect(&mut self, now: Instant) -> Vec<T> {
        self.tombstones.forget(now, KEEP_TOMBSTONE);
        self.evicted.forget(now, KEEP_EVICTED);
        let mut old = Vec::new();
        for line in [&self.acked, &self.unacked] {
            let ids = line.values().take_while(|id| self.is_old(id, now));
            old.extend(ids.map(Arc::clone));
        }
        old.iter().filter_map(|id| self.evict(id, now)).collect()
    }

    fn is_old(&self, id: &str, now: Instant) -> bool {
        let completion = self.ops.get(id).and_then(|op| op.complete);
        completion.is_none_or(|completion| now.saturating_duration_since(completion.at) >= KEEP_COMPLETE)
    }

    fn evict(&mut self, id: &Arc<str>, now: Instant) -> Option<T> {
        let op = self.ops.remove(id)?;
        if let Some(completion) = op.complete {
            self.acked.remove(&completion.number);
            self.unacked.remove(&completion.number);
        }
        self.evictions.all += 1;
        self.evictions.unacked += u64::from(!op.acked);
        self.evicted.add(Arc::clone(id), now);
        Some(op.value)
    }

    /// How many ops run.
    pub fn running(&self) -> usize {
        self.ops.len() - self.acked.len() - self.unacked.len()
    }

    /// Every op that runs or is complete, in no order.
    pub fn ops(&self) -> impl Iterator<Item = &T> {
        self.ops.values().map(|op| &op.value)
    }

    /// What had to go so far.
    pub fn evictions(&self) -> Evictions {
        self.evictions
    }
}

impl Remembered {
    fn add(&mut self, id: Arc<str>, now: Instant) {
        if self.ids.insert(Arc::clone(&id)) {
            self.order.push_back((now, id));
        }
        while self.order.len() > IDS {
            self.forget_oldest();
        }
    }

    fn forget(&mut self, now: Instant, keep: Duration) {
        let is_old = |(since, _): &(Instant, _)| now.saturating_duration_since(*since) >= keep;
        while self.order.front().is_some_and(is_old) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.order.pop_front() {
            self.ids.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A roster that keeps few, so that a test comes to its limit.
    fn keeping(most: usize) -> Roster<u32> {
        Roster {
            most,
            ..Roster::new()
        }
    }

    #[test]
    fn an_op_runs_is_complete_for_an_hour_and_then_known_as_evicted_for_a_day() {
        let (mut roster, start) = (Roster::new(), Instant::now());
        assert_eq!(roster.look_up("a"), Standing::Unknown);
        assert_eq!(roster.begin("a", 1), Ok(()));
        assert!(roster.collect(start + 1000 * 60 * MINUTE).is_empty());
        assert_eq!(
            roster.look_up("a"),
            Standing::Running(&1),
            "it runs as long as it wants"
        );
        assert_eq!(roster.complete("a", start), None);
        assert_eq!(roster.complete("a", start + MINUTE), None, "it ends once");
        assert!(roster.collect(start + 59 * MINUTE).is_empty());
        assert_eq!(roster.look_up("a"), Standing::Complete(&1));
        let end = start + 60 * MINUTE;
        assert_eq!(roster.collect(end), [1]);
        assert_eq!(roster.look_up("a"), Standing::Evicted);
        assert_eq!(roster.begin("a", 2), Err(2), "it is never run again");
        assert_eq!(roster.evictions(), Evictions { all: 1, unacked: 1 });
        assert!(roster.collect(end + 1439 * MINUTE).is_empty());
        assert_eq!(roster.look_up("a"), Standing::Evicted);
        assert!(roster.collect(end + 24 * 60 * MINUTE).is_empty());
        assert_eq!(roster.look_up("a"), Standing::Unknown);
    }

    #[test]
    fn the_newest_2048_are_kept() {
        let (mut roster, now) = (Roster::new(), Instant::now());
        for op in 0..2050_u32 {
            assert_eq!(roster.begin(&op.to_string(), op), Ok(()));
            let gone = roster.complete(&op.to_string(), now);
            assert_eq!(gone, op.checked_sub(2048), "the oldest goes");
        }
        assert_eq!(roster.look_up("1"), Standing::Evicted);
        assert_eq!(roster.look_up("2"), Standing::Complete(&2));
        assert_eq!(roster.ops().count(), 2048);
    }

    #[test]
    fn whose_client_has_everything_goes_first() {
        let (mut roster, now) = (keeping(2), Instant::now());
        for (id, op) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
            assert_eq!(roster.begin(id, op), Ok(()));
        }
        // The last acknowledgement may come before the door says that the op is complete.
        roster.acked("c");
        assert_eq!(roster.complete("a", now), None);
        assert_eq!(roster.complete("b", now), None);
        roster.acked("b");
        assert_eq!(roster.complete("c", now), Some(2));
        assert_eq!(roster.evictions(), Evictions { all: 1, unacked: 0 });
        assert_eq!(roster.complete("d", now), Some(3));
        assert_eq!(roster.running(), 0);
        assert_eq!(roster.begin("e", 5), Ok(()));
        assert_eq!(roster.running(), 1);
        assert_eq!(roster.complete("e", now), Some(1), "nobody has everything");
        assert_eq!(roster.evictions(), Evictions { all: 3, unacked: 1 });
    }

    #[test]
    fn an_id_that_was_cancelled_before_it_was_seen_is_refused_for_a_quarter_of_an_hour() {
        let (mut roster, start) = (Roster::new(), Instant::now());
        assert!(roster.tombstone("a", start));
        assert!(
            roster.tombstone("a", start + 14 * MINUTE),
            "again, which renews nothing"
        );
        assert_eq!(roster.begin("a", 1), Err(1));
        assert!(roster.collect(start + 14 * MINUTE).is_empty());
        assert_eq!(roster.look_up("a"), Standing::Tombstoned);
        assert!(roster.collect(start + 15 * MINUTE).is_empty());
        assert_eq!(roster.begin("a", 1), Ok(()));
        assert!(!roster.tombstone("a", start), "it runs");
        assert_eq!(roster.look_up("a"), Standing::Running(&1));
    }

    #[test]
    fn an_op_that_did_not_come_to_run_may_be_tried_again() {
        let mut roster = Roster::new();
        assert_eq!(roster.begin("a", 1), Ok(()));
        assert_eq!(roster.withdraw("a"), Some(1));
        assert_eq!(roster.begin("a", 2), Ok(()));
        assert_eq!(roster.complete("a", Instant::now()), None);
        assert_eq!(roster.withdraw("a"), None, "it ran");
        assert_eq!(roster.look_up("a"), Standing::Complete(&2));
    }

    #[test]
    fn a_flood_of_cancels_is_bounded() {
        let (mut roster, now) = (keeping(1), Instant::now());
        for id in 0..=IDS {
            assert!(roster.tombstone(&id.to_string(), now));
        }
        assert_eq!(roster.tombstones.ids.len(), IDS);
        assert_eq!(roster.look_up("0"), Standing::Unknown);
        assert_eq!(roster.look_up("1"), Standing::Tombstoned);
    }

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Begin,
        Withdraw,
        Complete,
        Acked,
        Cancel,
        Minutes(u32),
    }

    proptest! {
        #[test]
        fn every_op_is_running_complete_or_counted(
            events in proptest::collection::vec((0..12_u32, prop_oneof![
                6 => Just(Event::Begin),
                1 => Just(Event::Withdraw),
                6 => Just(Event::Complete),
                3 => Just(Event::Acked),
                1 => Just(Event::Cancel),
                2 => (1..40_u32).prop_map(Event::Minutes),
            ]), 0..100),
        ) {
            let (mut roster, mut now) = (keeping(3), Instant::now());
            let (mut running, mut begun, mut gone) = (std::collections::BTreeSet::new(), 0, 0);
            for (op, event) in events {
                let id = op.to_string();
                match event {
                    Event::Begin => if roster.begin(&id, op).is_ok() {
                        prop_assert!(running.insert(op));
                        begun += 1;
                    },
                    Event::Withdraw => {
                        let withdrawn = roster.withdraw(&id).is_some();
                        prop_assert_eq!(withdrawn, running.remove(&op));
                        begun -= u64::from(withdrawn);
                    }
                    Event::Complete => {
                        gone += u64::from(roster.complete(&id, now).is_some());
                        running.remove(&op);
                    }
                    Event::Acked => roster.acked(&id),
                    Event::Cancel => {
                        let refused = roster.tombstone(&id, now);
                        prop_assert_eq!(refused, matches!(roster.look_up(&id), Standing::Tombstoned));
                    }
                    Event::Minutes(minutes) => {
                        now += minutes * MINUTE;
                        gone += roster.collect(now).len() as u64;
                    }
                }
                let complete = roster.ops().count() - running.len();
                prop_assert!(complete <= 3);
                prop_assert_eq!(roster.running(), running.len());
                prop_assert!(running.iter().all(|op| roster.look_up(&op.to_string()) == Standing::Running(op)));
                let evictions = roster.evictions();
                prop_assert!(evictions.all == gone && evictions.unacked <= evictions.all);
                prop_assert_eq!(begun, (running.len() + complete) as u64 + gone);
            }
            let _ = roster.collect(now + 60 * MINUTE);
            prop_assert_eq!(roster.ops().count(), running.len());
        }
    }
}
