//! Unpacking an archive below a directory, never outside of it.
//!
//! The archive is collected first (in a file without a name beside the destination), so that a peer who goes away
//! leaves nothing and a slow one holds no thread. Then it is read twice: once to check every entry and the caps, so
//! that a bad archive is refused before anything is written, and once to write. Each entry is resolved beneath the
//! destination's descriptor and takes its name when it is complete. What cannot be known before (a symbolic link in
//! the way that leads outside, a full disk) ends the unpacking with an error that names the entry and how many were
//! written before it; those stay.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Cursor, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, Mode, OFlags, Timespec, Timestamps, fchmod, futimens, linkat, mkdirat, renameat, statat,
    symlinkat, syncfs, unlinkat,
};
use rustix::io::Errno;

use super::anchor::{Anchor, DIRECTORY, split};
use super::archive::{Item, Wanted, invalid, malformed, walk};
use super::blocking;
use super::config::Durability;
use super::directory::make;
use super::path::{Location, failure};
use super::request::{Body, Kind, Reach, Unpack, Unpacked};
use super::temp::{Temp, unguessable_name};
use super::{Shared, spool};
use crate::error::Error;

/// Unpacks `request`, see the module.
pub(super) async fn unpack(shared: Arc<Shared>, reach: Reach, request: Unpack) -> Result<Unpacked, Error> {
    let Unpack { path, body } = request;
    match body {
        Body::Bytes(bytes) => {
            blocking::run(move || {
                let location = Location::new(reach, &shared.workspace, &path)?;
                extract(&shared, &location, || Cursor::new(&bytes))
            })
            .await
        }
        Body::Stream(body) => {
            let begin = Arc::clone(&shared);
            let (location, spool) = blocking::run(move || {
                let location = Location::new(reach, &begin.workspace, &path)?;
                let spool = spool::make(&location)?;
                Ok((location, spool))
            })
            .await?;
            let spool = spool::fill(spool, location.absolute.clone(), body).await?;
            blocking::run(move || extract(&shared, &location, || spool.file())).await
        }
    }
}

fn extract<R, S>(shared: &Shared, location: &Location, source: S) -> Result<Unpacked, Error>
where
    R: Read + io::Seek,
    S: Fn() -> R,
{
    let limits = &shared.config.unpack;
    walk(source(), limits, |item, content| {
        let size = io::copy(content, &mut io::sink()).map_err(|source| malformed(&source))?;
        if size == item.size || matches!(item.wanted, Wanted::Skip(_) | Wanted::Comment) {
            return Ok(());
        }
        Err(invalid(&format!(
            "entry {:?} ends after {size} of {} bytes",
            item.path, item.size
        )))
    })?;
    make(location, true, None)?;
    let destination = location.open("unpack into", DIRECTORY)?;
    let mut unpacking = Unpacking {
        destination: Anchor::Beneath(destination),
        root: location.absolute.clone(),
        parent: None,
        directories: HashMap::new(),
        order: Vec::new(),
        written: 0,
        done: Unpacked {
            paths: Vec::new(),
            truncated: false,
            skipped: Vec::new(),
        },
    };
    walk(source(), limits, |item, content| unpacking.entry(&item, content))?;
    unpacking.finish(shared.config.durability)
}

/// An unpacking under way.
struct Unpacking {
    destination: Anchor,
    root: PathBuf,
    /// The directory of the last entry, open.
    parent: Option<(PathBuf, Arc<OwnedFd>)>,
    /// Permission bits and times that directories get when everything is in them.
    directories: HashMap<PathBuf, (u32, i64)>,
    /// Those directories in the order in which they came.
    order: Vec<PathBuf>,
    written: u64,
    done: Unpacked,
}

impl Unpacking {
    fn entry(&mut self, item: &Item, content: &mut dyn Read) -> Result<(), Error> {
        let path = self.root.join(&item.path);
        let result = match &item.wanted {
            Wanted::Comment => return Ok(()),
            Wanted::Skip(reason) => {
                if self.done.skipped.len() < Unpacked::MAX_PATHS {
                    self.done.skipped.push((path, (*reason).to_owned()));
                } else {
                    self.done.truncated = true;
                }
                return Ok(());
            }
            Wanted::Directory if item.path.as_os_str().is_empty() => return Ok(()),
            Wanted::Directory => self.directory(item),
            Wanted::File => self.file(item, content),
            Wanted::Symlink(target) => self.symlink(item, target),
            Wanted::Hardlink(target) => self.hardlink(item, target),
        };
        result.map_err(|source| self.blame(&item.path, source))?;
        self.written += 1;
        if self.done.paths.len() < Unpacked::MAX_PATHS {
            self.done.paths.push(path);
        } else {
            self.done.truncated = true;
        }
        Ok(())
    }

    fn directory(&mut self, item: &Item) -> Result<(), io::Error> {
        self.open_directory(&item.path)?;
        if self
            .directories
            .insert(item.path.clone(), (item.mode, item.modified))
            .is_none()
        {
            self.order.push(item.path.clone());
        }
        Ok(())
    }

