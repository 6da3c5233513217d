//! What was: commits, files as they were, and who wrote which lines.

use std::path::{Path, PathBuf};

use git2::{BlameOptions, DiffOptions, ErrorCode, ObjectType, Repository, Sort};

use super::diff::{Diff, collect};
use super::open::{failed, revision};
use crate::error::Error;

/// Bytes of a file that are answered.
const FILE: u64 = 32 << 20;

/// Somebody who wrote or committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Name.
    pub name: Vec<u8>,
    /// Address.
    pub email: Vec<u8>,
    /// When, in seconds since 1970, and the minutes that the clock there was ahead of UTC.
    pub time: (i64, i32),
}

/// A commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its digest in hex.
    pub id: String,
    /// Those it follows.
    pub parents: Vec<String>,
    /// Who wrote it.
    pub author: Person,
    /// Who committed it.
    pub committer: Person,
    /// What they said.
    pub message: Vec<u8>,
}

/// Some commits, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Log {
    /// Them.
    pub commits: Vec<Commit>,
    /// There are more.
    pub has_more: bool,
}

/// What a revision shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// A commit, and how it differs from its first parent.
    Commit(Box<(Commit, Diff)>),
    /// A file.
    File {
        /// The digest of its content, in hex.
        id: String,
        /// Its content.
        content: Vec<u8>,
    },
    /// A directory: the names in it, with `/` behind those of directories.
    Directory(Vec<Vec<u8>>),
}

/// Who wrote which lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Blame {
    /// In the order of the lines.
    pub hunks: Vec<BlameHunk>,
}

/// Neighbouring lines of one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlameHunk {
    /// The first line, from 1.
    pub line: usize,
    /// How many.
    pub lines: usize,
    /// The commit.
    pub commit: String,
    /// Who wrote them.
    pub author: Person,
    /// What the file was called then, when that differs.
    pub old_path: Option<PathBuf>,
}

fn person(signature: &git2::Signature<'_>) -> Person {
    Person {
        name: signature.name_bytes().to_vec(),
        email: signature.email_bytes().to_vec(),
        time: (signature.when().seconds(), signature.when().offset_minutes()),
    }
}

fn commit(commit: &git2::Commit<'_>) -> Commit {
    Commit {
        id: commit.id().to_string(),
        parents: commit.parent_ids().map(|id| id.to_string()).collect(),
        author: person(&commit.author()),
        committer: person(&commit.committer()),
        message: commit.message_bytes().to_vec(),
    }
}

/// Commits from `from` on, newest first; none while the branch is unborn.
pub(super) fn log(
    repository: &Repository,
    from: Option<&str>,
    path: Option<&Path>,
    skip: usize,
    limit: usize,
) -> Result<Log, Error> {
    let failed = |error: git2::Error| failed("read the log of", repository.path(), &error);
    let is_unborn = repository
        .head()
        .is_err_and(|error| error.code() == ErrorCode::UnbornBranch);
    if from.is_none() && is_unborn {
        return Ok(Log::default());
    }
    let start = revision(repository, from.unwrap_or("HEAD"))?;
    let start = start.peel_to_commit().map_err(|_| Error::Invalid {
        field: "revision",
        reason: format!("{:?} is no commit", from.unwrap_or("HEAD")),
    })?;
    let mut walk = repository.revwalk().map_err(failed)?;
    walk.set_sorting(Sort::TIME).map_err(failed)?;
    walk.push(start.id()).map_err(failed)?;
    let (mut log, mut passed) = (Log::default(), 0);
    for id in walk {
        let found = id.and_then(|id| repository.find_commit(id)).map_err(failed)?;
        if let Some(path) = path
            && !touches(&found, path).map_err(failed)?
        {
            continue;
        }
        if passed < skip {
            passed += 1;
        } else if log.commits.len() == limit {
            log.has_more = true;
            break;
        } else {
            log.commits.push(commit(&found));
        }
    }
    Ok(log)
}

