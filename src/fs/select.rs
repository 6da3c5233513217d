//! Which entries of a tree are answered: by depth, by glob, by what ignore files name, and from where on. It decides by
//! paths below the listed directory; the walk (`list.rs`) brings them in their order.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use ignore::overrides::{Override, OverrideBuilder};
use rustix::fs::{Mode, OFlags, fstat, openat};

use super::path::Location;
use super::request::{Kind, List, Select};
use crate::error::Error;

/// The files that name what is left out; what a later one says counts more.
const IGNORE_FILES: [&str; 2] = [".gitignore", ".ignore"];
/// Bytes of an ignore file that are read.
const IGNORE_BYTES: u64 = 1 << 20;

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    /// It is answered.
    pub(super) answer: bool,
    /// What is below it is looked at.
    pub(super) descend: bool,
}

const NOTHING: Choice = Choice {
    answer: false,
    descend: false,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Chooser {
    select: Select,
    recursive: bool,
    globs: Override,
    /// The rules that hold in each directory on the way to where the walk is; the last ones count most.
    rules: HashMap<PathBuf, Arc<Vec<Rules>>>,
}

/// What one directory's ignore files say.
#[derive(Debug, Clone)]
struct Rules {
    /// What the paths that they speak of begin with, seen from the listed directory: names to put in front of a path, or
    /// to take away.
    place: Place,
    rules: Arc<Gitignore>,
}

#[derive(Debug, Clone)]
enum Place {
    /// A directory above the listed one: the way down from it.
    Above(PathBuf),
    /// The listed directory, or one below it.
    Below(PathBuf),
}

impl Chooser {
    /// For a listing of `location`.
    pub(super) fn new(location: &Location, request: &List) -> Result<Self, Error> {
        let select = request.select.clone();
        let mut globs = OverrideBuilder::new("");
        let invalid = |error: ignore::Error| Error::Invalid {
            field: "glob",
            reason: error.to_string(),
        };
        for glob in &select.globs {
            globs.add(glob).map_err(invalid)?;
        }
        let mut rules = HashMap::new();
        if select.ignore_files {
            rules.insert(PathBuf::new(), Arc::new(from_above(location)));
        }
        Ok(Self {
            select,
            recursive: request.recursive,
            globs: globs.build().map_err(invalid)?,
            rules,
        })
    }

    /// Whether so many entries are all that was asked for.
    pub(super) fn is_full(&self, entries: usize) -> bool {
        self.select.limit.is_some_and(|limit| entries >= limit)
    }

    /// The walk enters the directory `below`, which holds these names.
    pub(super) fn enter(&mut self, below: &Path, directory: BorrowedFd<'_>, names: &[OsString]) {
        if !self.select.ignore_files {
            return;
        }
        // The walk never comes back to what it has left.
        self.rules.retain(|entered, _| below.starts_with(entered));
        let Some(inherited) = below.ancestors().find_map(|above| self.rules.get(above)) else {
            return;
        };
        let mut rules = inherited.to_vec();
        for name in IGNORE_FILES {
            if names.iter().any(|present| present == name)
                && let Some(read) = read_rules(directory, name)
            {
                rules.push(Rules {
                    place: Place::Below(below.to_owned()),
                    rules: Arc::new(read),
                });
            }
        }
        self.rules.insert(below.to_owned(), Arc::new(rules));
    }

    /// Whether `name` in the directory `below` is looked at at all.
    pub(super) fn may_hold(&self, below: &Path, name: &OsStr) -> bool {
        if !self.select.hidden && name.as_bytes().starts_with(b".") {
            return false;
        }
        let Some(after) = &self.select.after else {
            return true;
        };
        // Where this directory leads to the cursor, what sorts before it was answered.
        match after.strip_prefix(below).ok().and_then(|rest| rest.iter().next()) {
            Some(next) => name >= next,
            None => true,
        }
    }

    /// What becomes of the entry `below`.
    pub(super) fn choose(&self, below: &Path, kind: Kind) -> Choice {
        let is_directory = kind == Kind::Directory;
        if self.is_ignored(below, is_directory) {
            return NOTHING;
        }
        // A directory that no glob names is passed through: what lies below it may be named.
        let named = match self.globs.matched(below, is_directory) {
            Match::Ignore(_) => return NOTHING,
            Match::Whitelist(_) => true,
            Match::None => self.globs.num_whitelists() == 0,
        };
        let is_behind = |after: &PathBuf| below.cmp(after) == Ordering::Greater;
        Choice {
            answer: named && self.select.after.as_ref().is_none_or(is_behind),
            descend: is_directory
                && self.recursive
                && self
                    .select
                    .depth
                    .is_none_or(|deepest| below.components().count() < deepest),
        }
    }

    fn is_ignored(&self, below: &Path, is_directory: bool) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        let parent = below.parent().unwrap_or(Path::new(""));
        let Some(rules) = self.rules.get(parent) else {
            return false;
        };
        let say = |rules: &Rules| {
            let path = match &rules.place {
                Place::Above(down) => down.join(below),
                Place::Below(directory) => below.strip_prefix(directory).ok()?.to_owned(),
            };
            match rules.rules.matched(path, is_directory) {
                Match::None => None,
                Match::Ignore(_) => Some(true),
                Match::Whitelist(_) => Some(false),
            }
        };
        rules.iter().rev().find_map(say).unwrap_or(false)
    }
}

/// The rules of the directories above `location`, up to the one that holds a repository; nothing where there is none.
fn from_above(location: &Location) -> Vec<Rules> {
    let mut found = Vec::new();
    let mut down = PathBuf::new();
    let mut at = location.clone();
    loop {
        let directory = at.try_open(OFlags::RDONLY | OFlags::DIRECTORY);
        let Ok(directory) = directory else {
            return Vec::new();
        };
        if !down.as_os_str().is_empty() {
            for name in IGNORE_FILES.iter().rev() {
                if let Some(read) = read_rules(directory.as_fd(), name) {
                    found.push(Rules {
                        place: Place::Above(down.clone()),
                        rules: Arc::new(read),
                    });
                }
            }
        }
        if openat(&directory, ".git", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).is_ok() {
            found.reverse();
            return found;
        }
        let (Some(parent), Some(name)) = (at.parent(), at.name()) else {
            return Vec::new();
        };
        down = Path::new(name).join(down);
        at = parent;
    }
}

/// The rules in the file `name`; lines that mean nothing are passed over, as git does.
fn read_rules(directory: BorrowedFd<'_>, name: &str) -> Option<Gitignore> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty()).ok()?;
    if Kind::of(&fstat(&file).ok()?) != Kind::File {
        return None;
    }
    let mut builder = GitignoreBuilder::new("");
    for line in BufReader::new(File::from(file).take(IGNORE_BYTES)).lines() {
        // What is no text ends the file, as it would for ripgrep.
        let Ok(line) = line else { break };
        if let Err(error) = builder.add_line(None, &line) {
            tracing::debug!(%error, name, "a line of an ignore file means nothing");
        }
    }
    builder.build().ok()
}
