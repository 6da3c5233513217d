//! Removing: one entry, or a directory with everything in it. Symbolic links are removed, never followed; a walk
//! works on descriptors below its top, so that exchanging a directory for a link meanwhile leads nowhere, and it does
//! not enter what is mounted inside.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat, openat, statat, unlinkat};
use rustix::io::Errno;

use super::anchor::{DIRECTORY, Mounts, descend};
use super::entry::is_same;
use super::list::names;
use super::path::{Place, failure};
use super::request::Kind;
use crate::error::Error;

/// How often a directory that was filled again while it was emptied is emptied again.
const REFILLS: usize = 16;

/// Removes what is at `place`; a directory that is not empty only when `recursive`.
pub(super) fn remove(place: &Place, root: &Path, recursive: bool) -> Result<(), Error> {
    let stat = place
        .look()?
        .ok_or_else(|| place.failure("path", "remove", Errno::NOENT))?;
    if Kind::of(&stat) != Kind::Directory {
        return unlinkat(&place.directory, &place.name, AtFlags::empty())
            .map_err(|errno| place.failure("path", "remove", errno));
    }
    protect_root("remove", place, &stat, root)?;
    if recursive {
        return remove_tree(place.directory.as_fd(), &place.name, &place.absolute);
    }
    unlinkat(&place.directory, &place.name, AtFlags::REMOVEDIR)
        .map_err(|errno| place.failure("directory", "remove", errno))
}

/// Refuses to remove or move the workspace root and the directories it lies in.
pub(super) fn protect_root(operation: &str, place: &Place, stat: &Stat, root: &Path) -> Result<(), Error> {
    let refused = || Error::Conflict {
        what: format!("{operation} {:?}", place.absolute),
        reason: "it is the workspace root, holds it, or has no name that could go".into(),
    };
    if place.is_unnamed() || holds(stat, root) {
        return Err(refused());
    }
    Ok(())
}

/// Whether the directory that `stat` describes is `root` or one of its parents.
fn holds(stat: &Stat, root: &Path) -> bool {
    openat(CWD, root, DIRECTORY, Mode::empty()).is_ok_and(|root| lies_in(root.as_fd(), stat))
}

/// Whether `directory` is the directory that `stat` describes, or lies in it.
pub(super) fn lies_in(directory: BorrowedFd<'_>, stat: &Stat) -> bool {
    let Ok(mut at) = openat(directory, ".", DIRECTORY, Mode::empty()) else {
        return false;
    };
    let mut last: Option<Stat> = None;
    while let Ok(here) = statat(&at, ".", AtFlags::empty()) {
        if is_same(&here, stat) {
            return true;
        }
        // The root of the file system is its own parent.
        if last.is_some_and(|last| is_same(&last, &here)) {
            return false;
        }
        last = Some(here);
        match openat(&at, "..", DIRECTORY, Mode::empty()) {
            Ok(parent) => at = parent,
            Err(_) => return false,
        }
    }
    false
}

enum Step {
    /// Remove what is in this directory, below the top.
    Empty(PathBuf),
    /// Remove the directory itself.
    Leave(PathBuf),
}

/// Removes the directory `name` of `parent` and everything in it; stops at the first entry that does not go.
pub(super) fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<(), Error> {
    let top = descend(parent, Path::new(name), OFlags::RDONLY, Mounts::Refuse)
        .map_err(|errno| blame(path, Path::new(""), errno))?;
    let mut refills = 0;
    let mut steps = vec![Step::Leave(PathBuf::new()), Step::Empty(PathBuf::new())];
    while let Some(step) = steps.pop() {
        match step {
            Step::Empty(below) => {
                empty(top.as_fd(), &below, &mut steps)
                    .map_err(|(below, errno)| blame(path, &below, errno))?;
            }
            Step::Leave(below) => match leave(parent, name, top.as_fd(), &below) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) if refills < REFILLS => {
                    refills += 1;
                    steps.push(Step::Leave(below.clone()));
                    steps.push(Step::Empty(below));
                }
                Err(errno) => return Err(blame(path, &below, errno)),
            },
        }
    }
    Ok(())
}

/// Removes everything but directories from one directory and plans those.
fn empty(top: BorrowedFd<'_>, below: &Path, steps: &mut Vec<Step>) -> Result<(), (PathBuf, Errno)> {
    let here = |errno| (below.to_owned(), errno);
    let directory = match descend(top, below, OFlags::RDONLY, Mounts::Refuse) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(here(errno)),
    };
    for name in names(directory.as_fd()).map_err(here)? {
        let child = below.join(&name);
        match unlinkat(&directory, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // Linux says EISDIR, POSIX says EPERM.
            Err(errno @ (Errno::ISDIR | Errno::PERM)) => {
                let stat = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW);
                if !stat.is_ok_and(|stat| Kind::of(&stat) == Kind::Directory) {
                    return Err((child, errno));
                }
                steps.push(Step::Leave(child.clone()));
                steps.push(Step::Empty(child));
            }
            Err(errno) => return Err((child, errno)),
        }
    }
    Ok(())
}

fn leave(parent: BorrowedFd<'_>, name: &OsStr, top: BorrowedFd<'_>, below: &Path) -> Result<(), Errno> {
    let Some(last) = below.file_name() else {
        return unlinkat(parent, name, AtFlags::REMOVEDIR);
    };
    let above = below.parent().unwrap_or(Path::new(""));
    let directory = descend(top, above, OFlags::PATH, Mounts::Refuse)?;
    unlinkat(directory, last, AtFlags::REMOVEDIR)
}

fn blame(top: &Path, below: &Path, errno: Errno) -> Error {
    let path = if below.as_os_str().is_empty() {
        top.to_owned()
    } else {
        top.join(below)
    };
    match errno {
        Errno::XDEV => Error::Conflict {
            what: format!("remove {path:?}"),
            reason: "another file system is mounted there".into(),
        },
        Errno::LOOP | Errno::NOTDIR => Error::Conflict {
            what: format!("remove {path:?}"),
            reason: "it was exchanged for something else meanwhile".into(),
        },
        _ => failure("path", "remove", &path, errno),
    }
}
