//! The git program: how it is started, and what its end means.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::progress::{Lines, Progress};
use super::request::Trust;
use crate::error::Error;
use crate::exec::{Command, Engine, Environment, Exit, Keep, Owner, Process, ProcessSpec, Stdin};
use crate::stream::{Channel, Cursor, Item};

/// What is kept of each output, bytes.
const SAID: u64 = 1 << 20;
/// What of it an error says, bytes.
const TOLD: usize = 2000;

/// What the program said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Did {
    /// Standard output, its first and last bytes.
    pub stdout: Vec<u8>,
    /// Standard error, without progress.
    pub stderr: Vec<u8>,
    /// Bytes of both that are left out.
    pub left_out: u64,
}

/// One run of the program.
#[derive(Debug)]
pub(super) struct Invocation {
    /// Where.
    pub(super) cwd: PathBuf,
    /// Settings, over those of the machine and the repository.
    pub(super) settings: Vec<String>,
    /// The subcommand with its arguments.
    pub(super) arguments: Vec<OsString>,
    /// Standard input.
    pub(super) input: Vec<u8>,
    /// After which the whole tree is killed: hooks may hang.
    pub(super) time_limit: Duration,
}

/// How it ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) exit: Exit,
    pub(super) timed_out: bool,
    pub(super) did: Did,
}

impl Invocation {
    /// In `cwd`, with what `trust` allows.
    pub(super) fn new(cwd: &Path, trust: Trust, time_limit: Duration) -> Self {
        let mut settings = vec![
            "core.quotePath=false".to_owned(),
            "advice.detachedHead=false".to_owned(),
        ];
        if trust == Trust::Workspace {
            let off = [
                "core.hooksPath=/dev/null",
                "core.fsmonitor=false",
                "protocol.ext.allow=never",
                "protocol.file.allow=never",
                "commit.gpgSign=false",
                "tag.gpgSign=false",
                "submodule.recurse=false",
            ];
            settings.extend(off.map(str::to_owned));
        }
        Self {
            cwd: cwd.to_owned(),
            settings,
            arguments: Vec::new(),
            input: Vec::new(),
            time_limit,
        }
    }

    /// Adds words.
    pub(super) fn words<I>(mut self, words: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        self.arguments.extend(words.into_iter().map(Into::into));
        self
    }

    /// Adds a word when it is asked for.
    pub(super) fn flag(self, asked: bool, word: &str) -> Self {
        if asked { self.words([word]) } else { self }
    }

    fn spec(self) -> ProcessSpec {
        let mut argv: Vec<OsString> = vec!["git".into(), "--no-pager".into()];
        for setting in self.settings {
            argv.extend(["-c".into(), setting.into()]);
        }
        argv.extend(self.arguments);
        let environment = [
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_EDITOR", ":"),
            ("GIT_SEQUENCE_EDITOR", ":"),
            ("GIT_ASKPASS", ""),
            ("SSH_ASKPASS_REQUIRE", "never"),
            ("LC_ALL", "C"),
        ];
        let environment = environment.map(|(name, value)| (name.into(), value.into()));
        ProcessSpec {
            stdin: Stdin::Bytes(Bytes::from(self.input)),
            environment: Environment::Overlay(environment.into()),
            timeout: Some(self.time_limit),
            owner: Owner::System,
            ..ProcessSpec::new(Command::Argv(argv), self.cwd, Keep::both_ends(SAID))
        }
    }
}

/// Runs it to its end; it is ended when nobody waits any more.
pub(super) async fn run(
    engine: &Arc<Engine>,
    invocation: Invocation,
    progress: Option<mpsc::Sender<Progress>>,
) -> Result<Ended, Error> {
    let process = engine
        .start_process(invocation.spec())
        .await
        .map_err(|error| match error {
            Error::NotFound { what: "program", .. } => Error::Unsupported {
                what: "what changes repositories".into(),
                why: "there is no git program in PATH".into(),
                fix: Some("apt-get install git".into()),
            },
            error => error,
        })?;
    let process = Unwanted(process);
    let mut cursor = Cursor::after(0).only(&[Channel::Stderr]);
    let mut lines = Lines::default();
    loop {
        let items = process.0.output().next(&mut cursor, SAID).await?;
        if items.is_empty() {
            break;
        }
        for item in items {
            let Item::Record(record) = item else { continue };
            for said in lines.push(&record.bytes) {
                if let Some(progress) = &progress {
                    // A slow reader misses some: the next one says more.
                    let _ = progress.try_send(said);
                }
            }
        }
    }
    let end = process.0.ended().await;
    let finished = process
        .0
        .finished(Keep::both_ends(SAID))
        .ok_or_else(|| Error::Internal {
            reason: "a git that has ended is not finished".into(),
        })?;
    let whole = |kept: &crate::exec::Kept| [&kept.head[..], &kept.tail[..]].concat();
    Ok(Ended {
        exit: end.exit,
        timed_out: end.timed_out,
        did: Did {
            stdout: whole(&finished.stdout),
            stderr: lines.finish(),
            left_out: finished.stdout.omitted,
        },
    })
}

/// A process that is ended when nobody waits for it.
struct Unwanted(Arc<Process>);

impl Drop for Unwanted {
    fn drop(&mut self) {
        if self.0.end().is_none() {
            self.0.cancel();
        }
    }
}

impl Ended {
    /// What it did, or why it did not.
    pub(super) fn judge(self, what: &str, path: &Path, time_limit: Duration) -> Result<Did, Error> {
        if self.timed_out {
            return Err(Error::Timeout {
                what: "git, or a hook of it,",
                after: time_limit,
            });
        }
        if self.exit == Exit::Code(0) {
            return Ok(self.did);
        }
        if let Some(lock) = held_lock(path) {
            return Err(Error::Overloaded {
                what: "the repository's index",
                reason: format!(
                    "another git holds {lock:?}; try again, or remove it when no git runs that could have made it"
                ),
            });
        }
        Err(Error::Conflict {
            what: format!("{what} in {path:?}"),
            reason: self.did.told(),
        })
    }
}

impl Did {
    /// What an error says of it: the end of what was said.
    pub(super) fn told(&self) -> String {
        let said = if self.stderr.trim_ascii().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        let said = said.trim_ascii();
        let tail = &said[said.len().saturating_sub(TOLD)..];
        String::from_utf8_lossy(tail).into_owned()
    }
}

/// The lock on the index of the repository that `path` lies in, when somebody holds it.
fn held_lock(path: &Path) -> Option<PathBuf> {
    let lock = super::open::open(path).ok()?.path().join("index.lock");
    lock.exists().then_some(lock)
}