    fn file(&mut self, item: &Item, content: &mut dyn Read) -> Result<(), io::Error> {
        let (directory, name) = self.place(&item.path)?;
        let mut temp = Temp::create(&directory, Mode::RUSR | Mode::WUSR)?;
        io::copy(content, &mut temp.file())?;
        fchmod(temp.file(), Mode::from_raw_mode(item.mode))?;
        futimens(temp.file(), &times(item.modified))?;
        match temp.publish_new(&name) {
            Err(Errno::EXIST) => {
                // The old content must not give way to one that is not on the disk yet.
                temp.sync(Durability::File)?;
                temp.publish_over(&name)?;
            }
            result => result?,
        }
        Ok(())
    }

    fn symlink(&mut self, item: &Item, target: &Path) -> Result<(), io::Error> {
        let (directory, name) = self.place(&item.path)?;
        let hidden = unguessable_name();
        symlinkat(target, &directory, &hidden)?;
        publish(&directory, &hidden, &name)
    }

    /// Only a regular file beneath the destination gets another name.
    fn hardlink(&mut self, item: &Item, target: &Path) -> Result<(), io::Error> {
        let (parent, target) = split(target);
        let from = self.destination.open(parent, DIRECTORY, Mode::empty())?;
        let stat = statat(&from, target, AtFlags::SYMLINK_NOFOLLOW)?;
        if Kind::of(&stat) != Kind::File {
            let reason = format!("the target of a hard link is {}", Kind::of(&stat).described());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let (directory, name) = self.place(&item.path)?;
        let hidden = unguessable_name();
        linkat(&from, target, &directory, &hidden, AtFlags::empty())?;
        publish(&directory, &hidden, &name)
    }

    /// The directory of an entry, made when missing, and the entry's name.
    fn place(&mut self, path: &Path) -> Result<(Arc<OwnedFd>, std::ffi::OsString), io::Error> {
        let (parent, name) = split(path);
        Ok((self.open_directory(parent)?, name.to_owned()))
    }

    fn open_directory(&mut self, path: &Path) -> Result<Arc<OwnedFd>, io::Error> {
        if let Some((last, directory)) = &self.parent
            && last == path
        {
            return Ok(Arc::clone(directory));
        }
        let directory = Arc::new(self.make_directory(path)?);
        self.parent = Some((path.to_owned(), Arc::clone(&directory)));
        Ok(directory)
    }

    fn make_directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        match self.destination.open(path, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => {}
            result => return result,
        }
        let mut so_far = PathBuf::new();
        let mut directory = self.destination.open(&so_far, DIRECTORY, Mode::empty())?;
        for component in path.components() {
            so_far.push(component);
            match mkdirat(&directory, component.as_os_str(), Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            directory = self.destination.open(&so_far, DIRECTORY, Mode::empty())?;
        }
        Ok(directory)
    }

    /// Gives directories their permission bits and times, the deepest first, because the bits of one above may forbid
    /// to reach it; and waits for the disk.
    fn finish(mut self, durability: Durability) -> Result<Unpacked, Error> {
        let failed = |path: &Path, errno| failure("directory", "unpack into", path, errno);
        self.order.sort_by_key(|path| path.components().count());
        while let Some(path) = self.order.pop() {
            let Some((mode, modified)) = self.directories.remove(&path) else {
                continue;
            };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            match self.destination.open(&path, flags, Mode::empty()) {
                Ok(directory) => fchmod(&directory, Mode::from_raw_mode(mode))
                    .and_then(|()| futimens(&directory, &times(modified)))
                    .map_err(|errno| failed(&self.root.join(&path), errno))?,
                // A later entry has put something else there, or a mode without read permission was here before.
                Err(Errno::LOOP | Errno::NOTDIR | Errno::NOENT | Errno::ACCESS) => {}
                Err(errno) => return Err(failed(&self.root.join(&path), errno)),
            }
        }
        if durability != Durability::None {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let directory = self.destination.open(Path::new("."), flags, Mode::empty());
            directory
                .and_then(syncfs)
                .map_err(|errno| failed(&self.root, errno))?;
        }
        Ok(self.done)
    }

    /// The error for an entry that could not be written.
    fn blame(&self, path: &Path, source: io::Error) -> Error {
        let before = match self.written {
            0 => "nothing was written before it".to_owned(),
            count => format!("{count} entries were written before it"),
        };
        match Errno::from_io_error(&source) {
            Some(Errno::XDEV) => invalid(&format!(
                "entry {path:?} leads outside through a symbolic link; {before}"
            )),
            Some(Errno::NOENT) => invalid(&format!("entry {path:?} links to what is not there; {before}")),
            Some(Errno::NOTDIR | Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY | Errno::LOOP) => invalid(
                &format!("entry {path:?} is in the way of what is there: {source}; {before}"),
            ),
            Some(Errno::NOSYS) => Error::Unsupported {
                what: "unpacking an archive".into(),
                why: "this kernel has no openat2".into(),
                fix: Some("run on Linux 5.6 or newer".into()),
            },
            Some(_) => Error::from_path_io("entry", "unpack", &self.root.join(path), source),
            None => invalid(&format!("entry {path:?}: {source}; {before}")),
        }
    }
}

/// Gives what is called `hidden` the name `name`, in place of whatever has it.
fn publish(directory: &OwnedFd, hidden: &OsStr, name: &OsStr) -> Result<(), io::Error> {
    let result = renameat(directory, hidden, directory, name);
    // After a failure, and where both were names of one file (then nothing is renamed), the hidden name is left.
    let _usually_gone = unlinkat(directory.as_fd(), hidden, AtFlags::empty());
    Ok(result?)
}

fn times(modified: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: modified,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
