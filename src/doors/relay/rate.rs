//! How much one end of a channel may send: so many bytes a second, and a burst. Pure.

use std::time::{Duration, Instant};

/// A token bucket.
#[derive(Debug, Clone)]
pub(super) struct Rate {
    per_second: f64,
    /// Bytes that may come at once.
    burst: f64,
    left: f64,
    at: Instant,
}

impl Rate {
    /// Full at `now`.
    pub(super) fn new(rate: u64, burst: u64, now: Instant) -> Self {
        Self {
            per_second: rate as f64,
            burst: burst as f64,
            left: burst as f64,
            at: now,
        }
    }

    /// Whether so many bytes may come now.
    pub(super) fn allows(&mut self, bytes: usize, now: Instant) -> bool {
        let passed: Duration = now.saturating_duration_since(self.at);
        self.at = now;
        self.left = (self.left + self.per_second * passed.as_secs_f64()).min(self.burst);
        // What is refused does not count: whoever waits long enough is let through.
        let fits = self.left >= bytes as f64;
        if fits {
            self.left -= bytes as f64;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_a_flood_does_not() {
        let start = Instant::now();
        let mut rate = Rate::new(100, 250, start);
        assert!(rate.allows(250, start));
        assert!(rate.allows(100, start + Duration::from_secs(1)));
        assert!(
            rate.allows(250, start + Duration::from_secs(9)),
            "it fills up, and no further"
        );
        assert!(!rate.allows(1, start + Duration::from_secs(9)));
    }
}
