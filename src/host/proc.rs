//! The texts of `/proc` that the samples are made of: pure parsers, tolerant of fields that a kernel leaves out.
//!
//! Own parsers rather than a crate, because what exists reads a file whole or not at all, keeps load averages in 32 bits
//! and does not undo the octal escapes of `mountinfo`; here one odd line costs one figure. Reading the files is `read.rs`.

/// Time that all processors together spent since boot, in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct CpuTimes {
    /// In any state.
    pub(super) total: u64,
    /// Idle, or idle while waiting for a disk.
    pub(super) idle: u64,
}

impl CpuTimes {
    /// Percent of the time since `earlier` in which a processor was busy. Counters that went backwards (they do: the
    /// kernel says so of iowait) count as no time.
    pub(super) fn busy_since(self, earlier: Self) -> f64 {
        let total = self.total.saturating_sub(earlier.total);
        let idle = self.idle.saturating_sub(earlier.idle).min(total);
        if total == 0 {
            return 0.0;
        }
        (total - idle) as f64 / total as f64 * 100.0
    }
}

/// What `/proc/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// All processors together.
    pub(super) cpu: CpuTimes,
    /// Tasks that run or could run now.
    pub(super) running: u64,
}

/// Reads `/proc/stat`; `None` when the line of all processors is missing or no number.
pub(super) fn stat(text: &str) -> Option<Stat> {
    let mut fields = text
        .lines()
        .find_map(|line| line.strip_prefix("cpu "))?
        .split_ascii_whitespace();
    let mut ticks = [0_u64; 8];
    for (index, slot) in ticks.iter_mut().enumerate() {
        match fields.next() {
            Some(field) => *slot = field.parse().ok()?,
            // Kernels before 2.6.11 list fewer states, none lists fewer than four.
            None if index >= 4 => break,
            None => return None,
        }
    }
    // Guest time, the ninth and tenth field, is already counted as user time.
    let [_user, _nice, _system, idle, iowait, ..] = ticks;
    let total = ticks.iter().fold(0, |sum: u64, value| sum.saturating_add(*value));
    let running = text.lines().find_map(|line| line.strip_prefix("procs_running "));
    Some(Stat {
        cpu: CpuTimes {
            total,
            idle: idle.saturating_add(iowait),
        },
        running: running.and_then(|value| value.trim().parse().ok()).unwrap_or(0),
    })
}

/// What `/proc/loadavg` says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Load {
    /// Averages over 1, 5 and 15 minutes.
    pub(super) averages: [f64; 3],
    /// Tasks (threads counted) that exist on the machine.
    pub(super) tasks: u64,
}

/// Reads `/proc/loadavg`.
pub(super) fn load(text: &str) -> Option<Load> {
    let mut fields = text.split_ascii_whitespace();
    let mut averages = [0.0; 3];
    for slot in &mut averages {
        *slot = fields
            .next()?
            .parse()
            .ok()
            .filter(|value: &f64| value.is_finite() && *value >= 0.0)?;
    }
    let (_running, tasks) = fields.next()?.split_once('/')?;
    Some(Load {
        averages,
        tasks: tasks.parse().ok()?,
    })
}

/// What `/proc/meminfo` says, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Memory {
    /// All of it.
    pub(super) total: u64,
    /// What could be had without swapping.
    pub(super) available: u64,
}

/// Reads `/proc/meminfo`.
pub(super) fn memory(text: &str) -> Option<Memory> {
    let field = |name: &str| -> Option<u64> {
        let rest = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kibibytes: u64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
        kibibytes.checked_mul(1024)
    };
    let total = field("MemTotal")?;
    let available = field("MemAvailable").or_else(|| {
        // Kernels before 3.14 and some emulated ones leave the estimate to the reader.
        Some(
            field("MemFree")?
                .saturating_add(field("Buffers")?)
                .saturating_add(field("Cached")?),
        )
    })?;
    Some(Memory {
        total,
        available: available.min(total),
    })
}

