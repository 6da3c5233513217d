//! The limits of the container around the daemon, from cgroup v2 and from v1 hierarchies side by side.
//!
//! [`Cgroups::discover`] finds the directories: each controller's group of this process and every ancestor that is
//! visible. A limit is the tightest of them, since an ancestor binds all that is below it. Nothing is written here;
//! limits of single commands are the exec room's.

use std::fs;
use std::path::{Path, PathBuf};

use super::Limits;

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Cgroups {
    /// Finds the groups of this process in the machine whose root directory is `root`; none where nothing is mounted.
    pub(super) fn discover(root: &Path) -> Self {
        let read = |name: &str| fs::read(root.join(name)).unwrap_or_default();
        let memberships = memberships(&read("proc/self/cgroup"));
        let mounts = mounts(&read("proc/self/mountinfo"));
        let find = |controller: &str| groups(root, &memberships, &mounts, controller);
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

/// One line of `/proc/self/cgroup`; no controllers is version two.
#[derive(Debug, PartialEq, Eq)]
struct Membership {
    controllers: Vec<String>,
    path: PathBuf,
}

fn memberships(text: &[u8]) -> Vec<Membership> {
    text.split(|byte| *byte == b'\n').filter_map(membership).collect()
}

fn membership(line: &[u8]) -> Option<Membership> {
    let mut parts = line.splitn(3, |byte| *byte == b':');
    let _hierarchy = parts.next()?;
    let controllers = std::str::from_utf8(parts.next()?).ok()?;
    let path = parts.next().filter(|path| path.starts_with(b"/"))?;
    Some(Membership {
        controllers: controllers
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
        path: path_of(path.to_vec()),
    })
}

/// One cgroup mount of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    version: Version,
    /// The directory of the hierarchy that is mounted.
    root: PathBuf,
    /// Where it is mounted.
    point: PathBuf,
    /// The controllers of a version one hierarchy.
    controllers: Vec<String>,
}

fn mounts(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(mount).collect()
}

fn mount(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    // Optional fields end with a lone hyphen; type, source and super block options follow it.
    let hyphen = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
    let version = match *fields.get(hyphen + 1)? {
        b"cgroup2" => Version::Two,
        b"cgroup" => Version::One,
        _ => return None,
    };
    let options = std::str::from_utf8(fields.get(hyphen + 3)?).ok()?;
    Some(Mount {
        version,
        root: path_of(unescaped(fields.get(3)?)),
        point: path_of(unescaped(fields.get(4)?)),
        controllers: options.split(',').map(str::to_owned).collect(),
    })
}

/// Undoes the octal escapes (`\040`) that the kernel writes for blanks and backslashes.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(octal);
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    bytes
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// The groups of this process that may limit `controller`, of both versions, innermost first.
fn groups(root: &Path, memberships: &[Membership], mounts: &[Mount], controller: &str) -> Vec<Group> {
    let has = |names: &[String]| names.iter().any(|name| name == controller);
    let mut found = Vec::new();
    for membership in memberships {
        let version = if membership.controllers.is_empty() {
            Version::Two
        } else {
            Version::One
        };
        if version == Version::One && !has(&membership.controllers) {
            continue;
        }
        let mount = mounts
            .iter()
            .find(|mount| mount.version == version && (version == Version::Two || has(&mount.controllers)));
        if let Some(mount) = mount {
            found.extend(
                ancestry(root, mount, &membership.path).map(|directory| Group { directory, version }),
            );
        }
    }
    found
}

/// The directory of the group `path` under `mount` and those above it, up to the mount point.
fn ancestry(root: &Path, mount: &Mount, path: &Path) -> impl Iterator<Item = PathBuf> {
    let point = root.join(mount.point.strip_prefix("/").unwrap_or(&mount.point));
    // A path outside of what is mounted (a container that sees only its own part, or a parent's namespace) leaves
    // the mount point itself, which is then the nearest visible group.
    let below = path.strip_prefix(&mount.root).ok().filter(|below| {
        below
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)))
    });
    let innermost = below.map_or_else(|| point.clone(), |below| point.join(below));
    let depth = innermost.components().count() - point.components().count();
    let directories: Vec<PathBuf> = innermost
        .ancestors()
        .take(depth + 1)
        .map(Path::to_path_buf)
        .collect();
    directories.into_iter()
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

    #[test]
    fn escapes_are_undone_once() {
        assert_eq!(unescaped(br"a\040b\134040\9\04"), br"a b\040\9\04");
    }
}
