//! What can be asked of the search room and what it answers: plain data.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::Error;

/// The most results that one search may ask for.
pub(super) const MAX_RESULTS: u64 = 100_000;
/// The most lines of context on either side.
pub(super) const MAX_CONTEXT: u64 = 100;

/// What is compared with the pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// The lines of files, with a regular expression or a literal.
    #[default]
    Content,
    /// The names of entries, with a glob (a literal is any part of the name). A pattern with a slash is compared with
    /// the path below the searched directory.
    Name,
    /// The paths of entries, as people type them: all letters in their order, best first.
    Fuzzy,
}

/// A search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Regular expression, literal, glob or letters, by `kind`.
    pub pattern: String,
    /// What is compared with it.
    pub kind: Kind,
    /// The pattern means itself.
    pub literal: bool,
    /// Upper and lower case are the same.
    pub ignore_case: bool,
    /// Only files that one of these globs names; with `!` in front, only files that it does not name.
    pub globs: Vec<String>,
    /// Lines shown before a match.
    pub before: u64,
    /// Lines shown behind a match.
    pub after: u64,
    /// Results at most.
    pub limit: u64,
    /// Bytes of all results together at most.
    pub max_bytes: u64,
    /// How long it may take.
    pub time_limit: Duration,
    /// Hidden files and directories too.
    pub hidden: bool,
    /// Leave out what `.gitignore`, `.ignore` and their kin name.
    pub ignore_files: bool,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            pattern: String::new(),
            kind: Kind::Content,
            literal: false,
            ignore_case: false,
            globs: Vec::new(),
            before: 0,
            after: 0,
            limit: 1000,
            max_bytes: 8 << 20,
            time_limit: Duration::from_secs(30),
            hidden: false,
            ignore_files: true,
        }
    }
}

impl Request {
    /// Refuses what no search could mean.
    pub(super) fn check(&self) -> Result<(), Error> {
        let within = |field, value: u64, limit: u64, least: u64| {
            if (least..=limit).contains(&value) {
                return Ok(());
            }
            Err(Error::Invalid {
                field,
                reason: format!("is {value}, must be from {least} to {limit}"),
            })
        };
        if self.pattern.is_empty() {
            return Err(Error::Invalid {
                field: "pattern",
                reason: "must not be empty".into(),
            });
        }
        within("limit", self.limit, MAX_RESULTS, 1)?;
        within("before", self.before, MAX_CONTEXT, 0)?;
        within("after", self.after, MAX_CONTEXT, 0)
    }
}

/// One line of a file without its line end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Line {
    /// Its bytes, as many as are shown.
    pub bytes: Vec<u8>,
    /// Bytes at its end that are not shown because the line is very long.
    pub cut: u64,
}

/// One result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Absolute path.
    pub path: PathBuf,
    /// The line, when content was searched.
    pub line: Option<Place>,
    /// How well a fuzzy pattern fits, more is better.
    pub score: Option<u32>,
}

/// Where in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub number: u64,
    /// Of the first match in the line, in bytes from 1.
    pub column: u64,
    /// The line.
    pub text: Line,
    /// Lines before it.
    pub before: Vec<Line>,
    /// Lines behind it.
    pub after: Vec<Line>,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Files (entries, when names are searched).
    pub files: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Files that were passed over because they are binary.
    pub binary_skipped: u64,
    /// How long it took.
    pub took: Duration,
}

/// Something that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Which, where that is known.
    pub path: Option<PathBuf>,
    /// Why.
    pub reason: String,
}

/// How a search ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// Why there may be more than was found: `limit`, `bytes` or `time`.
    pub truncated: Option<&'static str>,
    /// What was looked at.
    pub stats: Stats,
    /// How many could not be read.
    pub unreadable: u64,
    /// The first of them.
    pub unread: Vec<Unread>,
}
