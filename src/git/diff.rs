//! What the changes are: by file, hunk and line, and as one unified diff.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use git2::{Delta as Kind, DiffFindOptions, DiffFormat, DiffOptions, ErrorCode, Repository, Tree};

use super::open::{failed, revision, worktree};
use super::request::DiffOf;
use crate::error::Error;

/// Bytes that the lines of an answer may take; what is beyond them is counted.
const TEXT: usize = 8 << 20;
/// Bytes that a line takes besides its content.
const LINE: usize = 96;

/// The difference of two states.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    /// Every file that differs.
    pub files: Vec<Delta>,
    /// All of it as git writes it, up to 8 MiB.
    pub text: Vec<u8>,
    /// Bytes that are left out of the end of `text`; the hunks end where it ends.
    pub left_out: u64,
}

/// A file that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// `added`, `deleted`, `modified`, `renamed`, `copied`, `type_changed` or `conflicted`.
    pub status: &'static str,
    /// Where it is; where it was, when it is deleted.
    pub path: PathBuf,
    /// Where it was, when it is renamed or copied.
    pub old_path: Option<PathBuf>,
    /// The permission bits before and now.
    pub modes: (u32, u32),
    /// It is no text: no hunks.
    pub binary: bool,
    /// Lines that were added and removed.
    pub lines: (u64, u64),
    /// The changes.
    pub hunks: Vec<Hunk>,
}

/// Neighbouring changes with the lines around them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hunk {
    /// First line and number of lines before.
    pub old: (u32, u32),
    /// First line and number of lines now.
    pub new: (u32, u32),
    /// What git says behind the numbers, the function that it is in.
    pub heading: Vec<u8>,
    /// The lines.
    pub lines: Vec<HunkLine>,
}

/// A line of a hunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HunkLine {
    /// What became of it.
    pub kind: LineKind,
    /// Its content, without the line end.
    pub content: Vec<u8>,
}

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LineKind {
    Context,
    Added,
    Removed,
    /// No line end is at the end of the file.
    NoNewline,
}

/// The difference that is asked for.
pub(super) fn diff(
    repository: &Repository,
    of: &DiffOf,
    paths: &[PathBuf],
    context: u32,
    stat_only: bool,
) -> Result<Diff, Error> {
    let mut options = DiffOptions::new();
    options
        .context_lines(context)
        .include_typechange(true)
        .disable_pathspec_match(true)
        .update_index(false);
    for path in paths {
        options.pathspec(path.as_os_str().as_bytes());
    }
    let options = Some(&mut options);
    let found = match of {
        DiffOf::Worktree => {
            worktree(repository)?;
            repository.diff_index_to_workdir(None, options)
        }
        DiffOf::Index => repository.diff_tree_to_index(head_tree(repository)?.as_ref(), None, options),
        DiffOf::Head => {
            worktree(repository)?;
            repository.diff_tree_to_workdir_with_index(head_tree(repository)?.as_ref(), options)
        }
        DiffOf::Revisions { from, to: None } => {
            worktree(repository)?;
            repository.diff_tree_to_workdir_with_index(Some(&tree(repository, from)?), options)
        }
        DiffOf::Revisions { from, to: Some(to) } => {
            let (from, to) = (tree(repository, from)?, tree(repository, to)?);
            repository.diff_tree_to_tree(Some(&from), Some(&to), options)
        }
    };
    let found = found.map_err(|error| failed("compare", repository.path(), &error))?;
    collect(repository, found, stat_only)
}

/// The tree that a revision names.
fn tree<'a>(repository: &'a Repository, name: &str) -> Result<Tree<'a>, Error> {
    let object = revision(repository, name)?;
    object.peel_to_tree().map_err(|_| Error::Invalid {
        field: "revision",
        reason: format!("{name:?} is no commit and no tree"),
    })
}

/// The tree of `HEAD`; nothing while its branch is unborn.
fn head_tree(repository: &Repository) -> Result<Option<Tree<'_>>, Error> {
    match repository.head() {
        Err(error) if error.code() == ErrorCode::UnbornBranch => Ok(None),
        head => head
            .and_then(|head| head.peel_to_tree())
            .map(Some)
            .map_err(|error| failed("read HEAD of", repository.path(), &error)),
    }
}

