//! What to run and what came of it: plain data, no system calls. Every room and `ops` speak to the engine in these.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::limits::{Hit, Limits, Mechanism};
use super::terminal::Size;
use crate::ids::ProcessId;
use crate::stream::{Keep, Kept, Totals};

/// The program of a process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Command {
    /// `argv[0]` is looked up in the child's `PATH` unless it contains a slash.
    Argv(Vec<OsString>),
    /// One line for `$SHELL -c` (else `/bin/sh -c`).
    Shell(OsString),
    /// `$SHELL -l` (else `/bin/sh -l`): what a person gets who logs in.
    LoginShell,
}

/// How the child's environment is made. `BOXD_PROCESS` is set in either case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Environment {
    /// The daemon's cleaned environment with these set on top.
    Overlay(Vec<(OsString, OsString)>),
    /// Exactly these.
    Exact(Vec<(OsString, OsString)>),
}

impl Environment {
    /// Sets these as well, over what is there.
    pub fn extend(&mut self, variables: Vec<(OsString, OsString)>) {
        match self {
            Self::Overlay(pairs) | Self::Exact(pairs) => pairs.extend(variables),
        }
    }
}

/// Who the process belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// Asked for by a caller.
    User,
    /// Part of the display stack.
    Desktop,
    /// A code kernel.
    Kernel,
    /// An agent process.
    Agent,
    /// The daemon itself, looking at the machine.
    System,
}

/// What the process reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Stdin {
    /// These bytes, then the end of file.
    Bytes(Bytes),
    /// What is written to it while it runs, until it is closed.
    Open,
}

/// What becomes of descendants that hold the output when the leader has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnExit {
    /// They live on.
    #[default]
    LeaveTree,
    /// They are killed.
    KillTree,
}

/// How the output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retention {
    /// In memory, for an answer of so many bytes of each channel.
    Answer(Keep),
    /// The same, in the spool where it does not fit in memory.
    Ends(Keep),
    /// The newest so many bytes; older ones are dropped and counted.
    DropOldest(u64),
    /// All of it, until it is released; above so many bytes the pipe is not read.
    Block(u64),
    /// All of it; with more bytes than these the process is killed.
    Fail(u64),
}

/// A process to be started.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    /// What to run.
    pub command: Command,
    /// Absolute working directory; checked before anything else so that blame is right.
    pub cwd: PathBuf,
    /// The environment.
    pub environment: Environment,
    /// Standard input.
    pub stdin: Stdin,
    /// Size of its terminal; `None` gives it pipes.
    pub tty: Option<Size>,
    /// The user to run it as, by name or `uid:gid`; `None` is the daemon's own.
    pub user: Option<String>,
    /// What it and everything that it starts may use.
    pub limits: Limits,
    /// Wall time after which the whole tree is killed; `None` is no limit.
    pub timeout: Option<Duration>,
    /// How its output is kept.
    pub retention: Retention,
    /// Bytes of one output record at most.
    pub record_limit: usize,
    /// What becomes of its descendants.
    pub on_exit: OnExit,
    /// Who it belongs to.
    pub owner: Owner,
    /// What the caller knows it by.
    pub labels: BTreeMap<String, String>,
}

impl ProcessSpec {
    /// A command without input, limits or labels, whose answer keeps this much.
    pub fn new(command: Command, cwd: impl Into<PathBuf>, keep: Keep) -> Self {
        Self {
            command,
            cwd: cwd.into(),
            environment: Environment::Overlay(Vec::new()),
            stdin: Stdin::Bytes(Bytes::new()),
            tty: None,
            user: None,
            limits: Limits::default(),
            timeout: None,
            retention: Retention::Answer(keep),
            record_limit: usize::MAX,
            on_exit: OnExit::LeaveTree,
            owner: Owner::User,
            labels: BTreeMap::new(),
        }
    }
}

/// How the leader ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It returned this code, 0..=255.
    Code(i32),
    /// This signal ended it.
    Signal {
        /// The signal's number.
        number: i32,
        /// Whether a core was dumped.
        core_dumped: bool,
    },
}

/// The conventional name of a signal, `SIGKILL`; `SIG34` where it has none.
pub fn signal_name(number: i32) -> String {
    nix::sys::signal::Signal::try_from(number)
        .map_or_else(|_| format!("SIG{number}"), |signal| signal.as_str().to_owned())
}

/// The number of a signal by its name with or without `SIG`, in any case, or by its number; `None` when there is none.
pub fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    full.parse::<nix::sys::signal::Signal>()
        .ok()
        .map(|signal| signal as i32)
}

/// Whether the kernel killed the process for want of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Oom {
    /// Its own cgroup says so.
    Yes,
    /// Its own cgroup says no.
    No,
    /// There is no cgroup of its own to ask.
    Unknown,
}

/// What a stop of a tree can promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Promise {
    /// Nobody of it can have escaped: a control group holds it.
    Cgroup,
    /// A process that cleared its environment may have escaped.
    BestEffort,
}

impl Promise {
    /// The name that crosses the doors.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::BestEffort => "best_effort",
        }
    }
}

/// Why and how a process ended: the last record of its log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRecord {
    /// Sequence of this record: one more than that of the last output record.
    pub seq: u64,
    /// How the leader ended.
    pub exit: Exit,
    /// Whether the wall-time limit ended it.
    pub timed_out: bool,
    /// Whether a cancel or the daemon's stop ended it.
    pub cancelled: bool,
    /// The last signal that we sent to it: a death by another one was not our doing.
    pub sent_signal: Option<i32>,
    /// The limit that ended it, when one did.
    pub limit: Option<Hit>,
    /// What enforced its limits; `None` when it had none that need anything.
    pub mechanism: Option<Mechanism>,
    /// What a stop of its tree can promise.
    pub tree: Promise,
    /// Whether it was killed for want of memory.
    pub oom: Oom,
    /// Peak memory of the tree where a control group counted it, else peak resident set of the leader, bytes; `None` when that was no larger than the daemon's own: the kernel starts a
    /// program's peak at that of the process that started it, so a smaller one cannot be told.
    pub peak_rss: Option<u64>,
    /// CPU time in user mode of the leader and the children it waited for.
    pub user_cpu: Duration,
    /// CPU time in the kernel, likewise.
    pub system_cpu: Duration,
    /// From spawn to the leader's exit.
    pub wall: Duration,
    /// What each channel carried.
    pub output: Totals,
    /// Processes that still hold an output pipe; they were left alive.
    pub lingering: Vec<u32>,
}

/// A command that ran to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its id in this daemon.
    pub id: ProcessId,
    /// What was kept of standard output.
    pub stdout: Kept,
    /// What was kept of standard error.
    pub stderr: Kept,
    /// The end record.
    pub end: Arc<EndRecord>,
}
