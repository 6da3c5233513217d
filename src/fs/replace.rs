//! The usual way to write: a new file in the same directory that takes the name when it is complete.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Access, AtFlags, Mode, OFlags, Stat, accessat, fchmod, fstat};
use rustix::io::Errno;

use super::Shared;
use super::config::Durability;
use super::keep::carry_over;
use super::overwrite::copy_over;
use super::path::Place;
use super::plan::{InPlaceRule, initial_mode};
use super::temp::{Temp, sync_directory};
use crate::error::Error;

/// A new file on its way to a name.
#[derive(Debug)]
pub(super) struct Replace {
    place: Place,
    temp: Temp,
    /// The file it replaces, opened to take over its metadata.
    old: Option<(Stat, OwnedFd)>,
    mode: Option<u32>,
    in_place: InPlaceRule,
    /// Nothing may have the name by then.
    only_new: bool,
}

impl Replace {
    /// Makes the file for a name that nothing has.
    pub(super) fn create(place: &Place, mode: Option<u32>, in_place: InPlaceRule) -> Result<Self, Error> {
        let temp = Temp::create(&place.directory, initial_mode(mode))
            .map_err(|errno| place.failure("directory", "write", errno))?;
        Ok(Self {
            place: place.clone(),
            temp,
            old: None,
            mode,
            in_place,
            only_new: false,
        })
    }

    /// Makes the file that will replace the regular file at `place`.
    pub(super) fn open(place: &Place, mode: Option<u32>, in_place: InPlaceRule) -> Result<Self, Errno> {
        let old = match open_old(place) {
            Ok(old) => Some((fstat(&old)?, old)),
            // Removed just now, so there is nothing to keep.
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        let initial = if old.is_some() {
            Mode::RUSR | Mode::WUSR
        } else {
            initial_mode(mode)
        };
        let temp = Temp::create(&place.directory, initial)?;
        Ok(Self {
            place: place.clone(),
            temp,
            old,
            mode,
            in_place,
            only_new: false,
        })
    }

    /// Adds bytes to the new file.
    pub(super) fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.temp.file().write_all(chunk)
    }

    /// The new file.
    pub(super) fn file(&self) -> &File {
        self.temp.file()
    }

    /// Opens what is to be replaced anew, where time has passed; with `only_new` nothing may be.
    pub(super) fn look_again(&mut self, only_new: bool) -> Result<(), Error> {
        self.only_new = only_new;
        let failed = |errno| self.place.failure("file", "write", errno);
        self.old = match open_old(&self.place) {
            Ok(old) => Some((fstat(&old).map_err(failed)?, old)),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(failed(errno)),
        };
        Ok(())
    }

    /// Publishes the new file; says whether that was atomic (else it was copied over the old one).
    pub(super) fn finish(mut self, shared: &Shared, path: &Path) -> Result<bool, Error> {
        match self.publish(shared.config.durability) {
            Ok(()) => {}
            Err(step) => {
                let reason = match (step, self.old.is_some()) {
                    (Step::Metadata(_), true) => "its owner or attributes cannot be given to a new file",
                    (Step::Rename(Errno::BUSY | Errno::XDEV), true) => "it is a mount point",
                    (Step::Rename(Errno::PERM | Errno::ACCESS), true) => {
                        "its directory lets nobody replace it"
                    }
                    (Step::Metadata(errno) | Step::Rename(errno) | Step::Sync(errno), _) => {
                        drop(self);
                        return Err(Error::from_path_io("file", "write", path, errno.into()));
                    }
                };
                self.in_place.check(reason)?;
                let failed = |errno| self.place.failure("file", "write", errno);
                let flags = OFlags::WRONLY | OFlags::NONBLOCK;
                let target = self.place.open(flags, Mode::empty()).map_err(failed)?;
                copy_over(shared, path, self.temp.file(), &target.into())?;
                return Ok(false);
            }
        }
        shared.sweep_once(self.place.directory.as_fd());
        Ok(true)
    }

    fn publish(&mut self, durability: Durability) -> Result<(), Step> {
        let file = self.temp.file().as_fd();
        if let Some((stat, old)) = &self.old {
            carry_over(old.as_fd(), stat, file).map_err(Step::Metadata)?;
        } else if let Some(mode) = self.mode {
            fchmod(file, Mode::from_raw_mode(mode & 0o7777)).map_err(Step::Metadata)?;
        }
        self.temp.sync(durability).map_err(Step::Sync)?;
        let published = match &self.old {
            Some(_) if self.only_new => Err(Errno::EXIST),
            Some(_) => self.temp.publish_over(&self.place.name),
            None => match self.temp.publish_new(&self.place.name) {
                // Another writer was faster: the last one wins.
                Err(Errno::EXIST) if !self.only_new => self.temp.publish_over(&self.place.name),
                result => result,
            },
        };
        published.map_err(Step::Rename)?;
        match durability {
            Durability::Dir => sync_directory(self.place.directory.as_fd()).map_err(Step::Sync),
            Durability::None | Durability::File => Ok(()),
        }
    }
}

/// What did not work while publishing.
enum Step {
    Metadata(Errno),
    Sync(Errno),
    Rename(Errno),
}

/// Refuses a file that may not be written: that its directory would allow a replacement is no leave to do it.
pub(super) fn check_writable(place: &Place) -> Result<(), Error> {
    let flags = AtFlags::EACCESS | AtFlags::SYMLINK_NOFOLLOW;
    match accessat(&place.directory, &place.name, Access::WRITE_OK, flags) {
        // Where the kernel cannot tell, the directory's permissions decide alone.
        Ok(()) | Err(Errno::NOSYS | Errno::INVAL) => Ok(()),
        Err(errno) => Err(place.failure("file", "write", errno)),
    }
}

/// Opens the file to be replaced, to read its attributes.
fn open_old(place: &Place) -> Result<OwnedFd, Errno> {
    match place.open(OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
        Err(Errno::ACCESS | Errno::PERM) => place.open(OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()),
        result => result,
    }
}
