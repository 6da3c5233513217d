//! Looking at the disk: a directory of the tree, opened only while it is the one that it was, and what is in it.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Statx, StatxFlags, StatxTimestamp, openat, statx,
};
use rustix::io::Errno;

use super::event::Kind;
use super::tree::{DirectoryId, Facts, Identity, ROOT, Tree};

/// Opens a directory of the tree; `None` when it is not where it was, or another one is.
pub(super) fn open(tree: &Tree, id: DirectoryId) -> Option<OwnedFd> {
    let below = tree.below(id)?;
    let path = if id == ROOT { Path::new(".") } else { &below };
    let known = tree.directories.get(&id)?;
    let opened = match enter(tree.root.as_fd(), path, OFlags::RDONLY) {
        // Its entries may be looked at by name all the same.
        Err(Errno::ACCESS) => enter(tree.root.as_fd(), path, OFlags::PATH),
        opened => opened,
    };
    let directory = opened.ok()?;
    (of(directory.as_fd())?.identity == known.identity).then_some(directory)
}

/// Opens a directory below `top` in steps, so that no depth is too deep for one path.
fn enter(top: BorrowedFd<'_>, below: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    const STEP: usize = 2048;
    let directory = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (mut at, mut step): (Option<OwnedFd>, _) = (None, PathBuf::new());
    for name in below {
        if step.as_os_str().len() > STEP {
            let from = at.as_ref().map_or(top, AsFd::as_fd);
            at = Some(openat(from, &step, directory | OFlags::PATH, Mode::empty())?);
            step.clear();
        }
        step.push(name);
    }
    let from = at.as_ref().map_or(top, AsFd::as_fd);
    openat(from, &step, directory | flags, Mode::empty())
}

/// Whether the path of the tree still leads to it.
pub(super) fn is_in_place(tree: &Tree) -> bool {
    let there = look_at(CWD, &tree.path, AtFlags::SYMLINK_NOFOLLOW);
    let root = tree.directories.get(&ROOT);
    there
        .zip(root)
        .is_some_and(|(there, root)| there.identity == root.identity)
}

/// What is behind a descriptor.
pub(super) fn of(descriptor: BorrowedFd<'_>) -> Option<Facts> {
    look_at(descriptor, Path::new(""), AtFlags::EMPTY_PATH)
}

/// What `name` is now; `None` when there is no such thing.
pub(super) fn look(directory: BorrowedFd<'_>, name: &OsStr) -> Option<Facts> {
    look_at(directory, Path::new(name), AtFlags::SYMLINK_NOFOLLOW)
}

fn look_at(directory: BorrowedFd<'_>, path: &Path, flags: AtFlags) -> Option<Facts> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let stat = statx(directory, path, flags, wanted).ok()?;
    Some(facts(&stat))
}

/// The names in a directory, none in one that must not be read; `None` when it cannot be read now.
pub(super) fn names(directory: BorrowedFd<'_>) -> Option<Vec<OsString>> {
    let entries = match Dir::read_from(directory) {
        Err(Errno::ACCESS) => return Some(Vec::new()),
        entries => entries.ok()?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.ok()?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Some(names)
}

/// As far as they are compared.
fn facts(stat: &Statx) -> Facts {
    let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        _ => Kind::Other,
    };
    let time = |time: &StatxTimestamp| (time.tv_sec, time.tv_nsec);
    let has_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    Facts {
        identity: Identity {
            kind,
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            birth: has_birth.then(|| time(&stat.stx_btime)),
        },
        size: stat.stx_size,
        times: (time(&stat.stx_mtime), time(&stat.stx_ctime)),
        mode: stat.stx_mode & 0o7777,
    }
}
