//! The limits of the container around the daemon, from cgroup v2 and from v1 hierarchies side by side.
//!
//! [`Cgroups::discover`] finds the directories: each controller's group of this process and every ancestor that is
//! visible. A limit is the tightest of them, since an ancestor binds all that is below it. Nothing is written here;
//! limits of single commands are the exec room's.

use std::fs;
use std::path::{Path, PathBuf};

use super::Limits;
use crate::cgroups::{Table, Version};

/// Where the limits of this process stand, innermost group first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Cgroups {
    memory: Vec<Group>,
    cpu: Vec<Group>,
    pids: Vec<Group>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    directory: PathBuf,
    version: Version,
}

impl Cgroups {
    /// Finds the groups of this process in the machine whose root directory is `root`; none where nothing is mounted.
    pub(super) fn discover(root: &Path) -> Self {
        let table = Table::read(root);
        let find = |controller: &str| {
            let places = table.places(controller).into_iter();
            let groups = places.flat_map(|place| {
                let version = place.version;
                let directories = place.ancestry().into_iter();
                directories.map(move |directory| Group { directory, version })
            });
            groups.collect()
        };
        Self {
            memory: find("memory"),
            cpu: find("cpu"),
            pids: find("pids"),
        }
    }

    /// The limits that are tighter than a machine of `memory` bytes and `processors`.
    pub(super) fn limits(&self, memory: u64, processors: u64) -> Limits {
        let tightest = self
            .memory
            .iter()
            .filter_map(|group| Some((group.memory_max()?, group)))
            .filter(|(max, _)| *max < memory)
            .min_by_key(|(max, _)| *max);
        let cores = self
            .cpu
            .iter()
            .filter_map(Group::cpu_cores)
            .fold(f64::INFINITY, f64::min);
        Limits {
            memory_max: tightest.map(|(max, _)| max),
            memory_used: tightest.and_then(|(_, group)| group.memory_used()),
            cpu_cores: (cores < processors as f64).then_some(cores),
            pids_max: self.pids.iter().filter_map(Group::pids_max).min(),
        }
    }

    /// Bytes that may still be used before a limit is met; page cache that can be dropped counts as free. `None`
    /// without a limit.
    pub(super) fn memory_headroom(&self) -> Option<u64> {
        let left = |group: &Group| Some(group.memory_max()?.saturating_sub(group.working_set()?));
        self.memory.iter().filter_map(left).min()
    }

    /// Tasks that may still be made before a limit is met; `None` without a limit.
    pub(super) fn pid_headroom(&self) -> Option<u64> {
        let left = |group: &Group| Some(group.pids_max()?.saturating_sub(group.number("pids.current")?));
        self.pids.iter().filter_map(left).min()
    }
}

impl Group {
    fn text(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.directory.join(file)).ok()
    }

    /// The number in `file`; `None` when it says `max`, or nothing.
    fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.trim().parse().ok()
    }

    fn memory_max(&self) -> Option<u64> {
        match self.version {
            Version::Two => self.number("memory.max"),
            // Version one writes "no limit" as the largest whole number of pages.
            Version::One => self
                .number("memory.limit_in_bytes")
                .filter(|max| *max < u64::MAX / 4),
        }
    }

    fn memory_used(&self) -> Option<u64> {
        self.number(match self.version {
            Version::Two => "memory.current",
            Version::One => "memory.usage_in_bytes",
        })
    }

    fn working_set(&self) -> Option<u64> {
        let name = match self.version {
            Version::Two => "inactive_file",
            Version::One => "total_inactive_file",
        };
        let inactive = self
            .text("memory.stat")
            .and_then(|text| keyed(&text, name))
            .unwrap_or(0);
        Some(self.memory_used()?.saturating_sub(inactive))
    }

    fn cpu_cores(&self) -> Option<f64> {
        let (quota, period) = match self.version {
            Version::Two => {
                let text = self.text("cpu.max")?;
                let mut fields = text.split_ascii_whitespace();
                (
                    fields.next()?.parse::<u64>().ok()?,
                    fields.next()?.parse::<u64>().ok()?,
                )
            }
            Version::One => (
                self.number("cpu.cfs_quota_us")?,
                self.number("cpu.cfs_period_us")?,
            ),
        };
        (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
    }

    fn pids_max(&self) -> Option<u64> {
        self.number("pids.max")
    }
}

