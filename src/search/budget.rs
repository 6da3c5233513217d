//! What a search may still use, shared by its threads: results, bytes, time, and whether anybody waits for it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Instant;

use super::request::Request;

/// The reasons to end early, in the order of their numbers.
const REASONS: [&str; 3] = ["limit", "bytes", "time"];
const LIMIT: u8 = 1;
const BYTES: u8 = 2;
const TIME: u8 = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct Budget {
    results: AtomicU64,
    bytes: AtomicU64,
    limit: u64,
    max_bytes: u64,
    until: Option<Instant>,
    /// Why it ends early, 0 while it goes on.
    truncated: AtomicU8,
    is_unwanted: AtomicBool,
}

impl Budget {
    pub(super) fn new(request: &Request, now: Instant) -> Self {
        Self {
            results: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            limit: request.limit,
            max_bytes: request.max_bytes,
            until: now.checked_add(request.time_limit),
            truncated: AtomicU8::new(0),
            is_unwanted: AtomicBool::new(false),
        }
    }

    /// Takes one result of `size` bytes; says whether it still fits.
    pub(super) fn take(&self, size: u64) -> bool {
        if self.bytes.fetch_add(size, Ordering::Relaxed) >= self.max_bytes {
            self.end(BYTES);
            return false;
        }
        if self.results.fetch_add(1, Ordering::Relaxed) >= self.limit {
            self.end(LIMIT);
            return false;
        }
        true
    }

    /// There is more than the results that were asked for.
    pub(super) fn has_more(&self) {
        self.end(LIMIT);
    }

    /// Results that may still be taken; a file need not collect more, but for one that shows that there are more.
    pub(super) fn left(&self) -> u64 {
        self.limit.saturating_sub(self.results.load(Ordering::Relaxed))
    }

    /// Bytes of results that may still be taken.
    pub(super) fn bytes_left(&self) -> u64 {
        self.max_bytes.saturating_sub(self.bytes.load(Ordering::Relaxed))
    }

    /// Nobody waits any more.
    pub(super) fn abandon(&self) {
        self.is_unwanted.store(true, Ordering::Relaxed);
    }

    /// When it is to end; `None` when that is too far ahead to be told.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Whether the search is to end.
    pub(super) fn is_over(&self) -> bool {
        if self.is_unwanted.load(Ordering::Relaxed) || self.truncated.load(Ordering::Relaxed) != 0 {
            return true;
        }
        if self.until.is_some_and(|until| Instant::now() >= until) {
            self.end(TIME);
            return true;
        }
        false
    }

    /// Why it ended early.
    pub(super) fn truncated(&self) -> Option<&'static str> {
        let number = self.truncated.load(Ordering::Relaxed);
        REASONS.get(usize::from(number).checked_sub(1)?).copied()
    }

    fn end(&self, reason: u8) {
        // The first reason is the one that is told.
        let _ = self
            .truncated
            .compare_exchange(0, reason, Ordering::Relaxed, Ordering::Relaxed);
    }
}
