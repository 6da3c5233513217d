//! Looking at the disk: a directory of the tree, opened only while it is the one that it was, and what is in it.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match openat(&tree.root, path, flags | OFlags::RDONLY, Mode::empty()) {
        // Its entries may be looked at by name all the same.
        Err(Errno::ACCESS) => openat(&tree.root, path, flags | OFlags::PATH, Mode::empty()),
        opened => opened,
    };
    let directory = opened.ok()?;
    (of(directory.as_fd())?.identity == known.identity).then_some(directory)
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

/// The names in a directory; none in one that cannot be read.
pub(super) fn names(directory: BorrowedFd<'_>) -> Vec<OsString> {
    let Ok(entries) = Dir::read_from(directory.as_fd()) else {
        return Vec::new();
    };
    let names = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().to_bytes();
        (name != b"." && name != b"..").then(|| OsStr::from_bytes(name).to_owned())
    });
    names.collect()
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
