//! Noticing that the machine slept, or that it is a clone of one: the boot clock counts that time, the monotonic clock
//! does not. Pure but for [`readings`].
//!
//! A clone that was resumed without such a gap looks like the machine it was; nothing here can tell it.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Both clocks are read within microseconds; what differs by more than this was a sleep.
const TOLERANCE: Duration = Duration::from_secs(1);

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Readings {
    monotonic: Duration,
    boot: Duration,
}

/// Reads them; zero where the system has no such clock.
pub(super) fn readings() -> Readings {
    let read = |clock| clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    Readings {
        monotonic: read(ClockId::CLOCK_MONOTONIC),
        boot: read(ClockId::CLOCK_BOOTTIME),
    }
}

/// Remembers how far apart the clocks were.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    apart: Option<Duration>,
}

impl Clocks {
    /// How long the machine was away since the last call, when it was.
    pub(super) fn jump(&mut self, now: Readings) -> Option<Duration> {
        let apart = now.boot.saturating_sub(now.monotonic);
        let before = self.apart.replace(apart)?;
        Some(apart.abs_diff(before)).filter(|away| *away > TOLERANCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(monotonic: u64, boot: u64) -> Readings {
        Readings {
            monotonic: Duration::from_millis(monotonic),
            boot: Duration::from_millis(boot),
        }
    }

    #[test]
    fn only_a_gap_between_the_clocks_is_a_jump() {
        let mut clocks = Clocks::default();
        assert_eq!(clocks.jump(at(1_000, 61_000)), None, "an old sleep");
        assert_eq!(
            clocks.jump(at(901_000, 961_001)),
            None,
            "a busy quarter of an hour"
        );
        assert_eq!(clocks.jump(at(901_500, 971_501)), Some(Duration::from_secs(10)));
        assert_eq!(clocks.jump(at(902_000, 972_001)), None);
        assert_eq!(
            clocks.jump(at(902_500, 902_501)),
            Some(Duration::from_secs(70)),
            "restored from an older one"
        );
    }

    #[test]
    fn the_real_clocks_stand_still_against_each_other() {
        let mut clocks = Clocks::default();
        assert_eq!((clocks.jump(readings()), clocks.jump(readings())), (None, None));
    }
}
