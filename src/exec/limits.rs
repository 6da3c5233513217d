//! What a command may use at most, how that is enforced, and which limit it met: plain data.

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

impl Limits {
    /// Refuses what means nothing: a limit of zero, a soft limit above the hard one.
    pub fn validate(&self) -> Result<(), Error> {
        let invalid = |field, reason: String| Err(Error::Invalid { field, reason });
        for (field, limit) in [
            ("memory_max", self.memory_max),
            ("memory_high", self.memory_high),
            ("cpu_millicores", self.cpu_millicores),
            ("pids_max", self.pids_max),
            ("nofile", self.nofile),
            ("output_max", self.output_max),
        ] {
            if limit == Some(0) {
                return invalid(field, "is 0, a limit is at least 1; leave it out for none".into());
            }
        }
        match (self.memory_high, self.memory_max) {
            (Some(high), Some(max)) if high > max => invalid(
                "memory_high",
                format!("{high} is more than memory_max, which is {max}"),
            ),
            _ => Ok(()),
        }
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

/// What enforces limits of memory, processor time and processes. Where several do, the least exact one is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mechanism {
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
            Self::CgroupV2 => "cgroup_v2",
            Self::CgroupV1 => "cgroup_v1",
            Self::Watchdog => "watchdog",
        }
    }
}

/// A limit that a command met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
            memory_max: one,
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
            ("memory_high", Limits { memory_high: Some(2), ..whole }),
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
            memory_max: Some(100),
            memory_high: Some(90),
            pids_max: Some(5),
            ..Limits::default()
        };
        let other = Limits {
            memory_max: Some(50),
            cpu_millicores: Some(500),
            pids_max: Some(7),
            ..Limits::default()
        };
        let both = Limits {
            memory_max: Some(50),
            memory_high: Some(50),
            cpu_millicores: Some(500),
            pids_max: Some(5),
            ..Limits::default()
        };
        assert_eq!(one.tightest(other), both);
        assert_eq!(other.tightest(one), both);
        assert!(both.validate().is_ok());
    }
}
