//! From places to look at to changes: the disk is compared with what was reported, and the tree brought up to date.
//!
//! It goes in rounds. A round looks at every place whose directory is where it was; what was renamed is found by its
//! inode, and then the places in directories that were renamed can be looked at in the next round. The changes of one
//! round, applied one by one to what was reported before, lead to what is there: first what was removed, then what was
//! renamed (each before whatever takes its old name), then what was created, parents first, then what was modified.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use ignore::Match;
use ignore::overrides::Override;
use rustix::io::Errno;

use super::event::{Change, Kind};
use super::limits::ENTRIES;
use super::tree::{DirectoryId, Facts, ROOT, Tree};
use super::{scan, source};

/// Places to look at, by directory; whether the content was written.
pub(super) type Places = HashMap<DirectoryId, HashMap<OsString, bool>>;

/// What of a tree is watched.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    pub(super) globs: Override,
    /// A glob names a path and not a name alone.
    pub(super) speaks_of_paths: bool,
    pub(super) recursive: bool,
    /// Only this entry of the root.
    pub(super) only: Option<OsString>,
}

impl Filter {
    /// Whether the entry `below` is a part of the tree at all.
    fn holds(&self, below: &Path, kind: Kind) -> bool {
        let is_directory = kind == Kind::Directory;
        let is_it = self.only.as_deref().is_none_or(|only| below == Path::new(only));
        is_it && !matches!(self.globs.matched(below, is_directory), Match::Ignore(_))
    }

    /// Whether its changes are reported.
    pub(super) fn reports(&self, below: &Path, kind: Kind) -> bool {
        match self.globs.matched(below, kind == Kind::Directory) {
            Match::Whitelist(_) => true,
            Match::None => self.globs.num_whitelists() == 0,
            Match::Ignore(_) => false,
        }
    }
}

/// What came of an update.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) changes: Vec<Change>,
    /// Why directories could not be watched.
    pub(super) unwatched: Option<Errno>,
    /// There is more than may be watched.
    pub(super) is_too_large: bool,
    /// What could not be looked at: its directory is not where it was, which a hint on its way will explain.
    pub(super) rest: Places,
}

/// Something that is not where it was.
#[derive(Debug)]
struct Missing {
    below: PathBuf,
    facts: Facts,
    directory: Option<DirectoryId>,
}

/// Something that was not where it is.
#[derive(Debug)]
struct Found {
    parent: DirectoryId,
    name: OsString,
    facts: Facts,
}

/// See the module.
pub(super) struct Update<'a> {
    pub(super) tree: &'a mut Tree,
    pub(super) filter: &'a Filter,
    source: BorrowedFd<'a>,
    /// Entries that were renamed and have changed, too.
    changed: Vec<(PathBuf, Kind)>,
    /// Directories to look through that are not where they were: they may have been renamed.
    unseen: Vec<DirectoryId>,
    /// Watches are asked for anew also where there should be one.
    renews: bool,
    pub(super) outcome: Outcome,
}

impl<'a> Update<'a> {
    pub(super) fn new(tree: &'a mut Tree, filter: &'a Filter, source: BorrowedFd<'a>) -> Self {
        Self {
            tree,
            filter,
            source,
            changed: Vec::new(),
            unseen: Vec::new(),
            renews: false,
            outcome: Outcome::default(),
        }
    }

    /// The kernel watches this no more; what still is there is watched again, and looked at.
    pub(super) fn forget_watches(&mut self, watches: &[i32], places: &mut Places) {
        for watch in watches {
            let Some(id) = self.tree.by_watch.remove(watch) else {
                continue;
            };
            if let Some(directory) = self.tree.directories.get_mut(&id) {
                directory.watch = None;
            }
            self.all_of(id, places);
        }
    }

    /// Adds the places of directories themselves, which may be others by now, as where something is mounted over them.
    pub(super) fn doubt(&self, ids: &[DirectoryId], places: &mut Places) {
        for id in ids.iter().filter(|id| **id != ROOT) {
            if let Some(known) = self.tree.directories.get(id) {
                let names = places.entry(known.parent).or_default();
                names.entry(known.name.clone()).or_default();
            }
        }
    }

