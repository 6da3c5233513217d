//! Processes: what is answered of them.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::end::{End, exit_code, is_zero, milliseconds};
use crate::error::Error;
use crate::exec::{self, Command, Process, Signalled};
use crate::stream::Channel;

/// Who a process belongs to, in the words of the compatible contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ProcessOwner)]
pub enum Owner {
    /// Asked for by a caller.
    User,
    /// Part of the display stack.
    Desktop,
    /// Anything else that the daemon started: kernels, agents.
    System,
}

impl Owner {
    /// The owner of that name.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when there is none.
    pub fn parse(text: &str) -> Result<Self, Error> {
        match text {
            "user" => Ok(Self::User),
            "desktop" => Ok(Self::Desktop),
            "system" => Ok(Self::System),
            other => Err(Error::Invalid {
                field: "owner",
                reason: format!("{other:.40?} is none of user, desktop, system"),
            }),
        }
    }
}

impl From<exec::Owner> for Owner {
    fn from(owner: exec::Owner) -> Self {
        match owner {
            exec::Owner::User => Self::User,
            exec::Owner::Desktop => Self::Desktop,
            exec::Owner::Kernel | exec::Owner::Agent | exec::Owner::System => Self::System,
        }
    }
}

/// Whether a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ProcessState)]
pub enum Status {
    /// Its leader has not been reaped.
    Running,
    /// It has ended.
    Exited,
}

/// A process.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProcessInfo)]
pub struct Info {
    /// `proc_N`.
    pub id: String,
    /// The program, or the line for the shell.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Whether `command` is a line for the shell.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shell: bool,
    /// Its working directory.
    pub cwd: String,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its standard input stays open.
    pub interactive: bool,
    /// Who it belongs to.
    pub owner: Owner,
    /// What its caller knows it by.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether it runs.
    pub status: Status,
    /// The pid of its leader, while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// What it returned; absent while it runs and when a signal or a limit ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// When it was started, unix milliseconds.
    pub created_at_ms: u64,
    /// When it ended, unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exited_at_ms: Option<u64>,
    /// How it ended.
    #[serde(flatten)]
    pub exited: Option<Exited>,
}

/// The end record of a process.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProcessExited)]
pub struct Exited {
    /// Sequence of the end record: one more than that of the last log entry.
    pub sequence: u64,
    /// Whether the time limit ended it.
    pub timed_out: bool,
    /// From spawn to exit, milliseconds.
    pub duration_ms: u64,
    /// Why it ended.
    #[serde(flatten)]
    pub end: End,
    /// Bytes and digest of each channel that carried something, and of standard output and error always.
    pub channels: BTreeMap<&'static str, ChannelTotals>,
    /// Bytes that descendants wrote after the end; they are no part of the log.
    #[serde(skip_serializing_if = "is_zero")]
    pub after_exit_bytes: u64,
}

/// What a channel carried.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ChannelTotals)]
pub struct ChannelTotals {
    /// Bytes written.
    pub bytes: u64,
    /// blake3 of them, lower-case hex.
    pub blake3: String,
}

impl From<&Process> for Info {
    fn from(process: &Process) -> Self {
        let about = process.about();
        let end = process.end();
        let (command, args, shell) = words(&about.command);
        Self {
            id: process.id().to_string(),
            command,
            args,
            shell,
            cwd: about.cwd.to_string_lossy().into_owned(),
            tty: process.has_terminal(),
            interactive: about.interactive,
            owner: about.owner.into(),
            labels: about.labels.clone(),
            status: if end.is_some() {
                Status::Exited
            } else {
                Status::Running
            },
            pid: end.is_none().then_some(about.pid),
            exit_code: end.and_then(|end| exit_code(end)),
            created_at_ms: unix_ms(about.created_at),
            exited_at_ms: end.map(|end| unix_ms(about.created_at + end.wall)),
            exited: end.map(|end| Exited::new(end, process)),
        }
    }
}

impl Exited {
    /// Of a process that has ended.
    pub fn new(end: &exec::EndRecord, process: &Process) -> Self {
        let carried = Channel::ALL.into_iter().filter_map(|channel| {
            let totals = &end.output[channel];
            let always = matches!(channel, Channel::Stdout | Channel::Stderr) && !process.has_terminal();
            (always || totals.total > 0).then(|| {
                let carried = ChannelTotals {
                    bytes: totals.total,
                    blake3: totals.digest.to_string(),
                };
                (channel.as_str(), carried)
            })
        });
        Self {
            sequence: end.seq,
            timed_out: end.timed_out,
            duration_ms: milliseconds(end.wall),
            end: End::from(end),
            channels: carried.collect(),
            after_exit_bytes: process.after_exit_bytes(),
        }
    }
}

fn words(command: &Command) -> (String, Vec<String>, bool) {
    match command {
        Command::Shell(line) => (line.to_string_lossy().into_owned(), Vec::new(), true),
        Command::LoginShell => ("login shell".into(), Vec::new(), true),
        Command::Argv(words) => {
            let mut words = words.iter().map(|word| word.to_string_lossy().into_owned());
            (words.next().unwrap_or_default(), words.collect(), false)
        }
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// Every process that is known.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProcessListResponse)]
pub struct Infos {
    /// Oldest first.
    pub processes: Vec<Info>,
}

impl From<&[std::sync::Arc<Process>]> for Infos {
    fn from(processes: &[std::sync::Arc<Process>]) -> Self {
        Self {
            processes: processes.iter().map(|process| Info::from(&**process)).collect(),
        }
    }
}

/// A process after a signal.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProcessSignalResponse)]
pub struct SignalReply {
    /// As it is now.
    #[serde(flatten)]
    pub info: Info,
    /// Whom the signal reached.
    pub signalled: Vec<i32>,
    /// Who would not end, after a KILL.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub survivors: Vec<i32>,
    /// `cgroup` when nothing can escape, `best_effort` without one: then a process that cleared its environment may.
    pub tree: &'static str,
}

impl SignalReply {
    /// Of a process and what became of the signal.
    pub fn new(process: &Process, signalled: &Signalled) -> Self {
        Self {
            info: Info::from(process),
            signalled: signalled.pids.clone(),
            survivors: signalled.survivors.clone(),
            tree: signalled.tree.as_str(),
        }
    }
}

/// How much was written to a process.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProcessInputResponse)]
pub struct InputReply {
    /// Bytes.
    pub bytes_written: u64,
}
