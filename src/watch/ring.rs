//! The newest events of a watch, and its followers: each holds a place and nothing else, so that a slow one delays nobody
//! and is told what it missed.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::event::{Change, Event};
use super::limits::{KEPT, KEPT_BYTES};
use crate::error::Error;

/// Events that a follower takes at once.
const PIECE: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Ring {
    /// The watch, as its events' ids call it.
    name: String,
    events: Mutex<Events>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Events {
    kept: VecDeque<Change>,
    bytes: usize,
    /// Of the first that is kept; numbers begin at 1.
    first: u64,
    followers: usize,
    is_over: bool,
}

impl Events {
    fn newest(&self) -> u64 {
        self.first + self.kept.len() as u64 - 1
    }

    fn add(&mut self, change: Change) {
        self.bytes += size_of::<Change>() + change.bytes();
        self.kept.push_back(change);
        while self.kept.len() > KEPT || self.bytes > KEPT_BYTES {
            let Some(oldest) = self.kept.pop_front() else {
                break;
            };
            self.bytes -= size_of::<Change>() + oldest.bytes();
            self.first += 1;
        }
    }
}

impl Ring {
    pub(super) fn new() -> Arc<Self> {
        let name = uuid::Uuid::new_v4().simple().to_string();
        Arc::new(Self {
            name: name[..12].to_owned(),
            events: Mutex::new(Events {
                first: 1,
                ..Events::default()
            }),
            news: Notify::new(),
        })
    }

    /// Adds changes in their order.
    pub(super) fn push(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        {
            let mut events = self.events.lock();
            for change in changes {
                events.add(change);
            }
        }
        self.news.notify_waiters();
    }

    /// Nothing comes any more.
    pub(super) fn end(&self) {
        self.events.lock().is_over = true;
        self.news.notify_waiters();
    }

    /// Ends it when nobody follows, at once with the look whether somebody does; says whether it is over.
    pub(super) fn end_when_alone(&self) -> bool {
        let mut events = self.events.lock();
        events.is_over |= events.followers == 0;
        events.is_over
    }

    /// Whether nothing comes any more.
    pub(super) fn is_over(&self) -> bool {
        self.events.lock().is_over
    }

    /// Whether anybody follows.
    pub(super) fn is_followed(&self) -> bool {
        self.events.lock().followers > 0
    }

    /// The follower who asked for the watch: it has every event.
    pub(super) fn begin(self: &Arc<Self>) -> Follower {
        self.follower(&mut self.events.lock(), 0)
    }

    /// A follower from now on; `None` when nothing comes any more.
    pub(super) fn join(self: &Arc<Self>) -> Option<Follower> {
        let mut events = self.events.lock();
        let newest = events.newest();
        (!events.is_over).then(|| self.follower(&mut events, newest))
    }

    /// A follower behind the event with the id `since`, also of a watch that is over and still known.
    pub(super) fn resume(self: &Arc<Self>, since: &str) -> Result<Follower, Error> {
        let mut events = self.events.lock();
        let newest = events.newest();
        let sequence = since
            .strip_prefix(&self.name)
            .and_then(|rest| rest.strip_prefix('-'));
        let sequence = sequence.and_then(|number| number.parse().ok());
        let seen = sequence.filter(|sequence| *sequence <= newest);
        Ok(self.follower(&mut events, seen.ok_or_else(|| ended(since))?))
    }

    fn follower(self: &Arc<Self>, events: &mut Events, seen: u64) -> Follower {
        events.followers += 1;
        let ring = Arc::clone(self);
        Follower { ring, seen }
    }

    fn event(&self, sequence: u64, change: Change) -> Event {
        Event {
            sequence,
            id: format!("{}-{sequence}", self.name),
            change,
        }
    }
}

/// The error for an event whose watch has ended.
pub(super) fn ended(since: &str) -> Error {
    Error::NotFound {
        what: "watch of the event",
        name: since.to_owned(),
    }
}

/// Reads the events of a watch at its own pace; the watch lives on for a while when the last one is dropped.
#[derive(Debug)]
pub struct Follower {
    ring: Arc<Ring>,
    seen: u64,
}

impl Follower {
    /// The next events; empty at the end of the watch. Cancel-safe.
    pub async fn next(&mut self) -> Vec<Event> {
        loop {
            let ring = Arc::clone(&self.ring);
            let mut news = std::pin::pin!(ring.news.notified());
            news.as_mut().enable();
            let (events, is_over) = self.take();
            if !events.is_empty() || is_over {
                return events;
            }
            news.await;
        }
    }

    /// What to resume behind.
    pub fn id(&self) -> String {
        format!("{}-{}", self.ring.name, self.seen)
    }

    fn take(&mut self) -> (Vec<Event>, bool) {
        let events = self.ring.events.lock();
        let mut taken = Vec::new();
        if self.seen + 1 < events.first {
            let (from, to) = (self.seen + 1, events.first - 1);
            taken.push(self.ring.event(to, Change::Gap { from, to }));
            self.seen = to;
        }
        let skip = (self.seen + 1 - events.first) as usize;
        for change in events.kept.iter().skip(skip).take(PIECE) {
            self.seen += 1;
            taken.push(self.ring.event(self.seen, change.clone()));
        }
        (taken, events.is_over)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.ring.events.lock().followers -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn change(number: usize) -> Change {
        Change::Gone {
            path: PathBuf::from(number.to_string()),
        }
    }

    #[tokio::test]
    async fn a_follower_has_every_event_once_or_is_told_of_a_gap() {
        let ring = Ring::new();
        let mut follower = ring.begin();
        ring.push((0..3).map(change).collect());
        let first = follower.next().await;
        assert_eq!(
            first.iter().map(|event| event.sequence).collect::<Vec<_>>(),
            [1, 2, 3]
        );
        let mut resumed = ring.resume(&first[0].id).unwrap();
        assert_eq!(resumed.next().await, first[1..]);
        ring.push((0..KEPT + 5).map(change).collect());
        let behind = follower.next().await;
        assert_eq!(behind[0].change, Change::Gap { from: 4, to: 8 });
        assert_eq!(behind[1].sequence, 9);
        assert!(ring.resume("other-1").is_err());
        assert!(ring.resume(&format!("{}-999999999", ring.name)).is_err());
        ring.end();
        while !follower.next().await.is_empty() {}
    }

    #[tokio::test]
    async fn who_joins_is_told_nothing_from_before_and_comes_in_time_or_not_at_all() {
        let ring = Ring::new();
        ring.push(vec![change(1), change(2)]);
        let mut joined = ring.join().unwrap();
        ring.push(vec![change(3)]);
        assert_eq!(joined.next().await[0].sequence, 3);
        assert!(!ring.end_when_alone(), "it is followed");
        drop(joined);
        assert!(ring.end_when_alone() && ring.join().is_none());
    }

    #[tokio::test]
    async fn long_paths_are_kept_in_bounded_memory() {
        let ring = Ring::new();
        let mut follower = ring.begin();
        for _ in 0..KEPT_BYTES / 4096 * 2 {
            let path = PathBuf::from("x".repeat(4096));
            ring.push(vec![Change::Gone { path }]);
        }
        assert!(ring.events.lock().bytes <= KEPT_BYTES);
        let first = follower.next().await;
        assert!(matches!(first[0].change, Change::Gap { from: 1, .. }));
        assert_eq!(first[1].sequence, first[0].sequence + 1);
    }
}