    /// The directory that the kernel watches under this number.
    pub(super) fn by_watch(&self, watch: i32) -> Option<DirectoryId> {
        self.tree.by_watch.get(&watch).copied()
    }

    /// Looks at everything.
    pub(super) fn rescan_all(mut self) -> Outcome {
        // That the kernel has ended one may be among what it could not tell.
        self.renews = true;
        let ids = all(self.tree);
        self.rescan(ids)
    }

    /// Looks at `places` and reports every difference.
    pub(super) fn look(mut self, mut places: Places) -> Outcome {
        loop {
            let unseen = std::mem::take(&mut self.unseen);
            let count = unseen.len();
            for id in unseen {
                self.all_of(id, &mut places);
            }
            if places.is_empty() {
                break;
            }
            let before = places.len();
            places = self.round(places);
            if places.len() == before && self.unseen.len() >= count {
                break;
            }
        }
        // What is still known and could not be looked through is looked at with what has no watch.
        let unseen = std::mem::take(&mut self.unseen);
        for id in &unseen {
            let known = self.tree.directories.get_mut(id);
            if let Some(watch) = known.and_then(|known| known.watch.take()) {
                self.tree.by_watch.remove(&watch);
            }
        }
        self.doubt(&unseen, &mut places);
        self.outcome.rest = places;
        self.outcome
    }

    /// Looks at everything in the directories `ids`, and at what is new in them.
    pub(super) fn rescan(mut self, ids: Vec<DirectoryId>) -> Outcome {
        let mut places = Places::new();
        for id in ids {
            self.all_of(id, &mut places);
        }
        self.look(places)
    }

    /// Adds every place in a directory, known or not, and has it watched.
    fn all_of(&mut self, id: DirectoryId, places: &mut Places) {
        if !self.tree.directories.contains_key(&id) {
            return;
        }
        self.watch_again(id);
        let names = scan::open(self.tree, id).and_then(|directory| scan::names(directory.as_fd()));
        let Some(names) = names else {
            self.unseen.push(id);
            return;
        };
        let known = self.tree.directories.get(&id).map(|known| &known.entries);
        let known = known.into_iter().flat_map(|entries| entries.keys().cloned());
        let names = names.into_iter().chain(known);
        places
            .entry(id)
            .or_default()
            .extend(names.map(|name| (name, false)));
    }

    /// Looks at what can be looked at; answers the rest.
    fn round(&mut self, places: Places) -> Places {
        let (mut rest, mut missing, mut found, mut modified) =
            (Places::new(), Vec::new(), Vec::new(), Vec::new());
        for (id, names) in places {
            if !self.tree.directories.contains_key(&id) {
                continue;
            }
            let (Some(directory), Some(below)) = (scan::open(self.tree, id), self.tree.below(id)) else {
                rest.insert(id, names);
                continue;
            };
            for (name, written) in names {
                let path = below.join(&name);
                let now = scan::look(directory.as_fd(), &name);
                let now = now.filter(|now| self.filter.holds(&path, now.kind()));
                let before = self
                    .tree
                    .directories
                    .get(&id)
                    .and_then(|known| known.entries.get(&name).copied());
                match (before, now) {
                    (None, None) => {}
                    (Some(before), Some(now)) if before.identity == now.identity => {
                        self.tree.set(id, &name, now);
                        let is_written = written && now.kind() != Kind::Directory;
                        if is_written || before.has_changed(&now) {
                            modified.push((path, now.kind()));
                        }
                    }
                    (before, now) => {
                        if before.is_some()
                            && let Some((facts, directory)) = self.tree.unset(id, &name)
                        {
                            missing.push(Missing {
                                below: path,
                                facts,
                                directory,
                            });
                        }
                        if let Some(facts) = now {
                            found.push(Found {
                                parent: id,
                                name,
                                facts,
                            });
                        }
                    }
                }
            }
        }
        self.report(missing, found, modified);
        rest
    }

