//! Starting commands, as callers ask for it: plain data.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use crate::exec::{self, Environment};

/// What is common to everything that starts a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// What to run.
    pub command: exec::Command,
    /// Working directory as the caller gave it; empty is the workspace root.
    pub cwd: PathBuf,
    /// The environment.
    pub environment: Environment,
    /// Wall time limit; `None` is none.
    pub timeout: Option<Duration>,
    /// What becomes of descendants when the program has ended.
    pub on_exit: exec::OnExit,
    /// What it and everything that it starts may use.
    pub limits: exec::Limits,
    /// The user to run it as; `None` is the daemon's own. Only a principal that may do everything can choose.
    pub user: Option<String>,
    /// It is git, which is only asked something: it runs no filter that the repository names.
    pub without_filters: bool,
}

/// Run a command to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The program.
    pub launch: Launch,
    /// Standard input.
    pub stdin: Bytes,
    /// What is answered of each output channel.
    pub keep: exec::Keep,
    /// With more output than that, so many of the last bytes of each channel can still be read by the id of the process.
    pub log_bytes: Option<u64>,
}

/// Start a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// The program.
    pub launch: Launch,
    /// Standard input.
    pub stdin: exec::Stdin,
    /// Size of its terminal; `None` gives it pipes.
    pub tty: Option<exec::Size>,
    /// The scope that the terminal is for: while it lives, the same one is answered.
    pub scope: Option<String>,
    /// How its output is kept.
    pub retention: exec::Retention,
    /// Bytes of one output record at most.
    pub record_limit: usize,
    /// Who it belongs to.
    pub owner: exec::Owner,
    /// What the caller knows it by.
    pub labels: BTreeMap<String, String>,
}

impl Launch {
    /// A command in the workspace root.
    pub fn new(command: exec::Command) -> Self {
        Self {
            command,
            cwd: PathBuf::new(),
            environment: Environment::Overlay(Vec::new()),
            timeout: None,
            on_exit: exec::OnExit::default(),
            limits: exec::Limits::default(),
            user: None,
            without_filters: false,
        }
    }

    fn hash(&self, hasher: &mut DefaultHasher) {
        let (exact, pairs) = match &self.environment {
            Environment::Overlay(pairs) => (false, pairs),
            Environment::Exact(pairs) => (true, pairs),
        };
        let mut pairs: Vec<_> = pairs.iter().collect();
        pairs.sort();
        (&self.command, &self.cwd, exact, pairs).hash(hasher);
        (self.timeout, self.on_exit, self.limits, &self.user).hash(hasher);
        self.without_filters.hash(hasher);
    }
}

impl Run {
    /// What makes two requests the same command. How much output is kept is the door's affair, not the caller's.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.launch.hash(&mut hasher);
        self.stdin.hash(&mut hasher);
        hasher.finish()
    }
}

impl Create {
    /// What makes two requests the same process.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.launch.hash(&mut hasher);
        (&self.stdin, self.tty, &self.labels).hash(&mut hasher);
        hasher.finish()
    }
}
