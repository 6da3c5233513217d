//! The control groups of one command: made with its limits before it is born, entered at its birth, asked what
//! happened at its end.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cgroup::{Cgroups, Controller, Site};
use super::cradle::{Home, Placement};
use super::leaf::{self, Leaf};
use super::limits::Limits;
use super::spec::Oom;
use super::sys;
use crate::cgroups::Version;
use crate::error::Error;

/// More processes than the kernel can have are no limit, and it takes no such number.
const PIDS: u64 = 4 << 20;
/// Thousandths of a processor beyond which a limit is none; the kernel takes no number of microseconds.
const MILLICORES: u64 = 1_000_000;
/// How long a killed group is given to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// The groups of one command, one per hierarchy.
#[derive(Debug, Default)]
pub(super) struct Leaves {
    all: Vec<(Arc<Site>, Leaf)>,
    /// Which of them limits memory.
    memory: Option<usize>,
    /// Which of them limits processes.
    pids: Option<usize>,
    /// One that limits nothing, in which forks can be forbidden.
    forks: Option<usize>,
}

impl Leaves {
    /// Makes what the limits need of groups; none where they need none, or none can be made. What was made before an
    /// error is removed.
    pub(super) fn make(cgroups: &Cgroups, limits: &Limits, id: &str) -> Result<Self, Error> {
        let mut leaves = Self::default();
        if limits.memory_max.is_some() || limits.memory_high.is_some() {
            leaves.memory = leaves.with(cgroups, Controller::Memory, id)?;
        }
        if limits.pids_max.is_some() {
            leaves.pids = leaves.with(cgroups, Controller::Pids, id)?;
        }
        let cpu = match limits.cpu_millicores {
            Some(_) => leaves.with(cgroups, Controller::Cpu, id)?,
            None => None,
        };
        if leaves.all.iter().any(|(site, _)| site.version == Version::One) {
            leaves.gather(cgroups, id)?;
        }
        if let Some((site, leaf)) = leaves.memory.map(|index| &leaves.all[index]) {
            limit_memory(leaf, site.version, limits)?;
        }
        if let (Some(index), Some(most)) = (leaves.pids, limits.pids_max) {
            let most = if most < PIDS {
                most.to_string()
            } else {
                "max".into()
            };
            set(&leaves.all[index].1, "pids_max", "pids.max", &most)?;
        }
        if let (Some(index), Some(millicores)) = (cpu, limits.cpu_millicores) {
            let (site, leaf) = &leaves.all[index];
            limit_processors(leaf, site.version, millicores.min(MILLICORES))?;
        }
        Ok(leaves)
    }

    /// The leaf that `controller` limits; it may be there already, for another controller.
    fn with(&mut self, cgroups: &Cgroups, controller: Controller, id: &str) -> Result<Option<usize>, Error> {
        let site = cgroups.site(controller);
        site.map(|site| self.at(site, cgroups, id)).transpose()
    }

    fn at(&mut self, site: &Arc<Site>, cgroups: &Cgroups, id: &str) -> Result<usize, Error> {
        let known = self.all.iter().position(|(known, _)| Arc::ptr_eq(known, site));
        if let Some(known) = known {
            return Ok(known);
        }
        let leaf = site.leaf(id, &cgroups.remains).map_err(cannot_make)?;
        self.all.push((Arc::clone(site), leaf));
        Ok(self.all.len() - 1)
    }

