//! The files room: read, write, list, move and remove, with nothing half done.
//!
//! [`Files`] is the handle. Every path goes through `path.rs`, the one place where a path becomes a descriptor;
//! everything after that works on descriptors. All work on files happens on the blocking pool (`blocking.rs`), but for bodies
//! that go to a file system of memory (`write.rs`), and no
//! thread of it waits for a peer. Not here: HTTP ranges and `ETag`s, limits of a wire, who may ask; those are the doors'
//! and `ops`'.

mod anchor;
mod append;
mod archive;
mod attribute;
mod base;
mod batch;
mod blocking;
mod buffers;
mod change;
#[cfg(test)]
mod change_tests;
mod config;
mod copy;
mod digest;
mod directory;
mod edit;
mod entry;
mod fifo;
#[cfg(test)]
mod fixture;
mod keep;
mod list;
mod nearest;
mod overwrite;
mod pack;
mod path;
mod pieces;
mod plan;
#[cfg(test)]
mod race_tests;
mod read;
#[cfg(test)]
mod read_tests;
mod remove;
mod rename;
mod replace;
mod request;
mod rights;
mod select;
mod sink;
mod spool;
mod temp;
#[cfg(test)]
mod transfer_tests;
#[cfg(test)]
mod tree_tests;
mod unpack;
#[cfg(test)]
mod unpack_tests;
mod upload;
#[cfg(test)]
mod upload_tests;
mod write;
#[cfg(test)]
mod write_tests;

use std::collections::HashSet;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::fs::fstat;
use tokio::sync::Semaphore;

use crate::capability::Capability;
use crate::error::Error;
use crate::lifecycle::Transfers;
use crate::workspace::Workspace;

pub use attribute::{Attribute, SetAttribute};
pub use change::Change;
pub use config::{Config, Durability, UnpackLimits};
pub use edit::{Edit, Edited};
pub use pack::{Pack, Packed};
pub use pieces::{Arrived, Piece, Pieces};
pub use read::OpenFile;
pub use request::{
    Base, Begin, Body, Entry, InPlace, Kind, List, Listing, Mkdir, Move, Moved, Reach, Read, Remove, Select,
    Unpack, Unpacked, Uploaded, Write, Written,
};
pub use rights::{Changed, Chmod};
pub use upload::Upload;

/// The files room. Every method takes how far its paths may reach, does its work on the blocking pool and must be
/// called inside a tokio runtime.
#[derive(Debug)]
pub struct Files {
    shared: Arc<Shared>,
}

/// What the operations have in common.
#[derive(Debug)]
struct Shared {
    config: Config,
    workspace: Workspace,
    /// Held while a regular file is overwritten in place.
    in_place: Mutex<()>,
    /// Held between the look at what an upload replaces and the replacement.
    exchange: Mutex<()>,
    /// Directories that were swept of unfinished files since the start, by device and inode.
    swept: Mutex<HashSet<(u64, u64)>>,
    /// What is read, written, packed, unpacked or copied now, for as long as its peer takes.
    transfers: Transfers,
    /// Places for archives that are packed: each takes a thread for as long as its reader takes.
    packs: Arc<Semaphore>,
}

