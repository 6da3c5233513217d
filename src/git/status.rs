//! What is changed, entry by entry.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use git2::{
    ErrorCode, Index, IndexEntry, IndexEntryExtendedFlag, Odb, Repository, Status as Flags, StatusEntry,
    StatusOptions, StatusShow,
};

use super::kept::Kept;
use super::open::{failed, open, worktree};
use crate::error::Error;

/// The state of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// The worktree.
    pub root: PathBuf,
    /// The branch; `None` when `HEAD` is detached.
    pub branch: Option<String>,
    /// The commit; `None` while the branch is unborn.
    pub head: Option<String>,
    /// What the branch follows.
    pub upstream: Option<String>,
    /// Commits that the upstream does not have, and commits that only it has; `None` without one.
    pub ahead_behind: Option<(usize, usize)>,
    /// What is going on: `merge`, `rebase`, `cherry_pick`, `revert`, `bisect`, `mailbox`.
    pub operation: Option<&'static str>,
    /// What is changed, by path.
    pub entries: Vec<Entry>,
}

/// One changed entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the worktree.
    pub path: PathBuf,
    /// Where it was before a rename.
    pub old_path: Option<PathBuf>,
    /// How the index differs from `HEAD`, as in `git status`: `.`, `A`, `M`, `D`, `R`, `T`, `U`, `?`, `!`.
    pub index: char,
    /// How the worktree differs from the index.
    pub worktree: char,
    /// The stages (1 base, 2 ours, 3 theirs) that a conflict has.
    pub stages: Vec<u8>,
}

/// The state of the repository that `path` lies in.
pub(super) fn status(path: &Path, kept: &Kept, ignored: bool, untracked: bool) -> Result<Status, Error> {
    let repository = open(path)?;
    kept.lend(&repository);
    let status = status_of(&repository, path, Wanted { ignored, untracked })?;
    kept.keep(repository);
    Ok(status)
}

fn status_of(repository: &Repository, path: &Path, wanted: Wanted) -> Result<Status, Error> {
    let root = worktree(repository)?.to_owned();
    let mut status = Status {
        operation: operation(repository),
        ..Status::default()
    };
    head(repository, &mut status);
    let mut found = both_halves(repository, path, wanted)?;
    let index = repository.index();
    index
        .and_then(|index| {
            intended(&index, &mut found);
            conflicts(&index, &mut found)
        })
        .map_err(|error| failed("look at", &root, &error))?;
    status.entries = found.into_iter().map(Entry::from).collect();
    status.root = root;
    Ok(status)
}

/// What is to be told of files that git does not have.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    ignored: bool,
    untracked: bool,
}

/// What is known of one path.
#[derive(Debug)]
struct Found {
    flags: Flags,
    old_path: Option<PathBuf>,
    /// It is in the index only as a name that is to be added.
    is_intended: bool,
    stages: Vec<u8>,
}

/// How the index differs from `HEAD`, and the worktree from the index: two questions that have nothing to do with each
/// other, each with a handle and a processor of its own. The first need not be asked where the index says that it does not.
fn both_halves(
    repository: &Repository,
    path: &Path,
    wanted: Wanted,
) -> Result<BTreeMap<PathBuf, Found>, Error> {
    if is_as_committed(repository).is_ok_and(|same| same) {
        return half(repository, path, StatusShow::Workdir, wanted);
    }
    let (staged, unstaged) = std::thread::scope(|scope| {
        let staged = scope.spawn(|| half(&open(path)?, path, StatusShow::Index, wanted));
        let unstaged = half(repository, path, StatusShow::Workdir, wanted);
        (staged.join(), unstaged)
    });
    let staged = staged.map_err(|_| Error::Internal {
        reason: format!("the look at the index of {path:?} panicked"),
    })?;
    let mut found = staged?;
    for (name, half) in unstaged? {
        match found.entry(name) {
            Slot::Vacant(slot) => {
                slot.insert(half);
            }
            Slot::Occupied(mut slot) => slot.get_mut().flags |= half.flags,
        }
    }
    Ok(found)
}

/// Whether the index is the tree of `HEAD`: git notes in its tree extension which tree the entries make, and takes the
/// note back when one of them changes. An error where that is not known.
fn is_as_committed(repository: &Repository) -> Result<bool, git2::Error> {
    let committed = repository.head()?.peel_to_commit()?.tree_id();
    // The noted tree is answered without being written. Without a note it would be, into a place that takes no objects.
    let nowhere = Repository::from_odb(Odb::new()?)?;
    Ok(repository.index()?.write_tree_to(&nowhere)? == committed)
}

fn half(
    repository: &Repository,
    path: &Path,
    show: StatusShow,
    wanted: Wanted,
) -> Result<BTreeMap<PathBuf, Found>, Error> {
    let mut options = StatusOptions::new();
    options
        .show(show)
        .include_untracked(wanted.untracked)
        .recurse_untracked_dirs(wanted.untracked)
        .include_ignored(wanted.ignored)
        .recurse_ignored_dirs(false)
        .exclude_submodules(false)
        .include_unreadable(true)
        .renames_head_to_index(true)
        .renames_index_to_workdir(false)
        // The user's index is not ours to write.
        .update_index(false)
        .no_refresh(false);
    let statuses = repository
        .statuses(Some(&mut options))
        .map_err(|error| failed("look at", path, &error))?;
    Ok(statuses.iter().map(|entry| found(&entry)).collect())
}

