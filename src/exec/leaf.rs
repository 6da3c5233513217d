//! The control groups that the daemon makes: one group of its own per hierarchy, locked for as long as it lives, and in
//! it a leaf per limited command.
//!
//! ```text
//!   <where the daemon is>/boxd-1b4e28ba/          the daemon's, flock
//!                         boxd-1b4e28ba/<id>/     a command's, limits and members
//! ```
//!
//! The kernel keeps a group that has members. A leaf that cannot be removed at the end of its command, because a
//! background child lives on, is tried again with every leaf that comes after it and at the end of the daemon. What a
//! killed daemon left behind is told by its lock, which nobody holds any more. Which groups are made, and what is
//! written to them, is decided in `cgroup`.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};

use crate::ids::InstanceId;

/// What the names of daemons' groups begin with; eight digits of their instance follow.
const PREFIX: &str = "boxd-";
/// How long members that are just ending are waited for.
const PATIENCE: Duration = Duration::from_millis(200);
/// Groups below a leaf are the command's own; beyond this depth they are left.
const DEPTH: usize = 16;

/// The daemon's own group in one hierarchy.
#[derive(Debug)]
pub(super) struct Group {
    directory: PathBuf,
    /// Tells other daemons that this one lives.
    _lock: File,
}

impl Group {
    /// Makes and locks the group `name` in `parent`.
    pub(super) fn make(parent: &Path, name: &str) -> io::Result<Self> {
        let directory = parent.join(name);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match make_directory(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            // Another daemon that starts may take it for a leftover before it is locked, and remove it.
            if let Some(lock) = lock(&directory)? {
                return Ok(Self {
                    directory,
                    _lock: lock,
                });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        patiently(|| remove_with_leaves(&self.directory), &self.directory);
    }
}

/// The name of a daemon's groups.
pub(super) fn name_of(instance: InstanceId) -> String {
    let digits = instance.0.simple().to_string();
    format!("{PREFIX}{}", &digits[..8])
}

/// Whether this is the name of a daemon's group.
pub(super) fn is_ours(name: &str) -> bool {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    name.strip_prefix(PREFIX)
        .is_some_and(|digits| digits.len() == 8 && digits.bytes().all(lower))
}

/// Removes what daemons that live no more have left in `parent` and nobody is in.
pub(super) fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_ours) {
            // Held until it is gone: a daemon of that name that starts now waits.
            if let Ok(Some(_lock)) = lock(&entry.path()) {
                remove_with_leaves(&entry.path());
            }
        }
    }
}

/// Locks a daemon's group; `None` when another one holds it, or it is not there any more.
fn lock(directory: &Path) -> io::Result<Option<File>> {
    let there = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ok(None),
        _ => Err(error),
    };
    let file = match File::open(directory) {
        Ok(file) => file,
        Err(error) => return there(error),
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        locked => locked?,
    }
    match fs::metadata(directory) {
        Ok(now) if now.ino() == file.metadata()?.ino() => Ok(Some(file)),
        Ok(_) => Ok(None),
        Err(error) => there(error),
    }
}

fn make_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(directory)
}

/// Removes a daemon's group and every leaf in it that nobody is in; says whether it is gone.
fn remove_with_leaves(group: &Path) -> bool {
    for leaf in subgroups(group) {
        remove(&leaf, DEPTH);
    }
    remove(group, 0)
}

/// Repeats a removal for as long as nobody is in the group and the kernel refuses it all the same: its last members are
/// just ending. Says whether it came about.
fn patiently(mut remove: impl FnMut() -> bool, group: &Path) -> bool {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(1);
    loop {
        if remove() {
            return true;
        }
        if is_inhabited(group) || Instant::now() + pause > deadline {
            return false;
        }
        std::thread::sleep(pause);
        pause *= 2;
    }
}