impl Files {
    /// The room, with the paths of requests resolved against `workspace`.
    pub fn new(config: Config, workspace: Workspace) -> Self {
        let shared = Shared {
            config,
            workspace,
            in_place: Mutex::default(),
            exchange: Mutex::default(),
            swept: Mutex::default(),
            transfers: Transfers::default(),
            packs: Arc::new(Semaphore::new(pack::AT_ONCE)),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The count of what is under way.
    pub fn transfers(&self) -> Transfers {
        self.shared.transfers.clone()
    }

    /// What works here, one row per operation.
    pub fn capabilities(&self) -> Vec<Capability> {
        let plain = [
            "fs.read",
            "fs.write",
            "fs.edit",
            "fs.list",
            "fs.mkdir",
            "fs.move",
            "fs.stat",
            "fs.remove",
            "fs.copy",
            "fs.chmod",
            "fs.symlink",
            "fs.xattrs",
            "fs.xattr.set",
            "fs.pack",
            "fs.digest",
        ];
        let mut rows: Vec<_> = plain.into_iter().map(Capability::available).collect();
        rows.push(if anchor::resolves_beneath() {
            Capability::available("fs.unpack")
        } else {
            let why = "this kernel has no openat2, which keeps an archive inside its destination";
            Capability::missing("fs.unpack", why, Some("run on Linux 5.6 or newer".into()))
        });
        rows
    }

    /// Opens a regular file for reading, following links. Answers [`Error::WrongKind`] for anything else, at once.
    pub async fn open(&self, reach: Reach, request: Read) -> Result<OpenFile, Error> {
        self.on_path(reach, request.path.clone(), move |shared, location| {
            read::open(&location, &request, shared.transfers.begin())
        })
        .await
    }

    /// Writes a file, whole or not at all; what a symbolic link points at is written, not the link. An error of the
    /// body ends it and is passed on.
    pub async fn write(&self, reach: Reach, request: Write) -> Result<Written, Error> {
        let _under_way = self.shared.transfers.begin();
        write::write(Arc::clone(&self.shared), reach, request).await
    }

    /// Begins to write a file piece by piece, as [`Files::write`] does it whole: see [`Upload`].
    pub async fn upload(&self, reach: Reach, begin: Begin) -> Result<Upload, Error> {
        upload::begin(Arc::clone(&self.shared), reach, begin).await
    }

    /// Changes a file, whole or not at all, and only while nobody else does.
    pub async fn edit(&self, reach: Reach, request: Edit) -> Result<Edited, Error> {
        edit::edit(Arc::clone(&self.shared), reach, request).await
    }

    /// Lists a directory.
    pub async fn list(&self, reach: Reach, request: List) -> Result<Listing, Error> {
        let unwanted = Unwanted(Arc::default());
        let is_unwanted = Arc::clone(&unwanted.0);
        let path = request.path.clone();
        self.on_path(reach, path, move |_, location| {
            list::list(&location, &request, &is_unwanted)
        })
        .await
    }

    /// Makes a directory and answers its absolute path.
    pub async fn mkdir(&self, reach: Reach, request: Mkdir) -> Result<PathBuf, Error> {
        let Mkdir { path, parents, mode } = request;
        self.on_path(reach, path, move |_, location| {
            directory::make(&location, parents, mode)?;
            Ok(location.absolute)
        })
        .await
    }

    /// Moves an entry; a symbolic link is moved itself.
    pub async fn rename(&self, reach: Reach, request: Move) -> Result<Moved, Error> {
        self.on_two(reach, request, rename::rename).await
    }

    /// Copies an entry with everything in it; a symbolic link is copied itself.
    pub async fn copy(&self, reach: Reach, request: Move) -> Result<Moved, Error> {
        let under_way = self.shared.transfers.begin();
        self.on_two(reach, request, move |from, to, overwrite, root| {
            let _until_the_end = under_way;
            rename::copy(from, to, overwrite, root)
        })
        .await
    }

    /// Changes permission bits or owners.
    pub async fn chmod(&self, reach: Reach, request: Chmod) -> Result<Changed, Error> {
        let path = request.path.clone();
        self.on_path(reach, path, move |_, location| {
            rights::change(&location, &request)
        })
        .await
    }

    /// Makes a symbolic link and answers its absolute path; where it points is not looked at.
    pub async fn symlink(&self, reach: Reach, path: PathBuf, target: PathBuf) -> Result<PathBuf, Error> {
        self.on_path(reach, path, move |_, location| {
            attribute::link(&location, &target)?;
            Ok(location.absolute)
        })
        .await
    }

    /// The extended attributes of an entry.
    pub async fn attributes(&self, reach: Reach, path: PathBuf) -> Result<Vec<Attribute>, Error> {
        self.on_path(reach, path, |_, location| attribute::read(&location))
            .await
    }

    /// Sets or removes an extended attribute, and answers the absolute path of its entry.
    pub async fn set_attribute(&self, reach: Reach, request: SetAttribute) -> Result<PathBuf, Error> {
        let path = request.path.clone();
        self.on_path(reach, path, move |_, location| {
            attribute::write(&location, &request)?;
            Ok(location.absolute)
        })
        .await
    }

    /// Packs a tree as a tar archive.
    pub async fn pack(&self, reach: Reach, request: Pack) -> Result<Packed, Error> {
        let Ok(place) = Arc::clone(&self.shared.packs).try_acquire_owned() else {
            return Err(Error::Overloaded {
                what: "archives that are sent",
                reason: format!("{} are on their way", pack::AT_ONCE),
            });
        };
        let path = request.path.clone();
        self.on_path(reach, path, move |shared, location| {
            pack::pack(&location, &request, shared.transfers.begin(), place)
        })
        .await
    }

    /// The digest of all that a file holds.
    pub async fn digest(&self, reach: Reach, path: PathBuf) -> Result<blake3::Hash, Error> {
        self.on_path(reach, path, |_, location| digest::of(&location))
            .await
    }

    /// Looks at one entry without following a link; `None` when nothing is there.
    pub async fn stat(&self, reach: Reach, path: PathBuf) -> Result<Option<Entry>, Error> {
        self.on_path(reach, path, |_, location| entry::look(&location))
            .await
    }

    /// Removes an entry and answers its absolute path. The workspace root and its parents are refused.
    pub async fn remove(&self, reach: Reach, request: Remove) -> Result<PathBuf, Error> {
        let Remove { path, recursive } = request;
        self.on_path(reach, path, move |shared, location| {
            remove::remove(&location.place()?, &shared.workspace.root, recursive)?;
            Ok(location.absolute)
        })
        .await
    }

    /// Unpacks a tar or tar.gz archive below a directory.
    pub async fn unpack(&self, reach: Reach, request: Unpack) -> Result<Unpacked, Error> {
        let _under_way = self.shared.transfers.begin();
        unpack::unpack(Arc::clone(&self.shared), reach, request).await
    }

    /// Does `work` on the blocking pool with both paths bound to their reach.
    async fn on_two<F>(&self, reach: Reach, request: Move, work: F) -> Result<Moved, Error>
    where
        F: FnOnce(&path::Place, &path::Place, bool, &Path) -> Result<(), Error> + Send + 'static,
    {
        let Move { from, to, overwrite } = request;
        self.on_path(reach, from, move |shared, location| {
            let destination = path::Location::new(reach, &shared.workspace, &to)?;
            let (from, to) = (location.place()?, destination.place()?);
            work(&from, &to, overwrite, &shared.workspace.root)?;
            Ok(Moved {
                from: location.absolute,
                to: destination.absolute,
            })
        })
        .await
    }

    /// Does `work` on the blocking pool with `path` bound to its reach.
    async fn on_path<T, F>(&self, reach: Reach, path: PathBuf, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Shared, path::Location) -> Result<T, Error> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        blocking::run(move || {
            let location = path::Location::new(reach, &shared.workspace, &path)?;
            work(&shared, location)
        })
        .await
    }
}

impl Shared {
    fn allows_in_place(&self, request: InPlace) -> bool {
        match request {
            InPlace::Allow => true,
            InPlace::IfConfigured => self.config.in_place,
        }
    }