fn head(repository: &Repository, status: &mut Status) {
    match repository.head() {
        Ok(head) => {
            status.head = head.target().map(|id| id.to_string());
            if head.is_branch() {
                status.branch = Some(String::from_utf8_lossy(head.shorthand_bytes()).into_owned());
            }
        }
        Err(error) if error.code() == ErrorCode::UnbornBranch => {
            let head = repository.find_reference("HEAD").ok();
            let target = head.and_then(|head| head.symbolic_target_bytes().map(<[u8]>::to_vec));
            let name = target.map(|target| String::from_utf8_lossy(&target).into_owned());
            status.branch = name.map(|name| name.trim_start_matches("refs/heads/").to_owned());
        }
        Err(_) => {}
    }
    let Some(branch) = &status.branch else { return };
    let Ok(branch) = repository.find_branch(branch, git2::BranchType::Local) else {
        return;
    };
    let Ok(upstream) = branch.upstream() else { return };
    status.upstream = upstream
        .name_bytes()
        .ok()
        .map(|name| String::from_utf8_lossy(name).into_owned());
    if let (Some(mine), Some(theirs)) = (branch.get().target(), upstream.get().target()) {
        status.ahead_behind = repository.graph_ahead_behind(mine, theirs).ok();
    }
}

fn operation(repository: &Repository) -> Option<&'static str> {
    use git2::RepositoryState as State;
    match repository.state() {
        State::Merge => Some("merge"),
        State::Revert | State::RevertSequence => Some("revert"),
        State::CherryPick | State::CherryPickSequence => Some("cherry_pick"),
        State::Bisect => Some("bisect"),
        State::Rebase | State::RebaseInteractive | State::RebaseMerge => Some("rebase"),
        State::ApplyMailbox | State::ApplyMailboxOrRebase => Some("mailbox"),
        State::Clean => None,
    }
}

fn found(entry: &StatusEntry<'_>) -> (PathBuf, Found) {
    let flags = entry.status();
    let path = |bytes| PathBuf::from(OsStr::from_bytes(bytes));
    // With a rename the entry is called by its old name.
    let moved = entry
        .head_to_index()
        .filter(|_| flags.contains(Flags::INDEX_RENAMED));
    let (old, new) = moved
        .and_then(|delta| {
            Some((
                delta.old_file().path_bytes().map(path),
                delta.new_file().path_bytes()?,
            ))
        })
        .map_or((None, None), |(old, new)| (old, Some(path(new))));
    let found = Found {
        flags,
        old_path: old,
        is_intended: false,
        stages: Vec::new(),
    };
    (new.unwrap_or_else(|| path(entry.path_bytes())), found)
}

impl From<(PathBuf, Found)> for Entry {
    fn from((path, found): (PathBuf, Found)) -> Self {
        Self {
            path,
            old_path: found.old_path,
            index: index_code(found.flags),
            worktree: match worktree_code(found.flags) {
                '.' | 'M' if found.is_intended => 'A',
                code => code,
            },
            stages: found.stages,
        }
    }
}

fn index_code(flags: Flags) -> char {
    if flags.contains(Flags::CONFLICTED) {
        return 'U';
    }
    let codes = [
        (Flags::INDEX_NEW, 'A'),
        (Flags::INDEX_RENAMED, 'R'),
        (Flags::INDEX_DELETED, 'D'),
        (Flags::INDEX_TYPECHANGE, 'T'),
        (Flags::INDEX_MODIFIED, 'M'),
        (Flags::WT_NEW, '?'),
        (Flags::IGNORED, '!'),
    ];
    let found = codes.into_iter().find(|(flag, _)| flags.contains(*flag));
    found.map_or('.', |(_, code)| code)
}

fn worktree_code(flags: Flags) -> char {
    if flags.contains(Flags::CONFLICTED) {
        return 'U';
    }
    let codes = [
        (Flags::WT_NEW, '?'),
        (Flags::IGNORED, '!'),
        (Flags::WT_DELETED, 'D'),
        (Flags::WT_RENAMED, 'R'),
        (Flags::WT_TYPECHANGE, 'T'),
        (Flags::WT_MODIFIED, 'M'),
    ];
    let found = codes.into_iter().find(|(flag, _)| flags.contains(*flag));
    found.map_or('.', |(_, code)| code)
}

/// What is only to be added one day (`git add --intent-to-add`) is not in the index yet.
fn intended(index: &Index, found: &mut BTreeMap<PathBuf, Found>) {
    let is_intended = |entry: IndexEntry| {
        let extended = IndexEntryExtendedFlag::from_bits_truncate(entry.flags_extended);
        extended.is_intent_to_add()
    };
    for (path, found) in found {
        if found.flags.contains(Flags::INDEX_NEW) && index.get_path(path, 0).is_some_and(is_intended) {
            found.flags.remove(Flags::INDEX_NEW);
            found.is_intended = true;
        }
    }
}

/// Which stages each conflict has.
fn conflicts(index: &Index, found: &mut BTreeMap<PathBuf, Found>) -> Result<(), git2::Error> {
    if !index.has_conflicts() {
        return Ok(());
    }
    for conflict in index.conflicts()? {
        let conflict = conflict?;
        let sides = [(1, &conflict.ancestor), (2, &conflict.our), (3, &conflict.their)];
        let Some(path) = sides
            .iter()
            .find_map(|(_, side)| side.as_ref().map(|side| side.path.clone()))
        else {
            continue;
        };
        let path = PathBuf::from(OsStr::from_bytes(&path));
        let stages = sides
            .iter()
            .filter(|(_, side)| side.is_some())
            .map(|(stage, _)| *stage)
            .collect();
        found
            .entry(path)
            .or_insert_with(|| Found {
                flags: Flags::CONFLICTED,
                old_path: None,
                is_intended: false,
                stages: Vec::new(),
            })
            .stages = stages;
    }
    Ok(())
}
