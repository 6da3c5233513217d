//! Copying a tree as it is: permission bits, owners (where allowed), times, extended attributes, links, holes. A move
//! between file systems keeps all of it ([`Rights::Kept`]), a copy gives no rights that its maker does not give
//! ([`Rights::Dropped`]).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chownat, fchmod, fchown, fstat,
    ftruncate, futimens, linkat, mkdirat, mknodat, openat, seek, statat, symlinkat, utimensat,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::geteuid;

use super::anchor::{Mounts, descend};
use super::entry::link_target;
use super::keep::attributes;
use super::list::names;
use super::path::{Place, failure};
use super::request::Kind;
use super::temp::keep_from_sweep;
use crate::error::Error;

/// What becomes of owners and of the bits that let others act as the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    /// They stay as they are.
    Kept,
    /// The copy belongs to whoever makes it, without setuid, setgid and file capabilities, as with `cp`.
    Dropped,
}

/// Copies what is at `from` to `to`, which must not exist. On an error what was copied so far is left for the caller
/// to remove. A file or directory is answered open: while it is, the sweep leaves its unfinished name alone.
pub(super) fn copy_tree(from: &Place, to: &Place, rights: Rights) -> Result<Option<File>, Error> {
    let mut copy = Copy {
        rights,
        linked: HashMap::new(),
        waiting: Vec::new(),
        copied: Vec::new(),
    };
    let blame = |below: &Path, errno: Errno| {
        let path = if below.as_os_str().is_empty() {
            from.absolute.clone()
        } else {
            from.absolute.join(below)
        };
        failure("path", "copy", &path, errno)
    };
    let top = Names {
        from: from.directory.as_fd(),
        from_name: &from.name,
        to: to.directory.as_fd(),
        to_name: &to.name,
    };
    let copied = copy
        .entry(&top, Path::new(""), None)
        .map_err(|errno| blame(Path::new(""), errno))?;
    let source = match copied {
        Copied::Directory(source) => source,
        Copied::File(file) => return Ok(Some(file)),
        Copied::Other => return Ok(None),
    };
    let made = to
        .open(OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
        .map(File::from)
        .map_err(|errno| blame(Path::new(""), errno))?;
    keep_from_sweep(&made);
    while let Some(below) = copy.waiting.pop() {
        copy.directory(source.as_fd(), made.as_fd(), &below)
            .map_err(|(below, errno)| blame(&below, errno))?;
    }
    // Times and permissions of directories come last, innermost first: filling them changes the first and may be
    // forbidden by the second.
    while let Some((below, stat)) = copy.copied.pop() {
        finish_directory(source.as_fd(), made.as_fd(), &below, &stat, rights)
            .map_err(|errno| blame(&below, errno))?;
    }
    Ok(Some(made))
}

/// What became of one entry.
enum Copied {
    /// Made and planned; the source, open.
    Directory(OwnedFd),
    /// The complete copy, open.
    File(File),
    /// A link, a device, another name of a file.
    Other,
}

/// One entry on both sides.
struct Names<'a> {
    from: BorrowedFd<'a>,
    from_name: &'a OsStr,
    to: BorrowedFd<'a>,
    to_name: &'a OsStr,
}

struct Copy {
    rights: Rights,
    /// Where a file with several names was copied to, by device and inode.
    linked: HashMap<(u64, u64), PathBuf>,
    /// Directories that are made but not filled.
    waiting: Vec<PathBuf>,
    /// Directories that are filled, outermost first.
    copied: Vec<(PathBuf, Stat)>,
}

impl Copy {
    fn directory(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        below: &Path,
    ) -> Result<(), (PathBuf, Errno)> {
        let here = |errno| (below.to_owned(), errno);
        let source = descend(from, below, OFlags::RDONLY, Mounts::Refuse).map_err(here)?;
        let target = descend(to, below, OFlags::PATH, Mounts::Refuse).map_err(here)?;
        for name in names(source.as_fd()).map_err(here)? {
            let child = below.join(&name);
            let pair = Names {
                from: source.as_fd(),
                from_name: &name,
                to: target.as_fd(),
                to_name: &name,
            };
            self.entry(&pair, &child, Some(to))
                .map_err(|errno| (child.clone(), errno))?;
        }
        Ok(())
    }

