//! What was reported of a tree so far: directories with their entries, found by number, so that a directory that is
//! renamed keeps what is below it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::event::Kind;

/// The number of a directory; the root is 0.
pub(super) type DirectoryId = u64;

/// The root.
pub(super) const ROOT: DirectoryId = 0;

/// Which file it is: numbers of inodes are used again, so the time of its birth belongs to it, where that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) kind: Kind,
    pub(super) device: (u32, u32),
    pub(super) inode: u64,
    pub(super) birth: Option<(i64, u32)>,
}

/// What the file system says of an entry, as far as it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) identity: Identity,
    pub(super) size: u64,
    /// Seconds and nanoseconds of the last modification and of the last change.
    pub(super) times: ((i64, u32), (i64, u32)),
    pub(super) mode: u16,
}

impl Facts {
    /// What it is.
    pub(super) fn kind(&self) -> Kind {
        self.identity.kind
    }

    /// Whether more than its name has changed, which changes the last of its times.
    pub(super) fn has_other_content(&self, other: &Self) -> bool {
        let is_directory = self.kind() == Kind::Directory;
        self.mode != other.mode || (!is_directory && (self.size, self.times.0) != (other.size, other.times.0))
    }

    /// Whether it is the same file that has changed. What changes in a directory is told by its entries.
    pub(super) fn has_changed(&self, other: &Self) -> bool {
        match self.kind() {
            Kind::Directory => self.mode != other.mode,
            _ => self != other,
        }
    }
}

/// A directory.
#[derive(Debug)]
pub(super) struct Directory {
    /// Where it lies; the root lies in itself.
    pub(super) parent: DirectoryId,
    pub(super) name: OsString,
    pub(super) identity: Identity,
    pub(super) entries: HashMap<OsString, Facts>,
    /// Those of the entries that are directories and looked into.
    pub(super) below: HashMap<OsString, DirectoryId>,
    /// How the kernel calls its watch; without one it is looked at from time to time.
    pub(super) watch: Option<i32>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tree {
    /// How the root is called in reports.
    pub(super) path: PathBuf,
    /// The root itself, however it is called by now.
    pub(super) root: OwnedFd,
    pub(super) directories: HashMap<DirectoryId, Directory>,
    pub(super) by_watch: HashMap<i32, DirectoryId>,
    next: DirectoryId,
    /// Entries in all directories.
    pub(super) entries: u64,
}

impl Tree {
    /// Nothing but the root.
    pub(super) fn new(path: PathBuf, root: OwnedFd, identity: Identity) -> Self {
        let top = Directory {
            parent: ROOT,
            name: OsString::new(),
            identity,
            entries: HashMap::new(),
            below: HashMap::new(),
            watch: None,
        };
        Self {
            path,
            root,
            directories: HashMap::from([(ROOT, top)]),
            by_watch: HashMap::new(),
            next: 1,
            entries: 0,
        }
    }

    /// Makes the directory `name` in `parent`, with nothing in it.
    pub(super) fn add(&mut self, parent: DirectoryId, name: &OsStr, facts: &Facts) -> DirectoryId {
        let id = self.next;
        self.next += 1;
        let directory = Directory {
            parent,
            name: name.to_owned(),
            identity: facts.identity,
            entries: HashMap::new(),
            below: HashMap::new(),
            watch: None,
        };
        self.directories.insert(id, directory);
        if let Some(parent) = self.directories.get_mut(&parent) {
            parent.below.insert(name.to_owned(), id);
        }
        id
    }

    /// The path of a directory below the root; `None` when it is not part of the tree.
    pub(super) fn below(&self, id: DirectoryId) -> Option<PathBuf> {
        let mut names = Vec::new();
        let mut at = id;
        while at != ROOT {
            let directory = self.directories.get(&at)?;
            names.push(directory.name.as_os_str());
            at = directory.parent;
        }
        Some(names.iter().rev().collect())
    }

    /// Notes an entry as it is now.
    pub(super) fn set(&mut self, id: DirectoryId, name: &OsStr, facts: Facts) {
        if let Some(directory) = self.directories.get_mut(&id)
            && directory.entries.insert(name.to_owned(), facts).is_none()
        {
            self.entries += 1;
        }
    }

    /// Forgets an entry; answers what it was, and the directory that it was.
    pub(super) fn unset(&mut self, id: DirectoryId, name: &OsStr) -> Option<(Facts, Option<DirectoryId>)> {
        let directory = self.directories.get_mut(&id)?;
        let facts = directory.entries.remove(name)?;
        self.entries -= 1;
        Some((facts, directory.below.remove(name)))
    }

    /// Puts a directory that was taken out by [`Tree::unset`] back in under another name.
    pub(super) fn attach(&mut self, moved: DirectoryId, parent: DirectoryId, name: &OsStr) {
        if let Some(directory) = self.directories.get_mut(&moved) {
            directory.parent = parent;
            name.clone_into(&mut directory.name);
        }
        if let Some(parent) = self.directories.get_mut(&parent) {
            parent.below.insert(name.to_owned(), moved);
        }
    }

    /// All directories without a watch of the kernel.
    pub(super) fn unwatched(&self) -> Vec<DirectoryId> {
        let without = |(id, directory): (&DirectoryId, &Directory)| directory.watch.is_none().then_some(*id);
        self.directories.iter().filter_map(without).collect()
    }
}
