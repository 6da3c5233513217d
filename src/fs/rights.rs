//! Permission bits and owners, of one entry or of a tree: changed by descriptor, never through a symbolic link.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, chmodat, chownat, fstat, openat};
use rustix::io::Errno;

use super::anchor::{DIRECTORY, Mounts, descend};
use super::list::names;
use super::path::{Location, failure};
use super::request::Kind;
use crate::error::Error;

/// Of what could not be changed, so many are named.
const NAMED: usize = 100;

/// Change permission bits or owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chmod {
    /// The entry, as the caller gave it; a symbolic link itself.
    pub path: PathBuf,
    /// Permission bits, `0o7777`.
    pub mode: Option<u32>,
    /// Permission bits of directories, where they are to be others.
    pub directory_mode: Option<u32>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// Everything below it too.
    pub recursive: bool,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The absolute path.
    pub path: PathBuf,
    /// Entries that were changed.
    pub changed: u64,
    /// Entries that could not be changed, and the first of them with the reason.
    pub failed: (u64, Vec<(PathBuf, String)>),
}

/// Changes what is at `location`; an entry below it that cannot be changed is reported beside those that were.
pub(super) fn change(location: &Location, request: &Chmod) -> Result<Changed, Error> {
    let place = location.place()?;
    let top = place
        .open(OFlags::PATH, Mode::empty())
        .map_err(|errno| place.failure("path", "change", errno))?;
    let mut work = Work {
        request,
        outcome: Changed {
            path: place.absolute.clone(),
            changed: 0,
            failed: (0, Vec::new()),
        },
    };
    let kind = work
        .one(top.as_fd())
        .map_err(|errno| failure("path", "change", &place.absolute, errno))?;
    if request.recursive && kind == Kind::Directory {
        work.tree(&top);
    }
    Ok(work.outcome)
}

struct Work<'a> {
    request: &'a Chmod,
    outcome: Changed,
}

impl Work<'_> {
    /// Changes the entry behind a descriptor that only stands for it.
    fn one(&mut self, entry: BorrowedFd<'_>) -> Result<Kind, Errno> {
        let kind = Kind::of(&fstat(entry)?);
        let Chmod { uid, gid, .. } = self.request;
        // The owner first: a change of owner takes setuid away.
        if uid.is_some() || gid.is_some() {
            let (user, group) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            chownat(entry, "", user, group, AtFlags::EMPTY_PATH)?;
        }
        let mode = match kind {
            // Links have no permission bits of their own.
            Kind::Symlink => None,
            Kind::Directory => self.request.directory_mode.or(self.request.mode),
            _ => self.request.mode,
        };
        if let Some(mode) = mode {
            let path = format!("/proc/self/fd/{}", entry.as_raw_fd());
            chmodat(CWD, path, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())?;
        }
        self.outcome.changed += 1;
        Ok(kind)
    }

    /// Changes everything below `top`, innermost last: what was made unreadable is not entered any more, which is
    /// reported.
    fn tree(&mut self, top: &OwnedFd) {
        let mut waiting = vec![PathBuf::new()];
        while let Some(below) = waiting.pop() {
            let read = descend(top.as_fd(), &below, OFlags::RDONLY, Mounts::Enter)
                .and_then(|directory| names(directory.as_fd()));
            let directory = descend(top.as_fd(), &below, DIRECTORY, Mounts::Enter);
            let (names, directory) = match (read, directory) {
                (Ok(names), Ok(directory)) => (names, directory),
                (Err(errno), _) | (_, Err(errno)) => {
                    self.failed(&below, errno);
                    continue;
                }
            };
            for name in names {
                let path = below.join(&name);
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let changed =
                    openat(&directory, &name, flags, Mode::empty()).and_then(|entry| self.one(entry.as_fd()));
                match changed {
                    Ok(Kind::Directory) => waiting.push(path),
                    // Removed meanwhile: it is not there any more.
                    Ok(_) | Err(Errno::NOENT) => {}
                    Err(errno) => self.failed(&path, errno),
                }
            }
        }
    }

    fn failed(&mut self, below: &Path, errno: Errno) {
        let (count, named) = &mut self.outcome.failed;
        *count += 1;
        if named.len() < NAMED {
            let reason = std::io::Error::from(errno).to_string();
            named.push((self.outcome.path.join(below), reason));
        }
    }
}