    /// Copies one entry. `top` is the copy's top once it exists.
    fn entry(
        &mut self,
        names: &Names<'_>,
        below: &Path,
        top: Option<BorrowedFd<'_>>,
    ) -> Result<Copied, Errno> {
        let stat = statat(names.from, names.from_name, AtFlags::SYMLINK_NOFOLLOW)?;
        if Kind::of(&stat) == Kind::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let source = openat(names.from, names.from_name, flags, Mode::empty())?;
            mkdirat(names.to, names.to_name, Mode::RWXU)?;
            self.waiting.push(below.to_owned());
            self.copied.push((below.to_owned(), fstat(&source)?));
            return Ok(Copied::Directory(source));
        }
        let id = (stat.st_dev, stat.st_ino);
        if let (true, Some(first), Some(top)) = (stat.st_nlink > 1, self.linked.get(&id), top) {
            let parent = descend(
                top,
                first.parent().unwrap_or(Path::new("")),
                OFlags::PATH,
                Mounts::Refuse,
            )?;
            let name = first.file_name().unwrap_or(first.as_os_str());
            linkat(parent, name, names.to, names.to_name, AtFlags::empty())?;
            return Ok(Copied::Other);
        }
        let mut copied = Copied::Other;
        match Kind::of(&stat) {
            Kind::File => copied = Copied::File(copy_file(names, self.rights)?),
            Kind::Symlink => {
                let target = link_target(names.from, names.from_name)?;
                symlinkat(target, names.to, names.to_name)?;
                finish_special(names, &stat, self.rights)?;
            }
            Kind::Fifo | Kind::Socket | Kind::BlockDevice | Kind::CharDevice | Kind::Directory => {
                let mode = Mode::from_raw_mode(stat.st_mode & self.rights.bits());
                let kind = FileType::from_raw_mode(stat.st_mode);
                mknodat(names.to, names.to_name, kind, mode, stat.st_rdev)?;
                finish_special(names, &stat, self.rights)?;
            }
        }
        if stat.st_nlink > 1 {
            self.linked.insert(id, below.to_owned());
        }
        Ok(copied)
    }
}

fn copy_file(names: &Names<'_>, rights: Rights) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = File::from(openat(names.from, names.from_name, flags, Mode::empty())?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = File::from(openat(names.to, names.to_name, flags, Mode::RUSR | Mode::WUSR)?);
    keep_from_sweep(&target);
    let stat = fstat(&source)?;
    copy_content(&source, &target, stat.st_size as u64).map_err(|error| errno_of(&error))?;
    finish(source.as_fd(), target.as_fd(), &stat, rights)?;
    Ok(target)
}

/// Copies what is not a hole.
fn copy_content(mut source: &File, mut target: &File, size: u64) -> io::Result<()> {
    ftruncate(target, size)?;
    let mut at = 0;
    while at < size {
        let start = match retry_on_intr(|| seek(source, rustix::fs::SeekFrom::Data(at))) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(_) => at,
        };
        let end = seek(source, rustix::fs::SeekFrom::Hole(start))
            .unwrap_or(size)
            .min(size);
        source.seek(SeekFrom::Start(start))?;
        target.seek(SeekFrom::Start(start))?;
        if io::copy(&mut source.take(end.saturating_sub(start)), &mut target)? == 0 {
            break;
        }
        at = end;
    }
    Ok(())
}

fn finish_directory(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    below: &Path,
    stat: &Stat,
    rights: Rights,
) -> Result<(), Errno> {
    let source = descend(from, below, OFlags::RDONLY, Mounts::Refuse)?;
    let target = descend(to, below, OFlags::RDONLY, Mounts::Refuse)?;
    finish(source.as_fd(), target.as_fd(), stat, rights)
}

/// Owner, attributes, permission bits and times, in the order in which none undoes another.
fn finish(source: BorrowedFd<'_>, target: BorrowedFd<'_>, stat: &Stat, rights: Rights) -> Result<(), Errno> {
    let keeps_owner = rights == Rights::Kept && give_owner(target, stat)?;
    match attributes(source, target) {
        // A file system without attributes, or ones that only root may set.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let allowed = if keeps_owner { rights.bits() } else { 0o1777 };
    fchmod(target, Mode::from_raw_mode(stat.st_mode & allowed))?;
    futimens(target, &times(stat))
}

/// Gives `target` the owner in `stat`; says whether that could be done.
fn give_owner(target: BorrowedFd<'_>, stat: &Stat) -> Result<bool, Errno> {
    let (user, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    match fchown(target, Some(user), Some(group)) {
        Ok(()) => Ok(true),
        // As with mv: who is not root becomes the owner of what moves between file systems.
        Err(Errno::PERM) if !geteuid().is_root() => Ok(false),
        Err(errno) => Err(errno),
    }
}

impl Rights {
    /// The permission bits that stay.
    fn bits(self) -> u32 {
        match self {
            Self::Kept => 0o7777,
            Self::Dropped => 0o1777,
        }
    }
}

fn finish_special(names: &Names<'_>, stat: &Stat, rights: Rights) -> Result<(), Errno> {
    if rights == Rights::Dropped {
        return utimensat(names.to, names.to_name, &times(stat), AtFlags::SYMLINK_NOFOLLOW);
    }
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    match chownat(
        names.to,
        names.to_name,
        owner.0,
        owner.1,
        AtFlags::SYMLINK_NOFOLLOW,
    ) {
        Err(Errno::PERM) if !geteuid().is_root() => {}
        result => result?,
    }
    utimensat(names.to, names.to_name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
