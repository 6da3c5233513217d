//! Processes: what is asked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::launch::{LimitsRequest, check_key, environment, limits, program, user, without_nul};
use super::process_info::Owner;
use super::text::from_base64;
use crate::error::Error;
use crate::exec::{self, OnExit, Retention, Size, Stdin, signal_number};
use crate::ids::ProcessId;
use crate::ops::{Create, Launch, Op, ProcessConfig};

/// Labels of one process, and bytes of one of them.
const LABELS: (usize, usize) = (64, 4096);

/// Start a process.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = ProcessCreateRequest)]
pub struct CreateRequest {
    /// The program, looked up in `PATH` unless it contains a slash; with `shell`, a line for the shell.
    #[schema(required = true, nullable = false, min_length = 1)]
    pub command: Option<String>,
    /// Its arguments; with `shell`, appended to the line with single spaces.
    pub args: Option<Vec<String>>,
    /// Working directory; relative to the workspace root, which is also the default.
    pub cwd: Option<String>,
    /// Variables set on top of the daemon's cleaned environment.
    pub env: Option<BTreeMap<String, String>>,
    /// Keep standard input open for what is written to it later; without it the program reads an empty file.
    pub interactive: Option<bool>,
    /// Give it a terminal. Without a `command` that is a login shell.
    pub tty: Option<bool>,
    /// Columns of the terminal, 1 to 1000; 80 when not given.
    #[schema(minimum = 1, maximum = 1000)]
    pub cols: Option<u32>,
    /// Rows of the terminal, 1 to 1000; 24 when not given.
    #[schema(minimum = 1, maximum = 1000)]
    pub rows: Option<u32>,
    /// What the terminal is called in `TERM`; `xterm-256color` when not given.
    pub term: Option<String>,
    /// While a terminal of this scope lives, it is answered instead of a new one.
    #[schema(min_length = 1, max_length = 256)]
    pub scope_id: Option<String>,
    /// Run `command` with `$SHELL -c` (else `/bin/sh -c`).
    pub shell: Option<bool>,
    /// Wall time in milliseconds after which the whole process tree is killed. Absent or 0 is no limit.
    pub timeout_ms: Option<u64>,
    /// How its output is kept.
    pub retention: Option<RetentionRequest>,
    /// What becomes of its descendants when it has ended: `leave` (the default) or `kill_tree`.
    pub on_exit: Option<OnExitRequest>,
    /// What the caller knows it by.
    pub labels: Option<BTreeMap<String, String>>,
    /// The same key and the same request get the same process; it is never started twice.
    #[schema(min_length = 1, max_length = 256)]
    pub idempotency_key: Option<String>,
    /// The user to run as, by name or `uid:gid`; needs a daemon that runs as root.
    pub user: Option<String>,
    /// What it and everything that it starts may use.
    pub limits: Option<LimitsRequest>,
}

/// How output is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = ProcessRetention)]
pub struct RetentionRequest {
    /// Bytes kept; the configured `maxLogBytesPerProcess` unless given.
    #[schema(minimum = 1)]
    pub bytes: Option<u64>,
    /// What happens beyond them.
    pub policy: Option<Policy>,
}

/// What happens when more is written than is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ProcessRetentionPolicy)]
pub enum Policy {
    /// The oldest output is dropped and counted.
    #[default]
    DropOldest,
    /// The process is killed.
    Fail,
}

/// What becomes of descendants that hold the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ProcessOnExit)]
pub enum OnExitRequest {
    /// They live on.
    #[default]
    Leave,
    /// They are killed.
    KillTree,
}

impl CreateRequest {
    /// The operation, under the limits of `config`.
    pub fn into_create(self, config: &ProcessConfig) -> Result<Create, Error> {
        check_key(self.idempotency_key.as_deref())?;
        let tty = self.size()?;
        let command = match self.command {
            Some(command) => program(
                command,
                self.args.unwrap_or_default(),
                self.shell.unwrap_or(false),
            )?,
            None if tty.is_some() => exec::Command::LoginShell,
            None => {
                return Err(Error::Invalid {
                    field: "command",
                    reason: "is required".into(),
                });
            }
        };
        let mut variables = self.env.unwrap_or_default();
        if let Some(term) = self.term {
            variables.insert("TERM".into(), term);
        }
        let timeout = self.timeout_ms.filter(|milliseconds| *milliseconds > 0);
        Ok(Create {
            launch: Launch {
                cwd: PathBuf::from(without_nul("cwd", self.cwd.unwrap_or_default())?),
                environment: environment(variables)?,
                timeout: timeout.map(Duration::from_millis),
                on_exit: match self.on_exit.unwrap_or_default() {
                    OnExitRequest::Leave => OnExit::LeaveTree,
                    OnExitRequest::KillTree => OnExit::KillTree,
                },
                limits: limits(self.limits)?,
                user: user(self.user)?,
                ..Launch::new(command)
            },
            stdin: if self.interactive.unwrap_or(tty.is_some()) {
                Stdin::Open
            } else {
                Stdin::Bytes(Bytes::new())
            },
            tty,
            scope: scope(self.scope_id)?,
            retention: retention(self.retention.unwrap_or_default(), config)?,
            record_limit: usize::MAX,
            owner: exec::Owner::User,
            labels: labels(self.labels.unwrap_or_default())?,
        })
    }
}

