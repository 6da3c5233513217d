//! What is changed, entry by entry.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use git2::{ErrorCode, Repository, Status as Flags, StatusEntry, StatusOptions, StatusShow};

use super::open::{failed, worktree};
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

/// The state of `repository`.
pub(super) fn status(repository: &Repository, ignored: bool, untracked: bool) -> Result<Status, Error> {
    let root = worktree(repository)?.to_owned();
    let mut status = Status {
        operation: operation(repository),
        ..Status::default()
    };
    head(repository, &mut status);
    let mut options = StatusOptions::new();
    options
        .show(StatusShow::IndexAndWorkdir)
        .include_untracked(untracked)
        .recurse_untracked_dirs(untracked)
        .include_ignored(ignored)
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
        .map_err(|error| failed("look at", &root, &error))?;
    status.entries = statuses.iter().map(|found| entry(&found)).collect();
    conflicts(repository, &mut status.entries).map_err(|error| failed("look at", &root, &error))?;
    status.entries.sort_by(|one, other| one.path.cmp(&other.path));
    status.root = root;
    Ok(status)
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

fn entry(found: &StatusEntry<'_>) -> Entry {
    let flags = found.status();
    let path = PathBuf::from(OsStr::from_bytes(found.path_bytes()));
    let delta = found.head_to_index();
    let old_path = delta
        .filter(|_| flags.contains(Flags::INDEX_RENAMED))
        .and_then(|delta| {
            let old = delta.old_file().path_bytes()?;
            Some(PathBuf::from(OsStr::from_bytes(old)))
        });
    // With a rename the entry is called by its old name.
    let new_path = found
        .head_to_index()
        .filter(|_| old_path.is_some())
        .and_then(|delta| {
            let new = delta.new_file().path_bytes()?;
            Some(PathBuf::from(OsStr::from_bytes(new)))
        });
    Entry {
        path: new_path.unwrap_or(path),
        old_path,
        index: index_code(flags),
        worktree: worktree_code(flags),
        stages: Vec::new(),
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

/// Which stages each conflict has.
fn conflicts(repository: &Repository, entries: &mut Vec<Entry>) -> Result<(), git2::Error> {
    let index = repository.index()?;
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
        match entries.iter_mut().find(|entry| entry.path == path) {
            Some(entry) => entry.stages = stages,
            None => entries.push(Entry {
                path,
                old_path: None,
                index: 'U',
                worktree: 'U',
                stages,
            }),
        }
    }
    Ok(())
}
