//! Branches, remotes and worktrees.

use std::path::{Path, PathBuf};

use git2::{BranchType, Repository};

use super::open::failed;
use crate::error::Error;

/// A branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// `main`, or `origin/main`.
    pub name: String,
    /// It is a remote's.
    pub is_remote: bool,
    /// `HEAD` is on it.
    pub is_head: bool,
    /// Its newest commit.
    pub commit: Option<String>,
    /// What it follows.
    pub upstream: Option<String>,
}

/// A remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Its name.
    pub name: String,
    /// Where it is; a password in it is not shown.
    pub url: String,
    /// Where pushes go, when that differs.
    pub push_url: Option<String>,
}

/// A worktree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worktree {
    /// Its name; that of the first is empty.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// It is locked against being pruned.
    pub locked: bool,
    /// Why it cannot be used.
    pub broken: Option<String>,
}

/// Local branches first, each kind by name.
pub(super) fn branches(repository: &Repository) -> Result<Vec<Branch>, Error> {
    let failed = |error: git2::Error| failed("list the branches of", repository.path(), &error);
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    let mut branches = Vec::new();
    for found in repository.branches(None).map_err(failed)? {
        let (branch, kind) = found.map_err(failed)?;
        let upstream = branch.upstream().ok();
        branches.push(Branch {
            name: text(branch.name_bytes().map_err(failed)?),
            is_remote: kind == BranchType::Remote,
            is_head: branch.is_head(),
            commit: branch.get().target().map(|id| id.to_string()),
            upstream: upstream.and_then(|upstream| upstream.name_bytes().ok().map(text)),
        });
    }
    branches.sort_by(|one, other| (one.is_remote, &one.name).cmp(&(other.is_remote, &other.name)));
    Ok(branches)
}

/// By name.
pub(super) fn remotes(repository: &Repository) -> Result<Vec<Remote>, Error> {
    let failed = |error: git2::Error| failed("list the remotes of", repository.path(), &error);
    let mut remotes = Vec::new();
    for name in repository.remotes().map_err(failed)?.iter().flatten() {
        let remote = repository.find_remote(name).map_err(failed)?;
        let text = |url: &[u8]| without_password(&String::from_utf8_lossy(url));
        remotes.push(Remote {
            name: name.to_owned(),
            url: text(remote.url_bytes()),
            push_url: remote.pushurl_bytes().map(text),
        });
    }
    Ok(remotes)
}

/// A URL as it may be shown.
pub(super) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split_once(':').map_or(user, |(user, _)| user);
            format!("{scheme}://{user}@{host}{path}")
        }
        None => url.to_owned(),
    }
}

/// The first is that of the repository itself, unless it is bare.
pub(super) fn worktrees(repository: &Repository) -> Result<Vec<Worktree>, Error> {
    let failed = |error: git2::Error| failed("list the worktrees of", repository.path(), &error);
    let mut worktrees = Vec::new();
    // A linked worktree shares what the first one has, which is bare for some.
    let first = if repository.is_worktree() {
        let shared = Repository::open(repository.commondir()).map_err(failed)?;
        shared.workdir().map(Path::to_owned)
    } else {
        repository.workdir().map(Path::to_owned)
    };
    if let Some(path) = first {
        worktrees.push(Worktree {
            name: String::new(),
            path,
            locked: false,
            broken: None,
        });
    }
    for name in repository.worktrees().map_err(failed)?.iter().flatten() {
        let found = repository.find_worktree(name).map_err(failed)?;
        worktrees.push(Worktree {
            name: name.to_owned(),
            path: found.path().to_owned(),
            locked: matches!(found.is_locked(), Ok(git2::WorktreeLockStatus::Locked(_))),
            broken: found.validate().err().map(|error| error.message().to_owned()),
        });
    }
    Ok(worktrees)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        let cases = [
            ("https://me:secret@host/x", "https://me@host/x"),
            ("https://me:se@cret@host:1/x", "https://me@host:1/x"),
            ("https://host/a@b", "https://host/a@b"),
            ("git@host:x.git", "git@host:x.git"),
            ("/a/b", "/a/b"),
        ];
        for (url, shown) in cases {
            assert_eq!(without_password(url), shown);
        }
    }
}
