//! Where the control groups of this process are: the kernel's two tables, `/proc/self/cgroup` and the mounts, read
//! together. What stands in the groups is for those who ask: `host` reads the limits around the daemon, `exec` makes
//! groups of its own.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Of the two interfaces that a hierarchy can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for some controllers beside others.
    One,
    /// The unified hierarchy.
    Two,
}

/// The groups of this process and the hierarchies that are mounted.
#[derive(Debug, Default)]
pub struct Table {
    root: PathBuf,
    memberships: Vec<Membership>,
    mounts: Vec<Mount>,
}

/// The group of this process in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The hierarchy's interface.
    pub version: Version,
    /// The group, or the nearest one above it that can be seen.
    pub directory: PathBuf,
    /// The uppermost group that can be seen.
    pub top: PathBuf,
    /// The group itself can be seen.
    pub visible: bool,
    /// The hierarchy is not mounted read-only.
    pub writable: bool,
}

impl Place {
    /// The group and those above it that can be seen, innermost first.
    pub fn ancestry(&self) -> Vec<PathBuf> {
        let depth = self.directory.components().count() - self.top.components().count();
        let directories = self.directory.ancestors().take(depth + 1);
        directories.map(Path::to_path_buf).collect()
    }
}

impl Table {
    /// Reads both tables of the machine whose root directory is `root`; empty where nothing is mounted.
    pub fn read(root: &Path) -> Self {
        let read = |name: &str| fs::read(root.join(name)).unwrap_or_default();
        Self {
            root: root.to_owned(),
            memberships: memberships(&read("proc/self/cgroup")),
            mounts: mounts(&read("proc/self/mountinfo")),
        }
    }

    /// The groups of this process that may limit `controller`: one of version two, one of version one.
    pub fn places(&self, controller: &str) -> Vec<Place> {
        let has = |names: &[String]| names.iter().any(|name| name == controller);
        let relevant = self
            .memberships
            .iter()
            .filter(|membership| membership.controllers.is_empty() || has(&membership.controllers));
        relevant
            .filter_map(|membership| {
                let mounts = self.mounts.iter().filter(|mount| {
                    let version_two = membership.controllers.is_empty();
                    match mount.version {
                        Version::Two => version_two,
                        Version::One => !version_two && has(&mount.controllers),
                    }
                });
                self.place(&mounts.collect::<Vec<_>>(), &membership.path)
            })
            .collect()
    }

    /// The group of this process in the unified hierarchy.
    pub fn unified(&self) -> Option<Place> {
        let membership = self
            .memberships
            .iter()
            .find(|membership| membership.controllers.is_empty())?;
        let mounts = self.mounts.iter().filter(|mount| mount.version == Version::Two);
        self.place(&mounts.collect::<Vec<_>>(), &membership.path)
    }

    /// The group `path` under the first of these mounts that can be written to, else under the first.
    fn place(&self, mounts: &[&Mount], path: &Path) -> Option<Place> {
        let writable = mounts.iter().find(|mount| mount.writable);
        let mount = writable.or(mounts.first())?;
        let top = self
            .root
            .join(mount.point.strip_prefix("/").unwrap_or(&mount.point));
        // A path outside of what is mounted (a container that sees only its own part, or a parent's namespace) leaves
        // the mount point itself, which is then the nearest visible group.
        let below = path.strip_prefix(&mount.root).ok().filter(|below| {
            let mut parts = below.components();
            parts.all(|part| matches!(part, Component::Normal(_)))
        });
        Some(Place {
            version: mount.version,
            directory: below.map_or_else(|| top.clone(), |below| top.join(below)),
            visible: below.is_some(),
            top,
            writable: mount.writable,
        })
    }
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
    writable: bool,
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
    // The mount and its super block have options of their own, and either can forbid writing.
    let says_read_only = |options: &[u8]| options.split(|byte| *byte == b',').any(|option| option == b"ro");
    Some(Mount {
        version,
        root: path_of(unescaped(fields.get(3)?)),
        point: path_of(unescaped(fields.get(4)?)),
        controllers: options.split(',').map(str::to_owned).collect(),
        writable: !says_read_only(fields.get(5)?) && !says_read_only(options.as_bytes()),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn table(memberships: &str, mounts: &str) -> Table {
        let root = tempfile::tempdir().unwrap();
        let proc = root.path().join("proc/self");
        fs::create_dir_all(&proc).unwrap();
        fs::write(proc.join("cgroup"), memberships).unwrap();
        fs::write(proc.join("mountinfo"), mounts).unwrap();
        Table {
            root: "/".into(),
            ..Table::read(root.path())
        }
    }

    #[test]
    fn each_controller_is_found_in_its_own_hierarchy() {
        let table = table(
            "8:pids:/\n4:memory:/a/b\n0::/x\n",
            "35 31 0:32 / /cg/memory rw - cgroup cgroup rw,memory\n\
             39 31 0:36 / /cg/pids ro - cgroup cgroup rw,pids\n\
             41 31 0:38 / /cg/unified rw - cgroup2 cgroup2 rw\n",
        );
        let unified = Place {
            version: Version::Two,
            directory: "/cg/unified/x".into(),
            top: "/cg/unified".into(),
            visible: true,
            writable: true,
        };
        let memory = Place {
            version: Version::One,
            directory: "/cg/memory/a/b".into(),
            top: "/cg/memory".into(),
            visible: true,
            writable: true,
        };
        assert_eq!(table.unified(), Some(unified.clone()));
        assert_eq!(table.places("memory"), [memory.clone(), unified.clone()]);
        assert_eq!(
            memory.ancestry(),
            ["/cg/memory/a/b", "/cg/memory/a", "/cg/memory"].map(PathBuf::from)
        );
        let pids = &table.places("pids")[0];
        assert!(!pids.writable && pids.directory == pids.top, "{pids:?}");
        assert_eq!(table.places("cpu"), [unified], "which need not have it");
    }

    #[test]
    fn a_group_that_cannot_be_seen_is_taken_for_the_uppermost_one_that_can() {
        let table = table("0::/../elsewhere\n", "41 31 0:38 / /cg rw - cgroup2 cgroup2 rw\n");
        let place = table.unified().unwrap();
        assert!(!place.visible && place.directory == place.top, "{place:?}");
    }

    #[test]
    fn a_mount_that_can_be_written_to_goes_before_one_that_cannot() {
        let table = table(
            "0::/\n",
            "40 31 0:38 / /ro ro - cgroup2 cgroup2 rw\n\
             41 31 0:38 / /super rw - cgroup2 cgroup2 ro\n\
             42 31 0:38 / /rw rw - cgroup2 cgroup2 rw\n",
        );
        assert_eq!(table.unified().unwrap().top, Path::new("/rw"));
    }

    #[test]
    fn escapes_are_undone_once() {
        assert_eq!(unescaped(br"a\040b\134040\9\04"), br"a b\040\9\04");
    }
}
