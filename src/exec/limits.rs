//! What a command may use at most, how that is enforced, and which limit it met: plain data.

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Limits of one command and everything that it starts, `None` for no limit. Wall time is not among them: it is a
/// setting of every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Limits {
    /// Memory, bytes; beyond it the whole tree is killed.
    pub memory_max: Option<u64>,
    /// Memory, bytes; beyond it the tree is slowed down and its memory taken back.
    pub memory_high: Option<u64>,
    /// Processor time, thousandths of one processor.
    pub cpu_millicores: Option<u64>,
    /// Processes and threads at once.
    pub pids_max: Option<u64>,
    /// Open descriptors of each process.
    pub nofile: Option<u64>,
    /// Bytes of output; beyond it the whole tree is killed.
    pub output_max: Option<u64>,
}

/// What a caller calls the limits, in the order of [`Limits`].
pub type LimitNames = [&'static str; 6];

/// What they are called here.
const NAMES: LimitNames = [
    "memory_max",
    "memory_high",
    "cpu_millicores",
    "pids_max",
    "nofile",
    "output_max",
];

/// No program begins in less memory, bytes: the kernel refuses its birth, or kills it before its first instruction.
const LEAST_MEMORY: u64 = 64 << 10;

impl Limits {
    /// Refuses what means nothing: a limit of zero, memory in which nothing begins, a soft limit above the hard one.
    pub fn validate(&self) -> Result<(), Error> {
        self.validate_as(&NAMES)
    }

    /// The same for a caller that calls them by these names.
    pub fn validate_as(&self, names: &LimitNames) -> Result<(), Error> {
        let invalid = |field, reason: String| Err(Error::Invalid { field, reason });
        let limits = [
            self.memory_max,
            self.memory_high,
            self.cpu_millicores,
            self.pids_max,
            self.nofile,
            self.output_max,
        ];
        let mut zeros = names.iter().zip(limits).filter(|(_, limit)| *limit == Some(0));
        if let Some((field, _)) = zeros.next() {
            return invalid(field, "is 0, a limit is at least 1; leave it out for none".into());
        }
        let [memory_max, memory_high, ..] = names;
        match (self.memory_high, self.memory_max) {
            (_, Some(max)) if max < LEAST_MEMORY => invalid(
                memory_max,
                format!("is {max}, no program begins in less than {LEAST_MEMORY} bytes"),
            ),
            (Some(high), Some(max)) if high > max => invalid(
                memory_high,
                format!("{high} is more than {memory_max}, which is {max}"),
            ),
            _ => Ok(()),
        }
    }

    /// What keeps those limits that need no control group.
    pub fn kept_without_group(&self) -> Option<Mechanism> {
        let rlimit = self.nofile.map(|_| Mechanism::Rlimit);
        self.output_max.map(|_| Mechanism::Daemon).max(rlimit)
    }

    /// Both at once: the tighter one of each.
    #[must_use]
    pub fn tightest(self, other: Self) -> Self {
        let tighter = |one: Option<u64>, other: Option<u64>| one.into_iter().chain(other).min();
        let memory_max = tighter(self.memory_max, other.memory_max);
        let memory_high = tighter(self.memory_high, other.memory_high);
        Self {
            memory_max,
            memory_high: memory_high.map(|high| high.min(memory_max.unwrap_or(high))),
            cpu_millicores: tighter(self.cpu_millicores, other.cpu_millicores),
            pids_max: tighter(self.pids_max, other.pids_max),
            nofile: tighter(self.nofile, other.nofile),
            output_max: tighter(self.output_max, other.output_max),
        }
    }
}

/// What enforces limits other than that of time. Where several do, the one that comes last here is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mechanism {
    /// A resource limit of each process, `setrlimit(2)`.
    Rlimit,
    /// The daemon counts what it reads, and kills the tree.
    Daemon,
    /// A control group of its own in the unified hierarchy.
    CgroupV2,
    /// Control groups of its own in hierarchies of version one.
    CgroupV1,
    /// The daemon looks at the tree ten times a second and kills it.
    Watchdog,
}

impl Mechanism {
    /// The name that crosses the doors.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rlimit => "rlimit",
            Self::Daemon => "daemon",
            Self::CgroupV2 => "cgroup_v2",
            Self::CgroupV1 => "cgroup_v1",
            Self::Watchdog => "watchdog",
        }
    }
}

/// A limit that a command met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Hit {
    /// `memory_max`: it was killed.
    Memory,
    /// `pids_max`: it could not fork, or was killed.
    Pids,
    /// Wall time: it was killed.
    Wall,
    /// `output_max`: it was killed.
    Output,
    /// `nofile`, as far as that can be told.
    Nofile,
}

impl Hit {
    /// The name that crosses the doors.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Wall => "wall",
            Self::Output => "output",
            Self::Nofile => "nofile",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_nothing_is_refused_by_name() {
        assert!(Limits::default().validate().is_ok());
        let one = Some(1);
        let whole = Limits {
            memory_max: Some(LEAST_MEMORY),
            memory_high: one,
            cpu_millicores: one,
            pids_max: one,
            nofile: one,
            output_max: one,
        };
        assert!(whole.validate().is_ok());
        let zero = Some(0);
        #[rustfmt::skip]
        let wrong = [
            ("memory_max", Limits { memory_max: zero, ..whole }),
            ("memory_high", Limits { memory_high: zero, ..whole }),
            ("memory_max", Limits { memory_max: Some(LEAST_MEMORY - 1), ..whole }),
            ("memory_high", Limits { memory_high: Some(LEAST_MEMORY + 1), ..whole }),
            ("cpu_millicores", Limits { cpu_millicores: zero, ..whole }),
            ("pids_max", Limits { pids_max: zero, ..whole }),
            ("nofile", Limits { nofile: zero, ..whole }),
            ("output_max", Limits { output_max: zero, ..whole }),
        ];
        for (name, limits) in wrong {
            let error = limits.validate().unwrap_err();
            assert!(
                matches!(error, Error::Invalid { field, .. } if field == name),
                "{name}: {error}"
            );
        }
    }

    #[test]
    fn the_tighter_of_two_limits_counts() {
        let one = Limits {
            memory_max: Some(200_000),
            memory_high: Some(190_000),
            pids_max: Some(5),
            ..Limits::default()
        };
        let other = Limits {
            memory_max: Some(100_000),
            cpu_millicores: Some(500),
            pids_max: Some(7),
            ..Limits::default()
        };
        let both = Limits {
            memory_max: Some(100_000),
            memory_high: Some(100_000),
            cpu_millicores: Some(500),
            pids_max: Some(5),
            ..Limits::default()
        };
        assert_eq!(one.tightest(other), both);
        assert_eq!(other.tightest(one), both);
        assert!(both.validate().is_ok());
    }
}
