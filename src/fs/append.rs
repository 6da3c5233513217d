//! Appending: the one write that has to happen in the file itself. When it fails, or the peer goes away, the file is
//! cut back to its old length (or removed when the append made it), unless another writer has appended meanwhile.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, fchmod, fdatasync, fstat, ftruncate, statat, unlinkat};
use rustix::io::{Errno, retry_on_intr};

use super::config::Durability;
use super::entry::is_same;
use super::path::Place;
use super::plan::initial_mode;
use super::request::Kind;
use super::temp::sync_directory;
use crate::error::Error;

/// A file that grows.
#[derive(Debug)]
pub(super) struct Append {
    place: Place,
    file: File,
    /// Its length before.
    base: u64,
    /// What was added so far.
    added: u64,
    /// The append made the file.
    is_new: bool,
    is_finished: bool,
}

impl Append {
    /// Opens the file at `place`, or makes it.
    pub(super) fn open(place: &Place, is_present: bool, mode: Option<u32>) -> Result<Self, Error> {
        let failed = |errno| place.failure("file", "append to", errno);
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK;
        let new = flags | OFlags::CREATE | OFlags::EXCL;
        let opened = if is_present {
            Err(Errno::EXIST)
        } else {
            place.open(new, initial_mode(mode))
        };
        let (file, is_new) = match opened {
            Ok(file) => (file, true),
            Err(Errno::EXIST) => (place.open(flags, Mode::empty()).map_err(failed)?, false),
            Err(errno) => return Err(failed(errno)),
        };
        let stat = fstat(&file).map_err(failed)?;
        if Kind::of(&stat) != Kind::File {
            return Err(Kind::of(&stat).instead_of_file(&place.absolute));
        }
        if let (true, Some(mode)) = (is_new, mode) {
            fchmod(&file, Mode::from_raw_mode(mode & 0o7777)).map_err(failed)?;
        }
        let base = stat.st_size as u64;
        Ok(Self {
            place: place.clone(),
            file: file.into(),
            base,
            added: 0,
            is_new,
            is_finished: false,
        })
    }

    /// Appends all of `chunk`.
    pub(super) fn write(&mut self, mut chunk: &[u8]) -> io::Result<()> {
        while !chunk.is_empty() {
            match self.file.write(chunk) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.added += count as u64;
                    chunk = &chunk[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether nobody else has appended since, so that cutting back removes only what was added here.
    pub(super) fn can_be_undone(&self) -> bool {
        fstat(&self.file).is_ok_and(|stat| stat.st_size as u64 == self.base + self.added)
    }

    /// Keeps what was appended.
    pub(super) fn finish(mut self, path: &Path, durability: Durability) -> Result<(), Error> {
        let synced = match durability {
            Durability::None => Ok(()),
            Durability::Dir if self.is_new => retry_on_intr(|| fdatasync(&self.file))
                .and_then(|()| sync_directory(self.place.directory.as_fd())),
            Durability::File | Durability::Dir => retry_on_intr(|| fdatasync(&self.file)),
        };
        synced.map_err(|errno| Error::from_path_io("file", "append to", path, errno.into()))?;
        self.is_finished = true;
        Ok(())
    }

    fn undo(&self) -> Result<(), Errno> {
        ftruncate(&self.file, self.base)?;
        if self.is_new {
            let Place { directory, name, .. } = &self.place;
            if is_same(
                &statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?,
                &fstat(&self.file)?,
            ) {
                unlinkat(directory, name, AtFlags::empty())?;
            }
        }
        Ok(())
    }
}

impl Drop for Append {
    fn drop(&mut self) {
        if self.is_finished || !self.can_be_undone() {
            return;
        }
        if let Err(errno) = self.undo() {
            tracing::warn!(path = ?self.place.absolute, %errno, "a failed append could not be undone");
        }
    }
}
