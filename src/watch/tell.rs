//! How the changes of one round are told: what a glob names, and renames in an order in which each can be applied.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::event::{Change, Kind};
use super::tree::ROOT;
use super::update::Update;

impl Update<'_> {
    /// Renames, each before whatever takes its old name; where they go round in a circle, as contents that were exchanged.
    pub(super) fn say_renames(&mut self, mut renames: Vec<(PathBuf, PathBuf, Kind)>) {
        while !renames.is_empty() {
            let sources: HashSet<PathBuf> = renames.iter().map(|(from, ..)| from.clone()).collect();
            let (blocked, free): (Vec<_>, Vec<_>) =
                renames.into_iter().partition(|(_, to, _)| sources.contains(to));
            if free.is_empty() {
                return self.say_circle(blocked);
            }
            for (from, to, kind) in free {
                self.say_rename(&from, &to, kind);
            }
            renames = blocked;
        }
    }

    /// Files in a circle have other contents now; directories are told as taken away and put back.
    fn say_circle(&mut self, circle: Vec<(PathBuf, PathBuf, Kind)>) {
        let mut created = Vec::new();
        for (from, to, kind) in circle {
            if kind != Kind::Directory {
                self.say(&to, kind, |path, kind| Change::Modified { path, kind });
                continue;
            }
            let listing = self.listing(&to);
            for (below, kind) in listing.iter().rev() {
                self.say(&from.join(below), *kind, |path, kind| Change::Removed {
                    path,
                    kind,
                });
            }
            self.say(&from, kind, |path, kind| Change::Removed { path, kind });
            created.push((to.clone(), kind));
            created.extend(listing.into_iter().map(|(below, kind)| (to.join(below), kind)));
        }
        for (path, kind) in created {
            self.say(&path, kind, |path, kind| Change::Created { path, kind });
        }
    }

    /// A rename, which speaks for everything below it unless a glob names only a part of that.
    fn say_rename(&mut self, from: &Path, to: &Path, kind: Kind) {
        let says_all = self.say_moved(from, to, kind);
        if kind == Kind::Directory && !says_all {
            for (below, kind) in self.listing(to) {
                self.say_moved(&from.join(&below), &to.join(&below), kind);
            }
        }
    }

    /// One entry that is elsewhere now; says whether that was reported as a rename.
    fn say_moved(&mut self, from: &Path, to: &Path, kind: Kind) -> bool {
        match (self.filter.reports(from, kind), self.filter.reports(to, kind)) {
            (true, true) => {
                let (from, to) = (self.tree.path.join(from), self.tree.path.join(to));
                self.outcome.changes.push(Change::Renamed { from, to, kind });
                return true;
            }
            (true, false) => self.say(from, kind, |path, kind| Change::Removed { path, kind }),
            (false, _) => self.say(to, kind, |path, kind| Change::Created { path, kind }),
        }
        false
    }

    /// Everything that the tree has below the directory `top`, parents first.
    fn listing(&self, top: &Path) -> Vec<(PathBuf, Kind)> {
        let mut at = Some(ROOT);
        for name in top {
            at = at.and_then(|id| self.tree.directories.get(&id)?.below.get(name).copied());
        }
        let mut waiting: Vec<_> = at.map(|id| (id, PathBuf::new())).into_iter().collect();
        let mut listing = Vec::new();
        while let Some((id, below)) = waiting.pop() {
            let Some(directory) = self.tree.directories.get(&id) else {
                continue;
            };
            let entries = directory.entries.iter();
            listing.extend(entries.map(|(name, facts)| (below.join(name), facts.kind())));
            waiting.extend(directory.below.iter().map(|(name, id)| (*id, below.join(name))));
        }
        listing
    }

    pub(super) fn say(&mut self, below: &Path, kind: Kind, change: impl FnOnce(PathBuf, Kind) -> Change) {
        if self.filter.reports(below, kind) {
            self.outcome
                .changes
                .push(change(self.tree.path.join(below), kind));
        }
    }
}
