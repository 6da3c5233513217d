//! The git room: what a repository is in, as structured answers, and what changes it.
//!
//! A repository is hostile input: its configuration names programs (`core.fsmonitor`, filters, hooks, textconv, ssh commands).
//! What only reads goes through libgit2, which runs none of them, and never writes the index. What changes goes through the
//! git program, so that the machine's own hooks, credentials and configuration apply; for callers who may not run programs,
//! hooks are off and a repository that names programs is refused.
//!
//! ```text
//!   open.rs -> status.rs diff.rs history.rs refs.rs     libgit2, on the blocking pool
//!   kept.rs -> status.rs                                indexes that were read a moment ago
//!   command.rs -> program.rs, ending.rs                 the git program, born by the process engine, and its end
//!   remote.rs -> program.rs, credential.rs              clone, fetch, pull, push, with progress
//!   safety.rs                                           which repositories and words are refused before git sees them
//!   redact.rs                                           pure: what git said, without secrets
//!   porcelain.rs                                        pure: `git status --porcelain=v2` for the control wire
//! ```
//!
//! Paths are absolute and resolved by the caller; how far a caller may reach is the caller's affair too.

mod command;
mod credential;
mod diff;
mod ending;
mod filters;
mod history;
mod kept;
mod open;
mod porcelain;
mod program;
mod progress;
mod redact;
mod refs;
mod remote;
mod request;
mod safety;
mod status;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use crate::capability::Capability;
use crate::error::Error;
use crate::exec::Engine;

use kept::Kept;

pub use credential::{Asked, Credential, helper};
pub use diff::{Delta, Diff, Hunk, HunkLine, LineKind};
pub use history::{Blame, BlameHunk, Commit, Log, Person, Shown};
pub use porcelain::{PorcelainFile, PorcelainStatus, porcelain};
pub use program::Did;
pub use progress::Progress;
pub use refs::{Branch, Remote, Worktree};
pub use request::{Action, DiffOf, Query, ResetMode, StashVerb, Transfer, Trust};
pub use status::{Entry, Status};

/// The git room.
#[derive(Debug)]
pub struct Git {
    engine: Arc<Engine>,
    program: bool,
    kept: Arc<Kept>,
    /// Places for questions, which libgit2 answers in its own time.
    places: Arc<Semaphore>,
    /// How long one is waited for.
    patience: Duration,
    /// Repositories of which one has not ended in its time.
    stuck: Arc<Mutex<HashSet<std::path::PathBuf>>>,
    /// This executable, which git asks for credentials.
    own: std::path::PathBuf,
}

/// Questions at once.
const QUESTIONS: usize = 32;
/// How long one is waited for. A damaged or hostile repository may have no end.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a question is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the answer to the question of its name")]
pub enum Answer {
    Status(Status),
    Diff(Diff),
    Log(Log),
    Shown(Shown),
    Blame(Blame),
    Branches(Vec<Branch>),
    Remotes(Vec<Remote>),
    Worktrees(Vec<Worktree>),
    Repositories(Vec<std::path::PathBuf>),
}

impl Git {
    /// The room; `path` is the `PATH` in which the git program is looked for once, to say whether it is there.
    pub fn new(engine: Arc<Engine>, path: Option<&std::ffi::OsStr>) -> Self {
        let found = |directory: std::path::PathBuf| directory.join("git").is_file();
        let program = path.is_some_and(|path| std::env::split_paths(path).any(found));
        // The link to it in `/proc` is closed to children unless they are root's: the daemon leaves no core dumps. A path
        // stays right over an update, which puts another one in its place.
        // Objects are not hashed again when they are read, as the git program does not: `git fsck` is for that.
        git2::opts::strict_hash_verification(false);
        let own =
            std::env::current_exe().unwrap_or_else(|_| format!("/proc/{}/exe", std::process::id()).into());
        Self {
            engine,
            program,
            kept: Arc::default(),
            places: Arc::new(Semaphore::new(QUESTIONS)),
            patience: PATIENCE,
            stuck: Arc::default(),
            own,
        }
    }

    /// What works here.
    pub fn capabilities(&self) -> Vec<Capability> {
        let mut rows: Vec<_> = Query::NAMES.into_iter().map(Capability::available).collect();
        for name in Action::NAMES.into_iter().chain(Transfer::NAMES) {
            rows.push(if self.program {
                Capability::available(name)
            } else {
                Capability::missing(
                    name,
                    "there is no git program in PATH",
                    Some("apt-get install git".into()),
                )
            });
        }
        rows
    }

