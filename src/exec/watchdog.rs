//! Limits where no control group can keep them: the daemon looks at the tree ten times a second and says when it has
//! grown too large. Between two looks a tree can take what it wants; and what a tree does not own alone (the memory of
//! a program that runs twice) counts once for each process.
//!
//! However many trees are watched, `/proc` is read once for all of them.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::limits::Hit;
use super::members::{Search, Tree};
use super::proc::{self, Snapshot};
use super::sys;

/// From one look to the next.
const INTERVAL: Duration = Duration::from_millis(100);

/// The look at `/proc` that all watchdogs share.
#[derive(Debug, Default)]
pub(super) struct Lookout(Mutex<Option<(Instant, Arc<Snapshot>)>>);

impl Lookout {
    /// What was to be seen at some moment not before `since`. Blocks while `/proc` is read, by whomever.
    fn look(&self, since: Instant) -> io::Result<Arc<Snapshot>> {
        let mut last = self.0.lock();
        if let Some((_, snapshot)) = last.as_ref().filter(|(taken, _)| *taken >= since) {
            return Ok(Arc::clone(snapshot));
        }
        let taken = Instant::now();
        let snapshot = Arc::new(proc::snapshot()?);
        *last = Some((taken, Arc::clone(&snapshot)));
        Ok(snapshot)
    }
}

/// What a tree may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Allowance {
    /// Bytes of resident memory, summed over its processes.
    pub(super) memory: Option<u64>,
    /// Processes and threads.
    pub(super) pids: Option<u64>,
}

impl Allowance {
    fn breached_by(self, usage: Usage) -> Option<Hit> {
        let above = |most: Option<u64>, used: u64| most.is_some_and(|most| used > most);
        if above(self.memory, usage.memory) {
            Some(Hit::Memory)
        } else {
            above(self.pids, usage.pids).then_some(Hit::Pids)
        }
    }
}

/// What a tree has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Usage {
    memory: u64,
    pids: u64,
}

/// Watches one tree.
#[derive(Debug)]
pub(super) struct Watchdog {
    lookout: Arc<Lookout>,
    allowance: Allowance,
    tree: Tree,
    /// No look is older than the tree: its leader's pid was somebody else's.
    born: Instant,
    /// Who was ever seen of it; away while a look is taken.
    search: Option<Search>,
    next: Instant,
    looking: Option<JoinHandle<(Search, io::Result<Usage>)>>,
}

impl Watchdog {
    /// Of a tree that has just been born.
    pub(super) fn new(tree: &Tree, allowance: Allowance, lookout: &Arc<Lookout>) -> Self {
        let born = Instant::now();
        Self {
            lookout: Arc::clone(lookout),
            allowance,
            tree: tree.clone(),
            born,
            search: None,
            next: born,
            looking: None,
        }
    }

    /// Resolves when it has more than it may. Cancel-safe.
    pub(super) async fn breached(&mut self) -> Hit {
        loop {
            let looking = match &mut self.looking {
                Some(looking) => looking,
                idle => {
                    tokio::time::sleep_until(self.next.into()).await;
                    self.next = Instant::now() + INTERVAL;
                    let since = self
                        .born
                        .max(Instant::now().checked_sub(INTERVAL / 2).unwrap_or(self.born));
                    let (lookout, tree, search) =
                        (Arc::clone(&self.lookout), self.tree.clone(), self.search.take());
                    idle.insert(tokio::task::spawn_blocking(move || {
                        let mut search = search.unwrap_or_else(|| Search::new(&tree));
                        let usage = lookout.look(since).map(|snapshot| usage(&mut search, &snapshot));
                        (search, usage)
                    }))
                }
            };
            let looked = looking.await;
            self.looking = None;
            // Nothing could be seen, for want of a descriptor or of a thread: the next look may be luckier.
            let Ok((search, usage)) = looked else { continue };
            self.search = Some(search);
            let breached = usage.ok().and_then(|usage| self.allowance.breached_by(usage));
            if let Some(hit) = breached {
                return hit;
            }
        }
    }
}

fn usage(search: &mut Search, snapshot: &Snapshot) -> Usage {
    let alive = search.look_at(snapshot).alive;
    let members = alive.iter().filter_map(|(pid, _)| snapshot.all.get(pid));
    members.fold(Usage::default(), |sum, stat| Usage {
        memory: sum.memory + stat.resident * sys::page_size(),
        pids: sum.pids + stat.threads,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_is_no_breach_and_one_more_is() {
        let allowance = Allowance {
            memory: Some(10),
            pids: Some(2),
        };
        let breached = |memory, pids| allowance.breached_by(Usage { memory, pids });
        assert_eq!(breached(10, 2), None);
        assert_eq!(breached(11, 2), Some(Hit::Memory));
        assert_eq!(breached(10, 3), Some(Hit::Pids));
        let nothing = Allowance::default();
        let much = Usage {
            memory: u64::MAX,
            pids: u64::MAX,
        };
        assert_eq!(nothing.breached_by(much), None);
    }

    #[test]
    fn one_look_serves_all_who_ask_for_nothing_newer() {
        let lookout = Lookout::default();
        let before = Instant::now();
        let first = lookout.look(before).unwrap();
        assert!(Arc::ptr_eq(&first, &lookout.look(before).unwrap()));
        assert!(!Arc::ptr_eq(&first, &lookout.look(Instant::now()).unwrap()));
    }
}
