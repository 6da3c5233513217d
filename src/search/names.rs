//! Searching what entries are called.

use std::cmp::Reverse;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};
use nucleo_matcher::pattern::{CaseMatching, Normalization, Pattern};
use nucleo_matcher::{Config, Matcher, Utf32Str};

use super::request::{Found, Kind, Request};
use crate::error::Error;

/// A pattern for names, compiled.
#[derive(Debug, Clone)]
pub(super) enum Names {
    /// A part of the name, or of the path when it has a slash; lower case when case does not count.
    Part { part: String, ignore_case: bool },
    /// A glob.
    Glob { glob: GlobMatcher, whole_path: bool },
    /// Letters in their order.
    Fuzzy(Pattern),
}

impl Names {
    pub(super) fn new(request: &Request) -> Result<Self, Error> {
        let Request {
            pattern, ignore_case, ..
        } = request;
        if request.kind == Kind::Fuzzy {
            let case = if *ignore_case {
                CaseMatching::Ignore
            } else {
                CaseMatching::Smart
            };
            return Ok(Self::Fuzzy(Pattern::parse(pattern, case, Normalization::Smart)));
        }
        if request.literal {
            let part = if *ignore_case {
                pattern.to_lowercase()
            } else {
                pattern.clone()
            };
            return Ok(Self::Part {
                part,
                ignore_case: *ignore_case,
            });
        }
        let whole_path = pattern.contains('/');
        let glob = GlobBuilder::new(pattern.trim_start_matches('/'))
            .case_insensitive(*ignore_case)
            .literal_separator(true)
            .build()
            .map_err(|error| Error::Invalid {
                field: "pattern",
                reason: error.to_string(),
            })?;
        Ok(Self::Glob {
            glob: glob.compile_matcher(),
            whole_path,
        })
    }
}

/// An entry fits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fit {
    /// How well, where that differs.
    pub(super) score: Option<u32>,
}

/// What one thread needs to compare names.
#[derive(Debug)]
pub(super) struct Judge {
    names: Names,
    matcher: Matcher,
    characters: Vec<char>,
}

impl Judge {
    pub(super) fn new(names: Names) -> Self {
        Self {
            names,
            matcher: Matcher::new(Config::DEFAULT.match_paths()),
            characters: Vec::new(),
        }
    }

    /// How well the entry at `relative` fits; `None` when it does not.
    pub(super) fn score(&mut self, relative: &Path) -> Option<Fit> {
        let name = relative.file_name()?;
        match &self.names {
            Names::Part { part, ignore_case } => {
                let subject = if part.contains('/') {
                    relative.as_os_str()
                } else {
                    name
                };
                let is_in = if *ignore_case {
                    subject.to_string_lossy().to_lowercase().contains(part)
                } else {
                    memchr::memmem::find(subject.as_bytes(), part.as_bytes()).is_some()
                };
                is_in.then_some(Fit::default())
            }
            Names::Glob { glob, whole_path } => {
                let subject = if *whole_path { relative } else { Path::new(name) };
                glob.is_match(subject).then_some(Fit::default())
            }
            Names::Fuzzy(pattern) => {
                let text = relative.to_string_lossy();
                let text = Utf32Str::new(&text, &mut self.characters);
                let score = pattern.score(text, &mut self.matcher)?;
                Some(Fit { score: Some(score) })
            }
        }
    }
}

/// The best of what fits, however much that is.
#[derive(Debug)]
pub(super) struct Best {
    found: Vec<Found>,
    limit: usize,
    /// Something that fitted did not stay.
    is_full: bool,
}

impl Best {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            found: Vec::new(),
            limit: limit as usize,
            is_full: false,
        }
    }

    pub(super) fn add(&mut self, found: Found) {
        self.found.push(found);
        if self.found.len() >= 2 * self.limit {
            self.shorten();
        }
    }

    /// The best ones, in their order, and whether there were more.
    pub(super) fn take(&mut self) -> (Vec<Found>, bool) {
        self.shorten();
        (std::mem::take(&mut self.found), self.is_full)
    }

    fn shorten(&mut self) {
        self.found
            .sort_by(|one, other| (Reverse(one.score), &one.path).cmp(&(Reverse(other.score), &other.path)));
        self.is_full |= self.found.len() > self.limit;
        self.found.truncate(self.limit);
    }
}