    fn report(&mut self, mut missing: Vec<Missing>, found: Vec<Found>, modified: Vec<(PathBuf, Kind)>) {
        let (renames, created, replaced) = self.settle(&mut missing, found);
        let takers: HashSet<&Path> = renames.iter().map(|(_, to, _)| to.as_path()).collect();
        let mut removed = Vec::new();
        for gone in missing {
            let name_is_taken = takers.contains(gone.below.as_path()) || replaced.contains(&gone.below);
            if let Some(id) = gone.directory {
                self.take_down(id, &gone.below, &mut removed);
            }
            if !name_is_taken {
                removed.push((gone.below, gone.facts.kind()));
            }
        }
        for (below, kind) in removed {
            self.say(&below, kind, |path, kind| Change::Removed { path, kind });
        }
        self.say_renames(renames);
        for (below, kind) in created {
            self.say(&below, kind, |path, kind| Change::Created { path, kind });
        }
        let replaced = replaced.into_iter().map(|path| (path, Kind::File));
        let changed = std::mem::take(&mut self.changed);
        for (below, kind) in modified.into_iter().chain(replaced).chain(changed) {
            self.say(&below, kind, |path, kind| Change::Modified { path, kind });
        }
    }

    /// Puts what was found into the tree: renamed, where it is what is missing elsewhere, else created with everything in
    /// it, else a file that replaces another.
    #[expect(clippy::type_complexity, reason = "three lists that one caller takes apart")]
    fn settle(
        &mut self,
        missing: &mut Vec<Missing>,
        mut found: Vec<Found>,
    ) -> (
        Vec<(PathBuf, PathBuf, Kind)>,
        Vec<(PathBuf, Kind)>,
        HashSet<PathBuf>,
    ) {
        let (mut renames, mut created, mut replaced) = (Vec::new(), Vec::new(), HashSet::new());
        let mut waiting: HashMap<_, Vec<usize>> = HashMap::new();
        for (index, gone) in missing.iter().enumerate() {
            waiting.entry(gone.facts.identity).or_default().push(index);
        }
        let files: HashSet<PathBuf> = missing
            .iter()
            .filter(|gone| gone.facts.kind() == Kind::File)
            .map(|gone| gone.below.clone())
            .collect();
        let (mut moved, mut candidates) = (HashSet::new(), Vec::new());
        let mut next = 0;
        while next < found.len() {
            let Found { parent, name, facts } = &found[next];
            let (parent, name, facts) = (*parent, name.clone(), *facts);
            next += 1;
            let Some(below) = self.tree.below(parent).map(|parent| parent.join(&name)) else {
                continue;
            };
            self.tree.set(parent, &name, facts);
            if self.tree.entries > ENTRIES {
                self.outcome.is_too_large = true;
                break;
            }
            // Where a directory lies may decide what of it is watched: then it is another one in another place.
            let is_other = facts.kind() == Kind::Directory && self.filter.speaks_of_paths;
            let candidates_for_it = waiting.get_mut(&facts.identity).filter(|_| !is_other);
            let index = candidates_for_it.and_then(|known| {
                let at = known
                    .iter()
                    .position(|index| self.is_renamed(&missing[*index], &facts))?;
                Some(known.swap_remove(at))
            });
            if let Some(index) = index {
                let gone = &mut missing[index];
                if let Some(directory) = gone.directory.take() {
                    self.tree.attach(directory, parent, &name);
                }
                if gone.facts.has_other_content(&facts) {
                    self.changed.push((below.clone(), facts.kind()));
                }
                moved.insert(index);
                renames.push((gone.below.clone(), below, facts.kind()));
                continue;
            }
            if facts.kind() == Kind::File && files.contains(&below) {
                candidates.push(below);
                continue;
            }
            created.push((below, facts.kind()));
            if facts.kind() == Kind::Directory && self.filter.recursive {
                self.enter(parent, &name, &facts, &mut found);
            }
        }
        // What stands where something was that has another name now is new there.
        let sources: HashSet<&PathBuf> = renames.iter().map(|(from, ..)| from).collect();
        for path in candidates {
            if sources.contains(&path) {
                created.push((path, Kind::File));
            } else {
                replaced.insert(path);
            }
        }
        let mut index = 0;
        missing.retain(|_| {
            index += 1;
            !moved.contains(&(index - 1))
        });
        (renames, created, replaced)
    }

