//! The one place where a path of a request becomes a descriptor.
//!
//! A [`Location`] is a path bound to the [`Anchor`] (`anchor.rs`) that its resolution starts from and must not leave. It is either
//! opened whole (links followed, for reading and listing) or split into a [`Place`], a descriptor of the parent
//! directory plus one name, which is all that a change of the tree ever uses. Under confinement every step goes
//! through `openat2` with `RESOLVE_BENEATH`, so no exchange of a directory for a symbolic link can lead outside.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::{Errno, retry_on_intr};

use super::anchor::{Anchor, DIRECTORY, split};
use super::request::Reach;
use crate::error::Error;
use crate::workspace::Workspace;

/// A path of a request, bound to where its resolution starts.
#[derive(Debug, Clone)]
pub(super) struct Location {
    anchor: Arc<Anchor>,
    reach: Reach,
    /// What answers and errors call it.
    pub(super) absolute: PathBuf,
    /// What is resolved from the anchor.
    tail: PathBuf,
    /// The caller wrote a slash at the end.
    pub(super) names_directory: bool,
}

impl Location {
    /// Binds `path`; fails when it lies outside what `reach` allows by its text alone.
    pub(super) fn new(reach: Reach, workspace: &Workspace, path: &Path) -> Result<Self, Error> {
        let absolute = workspace.resolve(path)?;
        let names_directory = absolute.as_os_str().as_bytes().ends_with(b"/");
        let (anchor, tail) = match reach {
            Reach::Machine => (Anchor::Machine, absolute.clone()),
            Reach::Confined | Reach::Unconsented => {
                let tail = below(&workspace.root, &absolute).ok_or_else(|| outside(reach, &absolute))?;
                let root = openat(CWD, &workspace.root, DIRECTORY, Mode::empty())
                    .map_err(|errno| failure("workspace root", "open", &workspace.root, errno))?;
                (Anchor::Beneath(root), tail)
            }
        };
        Ok(Self {
            anchor: Arc::new(anchor),
            reach,
            absolute,
            tail,
            names_directory,
        })
    }

    /// Opens it, following symbolic links; `operation` is the verb of the error.
    pub(super) fn open(&self, operation: &'static str, flags: OFlags) -> Result<OwnedFd, Error> {
        self.try_open(flags)
            .map_err(|errno| self.failure("path", operation, errno))
    }

    /// Like [`Location::open`], with the bare errno.
    pub(super) fn try_open(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.anchor.open(&self.tail, flags, Mode::empty())
    }

    /// What it describes with links followed, `None` when nothing is there.
    pub(super) fn followed(&self) -> Result<Option<Stat>, Error> {
        match self.try_open(OFlags::PATH).and_then(fstat) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failure("path", "look at", errno)),
        }
    }

    /// The parent directory, which must exist, and the last name.
    pub(super) fn place(&self) -> Result<Place, Error> {
        let (parent, name) = split(&self.tail);
        let directory = self
            .anchor
            .open(parent, DIRECTORY, Mode::empty())
            .map_err(|errno| {
                failure_beneath(self.reach, "directory", "open", self.absolute_parent(), errno)
            })?;
        Ok(Place {
            directory: Arc::new(directory),
            name: name.to_owned(),
            absolute: self.absolute.clone(),
        })
    }

    /// Every directory from the nearest existing one down to the parent, or to the path itself: the descriptor of
    /// the first and the locations of those that are missing, outermost first.
    pub(super) fn nearest(&self, including_self: bool) -> Result<(OwnedFd, Vec<Self>), Error> {
        let mut missing = Vec::new();
        let mut current = if including_self {
            Some(self.clone())
        } else {
            self.parent()
        };
        while let Some(location) = current {
            match location.try_open(DIRECTORY) {
                Ok(directory) => {
                    missing.reverse();
                    return Ok((directory, missing));
                }
                Err(Errno::NOENT) => {
                    current = location.parent();
                    missing.push(location);
                }
                Err(errno) => return Err(location.failure("directory", "open", errno)),
            }
        }
        Err(Error::NotFound {
            what: "directory",
            name: self.absolute.to_string_lossy().into_owned(),
        })
    }

    /// What the symbolic link `target` in this path's directory points at, as a location of the same reach.
    pub(super) fn beside(&self, target: &Path) -> Result<Self, Error> {
        if target.is_absolute() && self.reach != Reach::Machine {
            return Err(outside(self.reach, &self.absolute));
        }
        let mut next = self.clone();
        next.tail = split(&self.tail).0.join(target);
        next.absolute = self.absolute_parent().join(target);
        next.names_directory = target.as_os_str().as_bytes().ends_with(b"/");
        Ok(next)
    }

    /// The error for a failed call on this path.
    pub(super) fn failure(&self, what: &'static str, operation: &'static str, errno: Errno) -> Error {
        failure_beneath(self.reach, what, operation, &self.absolute, errno)
    }

    /// The directory that it lies in, by its text; `None` where resolution starts.
    pub(super) fn parent(&self) -> Option<Self> {
        let mut components = self.tail.components();
        components
            .next_back()
            .filter(|last| !matches!(last, Component::RootDir))?;
        let mut parent = self.clone();
        components.as_path().clone_into(&mut parent.tail);
        self.absolute_parent().clone_into(&mut parent.absolute);
        Some(parent)
    }

    fn absolute_parent(&self) -> &Path {
        let mut components = self.absolute.components();
        components.next_back();
        components.as_path()
    }

    /// The last name, `None` for `..` and for the anchor itself.
    pub(super) fn name(&self) -> Option<&OsStr> {
        self.tail.file_name()
    }
}

