//! The git program: how it is started, and what its end means.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::ending::{self, Unwanted};
use super::progress::{Lines, Progress};
use super::redact::redact;
use super::request::Trust;
use super::safety::Pinned;
use crate::error::Error;
use crate::exec::{Command, Engine, Environment, Exit, Keep, Owner, Process, ProcessSpec, Stdin};
use crate::stream::{Channel, Cursor, Item};
use crate::telemetry::Secret;

/// What is kept of each output, bytes.
const SAID: u64 = 1 << 20;
/// What may be spoken by callers who may not run programs.
const PROTOCOLS: &str = "https:http:ssh:git";
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
    pub(super) settings: Vec<OsString>,
    /// The subcommand with its arguments.
    pub(super) arguments: Vec<OsString>,
    /// Variables, over those that every run has.
    environment: Vec<(OsString, OsString)>,
    /// What nobody is to see in what was said.
    pub(super) secret: Option<Secret<String>>,
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
        let mut settings: Vec<OsString> =
            vec!["core.quotePath=false".into(), "advice.detachedHead=false".into()];
        let mut environment = Vec::new();
        if trust == Trust::Workspace {
            let off = [
                "core.hooksPath=/dev/null",
                "core.fsmonitor=false",
                "protocol.ext.allow=never",
                "protocol.file.allow=never",
                "commit.gpgSign=false",
                "tag.gpgSign=false",
                "tag.forceSignAnnotated=false",
                "push.gpgSign=false",
                "submodule.recurse=false",
            ];
            settings.extend(off.map(OsString::from));
            // Over whatever a configuration says about protocols.
            environment.push(("GIT_ALLOW_PROTOCOL".into(), PROTOCOLS.into()));
        }
        Self {
            cwd: cwd.to_owned(),
            settings,
            arguments: Vec::new(),
            environment,
            secret: None,
            input: Vec::new(),
            time_limit,
        }
    }

    /// In this repository, whichever one is found from the directory.
    pub(super) fn pinned(mut self, pinned: Option<Pinned>) -> Self {
        if let Some(Pinned { directory, worktree }) = pinned {
            self.environment.push(("GIT_DIR".into(), directory.into()));
            let worktree = worktree.map(|path| ("GIT_WORK_TREE".into(), path.into()));
            self.environment.extend(worktree);
        }
        self
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
            argv.extend(["-c".into(), setting]);
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
        let mut environment: Vec<_> = environment
            .map(|(name, value)| (name.into(), value.into()))
            .into();
        environment.extend(self.environment);
        ProcessSpec {
            stdin: Stdin::Bytes(Bytes::from(self.input)),
            environment: Environment::Overlay(environment),
            // Should nobody be there to end it at its time.
            timeout: Some(self.time_limit + 2 * ending::GRACE),
            owner: Owner::System,
            ..ProcessSpec::new(Command::Argv(argv), self.cwd, Keep::both_ends(SAID))
        }
    }
}

/// Runs it to its end; it is ended when nobody waits any more.
pub(super) async fn run(
    engine: &Arc<Engine>,
    mut invocation: Invocation,
    progress: Option<mpsc::Sender<Progress>>,
) -> Result<Ended, Error> {
    let (secret, time_limit) = (invocation.secret.take(), invocation.time_limit);
    let hide = |said| redact(said, secret.as_ref().map(|secret| secret.expose().as_str()));
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
    let mut said = Said {
        cursor: Cursor::after(0).only(&[Channel::Stderr]),
        lines: Lines::default(),
        progress,
    };
    let timed_out = tokio::select! {
        biased;
        read = said.follow(&process.0) => {
            read?;
            false
        }
        () = tokio::time::sleep(time_limit) => true,
    };
    if timed_out {
        ending::end(&process.0).await;
        said.follow(&process.0).await?;
    }
    let lines = said.lines;
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
        timed_out: timed_out || end.timed_out,
        did: Did {
            stdout: hide(whole(&finished.stdout)),
            stderr: hide(lines.finish()),
            left_out: finished.stdout.omitted,
        },
    })
}

/// What it says while it runs.
struct Said {
    cursor: Cursor,
    lines: Lines,
    progress: Option<mpsc::Sender<Progress>>,
}

impl Said {
    /// Reads on until its end. Cancel-safe: what was not taken is read by the next.
    async fn follow(&mut self, process: &Process) -> Result<(), Error> {
        loop {
            let items = process.output().next(&mut self.cursor, SAID).await?;
            if items.is_empty() {
                return Ok(());
            }
            for item in items {
                let Item::Record(record) = item else { continue };
                for said in self.lines.push(&record.bytes) {
                    if let Some(progress) = &self.progress {
                        // A slow reader misses some: the next one says more.
                        let _ = progress.try_send(said);
                    }
                }
            }
        }
    }
}

impl Ended {
    /// What it did, or why it did not.
    pub(super) fn judge(self, what: &str, path: &Path, time_limit: Duration) -> Result<Did, Error> {
        if self.timed_out {
            return Err(Error::Unfinished {
                what: "git, or a hook of it,",
                after: time_limit,
            });
        }
        if self.exit == Exit::Code(0) {
            return Ok(self.did);
        }
        if let Some(lock) = held_lock(path) {
            return Err(Error::Overloaded {
                what: "the repository",
                reason: format!(
                    "another git holds {lock:?}; try again, or remove it when no git runs that could have made it"
                ),
            });
        }
        if was_locked(&self.did.stderr) {
            return Err(Error::Overloaded {
                what: "the repository",
                reason: format!("another git was at work in it; try again: {}", self.did.told()),
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

/// Whether somebody else was faster, who has let go since.
fn was_locked(stderr: &[u8]) -> bool {
    let words: [&[u8]; 2] = [b".lock': File exists", b"fatal: cannot lock ref 'HEAD': is at "];
    words
        .iter()
        .any(|words| memchr::memmem::find(stderr, words).is_some())
}

/// A lock on something in the repository that `path` lies in, when somebody holds one.
fn held_lock(path: &Path) -> Option<PathBuf> {
    let repository = super::open::open(path).ok()?;
    let own = ["index.lock", "HEAD.lock"].map(|name| repository.path().join(name));
    let shared =
        ["config.lock", "packed-refs.lock", "shallow.lock"].map(|name| repository.commondir().join(name));
    own.into_iter().chain(shared).find(|lock| lock.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_gone_by_now_is_known_by_what_git_says() {
        for yes in [
            "fatal: cannot lock ref 'HEAD': is at 1 but expected 2",
            "fatal: Unable to create '/x/.git/index.lock': File exists.",
        ] {
            assert!(was_locked(yes.as_bytes()), "{yes}");
        }
        assert!(!was_locked(
            b"fatal: cannot lock ref 'refs/heads/a': 'refs/heads/a/b' exists"
        ));
    }
}
