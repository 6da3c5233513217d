//! From what the kernel says about a file to the plain [`Entry`] and [`Kind`] of an answer.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType, Stat, readlinkat, statat};
use rustix::io::Errno;

use super::path::Location;
use super::request::{Entry, Kind};
use crate::error::Error;

impl Kind {
    /// The kind that a mode says; what Linux does not know counts as a regular file.
    pub(super) fn of(stat: &Stat) -> Self {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::RegularFile | FileType::Unknown => Self::File,
        }
    }

    /// What it is, with its article, for messages.
    pub fn described(self) -> &'static str {
        match self {
            Self::File => "a regular file",
            Self::Directory => "a directory",
            Self::Symlink => "a symbolic link",
            Self::Fifo => "a fifo",
            Self::Socket => "a socket",
            Self::BlockDevice => "a block device",
            Self::CharDevice => "a character device",
        }
    }

    /// The error for a path of this kind where a regular file is needed.
    pub(super) fn instead_of_file(self, path: &Path) -> Error {
        let errno = match self {
            Self::Directory => libc::EISDIR,
            Self::Symlink => libc::ELOOP,
            Self::Socket => libc::ENXIO,
            Self::File | Self::Fifo | Self::BlockDevice | Self::CharDevice => libc::EINVAL,
        };
        Error::WrongKind {
            path: path.to_owned(),
            found: self.described(),
            expected: "a regular file",
            errno,
        }
    }

    /// The error for a path of this kind where a directory is needed.
    pub(super) fn instead_of_directory(self, path: &Path) -> Error {
        Error::WrongKind {
            path: path.to_owned(),
            found: self.described(),
            expected: "a directory",
            errno: libc::ENOTDIR,
        }
    }
}

impl Entry {
    /// The entry of `path` as `stat` describes it; `target` is where a symbolic link points.
    pub(super) fn new(path: PathBuf, stat: &Stat, target: Option<PathBuf>) -> Self {
        Self {
            path,
            kind: Kind::of(stat),
            size: stat.st_size as u64,
            modified: modified(stat),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            target,
        }
    }

    /// The entry called `name` in `directory`, not followed; `path` is what an answer calls it.
    pub(super) fn read(directory: BorrowedFd<'_>, name: &OsStr, path: PathBuf) -> Result<Self, Errno> {
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let target = match Kind::of(&stat) {
            Kind::Symlink => Some(link_target(directory, name)?),
            _ => None,
        };
        Ok(Self::new(path, &stat, target))
    }
}

/// Where the symbolic link `name` points, byte for byte.
pub(super) fn link_target(directory: BorrowedFd<'_>, name: &OsStr) -> Result<PathBuf, Errno> {
    let target = readlinkat(directory, name, Vec::new())?;
    Ok(std::ffi::OsString::from_vec(target.into_bytes()).into())
}

/// Whether both describe the same file.
pub(super) fn is_same(one: &Stat, other: &Stat) -> bool {
    one.st_dev == other.st_dev && one.st_ino == other.st_ino
}

/// The time of the last modification; times before 1970 are right too.
pub(super) fn modified(stat: &Stat) -> SystemTime {
    let fraction = Duration::from_nanos(stat.st_mtime_nsec);
    let seconds = Duration::from_secs(stat.st_mtime.unsigned_abs());
    if stat.st_mtime < 0 {
        SystemTime::UNIX_EPOCH - seconds + fraction
    } else {
        SystemTime::UNIX_EPOCH + seconds + fraction
    }
}

/// The entry at `location`, not followed; `None` when nothing is there.
pub(super) fn look(location: &Location) -> Result<Option<Entry>, Error> {
    let place = match location.place() {
        // A missing parent, or a file where a directory would be, means that it does not exist.
        Err(Error::NotFound { .. } | Error::WrongKind { .. }) => return Ok(None),
        result => result?,
    };
    match Entry::read(place.directory.as_fd(), &place.name, place.absolute.clone()) {
        Ok(entry) => Ok(Some(entry)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(place.failure("path", "look at", errno)),
    }
}