/// One name in an open directory: what every change of the tree works on.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The parent, good for `*at` calls only (`O_PATH`).
    pub(super) directory: Arc<OwnedFd>,
    /// One component, or `.` for a directory that has no name here (`/`, the workspace root, `a/..`).
    pub(super) name: OsString,
    /// What answers and errors call it.
    pub(super) absolute: PathBuf,
}

impl Place {
    /// What is here, not followed; `None` when nothing is.
    pub(super) fn look(&self) -> Result<Option<Stat>, Error> {
        match statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failure("path", "look at", errno)),
        }
    }

    /// Opens the name itself, never what a symbolic link points at.
    pub(super) fn open(&self, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        retry_on_intr(|| openat(&self.directory, &self.name, flags, mode))
    }

    /// Whether the directory has no name that could be moved, removed or replaced.
    pub(super) fn is_unnamed(&self) -> bool {
        self.name == "."
    }

    /// The same directory with another last name.
    pub(super) fn sibling(&self, name: OsString) -> Self {
        let absolute = self.absolute.with_file_name(&name);
        Self {
            directory: Arc::clone(&self.directory),
            name,
            absolute,
        }
    }

    /// The error for a failed call on this name.
    pub(super) fn failure(&self, what: &'static str, operation: &'static str, errno: Errno) -> Error {
        failure(what, operation, &self.absolute, errno)
    }
}

/// `absolute` relative to `root`, when its text begins there; the root may be named by any of its names.
fn below(root: &Path, absolute: &Path) -> Option<PathBuf> {
    if let Ok(tail) = absolute.strip_prefix(root) {
        return Some(tail.to_owned());
    }
    let root = root.canonicalize().ok()?;
    absolute.strip_prefix(root).ok().map(Path::to_owned)
}

/// The error for a failed call on `path`.
pub(super) fn failure(what: &'static str, operation: &'static str, path: &Path, errno: Errno) -> Error {
    match errno {
        Errno::BUSY => Error::Conflict {
            what: format!("{operation} {path:?}"),
            reason: "it is a mount point or in use by the kernel".into(),
        },
        _ => Error::from_path_io(what, operation, path, errno.into()),
    }
}

fn failure_beneath(
    reach: Reach,
    what: &'static str,
    operation: &'static str,
    path: &Path,
    errno: Errno,
) -> Error {
    match errno {
        Errno::XDEV if reach != Reach::Machine => outside(reach, path),
        Errno::NOSYS if reach != Reach::Machine => Error::Unsupported {
            what: "confinement to the workspace root".into(),
            why: "this kernel has no openat2".into(),
            fix: Some("run on Linux 5.6 or newer".into()),
        },
        _ => failure(what, operation, path, errno),
    }
}

/// The error for a path outside the workspace root.
fn outside(reach: Reach, path: &Path) -> Error {
    match reach {
        Reach::Unconsented => Error::ConsentRequired {
            what: "a path outside the workspace root",
        },
        Reach::Machine | Reach::Confined => Error::Denied {
            doing: format!("open {path:?}, which leads outside the workspace root (fs.confine)"),
            errno: libc::EACCES,
        },
    }
}
