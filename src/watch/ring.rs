//! The newest events of a watch, and its followers: each holds a place and nothing else, so that a slow one delays nobody
//! and is told what it missed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::event::{Change, Event};
use crate::error::Error;

/// Events that are kept.
const KEPT: usize = 65_536;
/// Events that a follower takes at once.
const PIECE: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Ring {
    /// The watch, as its events' ids call it.
    name: String,
    events: Mutex<Events>,
    news: Notify,
    followers: AtomicUsize,
}

#[derive(Debug, Default)]
struct Events {
    kept: VecDeque<Change>,
    /// Of the first that is kept; numbers begin at 1.
    first: u64,
    is_over: bool,
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
            followers: AtomicUsize::new(0),
        })
    }

    /// Adds changes in their order.
    pub(super) fn push(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let mut events = self.events.lock();
        events.kept.extend(changes);
        let surplus = events.kept.len().saturating_sub(KEPT);
        events.kept.drain(..surplus);
        events.first += surplus as u64;
        drop(events);
        self.news.notify_waiters();
    }

    /// Nothing comes any more.
    pub(super) fn end(&self) {
        self.events.lock().is_over = true;
        self.news.notify_waiters();
    }

    /// Resolves when nobody follows. Cancel-safe.
    pub(super) fn is_followed(&self) -> bool {
        self.followers.load(Ordering::Relaxed) > 0
    }

    /// A follower from now on, or behind the event with the id `since`.
    pub(super) fn follow(self: &Arc<Self>, since: Option<&str>) -> Result<Follower, Error> {
        let newest = {
            let events = self.events.lock();
            events.first + events.kept.len() as u64 - 1
        };
        let seen = match since {
            None => newest,
            Some(since) => {
                let sequence = since
                    .strip_prefix(&self.name)
                    .and_then(|rest| rest.strip_prefix('-'));
                let sequence = sequence.and_then(|number| number.parse().ok());
                sequence
                    .filter(|sequence| *sequence <= newest)
                    .ok_or_else(|| ended(since))?
            }
        };
        self.followers.fetch_add(1, Ordering::Relaxed);
        Ok(Follower {
            ring: Arc::clone(self),
            seen,
        })
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
        self.ring.followers.fetch_sub(1, Ordering::Relaxed);
        self.ring.news.notify_waiters();
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
        let mut follower = ring.follow(None).unwrap();
        ring.push((0..3).map(change).collect());
        let first = follower.next().await;
        assert_eq!(
            first.iter().map(|event| event.sequence).collect::<Vec<_>>(),
            [1, 2, 3]
        );
        let mut resumed = ring.follow(Some(&first[0].id)).unwrap();
        assert_eq!(resumed.next().await, first[1..]);
        ring.push((0..KEPT + 5).map(change).collect());
        let behind = follower.next().await;
        assert_eq!(behind[0].change, Change::Gap { from: 4, to: 8 });
        assert_eq!(behind[1].sequence, 9);
        assert!(ring.follow(Some("other-1")).is_err());
        assert!(ring.follow(Some(&format!("{}-999999999", ring.name))).is_err());
        ring.end();
        while !follower.next().await.is_empty() {}
    }
}