    /// Whether what is missing there is what was found here. Where births are not known, the number of its inode may have
    /// been used again: then the kernel has ended its watch, or its content is younger.
    fn is_renamed(&self, gone: &Missing, now: &Facts) -> bool {
        if now.identity.birth.is_some() {
            return true;
        }
        match gone.directory.and_then(|id| self.tree.directories.get(&id)) {
            Some(directory) => directory.watch.is_some(),
            None => gone.facts.size == now.size && gone.facts.times.0 == now.times.0,
        }
    }

    /// A directory is new: it is watched, and what it holds is found.
    fn enter(&mut self, parent: DirectoryId, name: &OsStr, facts: &Facts, found: &mut Vec<Found>) {
        let id = self.tree.add(parent, name, facts);
        self.watch_again(id);
        let (Some(directory), Some(below)) = (scan::open(self.tree, id), self.tree.below(id)) else {
            self.unseen.push(id);
            return;
        };
        let Some(names) = scan::names(directory.as_fd()) else {
            self.unseen.push(id);
            return;
        };
        for name in names {
            let Some(facts) = scan::look(directory.as_fd(), &name) else {
                continue;
            };
            if self.filter.holds(&below.join(&name), facts.kind()) {
                found.push(Found {
                    parent: id,
                    name,
                    facts,
                });
            }
        }
    }

    /// Has the kernel watch a directory, where it does not yet.
    fn watch_again(&mut self, id: DirectoryId) {
        let known = self.tree.directories.get(&id);
        if known.is_none_or(|known| known.watch.is_some() && !self.renews) {
            return;
        }
        let Some(directory) = scan::open(self.tree, id) else {
            return;
        };
        match source::add(self.source, directory.as_fd()) {
            Ok(watch) => {
                // The kernel has one watch for one directory: whoever had it is not there any more.
                if let Some(other) = self.tree.by_watch.insert(watch, id)
                    && other != id
                    && let Some(other) = self.tree.directories.get_mut(&other)
                {
                    other.watch = None;
                }
                let known = self.tree.directories.get_mut(&id);
                if let Some(before) = known.and_then(|known| known.watch.replace(watch))
                    && before != watch
                {
                    self.tree.by_watch.remove(&before);
                }
            }
            Err(errno) => self.outcome.unwatched = Some(errno),
        }
    }

    /// Takes a directory out of the tree with everything below it, innermost first.
    fn take_down(&mut self, id: DirectoryId, below: &Path, removed: &mut Vec<(PathBuf, Kind)>) {
        let mut waiting = vec![(id, below.to_owned())];
        let mut taken = Vec::new();
        while let Some((id, below)) = waiting.pop() {
            let Some(directory) = self.tree.directories.remove(&id) else {
                continue;
            };
            if let Some(watch) = directory.watch
                && self.tree.by_watch.get(&watch) == Some(&id)
            {
                self.tree.by_watch.remove(&watch);
                source::remove(self.source, watch);
            }
            self.tree.entries -= directory.entries.len() as u64;
            waiting.extend(directory.below.iter().map(|(name, id)| (*id, below.join(name))));
            let entries = directory.entries.into_iter();
            taken.extend(entries.map(|(name, facts)| (below.join(name), facts.kind())));
        }
        // What was found last lies deepest.
        removed.extend(taken.into_iter().rev());
    }
}

/// Every directory of the tree.
fn all(tree: &Tree) -> Vec<DirectoryId> {
    let mut ids: Vec<_> = tree
        .directories
        .keys()
        .copied()
        .filter(|id| *id != ROOT)
        .collect();
    ids.sort_unstable();
    ids.insert(0, ROOT);
    ids
}
