//! Listing a directory, alone or with everything below it. Symbolic links are entries, never followed; what cannot be
//! read is reported beside what can. Which entries are answered is decided by `select.rs`.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Dir, OFlags, fstat};
use rustix::io::Errno;

use super::anchor::{Mounts, descend};
use super::path::Location;
use super::request::{Entry, Kind, List, Listing};
use super::select::{Choice, Chooser};
use crate::error::Error;

/// The most entries of one answer; a larger tree is refused with that reason instead of filling the memory.
const MAX_ENTRIES: usize = 500_000;

/// Lists the directory at `location`; `is_unwanted` ends it early because nobody waits any more.
pub(super) fn list(location: &Location, request: &List, is_unwanted: &AtomicBool) -> Result<Listing, Error> {
    // Looked at before it is opened, because opening a fifo or device has effects.
    let seen = location
        .followed()?
        .ok_or_else(|| location.failure("directory", "list", Errno::NOENT))?;
    let kind = Kind::of(&seen);
    if kind != Kind::Directory {
        return Err(kind.instead_of_directory(&location.absolute));
    }
    let top = location.open("list", OFlags::RDONLY | OFlags::DIRECTORY)?;
    fstat(&top).map_err(|errno| location.failure("directory", "list", errno))?;
    let mut walk = Walk {
        chooser: Chooser::new(location, request)?,
        top,
        root: location.absolute.clone(),
        entries: Vec::new(),
        next: None,
        unreadable: Vec::new(),
    };
    walk.run(is_unwanted)?;
    Ok(Listing {
        root: walk.root,
        entries: walk.entries,
        next: walk.next,
        unreadable: walk.unreadable,
    })
}

struct Walk {
    chooser: Chooser,
    top: OwnedFd,
    root: PathBuf,
    entries: Vec<Entry>,
    next: Option<PathBuf>,
    unreadable: Vec<(PathBuf, String)>,
}

impl Walk {
    /// Depth first, the names of each directory in byte order: that is the order of the paths.
    fn run(&mut self, is_unwanted: &AtomicBool) -> Result<(), Error> {
        let mut waiting = self.children(Path::new(""))?;
        while let Some(entry) = waiting.pop() {
            if is_unwanted.load(Ordering::Relaxed) {
                return Err(Error::Conflict {
                    what: "list".into(),
                    reason: "the caller went away".into(),
                });
            }
            if self.entries.len() + waiting.len() >= MAX_ENTRIES {
                return Err(self.too_many());
            }
            let below = self.below(&entry);
            let Choice { answer, descend } = self.chooser.choose(below, entry.kind);
            if answer && self.chooser.is_full(self.entries.len()) {
                self.next = self.entries.last().map(|last| self.below(last).to_owned());
                return Ok(());
            }
            let entered = descend.then(|| below.to_owned());
            if answer {
                self.entries.push(entry);
            }
            if let Some(below) = entered {
                waiting.append(&mut self.children(&below)?);
            }
        }
        Ok(())
    }

    /// Its path below the root, which it begins with.
    fn below<'entry>(&self, entry: &'entry Entry) -> &'entry Path {
        let path = entry.path.as_os_str().as_bytes();
        let rest = path.get(self.root.as_os_str().len()..).unwrap_or_default();
        Path::new(OsStr::from_bytes(rest.strip_prefix(b"/").unwrap_or(rest)))
    }

    fn too_many(&self) -> Error {
        Error::Invalid {
            field: "path",
            reason: format!(
                "more than {MAX_ENTRIES} entries below {:?}, list a part of it or use limit and cursor",
                self.root
            ),
        }
    }

    /// The entries of one directory, last one first. Only the top must be readable.
    fn children(&mut self, below: &Path) -> Result<Vec<Entry>, Error> {
        let path = if below.as_os_str().is_empty() {
            self.root.clone()
        } else {
            self.root.join(below)
        };
        let read = descend(self.top.as_fd(), below, OFlags::RDONLY, Mounts::Enter)
            .and_then(|directory| names(directory.as_fd()).map(|names| (directory, names)));
        let (directory, mut names) = match read {
            Ok(read) => read,
            Err(errno) if below.as_os_str().is_empty() => {
                return Err(super::path::failure("directory", "list", &path, errno));
            }
            Err(errno) => {
                self.unreadable
                    .push((path, std::io::Error::from(errno).to_string()));
                return Ok(Vec::new());
            }
        };
        self.chooser.enter(below, directory.as_fd(), &names);
        names.retain(|name| self.chooser.may_hold(below, name));
        names.sort_unstable_by(|one, other| other.cmp(one));
        let mut children = Vec::with_capacity(names.len());
        for name in names {
            // Made in one piece, which `join` does not.
            let mut whole = PathBuf::with_capacity(path.as_os_str().len() + 1 + name.len());
            whole.push(&path);
            whole.push(&name);
            match Entry::read(directory.as_fd(), &name, whole) {
                Ok(entry) => children.push(entry),
                // Removed since the directory was read: it is not there any more.
                Err(Errno::NOENT) => {}
                Err(errno) => {
                    self.unreadable
                        .push((path.join(&name), std::io::Error::from(errno).to_string()));
                }
            }
        }
        Ok(children)
    }
}

/// The names in an open directory, in no order, without `.` and `..`.
pub(super) fn names(directory: BorrowedFd<'_>) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}