    /// Removes what killed writers left in `directory`, once per directory and start of the daemon.
    fn sweep_once(&self, directory: BorrowedFd<'_>) {
        /// Beyond this many directories the memory of them begins anew.
        const REMEMBERED: usize = 16_384;
        let Ok(stat) = fstat(directory) else { return };
        {
            let mut swept = self.swept.lock();
            if swept.len() >= REMEMBERED {
                swept.clear();
            }
            if !swept.insert((stat.st_dev, stat.st_ino)) {
                return;
            }
        }
        if let Err(errno) = temp::sweep(directory) {
            tracing::debug!(%errno, "a directory could not be searched for unfinished files");
        }
    }
}

/// Says that nobody waits any more when the caller's future is dropped.
struct Unwanted(Arc<AtomicBool>);

impl Drop for Unwanted {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// For fuzzers: every entry of an archive, none of which is made.
///
/// # Errors
///
/// What an unpack would be answered.
#[cfg(fuzzing)]
pub fn fuzzed_archive(bytes: &[u8]) -> Result<(), Error> {
    let limits = UnpackLimits {
        entries: 1000,
        expanded_bytes: 1 << 20,
        header_bytes: 64 << 10,
        depth: 16,
    };
    archive::walk(std::io::Cursor::new(bytes), &limits, |item, content| {
        assert!(item.path.is_relative(), "{:?}", item.path);
        let up = |part| matches!(part, std::path::Component::ParentDir);
        assert!(!item.path.components().any(up), "{:?}", item.path);
        let read = std::io::copy(content, &mut std::io::sink());
        read.map(|_| ()).map_err(|source| archive::malformed(&source))
    })
}

/// For fuzzers: a unified diff, applied to a text.
#[cfg(fuzzing)]
pub fn fuzzed_patch(text: &[u8], diff: &[u8]) {
    let _ = change::apply(text, &Change::Patch(diff.to_vec()));
}
