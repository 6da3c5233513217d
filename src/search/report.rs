//! What a search looked at, counted by all of its threads.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::budget::Budget;
use super::request::{Stats, Summary, Unread};

/// Of what could not be read, so many are named.
const NAMED: usize = 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Report {
    began: Instant,
    pub(super) files: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) binary: AtomicU64,
    unreadable: AtomicU64,
    unread: Mutex<Vec<Unread>>,
}

impl Report {
    pub(super) fn new(began: Instant) -> Self {
        Self {
            began,
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            binary: AtomicU64::new(0),
            unreadable: AtomicU64::new(0),
            unread: Mutex::default(),
        }
    }

    /// One more that could not be read.
    pub(super) fn unread(&self, path: Option<PathBuf>, reason: String) {
        self.unreadable.fetch_add(1, Ordering::Relaxed);
        let mut unread = self.unread.lock();
        if unread.len() < NAMED {
            unread.push(Unread { path, reason });
        }
    }

    /// All of it, at the end.
    pub(super) fn summary(&self, budget: &Budget) -> Summary {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut unread = self.unread.lock().clone();
        unread.sort_by(|one, other| one.path.cmp(&other.path));
        Summary {
            truncated: budget.truncated(),
            stats: Stats {
                files: count(&self.files),
                bytes: count(&self.bytes),
                binary_skipped: count(&self.binary),
                took: self.began.elapsed(),
            },
            unreadable: count(&self.unreadable),
            unread,
        }
    }
}
