//! How fast a producer may send to a relay that has said that it was too fast: half of what was too much, and from there
//! slowly up again. Pure.

use std::time::{Duration, Instant};

/// Bytes a second that are tried first behind a refusal, and the least.
const FIRST: f64 = 4.0 * 1024.0 * 1024.0;
const LEAST: f64 = 16.0 * 1024.0;
/// From here on nothing is held back.
const MOST: f64 = 512.0 * 1024.0 * 1024.0;
/// How long it stays as it is without a refusal, and by how much it grows then: twice as much takes over two minutes.
const STEP: (Duration, f64) = (Duration::from_secs(10), 1.05);

/// Bytes a second, where the relay has said that there were too many.
#[derive(Debug, Default)]
pub(super) struct Pace(Option<Limit>);

#[derive(Debug)]
struct Limit {
    per_second: f64,
    since: Instant,
}

impl Pace {
    /// The relay has closed because of too much.
    pub(super) fn refused(&mut self, now: Instant) {
        self.grow(now);
        let per_second = self
            .0
            .as_ref()
            .map_or(FIRST, |limit| (limit.per_second / 2.0).max(LEAST));
        self.0 = Some(Limit {
            per_second,
            since: now,
        });
    }

    /// How long so many bytes are to take; `None` where nothing is held back.
    pub(super) fn wait(&mut self, bytes: usize, now: Instant) -> Option<Duration> {
        self.grow(now);
        let limit = self.0.as_ref()?;
        Some(Duration::from_secs_f64(bytes as f64 / limit.per_second))
    }

    fn grow(&mut self, now: Instant) {
        let Some(limit) = &mut self.0 else { return };
        let passed = now.saturating_duration_since(limit.since);
        let steps = passed.as_secs() / STEP.0.as_secs();
        if steps > 0 {
            limit.since = now;
            limit.per_second *= STEP.1.powi(i32::try_from(steps).unwrap_or(i32::MAX));
        }
        if limit.per_second > MOST {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_halves_it_and_time_gives_it_back() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.wait(1 << 20, start), None);
        pace.refused(start);
        let first = pace.wait(1 << 20, start).unwrap();
        pace.refused(start);
        let second = pace.wait(1 << 20, start).unwrap();
        assert_eq!(second, first * 2);
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(pace.wait(1 << 20, after(9)), Some(second), "not at once");
        assert!(pace.wait(1 << 20, after(100)).unwrap() > first);
        assert!(pace.wait(1 << 20, after(200)).unwrap() < first);
        assert_eq!(pace.wait(1 << 20, after(100_000)), None);
    }

    #[test]
    fn it_never_stands_still() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.refused(Instant::now());
        }
        let wait = pace.wait(16 << 10, Instant::now()).unwrap();
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
    }
}