/// Everything that a difference says.
pub(super) fn collect(
    repository: &Repository,
    mut found: git2::Diff<'_>,
    stat_only: bool,
) -> Result<Diff, Error> {
    let failed = |error: git2::Error| failed("compare", repository.path(), &error);
    found
        .find_similar(Some(DiffFindOptions::new().renames(true)))
        .map_err(failed)?;
    let collected = RefCell::new(Collected::default());
    let visited = found.foreach(
        &mut |delta, _| {
            collected.borrow_mut().files.push(self::delta(&delta));
            true
        },
        None,
        Some(&mut |_, hunk| {
            collected.borrow_mut().hunk(&hunk, stat_only);
            true
        }),
        Some(&mut |_, _, line| {
            collected.borrow_mut().line(&line, stat_only);
            true
        }),
    );
    visited.map_err(failed)?;
    let Collected {
        mut files,
        kept,
        is_full,
        ..
    } = collected.into_inner();
    // What is binary is known once its content was looked at.
    for (file, delta) in files.iter_mut().zip(found.deltas()) {
        file.binary = delta.flags().is_binary();
    }
    let mut diff = Diff {
        files,
        ..Diff::default()
    };
    if stat_only {
        return Ok(diff);
    }
    let mut printed = 0;
    let printing = found.print(DiffFormat::Patch, |_, _, line| {
        let marks = matches!(line.origin(), '+' | '-' | ' ');
        let is_over = is_full && printed >= kept || diff.text.len() + line.content().len() > TEXT;
        if is_over || diff.left_out > 0 {
            // What is answered is the beginning, without holes.
            diff.left_out += line.content().len() as u64;
            return true;
        }
        printed += usize::from(matches!(line.origin(), '+' | '-' | ' ' | '=' | '<' | '>'));
        let mark = if marks { &[line.origin() as u8][..] } else { &[] };
        diff.text.extend_from_slice(mark);
        diff.text.extend_from_slice(line.content());
        true
    });
    printing.map_err(failed)?;
    Ok(diff)
}

/// The files of a difference as they come.
#[derive(Default)]
struct Collected {
    files: Vec<Delta>,
    /// Bytes that the lines take.
    cost: usize,
    /// Lines that are kept.
    kept: usize,
    /// There were more.
    is_full: bool,
}

impl Collected {
    fn hunk(&mut self, hunk: &git2::DiffHunk<'_>, stat_only: bool) {
        if let Some(file) = self.files.last_mut().filter(|_| !stat_only && !self.is_full) {
            file.hunks.push(self::hunk(hunk));
        }
    }

    fn line(&mut self, line: &git2::DiffLine<'_>, stat_only: bool) {
        let Some(file) = self.files.last_mut() else { return };
        let kind = match line.origin() {
            '+' => {
                file.lines.0 += 1;
                LineKind::Added
            }
            '-' => {
                file.lines.1 += 1;
                LineKind::Removed
            }
            ' ' => LineKind::Context,
            _ => LineKind::NoNewline,
        };
        let content = line.content();
        self.cost += content.len() + LINE;
        self.is_full |= self.cost > TEXT;
        if stat_only || self.is_full {
            return;
        }
        self.kept += 1;
        if let Some(hunk) = file.hunks.last_mut() {
            let content = content.strip_suffix(b"\n").unwrap_or(content);
            hunk.lines.push(HunkLine {
                kind,
                content: if kind == LineKind::NoNewline {
                    Vec::new()
                } else {
                    content.to_vec()
                },
            });
        }
    }
}

fn delta(delta: &git2::DiffDelta<'_>) -> Delta {
    let path = |file: &git2::DiffFile<'_>| {
        file.path_bytes()
            .map(|path| PathBuf::from(OsStr::from_bytes(path)))
    };
    let (old, new) = (path(&delta.old_file()), path(&delta.new_file()));
    let is_moved = matches!(delta.status(), Kind::Renamed | Kind::Copied);
    let status = match delta.status() {
        Kind::Added | Kind::Untracked => "added",
        Kind::Deleted => "deleted",
        Kind::Renamed => "renamed",
        Kind::Copied => "copied",
        Kind::Typechange => "type_changed",
        Kind::Conflicted => "conflicted",
        _ => "modified",
    };
    let here = if delta.status() == Kind::Deleted {
        old.clone()
    } else {
        new.or_else(|| old.clone())
    };
    Delta {
        status,
        path: here.unwrap_or_default(),
        old_path: old.filter(|_| is_moved),
        modes: (delta.old_file().mode().into(), delta.new_file().mode().into()),
        binary: false,
        lines: (0, 0),
        hunks: Vec::new(),
    }
}

fn hunk(hunk: &git2::DiffHunk<'_>) -> Hunk {
    let header = hunk.header();
    // Behind the second "@@".
    let heading = memchr::memmem::find_iter(header, b"@@")
        .nth(1)
        .map_or(&[][..], |at| &header[at + 2..]);
    Hunk {
        old: (hunk.old_start(), hunk.old_lines()),
        new: (hunk.new_start(), hunk.new_lines()),
        heading: heading.trim_ascii().to_vec(),
        lines: Vec::new(),
    }
}
