//! The walk over a tree by several threads, and what it gives each of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::overrides::OverrideBuilder;
use ignore::{DirEntry, ParallelVisitor, ParallelVisitorBuilder, WalkBuilder, WalkParallel, WalkState};
use parking_lot::Mutex;

use super::budget::Budget;
use super::content::Worker;
use super::ignores;
use super::names::{Best, Fit, Judge, Names};
use super::report::Report;
use super::request::{Found, Kind, Request};
use super::running::Outlet;
use crate::error::Error;

/// What every thread shares.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) root: PathBuf,
    pub(super) request: Request,
    pub(super) budget: Budget,
    pub(super) report: Arc<Report>,
    pub(super) outlet: Outlet,
    /// What a fuzzy search found: all of it is compared before any of it is told.
    pub(super) best: Mutex<Best>,
}

/// A compiled pattern.
#[derive(Debug)]
pub(super) enum Compiled {
    Content(grep_regex::RegexMatcher),
    Names(Names),
}

impl Compiled {
    pub(super) fn new(request: &Request) -> Result<Self, Error> {
        match request.kind {
            Kind::Content => super::content::matcher(request).map(Self::Content),
            Kind::Name | Kind::Fuzzy => Names::new(request).map(Self::Names),
        }
    }
}

/// The walk that `request` asks for below `root`.
pub(super) fn plan(root: &Path, request: &Request, report: &Arc<Report>) -> Result<WalkParallel, Error> {
    let mut globs = OverrideBuilder::new(root);
    let invalid = |error: ignore::Error| Error::Invalid {
        field: "glob",
        reason: error.to_string(),
    };
    for glob in &request.globs {
        globs.add(glob).map_err(invalid)?;
    }
    let ignores = request.ignore_files;
    if ignores {
        // Those above count as well, and are read whatever else is said.
        let above = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        if let Some(path) = above.ancestors().find_map(ignores::doubtful) {
            return Err(Error::Unsupported {
                what: format!("a search of {root:?} by ignore files"),
                why: format!("{path:?}: {}", ignores::REASON),
                fix: Some("say ignoreFiles: false".into()),
            });
        }
    }
    let mut builder = WalkBuilder::new(root);
    builder
        .hidden(!request.hidden)
        .parents(ignores)
        .ignore(ignores)
        .git_ignore(ignores)
        .git_global(ignores)
        .git_exclude(ignores)
        .overrides(globs.build().map_err(invalid)?)
        .threads(threads());
    if ignores {
        let report = Arc::clone(report);
        builder.filter_entry(move |entry| is_believed(entry, &report));
    }
    Ok(builder.build_parallel())
}

/// Whether the walk may go there; a directory whose ignore files may not be read is told and passed over.
fn is_believed(entry: &DirEntry, report: &Report) -> bool {
    if !entry.file_type().is_some_and(|kind| kind.is_dir()) {
        return true;
    }
    let doubtful = ignores::doubtful(entry.path());
    let is_believed = doubtful.is_none();
    if let Some(path) = doubtful {
        report.unread(Some(path), ignores::REASON.into());
    }
    is_believed
}

fn threads() -> usize {
    /// More threads than these only wait for the disk.
    const MOST: usize = 12;
    std::thread::available_parallelism().map_or(1, |count| count.get().min(MOST))
}

/// Makes what each thread works with.
pub(super) struct Visitors<'a> {
    pub(super) shared: &'a Shared,
    pub(super) compiled: &'a Compiled,
}

impl<'s> ParallelVisitorBuilder<'s> for Visitors<'s> {
    fn build(&mut self) -> Box<dyn ParallelVisitor + 's> {
        let shared = self.shared;
        match self.compiled {
            Compiled::Content(matcher) => Box::new(Contents {
                shared,
                worker: Worker::new(matcher.clone(), &shared.request),
            }),
            Compiled::Names(names) => Box::new(Entries {
                shared,
                judge: Judge::new(names.clone()),
            }),
        }
    }
}

struct Contents<'a> {
    shared: &'a Shared,
    worker: Worker,
}

impl ParallelVisitor for Contents<'_> {
    fn visit(&mut self, entry: Result<DirEntry, ignore::Error>) -> WalkState {
        let Shared { budget, report, .. } = self.shared;
        let entry = match next(self.shared, entry) {
            Ok(entry) => entry,
            Err(state) => return state,
        };
        if !is_file(&entry) {
            return WalkState::Continue;
        }
        let places = self.worker.search(entry.path(), budget, report);
        for place in places {
            let size = place.size();
            let found = Found {
                path: entry.path().to_owned(),
                line: Some(place),
                score: None,
            };
            if !budget.take(size) || !self.shared.outlet.found(found) {
                return WalkState::Quit;
            }
        }
        WalkState::Continue
    }
}

/// A regular file; the one that the search was asked for may be reached through a link.
fn is_file(entry: &DirEntry) -> bool {
    entry.file_type().is_some_and(|kind| kind.is_file())
}

struct Entries<'a> {
    shared: &'a Shared,
    judge: Judge,
}

impl ParallelVisitor for Entries<'_> {
    fn visit(&mut self, entry: Result<DirEntry, ignore::Error>) -> WalkState {
        let Shared {
            root, budget, report, ..
        } = self.shared;
        let entry = match next(self.shared, entry) {
            Ok(entry) => entry,
            Err(state) => return state,
        };
        let relative = entry.path().strip_prefix(root).unwrap_or(entry.path());
        if relative.as_os_str().is_empty() {
            return WalkState::Continue;
        }
        report.files.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let Some(Fit { score }) = self.judge.score(relative) else {
            return WalkState::Continue;
        };
        let size = relative.as_os_str().len() as u64;
        let found = Found {
            path: entry.into_path(),
            line: None,
            score,
        };
        if score.is_some() {
            self.shared.best.lock().add(found);
            return WalkState::Continue;
        }
        if budget.take(size) && self.shared.outlet.found(found) {
            WalkState::Continue
        } else {
            WalkState::Quit
        }
    }
}

/// The entry to look at, or how the walk goes on without one.
fn next(shared: &Shared, entry: Result<DirEntry, ignore::Error>) -> Result<DirEntry, WalkState> {
    if shared.budget.is_over() {
        return Err(WalkState::Quit);
    }
    entry.map_err(|error| {
        tell(shared, &error);
        WalkState::Continue
    })
}

fn tell(shared: &Shared, error: &ignore::Error) {
    let is_gone = error
        .io_error()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    // Removed since its directory was read: it is not there any more.
    if !is_gone {
        shared.report.unread(path_of(error), error.to_string());
    }
}

fn path_of(error: &ignore::Error) -> Option<PathBuf> {
    match error {
        ignore::Error::WithPath { path, .. } => Some(path.clone()),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => path_of(err),
        _ => None,
    }
}
