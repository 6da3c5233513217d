//! Files on their way into a directory: complete before they get their name, gone when they never do.
//!
//! Where the file system allows it the file has no name at all until it is published (`O_TMPFILE`), so that even a
//! killed daemon leaves nothing. Elsewhere it is called `.boxd-<random>`, which only its owner may read; a crash can
//! leave such a file behind, and a later write in the same directory sweeps it: the writer holds a `flock`, so a
//! file that can be locked has lost its writer. A file that replaces another one has that name for the moment
//! between `linkat` and `renameat` too, and what moves to another file system until it is copied whole.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, fdatasync, flock, fstat, fsync,
    linkat, openat, renameat, renameat_with, statat, syncfs, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::geteuid;

use super::config::Durability;
use super::entry::is_same;
use super::remove::remove_tree;

/// How the names of unfinished files begin.
const PREFIX: &[u8] = b".boxd-";

/// A name that nobody can guess and that the sweep recognises.
pub(super) fn unguessable_name() -> OsString {
    format!(".boxd-{}", uuid::Uuid::new_v4().simple()).into()
}

/// A file that is being written and that disappears when it is dropped before it is published.
#[derive(Debug)]
pub(super) struct Temp {
    file: File,
    directory: Arc<OwnedFd>,
    /// Its name while it has one.
    name: Option<OsString>,
}

impl Temp {
    /// Makes an empty file in `directory`, with `mode` as the umask (or a default ACL) allows it.
    pub(super) fn create(directory: &Arc<OwnedFd>, mode: Mode) -> Result<Self, Errno> {
        match Self::nameless(directory.as_fd(), mode) {
            Ok(Some(file)) => Ok(Self {
                file,
                directory: Arc::clone(directory),
                name: None,
            }),
            Ok(None) => Self::named(directory, mode),
            Err(errno) => Err(errno),
        }
    }

    /// Makes an empty file without a name in `directory` that will never get one.
    pub(super) fn scratch(directory: BorrowedFd<'_>) -> Result<Option<File>, Errno> {
        Self::nameless(directory, Mode::RUSR | Mode::WUSR)
    }

    /// `None` where this file system has no files without names, or no `/proc` can name them later.
    fn nameless(directory: BorrowedFd<'_>, mode: Mode) -> Result<Option<File>, Errno> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = match retry_on_intr(|| openat(directory, ".", flags, mode)) {
            Ok(file) => File::from(file),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT | Errno::NOSYS) => {
                return Ok(None);
            }
            Err(errno) => return Err(errno),
        };
        let seen = statat(CWD, proc_path(&file), AtFlags::empty());
        let nameable = seen.is_ok_and(|seen| fstat(&file).is_ok_and(|stat| is_same(&seen, &stat)));
        Ok(nameable.then_some(file))
    }

    fn named(directory: &Arc<OwnedFd>, mode: Mode) -> Result<Self, Errno> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::RDWR | OFlags::CLOEXEC;
        let name = unguessable_name();
        let file = retry_on_intr(|| openat(directory, &name, flags, mode))?;
        let temp = Self {
            file: file.into(),
            directory: Arc::clone(directory),
            name: Some(name),
        };
        temp.lock();
        Ok(temp)
    }

    /// The file, open for reading and writing.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Waits for the content to be on stable storage, as far as `durability` asks for it.
    pub(super) fn sync(&self, durability: Durability) -> Result<(), Errno> {
        match durability {
            Durability::None => Ok(()),
            Durability::File | Durability::Dir => retry_on_intr(|| fdatasync(&self.file)),
        }
    }

    /// Gives it `name` where nothing has that name; answers `EEXIST` and keeps the file where something has.
    pub(super) fn publish_new(&mut self, name: &OsStr) -> Result<(), Errno> {
        match &self.name {
            None => self.link(name),
            Some(own) => match rename_new(self.directory.as_fd(), own, name) {
                Ok(()) => {
                    self.name = None;
                    Ok(())
                }
                Err(Errno::INVAL | Errno::NOSYS) => {
                    linkat(&self.directory, own, &self.directory, name, AtFlags::empty())?;
                    self.forget();
                    Ok(())
                }
                Err(errno) => Err(errno),
            },
        }
    }

    /// Gives it `name` in one step, in place of whatever has that name.
    pub(super) fn publish_over(&mut self, name: &OsStr) -> Result<(), Errno> {
        if self.name.is_none() {
            let own = unguessable_name();
            self.lock();
            self.link(&own)?;
            self.name = Some(own);
        }
        if let Some(own) = &self.name {
            renameat(&self.directory, own, &self.directory, name)?;
        }
        self.name = None;
        Ok(())
    }

    /// Removes the name of an unfinished file.
    fn forget(&mut self) {
        if let Some(name) = self.name.take() {
            let _gone_already = unlinkat(&self.directory, name, AtFlags::empty());
        }
    }

    fn link(&self, name: &OsStr) -> Result<(), Errno> {
        linkat(
            CWD,
            proc_path(&self.file),
            &self.directory,
            name,
            AtFlags::SYMLINK_FOLLOW,
        )
    }

    fn lock(&self) {
        keep_from_sweep(&self.file);
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Marks the file as in use for the sweep while it is open; a file system without locks is swept by nobody.
pub(super) fn keep_from_sweep(file: &File) {
    let _unsupported = flock(file, FlockOperation::NonBlockingLockExclusive);
}

/// Waits until the names in `directory` are on stable storage.
pub(super) fn sync_directory(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat(directory, ".", flags, Mode::empty()) {
        Ok(readable) => match retry_on_intr(|| fsync(&readable)) {
            // Some file systems know no fsync of a directory; there the whole file system is waited for.
            Err(Errno::INVAL) => syncfs(&readable),
            result => result,
        },
        Err(errno) => Err(errno),
    }
}

/// Removes what writers and moves left behind when they were killed: ours by name and owner, and locked by nobody.
pub(super) fn sweep(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = openat(directory, ".", flags, Mode::empty())?;
    for entry in Dir::read_from(&readable)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name.starts_with(PREFIX) && name.len() == PREFIX.len() + 32 {
            let _busy_or_gone = sweep_one(readable.as_fd(), OsStr::from_bytes(name));
        }
    }
    Ok(())
}

fn sweep_one(directory: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty())?;
    let stat = fstat(&file)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if stat.st_uid != geteuid().as_raw() || !(kind.is_file() || kind.is_dir()) {
        return Ok(());
    }
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    // The writer may have published it and someone else taken the name since it was opened.
    if !is_same(&statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?, &stat) {
        return Ok(());
    }
    if kind.is_file() {
        return unlinkat(directory, name, AtFlags::empty());
    }
    // Half of a tree that was on its way to another file system; the source has it all.
    if let Err(error) = remove_tree(directory, name, Path::new(name)) {
        tracing::debug!(?name, %error, "an unfinished move could not be swept");
    }
    Ok(())
}

fn rename_new(directory: BorrowedFd<'_>, from: &OsStr, to: &OsStr) -> Result<(), Errno> {
    renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE)
}

fn proc_path(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}