impl CreateRequest {
    /// The size of the terminal, where there is to be one.
    fn size(&self) -> Result<Option<Size>, Error> {
        if self.tty.unwrap_or(false) {
            let or = |given: Option<u32>, default: u16| given.unwrap_or(u32::from(default));
            let (cols, rows) = (Size::DEFAULT.cols(), Size::DEFAULT.rows());
            return Size::new(or(self.cols, cols), or(self.rows, rows)).map(Some);
        }
        let given = [
            ("cols", self.cols.is_some()),
            ("rows", self.rows.is_some()),
            ("term", self.term.is_some()),
            ("scopeId", self.scope_id.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            None => Ok(None),
            Some((field, _)) => Err(Error::Invalid {
                field,
                reason: "is for terminals, ask for one by \"tty\": true".into(),
            }),
        }
    }
}

fn scope(asked: Option<String>) -> Result<Option<String>, Error> {
    match asked {
        Some(scope) if !(1..=256).contains(&scope.len()) => Err(Error::Invalid {
            field: "scopeId",
            reason: format!("has {} bytes, 1 to 256 are allowed", scope.len()),
        }),
        scope => Ok(scope),
    }
}

fn retention(asked: RetentionRequest, config: &ProcessConfig) -> Result<Retention, Error> {
    let bytes = asked.bytes.unwrap_or(config.max_log_bytes_per_process);
    if bytes == 0 {
        return Err(Error::Invalid {
            field: "retention",
            reason: "bytes must be above zero".into(),
        });
    }
    Ok(match asked.policy.unwrap_or_default() {
        Policy::DropOldest => Retention::DropOldest(bytes),
        Policy::Fail => Retention::Fail(bytes),
    })
}

fn labels(labels: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Error> {
    let (count, size) = LABELS;
    let too_large = labels
        .iter()
        .find(|(name, value)| name.len() + value.len() > size);
    let reason = match too_large {
        Some((name, _)) => format!("{name:.40?} has more than {size} bytes"),
        None if labels.len() > count => format!("has {} labels, {count} are allowed", labels.len()),
        None => return Ok(labels),
    };
    Err(Error::Invalid {
        field: "labels",
        reason,
    })
}

/// The id in `proc_N`.
///
/// # Errors
///
/// [`Error::NotFound`] for anything else: there is no such process.
pub fn process_id(text: &str) -> Result<ProcessId, Error> {
    text.parse().map_err(|_| Error::NotFound {
        what: "process",
        name: text.to_owned(),
    })
}

pub(super) fn required_id(id: Option<&str>) -> Result<ProcessId, Error> {
    process_id(id.ok_or(Error::Invalid {
        field: "id",
        reason: "is required".into(),
    })?)
}

/// Arguments of `process.list`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProcessListArguments {
    /// Of this owner only.
    pub owner: Option<Owner>,
}

impl ProcessListArguments {
    /// The operation.
    pub fn into_op(self) -> Op {
        Op::ProcessList {
            owner: self.owner.map(|owner| match owner {
                Owner::User => exec::Owner::User,
                Owner::Desktop => exec::Owner::Desktop,
                Owner::System => exec::Owner::System,
            }),
        }
    }
}

/// Arguments of the operations that need an id only.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct IdArguments {
    /// `proc_N`.
    pub id: Option<String>,
}

impl IdArguments {
    /// The id.
    pub fn id(&self) -> Result<ProcessId, Error> {
        required_id(self.id.as_deref())
    }
}

/// Arguments of `process.wait`, `process.stop` and `process.kill`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WaitArguments {
    /// `proc_N`.
    pub id: Option<String>,
    /// Longest wait for its end, milliseconds.
    pub wait_ms: Option<u64>,
    /// After a stop: what is alive after so many milliseconds is killed.
    pub kill_after_ms: Option<u64>,
}