    /// Adds the group by which a tree is killed at once; failing that one in which it can be kept from forking.
    fn gather(&mut self, cgroups: &Cgroups, id: &str) -> Result<(), Error> {
        if let Some(unified) = &cgroups.unified {
            let index = self.at(unified, cgroups, id)?;
            if self.all[index].1.directory().join("cgroup.kill").exists() {
                return Ok(());
            }
        }
        if self.pids.is_none() {
            self.forks = self.with(cgroups, Controller::Pids, id)?;
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What a newborn needs to be in all of them.
    pub(super) fn placement(&self) -> Result<Placement, Error> {
        let fail = |leaf: &Leaf, error: io::Error| Error::Io {
            doing: format!("open control group {:?}", leaf.directory()),
            source: error,
        };
        let mut placement = Placement::default();
        for (site, leaf) in &self.all {
            match site.version {
                Version::Two => {
                    placement.home = Some(home(leaf).map_err(|error| fail(leaf, error))?);
                }
                // A newborn is a single thread, and a thread that moves alone does not wait for all processors.
                Version::One => {
                    let door = leaf.door("tasks").map_err(|error| fail(leaf, error))?;
                    placement.doors.push(door.into());
                }
            }
        }
        Ok(placement)
    }

    /// Whether the kernel killed anybody of it for want of memory; nobody can tell without a group.
    pub(super) fn oom(&self) -> Oom {
        let Some((site, leaf)) = self.memory.map(|index| &self.all[index]) else {
            return Oom::Unknown;
        };
        let file = match site.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        match leaf.keyed(file, "oom_kill") {
            Some(0) => Oom::No,
            Some(_) => Oom::Yes,
            None => Oom::Unknown,
        }
    }

    /// Whether memory ran out because of its own limit, and not that of a group around it.
    pub(super) fn is_out_of_memory(&self) -> bool {
        self.memory.is_some_and(|index| {
            let (site, leaf) = &self.all[index];
            let met = match site.version {
                Version::One => Some(u64::from(is_full(leaf))),
                Version::Two => leaf
                    .keyed("memory.events.local", "oom")
                    .or_else(|| leaf.keyed("memory.events", "oom")),
            };
            met.is_some_and(|times| times > 0)
        })
    }

    /// Whether a group of version one stands still for want of memory: where a group around it was told to kill nobody,
    /// so is this one.
    pub(super) fn is_stuck(&self) -> bool {
        let says = |leaf: &Leaf, key: &str| leaf.keyed("memory.oom_control", key) == Some(1);
        let leaf = self.memory_of_version_one();
        leaf.is_some_and(|leaf| says(leaf, "oom_kill_disable") && says(leaf, "under_oom"))
    }

    /// Whether somebody of it could not fork because of its limit.
    pub(super) fn is_out_of_pids(&self) -> bool {
        self.pids.is_some_and(|index| {
            let events = self.all[index].1.keyed("pids.events", "max");
            events.is_some_and(|times| times > 0)
        })
    }

    /// The most memory that all of it used at once, bytes.
    pub(super) fn peak_memory(&self) -> Option<u64> {
        let (site, leaf) = &self.all[self.memory?];
        leaf.number(match site.version {
            Version::One => "memory.max_usage_in_bytes",
            Version::Two => "memory.peak",
        })
    }

    /// The group whose memory the kernel watches without killing all of its members.
    pub(super) fn memory_of_version_one(&self) -> Option<&Leaf> {
        let (site, leaf) = &self.all[self.memory?];
        (site.version == Version::One).then_some(leaf)
    }

    /// By what everybody in it is reached.
    pub(super) fn reach(&self) -> Option<Reach> {
        let directory = |leaf: &Leaf| leaf.directory().to_owned();
        let two = self.all.iter().find(|(site, _)| site.version == Version::Two);
        let by_version = two.or(self.all.first())?;
        Some(Reach {
            group: directory(&by_version.1),
            forks: self.forks.map(|index| directory(&self.all[index].1)),
        })
    }
}

/// Everybody in the groups of a command, whatever they did to hide.
#[derive(Debug, Clone)]
pub(super) struct Reach {
    group: PathBuf,
    /// The group in which forks can be forbidden.
    forks: Option<PathBuf>,
}

impl Reach {
    /// Their pids, as far as this process namespace shows them.
    pub(super) fn members(&self) -> Vec<i32> {
        leaf::members(&self.group)
    }

    /// Kills everybody; answers who would not end. Blocks; bounded.
    pub(super) fn kill(&self) -> Vec<i32> {
        let at_once = File::options().write(true).open(self.group.join("cgroup.kill"));
        let at_once = at_once.and_then(|mut kill| io::Write::write_all(&mut kill, b"1"));
        if at_once.is_err()
            && let Some(forks) = &self.forks
        {
            // It only makes the rest quicker.
            let _ = fs::write(forks.join("pids.max"), "0");
        }
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(500);
        loop {
            let alive = if at_once.is_ok() {
                self.members()
            } else {
                self.strike()
            };
            if alive.is_empty() || Instant::now() > deadline {
                return alive;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Sends KILL to everybody who is there now.
    fn strike(&self) -> Vec<i32> {
        let opened = self.members().into_iter();
        let opened: Vec<_> = opened
            .filter_map(|pid| Some((pid, sys::open_pidfd(pid).ok()?)))
            .collect();
        // Asked again: who is in there now and was opened before is nobody who got the pid of somebody else since.
        let alive = self.members();
        for (pid, pidfd) in opened {
            if alive.contains(&pid) {
                // It may have ended meanwhile.
                let _ = sys::signal_pidfd(pidfd.as_fd(), libc::SIGKILL);
            }
        }
        alive
    }
}

fn home(leaf: &Leaf) -> io::Result<Home> {
    let directory = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(leaf.directory())?;
    Ok(Home {
        directory: directory.into(),
        door: leaf.door("cgroup.procs")?.into(),
    })
}

fn limit_memory(leaf: &Leaf, version: Version, limits: &Limits) -> Result<(), Error> {
    let (hard, soft) = match version {
        Version::One => ("memory.limit_in_bytes", "memory.soft_limit_in_bytes"),
        Version::Two => ("memory.max", "memory.high"),
    };
    if let Some(max) = limits.memory_max {
        let max = max.to_string();
        set(leaf, "memory_max", hard, &max)?;
        // What is swapped out was used as well; not every kernel counts it.
        let _uncounted = match version {
            Version::One => leaf.set("memory.memsw.limit_in_bytes", &max),
            Version::Two => leaf.set("memory.swap.max", "0"),
        };
    }
    if let Some(high) = limits.memory_high {
        set(leaf, "memory_high", soft, &high.to_string())?;
    }
    if version == Version::Two {
        // All or nobody: a tree that lost one of its processes is of no use.
        set(leaf, "memory_max", "memory.oom.group", "1")?;
    }
    Ok(())
}

fn limit_processors(leaf: &Leaf, version: Version, millicores: u64) -> Result<(), Error> {
    // The kernel gives out no less than a millisecond at a time.
    let period: u64 = if millicores < 10 { 1_000_000 } else { 100_000 };
    let quota = millicores * period / 1000;
    if version == Version::Two {
        return set(leaf, "cpu_millicores", "cpu.max", &format!("{quota} {period}"));
    }
    set(leaf, "cpu_millicores", "cpu.cfs_period_us", &period.to_string())?;
    match leaf.set("cpu.cfs_quota_us", &quota.to_string()) {
        // Refused when a group around it has less than that; then it has no more than that either.
        Err(error) if is_invalid(&error) && surrounding_quota(leaf.directory()) <= millicores => Ok(()),
        outcome => outcome.map_err(|error| cannot_set(leaf, "cpu_millicores", "cpu.cfs_quota_us", error)),
    }
}

/// The least that a group around this one has, thousandths of a processor.
fn surrounding_quota(group: &Path) -> u64 {
    let number = |group: &Path, file: &str| -> Option<u64> {
        fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()
    };
    let quota = |group: &Path| {
        let period = number(group, "cpu.cfs_period_us").filter(|period| *period > 0)?;
        // -1 is none.
        Some(number(group, "cpu.cfs_quota_us")? * 1000 / period)
    };
    group
        .ancestors()
        .skip(1)
        .filter_map(quota)
        .min()
        .unwrap_or(u64::MAX)
}

/// Whether the limit of a group of version one was met. Not every kernel counts the times when the limit of memory and
/// swap together was, so that the peak tells; a large page may have been refused shortly before it.
fn is_full(leaf: &Leaf) -> bool {
    ["memory", "memory.memsw"].into_iter().any(|counter| {
        let number = |file: &str| leaf.number(&format!("{counter}.{file}"));
        let peak = number("max_usage_in_bytes").zip(number("limit_in_bytes"));
        number("failcnt").is_some_and(|times| times > 0)
            || peak.is_some_and(|(peak, limit)| peak >= limit - limit / 16)
    })
}

fn is_invalid(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ERANGE))
}

fn set(leaf: &Leaf, field: &'static str, file: &str, value: &str) -> Result<(), Error> {
    leaf.set(file, value)
        .map_err(|error| cannot_set(leaf, field, file, error))
}

fn cannot_set(leaf: &Leaf, field: &'static str, file: &str, error: io::Error) -> Error {
    if is_invalid(&error) {
        return Error::Invalid {
            field,
            reason: format!("the kernel does not take it for {file}"),
        };
    }
    Error::Io {
        doing: format!("write {:?}", leaf.directory().join(file)),
        source: error,
    }
}

fn cannot_make(error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => Error::Overloaded {
            what: "control groups",
            reason: error.to_string(),
        },
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => Error::Unsupported {
            what: "a limit by control groups".into(),
            why: format!("none can be made any more: {error}"),
            fix: Some("delegate control groups to the daemon".into()),
        },
        _ => Error::Io {
            doing: "make a control group".into(),
            source: error,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quota_of_groups_around_is_the_least_of_them() {
        let top = tempfile::tempdir().unwrap();
        let leaf = top.path().join("half/unlimited/leaf");
        fs::create_dir_all(&leaf).unwrap();
        let write = |group: &str, quota: &str| {
            fs::write(top.path().join(group).join("cpu.cfs_quota_us"), quota).unwrap();
            fs::write(top.path().join(group).join("cpu.cfs_period_us"), "100000\n").unwrap();
        };
        assert_eq!(surrounding_quota(&leaf), u64::MAX);
        write("half/unlimited", "-1\n");
        assert_eq!(surrounding_quota(&leaf), u64::MAX);
        write("half", "50000\n");
        write("", "200000\n");
        assert_eq!(surrounding_quota(&leaf), 500);
    }
}