/// Whether a commit changed what is at `path`.
fn touches(commit: &git2::Commit<'_>, path: &Path) -> Result<bool, git2::Error> {
    let id = |commit: &git2::Commit<'_>| -> Result<Option<git2::Oid>, git2::Error> {
        match commit.tree()?.get_path(path) {
            Ok(entry) => Ok(Some(entry.id())),
            Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    };
    let here = id(commit)?;
    let mut parents = commit.parents().peekable();
    if parents.peek().is_none() {
        return Ok(here.is_some());
    }
    for parent in parents {
        if id(&parent)? == here {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What `name` shows: a commit with its changes, or the file at `path` in it.
pub(super) fn show(repository: &Repository, name: &str, path: Option<&Path>) -> Result<Shown, Error> {
    let failed = |error: git2::Error| failed("read", repository.path(), &error);
    let object = revision(repository, name)?;
    let Some(path) = path else {
        let found = object.peel_to_commit().map_err(|_| Error::Invalid {
            field: "revision",
            reason: format!("{name:?} is no commit; give a path for a file in it"),
        })?;
        let (tree, parent) = (found.tree().map_err(failed)?, found.parent(0).ok());
        let before = parent.map(|parent| parent.tree()).transpose().map_err(failed)?;
        let mut options = DiffOptions::new();
        let diff = repository.diff_tree_to_tree(before.as_ref(), Some(&tree), Some(&mut options));
        let diff = collect(repository, diff.map_err(failed)?, false)?;
        return Ok(Shown::Commit(Box::new((commit(&found), diff))));
    };
    let missing = || Error::NotFound {
        what: "file in that revision",
        name: format!("{name}:{}", path.display()),
    };
    let tree = object.peel_to_tree().map_err(|_| missing())?;
    let entry = tree.get_path(path).map_err(|_| missing())?;
    if entry.kind() == Some(ObjectType::Blob) {
        // Before it is read.
        let objects = repository.odb().map_err(failed)?;
        let (size, _) = objects.read_header(entry.id()).map_err(failed)?;
        if size as u64 > FILE {
            return Err(Error::TooLarge {
                what: "the file in that revision",
                size: size as u64,
                limit: FILE,
            });
        }
    }
    let found = entry.to_object(repository).map_err(failed)?;
    if let Some(directory) = found.as_tree() {
        let names = directory.iter().map(|entry| {
            let mut name = entry.name_bytes().to_vec();
            if entry.kind() == Some(ObjectType::Tree) {
                name.push(b'/');
            }
            name
        });
        return Ok(Shown::Directory(names.collect()));
    }
    let blob = found.as_blob().ok_or_else(missing)?;
    Ok(Shown::File {
        id: blob.id().to_string(),
        content: blob.content().to_vec(),
    })
}

/// Who wrote which lines of `path`.
pub(super) fn blame(repository: &Repository, path: &Path, name: Option<&str>) -> Result<Blame, Error> {
    let mut options = BlameOptions::new();
    if let Some(name) = name {
        let newest = revision(repository, name)?;
        let newest = newest.peel_to_commit().map_err(|_| Error::Invalid {
            field: "revision",
            reason: format!("{name:?} is no commit"),
        })?;
        options.newest_commit(newest.id());
    }
    let blame = repository
        .blame_file(path, Some(&mut options))
        .map_err(|error| match error.code() {
            ErrorCode::NotFound | ErrorCode::UnbornBranch => Error::NotFound {
                what: "file in the repository",
                name: path.to_string_lossy().into_owned(),
            },
            _ => failed("blame", path, &error),
        })?;
    let hunks = blame.iter().map(|hunk| BlameHunk {
        line: hunk.final_start_line(),
        lines: hunk.lines_in_hunk(),
        commit: hunk.final_commit_id().to_string(),
        author: person(&hunk.final_signature()),
        old_path: hunk.path().filter(|old| *old != path).map(Path::to_owned),
    });
    let hunks = hunks.collect();
    Ok(Blame { hunks })
}
