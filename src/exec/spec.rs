//! What to run and what came of it: plain data, no system calls. Every room and `ops` speak to the engine in these.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use crate::ids::ProcessId;
use crate::stream::{ChannelTotals, Keep, Kept};

/// The program of a process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Command {
    /// `argv[0]` is looked up in the child's `PATH` unless it contains a slash.
    Argv(Vec<OsString>),
    /// One line for `$SHELL -c` (else `/bin/sh -c`).
    Shell(OsString),
}

/// How the child's environment is made. `BOXD_PROCESS` is set in either case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Environment {
    /// The daemon's cleaned environment with these set on top.
    Overlay(Vec<(OsString, OsString)>),
    /// Exactly these.
    Exact(Vec<(OsString, OsString)>),
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

/// A command to be run to its end.
#[derive(Debug, Clone)]
pub struct RunSpec {
    /// What to run.
    pub command: Command,
    /// Absolute working directory; checked before anything else so that blame is right.
    pub cwd: PathBuf,
    /// The environment.
    pub environment: Environment,
    /// Bytes for standard input, end of file after the last one.
    pub stdin: Bytes,
    /// Wall time after which the whole tree is killed; `None` is no limit.
    pub timeout: Option<Duration>,
    /// How much output is kept per channel.
    pub keep: Keep,
    /// Who it belongs to.
    pub owner: Owner,
}

/// How the leader ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Whether the kernel killed the process for want of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oom {
    /// Its own cgroup says so.
    Yes,
    /// Its own cgroup says no.
    No,
    /// There is no cgroup of its own to ask.
    Unknown,
}

/// Why and how a process ended: the last record of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndRecord {
    /// Sequence of this record: one more than that of the last output record.
    pub seq: u64,
    /// How the leader ended.
    pub exit: Exit,
    /// Whether the wall-time limit ended it.
    pub timed_out: bool,
    /// Whether a cancel or the daemon's stop ended it.
    pub cancelled: bool,
    /// Whether it was killed for want of memory.
    pub oom: Oom,
    /// Peak resident set of the leader, bytes; `None` when it was no larger than the daemon's own: the kernel starts a
    /// program's peak at that of the process that started it, so a smaller one cannot be told.
    pub peak_rss: Option<u64>,
    /// CPU time in user mode of the leader and the children it waited for.
    pub user_cpu: Duration,
    /// CPU time in the kernel, likewise.
    pub system_cpu: Duration,
    /// From spawn to the leader's exit.
    pub wall: Duration,
    /// Standard output.
    pub stdout: ChannelTotals,
    /// Standard error.
    pub stderr: ChannelTotals,
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
    pub end: EndRecord,
}