/// Removes a leaf, and what its command made in it, when nobody is in there; says whether it is gone. The files in a
/// group go with it.
fn remove(leaf: &Path, depth: usize) -> bool {
    let gone = |removed: io::Result<()>| match removed {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if gone(fs::remove_dir(leaf)) {
        return true;
    }
    let below = subgroups(leaf);
    if below.is_empty() || depth == 0 || is_inhabited(leaf) {
        return false;
    }
    for group in below {
        remove(&group, depth - 1);
    }
    gone(fs::remove_dir(leaf))
}

/// Whether anybody is in a group or in those in it, seen from here or not.
fn is_inhabited(group: &Path) -> bool {
    numbers(group).next().is_some()
}

fn subgroups(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Leaves that could not be removed yet.
#[derive(Debug, Default)]
pub(super) struct Remains(Mutex<Vec<PathBuf>>);

impl Remains {
    /// Removes what nobody is in any more. Blocks for a system call per leaf.
    pub(super) fn tidy(&self) {
        self.0.lock().retain(|leaf| !remove(leaf, DEPTH));
    }

    /// Whether there are none.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    fn discard(&self, leaf: PathBuf) {
        if !patiently(|| remove(&leaf, DEPTH), &leaf) {
            self.0.lock().push(leaf);
        }
        self.tidy();
    }
}

/// The group of one command. Removed when it is dropped, or as soon as nobody is in it any more.
#[derive(Debug)]
pub(super) struct Leaf {
    directory: PathBuf,
    remains: Arc<Remains>,
}

impl Leaf {
    /// Makes the leaf `name` in the daemon's `group`.
    pub(super) fn make(group: &Group, name: &str, remains: &Arc<Remains>) -> io::Result<Self> {
        let directory = group.directory.join(name);
        make_directory(&directory)?;
        Ok(Self {
            directory,
            remains: Arc::clone(remains),
        })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes `value` to one of its files.
    pub(super) fn set(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.directory.join(file), value)
    }

    /// Opens a file to be written to, for others than this process.
    pub(super) fn door(&self, file: &str) -> io::Result<File> {
        File::options().write(true).open(self.directory.join(file))
    }

    /// The number in `file`; `None` where there is no such file, or no number in it.
    pub(super) fn number(&self, file: &str) -> Option<u64> {
        let text = fs::read_to_string(self.directory.join(file)).ok()?;
        text.trim().parse().ok()
    }

    /// The number behind `key` in a file of such lines.
    pub(super) fn keyed(&self, file: &str, key: &str) -> Option<u64> {
        let text = fs::read_to_string(self.directory.join(file)).ok()?;
        let value = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok();
        text.lines().find_map(value)
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        let (remains, leaf) = (Arc::clone(&self.remains), self.directory.clone());
        // Members that are ending are waited for, which is not for a thread that serves others.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || remains.discard(leaf))),
            Err(_) => remains.discard(leaf),
        }
    }
}

/// Everybody in a group and those in it, as far as this process namespace shows them.
pub(super) fn members(group: &Path) -> Vec<i32> {
    numbers(group).filter(|pid| *pid > 0).collect()
}

/// The number of everybody in a group and those in it, 0 for who is outside of this process namespace.
fn numbers(group: &Path) -> impl Iterator<Item = i32> {
    let mut pending = vec![group.to_owned()];
    let groups = std::iter::from_fn(move || {
        let group = pending.pop()?;
        pending.extend(subgroups(&group));
        Some(fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default())
    });
    groups.flat_map(|procs| {
        let pids: Vec<i32> = procs
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .collect();
        pids
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_groups_of_daemons_have_such_names() {
        assert!(is_ours(&name_of(InstanceId::mint())));
        for other in [
            "boxd-",
            "boxd-test-1b4e28ba",
            "boxd-1b4e28b",
            "boxd-1B4E28BA",
            "xboxd-1b4e28ba",
        ] {
            assert!(!is_ours(other), "{other}");
        }
    }

    #[test]
    fn what_a_killed_daemon_left_is_swept_and_what_a_living_one_has_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let living = Group::make(parent.path(), "boxd-00000001").unwrap();
        let leaf = Leaf::make(&living, "one", &Arc::default()).unwrap();
        fs::create_dir_all(parent.path().join("boxd-00000002/leaf/of/the/command/itself")).unwrap();
        fs::create_dir_all(parent.path().join("boxd-00000003/inhabited")).unwrap();
        fs::write(parent.path().join("boxd-00000003/inhabited/member"), "").unwrap();
        fs::create_dir_all(parent.path().join("boxd-other/leaf")).unwrap();
        sweep(parent.path());
        let mut left: Vec<_> = subgroups(parent.path());
        left.sort();
        let expected = ["boxd-00000001", "boxd-00000003", "boxd-other"];
        assert_eq!(left, expected.map(|name| parent.path().join(name)));
        assert!(leaf.directory().exists());
        drop((leaf, living));
        assert!(!left[0].exists(), "a daemon takes its own with it");
    }

    #[test]
    fn a_leaf_that_is_still_inhabited_is_removed_later() {
        let parent = tempfile::tempdir().unwrap();
        let group = Group::make(parent.path(), "boxd-00000001").unwrap();
        let remains = Arc::default();
        let leaf = Leaf::make(&group, "one", &remains).unwrap();
        let directory = leaf.directory().to_owned();
        fs::write(directory.join("member"), "").unwrap();
        drop(leaf);
        assert!(directory.exists());
        fs::remove_file(directory.join("member")).unwrap();
        remains.tidy();
        assert!(!directory.exists());
    }

    #[test]
    fn daemons_that_start_beside_a_sweep_keep_their_groups() {
        let parent = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..500 {
                    sweep(parent.path());
                }
            });
            for name in ["boxd-00000001", "boxd-00000002"] {
                let parent = parent.path();
                scope.spawn(move || {
                    for _ in 0..500 {
                        let group = Group::make(parent, name).unwrap();
                        assert!(group.directory().exists());
                    }
                });
            }
        });
    }
}
