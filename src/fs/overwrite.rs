//! Writing over what is there, where no rename can: hard links, bind mounts, directories that take no new file, and
//! devices. A regular file is only touched when the whole new content has arrived and room for it is reserved, so
//! that a peer who goes away and a full disk leave it as it was; only a crash in the middle can leave it half written.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, fallocate, fchmod, fdatasync, fstat, ftruncate, openat};
use rustix::io::{Errno, retry_on_intr};

use super::Shared;
use super::anchor::DIRECTORY;
use super::config::Durability;
use super::path::{Location, Place};
use super::plan::InPlaceRule;
use super::sink::half_written;
use super::temp::Temp;
use crate::error::Error;

/// How long a device may refuse bytes before the write ends.
const DEVICE_PATIENCE: Duration = Duration::from_secs(5);

/// A regular file that is written in place.
#[derive(Debug)]
pub(super) struct Overwrite {
    path: PathBuf,
    target: File,
    /// Where the content is collected; without any such place it is written straight to the target.
    aside: Option<File>,
    straight: u64,
}

impl Overwrite {
    /// Opens the file at `place`.
    pub(super) fn open(place: &Place, rule: InPlaceRule) -> Result<Self, Error> {
        let target = place
            .open(OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty())
            .map_err(|errno| place.failure("file", "write", errno))?;
        Ok(Self::new(place, target.into(), rule))
    }

    /// Writes over `target`, collecting beside `place` when that is possible.
    pub(super) fn new(place: &Place, target: File, rule: InPlaceRule) -> Self {
        let beside = Temp::scratch(place.directory.as_fd());
        let aside = match beside {
            Ok(Some(aside)) => Some(aside),
            Ok(None) | Err(_) => scratch_elsewhere(),
        };
        Self {
            path: rule.path,
            target,
            aside,
            straight: 0,
        }
    }

    /// Takes bytes.
    pub(super) fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        if let Some(aside) = &mut self.aside {
            return aside.write_all(chunk);
        }
        self.straight += chunk.len() as u64;
        self.target.write_all(chunk)
    }

    /// Where the content is collected, when it is.
    pub(super) fn aside(&self) -> Option<&File> {
        self.aside.as_ref()
    }

    /// Whether the target was touched already.
    pub(super) fn has_begun(&self) -> bool {
        self.straight > 0
    }

    /// Puts what was collected into the target.
    pub(super) fn finish(self, shared: &Shared, bytes: u64) -> Result<(), Error> {
        match &self.aside {
            Some(aside) => copy_over(shared, &self.path, aside, &self.target),
            None => ftruncate(&self.target, bytes)
                .and_then(|()| settle(shared, &self.target))
                .map_err(|errno| Error::from_path_io("file", "write", &self.path, errno.into())),
        }
    }
}

/// A file without a name in one of the places made for that.
fn scratch_elsewhere() -> Option<File> {
    ["/tmp", "/var/tmp", "/dev/shm"]
        .into_iter()
        .find_map(|directory| {
            let directory = openat(CWD, directory, DIRECTORY, Mode::empty()).ok()?;
            Temp::scratch(directory.as_fd()).ok().flatten()
        })
}

/// Copies all of `source` over `target`. One at a time in this process, so that two writers do not mix.
pub(super) fn copy_over(shared: &Shared, path: &Path, source: &File, target: &File) -> Result<(), Error> {
    let failed = |errno: Errno| Error::from_path_io("file", "write", path, errno.into());
    let _one_at_a_time = shared.in_place.lock();
    let length = fstat(source).map_err(failed)?.st_size as u64;
    reserve(target, length).map_err(failed)?;
    let mut from = source;
    let mut to = target;
    let copied = from
        .rewind()
        .and_then(|()| to.rewind())
        .and_then(|()| io::copy(&mut from, &mut to));
    match copied {
        Ok(_) => ftruncate(target, length)
            .and_then(|()| settle(shared, target))
            .map_err(failed),
        Err(source) => Err(half_written(path, source)),
    }
}

/// Makes sure that `length` bytes fit before anything is overwritten, where the file system can tell.
fn reserve(target: &File, length: u64) -> Result<(), Errno> {
    if length == 0 {
        return Ok(());
    }
    match retry_on_intr(|| fallocate(target, FallocateFlags::KEEP_SIZE, 0, length)) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL) => Ok(()),
        Err(errno) => {
            // What was reserved before the disk was full lies behind the end of the file.
            ftruncate(target, fstat(target)?.st_size as u64)?;
            Err(errno)
        }
    }
}

/// Drops the rights that the old content gave, as write(2) does, and waits for the disk.
fn settle(shared: &Shared, target: &File) -> Result<(), Errno> {
    let mode = fstat(target)?.st_mode;
    if mode & 0o6000 != 0 {
        fchmod(target, Mode::from_raw_mode(mode & 0o1777))?;
    }
    match shared.config.durability {
        Durability::None => Ok(()),
        Durability::File | Durability::Dir => retry_on_intr(|| fdatasync(target)),
    }
}

/// A character or block device.
#[derive(Debug)]
pub(super) struct Device(File);

impl Device {
    /// Opens it without waiting for it.
    pub(super) fn open(location: &Location) -> Result<Self, Error> {
        location
            .open("write", OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
            .map(|device| Self(device.into()))
    }

    /// Writes all of `chunk`, waiting a bounded time when the device takes nothing.
    pub(super) fn write(&mut self, mut chunk: &[u8]) -> io::Result<()> {
        while !chunk.is_empty() {
            match self.0.write(chunk) {
                Ok(0) => return Err(Errno::NOSPC.into()),
                Ok(count) => chunk = &chunk[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<()> {
        let limit = Timespec {
            tv_sec: DEVICE_PATIENCE.as_secs() as i64,
            tv_nsec: 0,
        };
        let mut interest = [PollFd::new(&self.0, PollFlags::OUT)];
        match retry_on_intr(|| poll(&mut interest, Some(&limit)))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}