/// The value after `name:` in `/proc/<pid>/status`.
pub(super) fn status_field<'text>(text: &'text str, name: &str) -> Option<&'text str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAT: &str = "cpu  25887 10 10289 261299 943 5 73 52 700 0\n\
                        cpu0 12671 0 4172 132185 206 0 14 26 0 0\n\
                        intr 306946 0 0\nctxt 497796\nprocesses 14273\nprocs_running 3\nprocs_blocked 0\n";

    #[test]
    fn stat_counts_guest_time_once_and_reads_the_run_queue() {
        let stat = stat(STAT).unwrap();
        assert_eq!(stat.cpu.total, 25887 + 10 + 10289 + 261_299 + 943 + 5 + 73 + 52);
        assert_eq!(stat.cpu.idle, 261_299 + 943);
        assert_eq!(stat.running, 3);
    }

    #[test]
    fn busy_is_the_share_of_the_interval() {
        let earlier = CpuTimes {
            total: 1000,
            idle: 900,
        };
        let busy = CpuTimes {
            total: 1200,
            idle: 950,
        }
        .busy_since(earlier);
        assert!((busy - 75.0).abs() < 1e-9, "{busy}");
        assert!(earlier.busy_since(earlier).abs() < f64::EPSILON);
        let backwards = CpuTimes {
            total: 1100,
            idle: 850,
        }
        .busy_since(earlier);
        assert!((backwards - 100.0).abs() < 1e-9, "{backwards}");
        assert!(CpuTimes { total: 5, idle: 5 }.busy_since(earlier).abs() < f64::EPSILON);
    }

    #[test]
    fn load_and_memory_read_their_fields() {
        assert_eq!(
            load("0.11 1.50 20.25 1/95 14269\n"),
            Some(Load {
                averages: [0.11, 1.5, 20.25],
                tasks: 95
            })
        );
        let text = "MemTotal:       24684092 kB\nMemFree:  23941800 kB\nMemAvailable:   24197500 kB\n";
        assert_eq!(
            memory(text),
            Some(Memory {
                total: 24_684_092 * 1024,
                available: 24_197_500 * 1024
            })
        );
        let old = "MemTotal: 1000 kB\nMemFree: 100 kB\nBuffers: 20 kB\nCached: 30 kB\n";
        assert_eq!(
            memory(old),
            Some(Memory {
                total: 1000 * 1024,
                available: 150 * 1024
            })
        );
        let lying = "MemTotal: 1000 kB\nMemAvailable: 2000 kB\n";
        assert_eq!(memory(lying).map(|memory| memory.available), Some(1000 * 1024));
    }

    #[test]
    fn garbage_reads_as_nothing() {
        for text in [
            "",
            "\n\n",
            "cpu",
            "cpu ",
            "cpu  a b c d",
            "cpu  1 2 3",
            "cpu  1 2 3 -4",
            "\u{fffd}cpu 1 2 3 4",
        ] {
            assert_eq!(stat(text), None, "{text:?}");
        }
        for text in [
            "",
            "1 2 3",
            "1 2 3 4",
            "1 2 3 4/",
            "nan 1 1 1/2 3",
            "-1 1 1 1/2 3",
            "1 2 3 4/x 5",
        ] {
            assert_eq!(load(text), None, "{text:?}");
        }
        for text in [
            "",
            "MemTotal:",
            "MemTotal: x kB",
            "MemTotal: 1 kB",
            "MemTotal: 99999999999999999999 kB",
        ] {
            assert_eq!(memory(text), None, "{text:?}");
        }
        assert_eq!(
            stat("cpu  1 2 3 4").map(|stat| stat.cpu),
            Some(CpuTimes { total: 10, idle: 4 })
        );
    }

    #[test]
    fn status_fields_are_found_by_whole_name() {
        let text = "Name:\tboxd\nThreadsX:\t9\nThreads:\t6\n";
        assert_eq!(status_field(text, "Threads"), Some("6"));
        assert_eq!(status_field(text, "Uid"), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,200}", cpu in "cpu [ 0-9]{0,120}") {
            for text in [&text, &cpu] {
                let _ = (stat(text), load(text), memory(text), status_field(text, "Threads"));
            }
        }

        #[test]
        fn busy_stays_within_bounds(a: (u64, u64), b: (u64, u64)) {
            let busy = CpuTimes { total: a.0, idle: a.1 }.busy_since(CpuTimes { total: b.0, idle: b.1 });
            prop_assert!((0.0..=100.0).contains(&busy));
        }
    }
}