/// The number after `name ` at the start of a line.
fn keyed(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A machine's root directory with only the named files in it.
    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn version_two_takes_the_tightest_ancestor() {
        let root = machine(&[
            ("proc/self/cgroup", "0::/pod/box\n"),
            (
                "proc/self/mountinfo",
                "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
            ),
            ("sys/fs/cgroup/pod/box/memory.max", "max\n"),
            ("sys/fs/cgroup/pod/box/memory.current", "1000\n"),
            ("sys/fs/cgroup/pod/box/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/pod/box/pids.max", "512\n"),
            ("sys/fs/cgroup/pod/box/pids.current", "12\n"),
            ("sys/fs/cgroup/pod/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/pod/memory.current", "600000000\n"),
            (
                "sys/fs/cgroup/pod/memory.stat",
                "anon 5\ninactive_file 100000000\nactive_file 7\n",
            ),
            ("sys/fs/cgroup/pod/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/pod/pids.max", "100\n"),
            ("sys/fs/cgroup/pod/pids.current", "90\n"),
        ]);
        let groups = Cgroups::discover(root.path());
        let limits = groups.limits(8 * GIB, 4);
        assert_eq!(limits.memory_max, Some(GIB));
        assert_eq!(limits.memory_used, Some(600_000_000));
        assert_eq!(limits.cpu_cores, Some(1.5));
        assert_eq!(limits.pids_max, Some(100));
        assert_eq!(groups.memory_headroom(), Some(GIB - 500_000_000));
        assert_eq!(groups.pid_headroom(), Some(10));
    }

    #[test]
    fn hybrid_hosts_are_read_from_version_one() {
        let root = machine(&[
            (
                "proc/self/cgroup",
                "8:pids:/\n4:memory:/box\n2:cpu,cpuacct:/box\n1:name=systemd:/\n0::/\n",
            ),
            (
                "proc/self/mountinfo",
                "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                 35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                 39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                 41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            ),
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n"),
            ("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "536870912\n"),
            ("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "400\n"),
            (
                "sys/fs/cgroup/memory/box/memory.stat",
                "inactive_file 1\ntotal_inactive_file 100\n",
            ),
            ("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "50000\n"),
            ("sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
        ]);
        let groups = Cgroups::discover(root.path());
        let limits = groups.limits(8 * GIB, 4);
        assert_eq!(limits.memory_max, Some(GIB / 2));
        assert_eq!(limits.memory_used, Some(400));
        assert_eq!(limits.cpu_cores, Some(0.5));
        assert_eq!(limits.pids_max, None);
        assert_eq!(groups.memory_headroom(), Some(GIB / 2 - 300));
        assert_eq!(groups.pid_headroom(), None);
    }

    #[test]
    fn a_container_that_sees_only_its_part_is_read_at_the_mount_point() {
        let own_root = "99 1 0:3 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let files = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1048576\n");
        for path in ["/docker/abc", "/", "/../../elsewhere", "/docker/abcdef"] {
            let line = format!("4:memory:{path}\n");
            let root = machine(&[
                ("proc/self/cgroup", &line),
                ("proc/self/mountinfo", own_root),
                files,
            ]);
            let limits = Cgroups::discover(root.path()).limits(GIB, 1);
            assert_eq!(limits.memory_max, Some(1_048_576), "{path}");
        }
    }

    #[test]
    fn limits_beyond_the_machine_are_none() {
        let root = machine(&[
            ("proc/self/cgroup", "0::/\n"),
            (
                "proc/self/mountinfo",
                "29 23 0:26 / /cg\\040roup rw shared:1 master:2 - cgroup2 none rw\n",
            ),
            ("cg roup/memory.max", "1073741824\n"),
            ("cg roup/cpu.max", "400000 100000\n"),
        ]);
        let groups = Cgroups::discover(root.path());
        assert_eq!(groups.limits(GIB, 4), Limits::default());
        assert_eq!(groups.limits(2 * GIB, 8).memory_max, Some(GIB));
        assert_eq!(groups.limits(2 * GIB, 8).cpu_cores, Some(4.0));
    }

    #[test]
    fn nothing_mounted_and_garbage_are_no_limits() {
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(Cgroups::discover(empty.path()), Cgroups::default());
        let root = machine(&[
            ("proc/self/cgroup", "\n:::\n0:\n0::relative\nx\n0::/\n"),
            (
                "proc/self/mountinfo",
                "\n-\n1 2 3 - cgroup2\n29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            ),
            ("sys/fs/cgroup/memory.max", "lots\n"),
            ("sys/fs/cgroup/cpu.max", "100000\n"),
            ("sys/fs/cgroup/pids.max", "-3\n"),
        ]);
        let groups = Cgroups::discover(root.path());
        assert_eq!(groups.limits(GIB, 4), Limits::default());
        assert_eq!((groups.memory_headroom(), groups.pid_headroom()), (None, None));
    }
}