impl WaitArguments {
    /// Waits for its end, for ever unless limited.
    pub fn into_wait(self) -> Result<Op, Error> {
        self.refuse_kill_after()?;
        Ok(Op::ProcessWait {
            id: required_id(self.id.as_deref())?,
            limit: self.wait_ms.map(Duration::from_millis),
        })
    }

    /// Asks its tree to end.
    pub fn into_stop(self) -> Result<Op, Error> {
        Ok(Op::ProcessStop {
            id: required_id(self.id.as_deref())?,
            wait: Duration::from_millis(self.wait_ms.unwrap_or(0)),
            kill_after: self.kill_after_ms.map(Duration::from_millis),
        })
    }

    /// Kills its tree.
    pub fn into_kill(self) -> Result<Op, Error> {
        self.refuse_kill_after()?;
        Ok(Op::ProcessKill {
            id: required_id(self.id.as_deref())?,
            wait: Duration::from_millis(self.wait_ms.unwrap_or(0)),
        })
    }

    fn refuse_kill_after(&self) -> Result<(), Error> {
        match self.kill_after_ms {
            None => Ok(()),
            Some(_) => Err(Error::Invalid {
                field: "killAfterMs",
                reason: "is for process.stop only".into(),
            }),
        }
    }
}

/// Input for a process.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = ProcessInputRequest)]
pub struct InputRequest {
    /// `proc_N`; on its own route, that of the path.
    pub id: Option<String>,
    /// What to write.
    #[schema(required = true, nullable = false)]
    pub data: Option<String>,
    /// How `data` is written: `base64` (the default), `utf8` or `text`.
    pub encoding: Option<InputEncoding>,
    /// Who writes, where somebody may hold the writer lock of a terminal.
    pub holder: Option<String>,
}

/// How input is written into a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ProcessInputEncoding)]
pub enum InputEncoding {
    /// base64 of the exact bytes.
    #[default]
    Base64,
    /// As text.
    Utf8,
    /// As text.
    Text,
}

impl InputRequest {
    /// The operation, on the process of `id` where that is known already.
    pub fn into_op(self, id: Option<ProcessId>, config: &ProcessConfig) -> Result<Op, Error> {
        let id = id.map_or_else(|| required_id(self.id.as_deref()), Ok)?;
        let data = self.data.ok_or(Error::Invalid {
            field: "data",
            reason: "is required".into(),
        })?;
        let bytes = input_bytes(data, self.encoding.unwrap_or_default())?;
        let (size, limit) = (bytes.len() as u64, config.max_input_bytes_per_request);
        if size > limit {
            return Err(Error::TooLarge {
                what: "the input",
                size,
                limit,
            });
        }
        Ok(Op::ProcessInput {
            id,
            bytes,
            holder: self.holder.unwrap_or_default(),
        })
    }
}

/// The bytes that `data` stands for.
pub fn input_bytes(data: String, encoding: InputEncoding) -> Result<Bytes, Error> {
    match encoding {
        InputEncoding::Base64 => from_base64("data", &data).map(Bytes::from),
        InputEncoding::Utf8 | InputEncoding::Text => Ok(data.into()),
    }
}

/// A signal for a process.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = ProcessSignalRequest)]
pub struct SignalRequest {
    /// `proc_N`; on its own route, that of the path.
    pub id: Option<String>,
    /// Its name with or without `SIG`, or its number.
    #[schema(required = true, nullable = false, value_type = String)]
    pub signal: Option<Value>,
    /// Whom it is for: `tree` (the default) or `leader`.
    pub scope: Option<ScopeRequest>,
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ProcessSignalScope)]
pub enum ScopeRequest {
    /// The process and everything that it started.
    #[default]
    Tree,
    /// The process alone.
    Leader,
}

impl SignalRequest {
    /// The operation, on the process of `id` where that is known already.
    pub fn into_op(self, id: Option<ProcessId>) -> Result<Op, Error> {
        let id = id.map_or_else(|| required_id(self.id.as_deref()), Ok)?;
        let invalid = |reason: String| Error::Invalid {
            field: "signal",
            reason,
        };
        let text = match self.signal {
            Some(Value::String(text)) => text,
            Some(Value::Number(number)) => number.to_string(),
            Some(other) => return Err(invalid(format!("{other} is neither a name nor a number"))),
            None => return Err(invalid("is required".into())),
        };
        let signal = signal_number(&text)
            .ok_or_else(|| invalid(format!("{text:.40?} is no signal; SIGTERM, term and 15 are")))?;
        Ok(Op::ProcessSignal {
            id,
            signal,
            scope: match self.scope.unwrap_or_default() {
                ScopeRequest::Tree => exec::Scope::Tree,
                ScopeRequest::Leader => exec::Scope::Leader,
            },
        })
    }
}
