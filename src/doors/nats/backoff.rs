//! How long to wait before the next attempt to connect. Pure: the caller passes a random fraction.

use std::time::Duration;

/// So many attempts are made quickly, so that a broker that restarts is found again soon.
const FAST_ATTEMPTS: u32 = 20;
/// Longest wait of a fast attempt.
const FAST_SPREAD: Duration = Duration::from_secs(3);
/// First ceiling after the fast attempts; doubles with each further one.
const BASE: Duration = Duration::from_secs(1);
/// Highest ceiling.
const CAP: Duration = Duration::from_secs(10);

/// Counts attempts since the last success.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The wait before the next attempt: full jitter below a ceiling. `fraction` is uniform in `[0, 1)`.
    pub(super) fn next(&mut self, fraction: f64) -> Duration {
        let ceiling = match self.attempts.checked_sub(FAST_ATTEMPTS) {
            None => FAST_SPREAD,
            Some(slow) => BASE.saturating_mul(1 << slow.min(8)).min(CAP),
        };
        self.attempts = self.attempts.saturating_add(1);
        ceiling.mul_f64(fraction.clamp(0.0, 1.0))
    }

    /// After a connection was made and said hello.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_follow_the_contract() {
        let mut backoff = Backoff::default();
        let ceilings: Vec<u64> = (0..26).map(|_| backoff.next(1.0).as_secs()).collect();
        assert!(ceilings[..20].iter().all(|seconds| *seconds == 3), "{ceilings:?}");
        assert_eq!(ceilings[20..], [1, 2, 4, 8, 10, 10]);
        backoff.reset();
        assert_eq!(backoff.next(0.5), Duration::from_millis(1500));
        assert_eq!(backoff.next(0.0), Duration::ZERO);
    }

    #[test]
    fn years_of_attempts_do_not_overflow() {
        let mut backoff = Backoff { attempts: u32::MAX };
        assert_eq!(backoff.next(1.0), CAP);
        assert_eq!(backoff.next(1.0), CAP);
    }
}