    /// Answers a question about the repository that `path` lies in. Runs no program and changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for no repository and for an unknown revision, [`Error::Unsupported`] for one that libgit2
    /// cannot read (SHA-256), [`Error::Denied`] for one that belongs to somebody else, [`Error::Timeout`] for one that has no
    /// end, and [`Error::Conflict`] as long as that is so, [`Error::Overloaded`] when many are asked.
    pub async fn ask(&self, path: &Path, query: Query) -> Result<Answer, Error> {
        let path = path.to_owned();
        if self.stuck.lock().contains(&path) {
            return Err(Error::Conflict {
                what: format!("repository {path:?}"),
                reason: "an earlier question about it has not ended: it may be damaged, which git fsck tells"
                    .into(),
            });
        }
        let place = tokio::time::timeout(self.patience, Arc::clone(&self.places).acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            return Err(Error::Overloaded {
                what: "questions about repositories",
                reason: format!("{QUESTIONS} are being answered"),
            });
        };
        let (kept, stuck, asked) = (Arc::clone(&self.kept), Arc::clone(&self.stuck), path.clone());
        let work = tokio::task::spawn_blocking(move || {
            let _until_the_end = place;
            let answered = answer(&asked, &query, &kept);
            stuck.lock().remove(&asked);
            answered
        });
        match tokio::time::timeout(self.patience, work).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(panic)) => Err(Error::Internal {
                reason: format!("a look at a repository panicked: {panic}"),
            }),
            Err(_) => {
                self.stuck.lock().insert(path);
                Err(Error::Timeout {
                    what: "the answer to a question about a repository",
                    after: self.patience,
                })
            }
        }
    }

    /// Variables that keep the git program from running the filters that the repository at `path` names, for who only looks.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] only.
    pub async fn without_filters(
        &self,
        path: &Path,
    ) -> Result<Vec<(std::ffi::OsString, std::ffi::OsString)>, Error> {
        let path = path.to_owned();
        let work = tokio::task::spawn_blocking(move || filters::switched_off(&path));
        work.await.map_err(|panic| Error::Internal {
            reason: format!("a look at a configuration panicked: {panic}"),
        })
    }

    /// Lets go of what was read for answers and is not asked for any more.
    pub fn forget_old(&self) {
        self.kept.forget_old(Instant::now());
    }

    /// Changes the repository at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`], to be tried again, while another git holds a lock; [`Error::Conflict`] with what git said
    /// when it would not; [`Error::Unsupported`] without the program.
    pub async fn act(&self, path: &Path, action: Action, trust: Trust) -> Result<Did, Error> {
        command::act(&self.engine, path, action, trust).await
    }

    /// Moves objects between the repository at `path` and another one; progress goes to `progress` as it comes.
    ///
    /// # Errors
    ///
    /// As [`Git::act`]; [`Error::Forbidden`] when the remote refuses the credentials.
    pub async fn transfer(
        &self,
        path: &Path,
        transfer: Transfer,
        trust: Trust,
        progress: Option<mpsc::Sender<Progress>>,
    ) -> Result<Did, Error> {
        remote::transfer(&self.engine, &self.own, path, transfer, trust, progress).await
    }
}

fn answer(path: &Path, query: &Query, kept: &Kept) -> Result<Answer, Error> {
    if let Query::Discover { depth } = query {
        return open::discover(path, *depth).map(Answer::Repositories);
    }
    if let Query::Status { ignored, untracked } = query {
        return status::status(path, kept, *ignored, *untracked).map(Answer::Status);
    }
    let repository = open::open(path)?;
    match query {
        Query::Diff {
            of,
            paths,
            context,
            stat_only,
        } => diff::diff(&repository, of, paths, *context, *stat_only).map(Answer::Diff),
        Query::Log {
            revision,
            path,
            skip,
            limit,
        } => history::log(&repository, revision.as_deref(), path.as_deref(), *skip, *limit).map(Answer::Log),
        Query::Show { revision, path } => {
            history::show(&repository, revision, path.as_deref()).map(Answer::Shown)
        }
        Query::Blame { path, revision } => {
            history::blame(&repository, path, revision.as_deref()).map(Answer::Blame)
        }
        Query::Branches => refs::branches(&repository).map(Answer::Branches),
        Query::Remotes => refs::remotes(&repository).map(Answer::Remotes),
        Query::Worktrees => refs::worktrees(&repository).map(Answer::Worktrees),
        Query::Status { .. } | Query::Discover { .. } => Err(Error::Internal {
            reason: "the question was answered before".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::InstanceId;
    use crate::lifecycle::Tasks;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_repository_that_never_answers_takes_one_thread_and_is_named() {
        let directory = tempfile::tempdir().unwrap();
        git2::Repository::init(directory.path()).unwrap();
        let index = directory.path().join(".git/index");
        nix::unistd::mkfifo(&index, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Of a runtime that nobody drives: its reaper is to take no child of other tests.
        let idle = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let engine = {
            let _inside = idle.enter();
            Engine::start(crate::exec::Config::default(), InstanceId::mint(), &Tasks::new())
        };
        let mut git = Git::new(engine, None);
        git.patience = Duration::from_millis(200);
        let query = || Query::Status {
            ignored: false,
            untracked: true,
        };
        let ask = async || git.ask(directory.path(), query()).await.unwrap_err();
        assert!(matches!(ask().await, Error::Timeout { .. }));
        assert!(matches!(ask().await, Error::Conflict { .. }));
        assert_eq!(git.places.available_permits(), QUESTIONS - 1);
        // Somebody writes to it after all.
        drop(std::fs::OpenOptions::new().write(true).open(&index).unwrap());
        while git.stuck.lock().contains(directory.path()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(git.places.available_permits(), QUESTIONS);
        idle.shutdown_background();
    }
}
