//! Why and how a process ended: the fields that a run, a process and the end of a stream share.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::exec::{EndRecord, Exit, Hit, Mechanism, Oom, signal_name};

/// Why a process ended.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProcessEnd)]
pub struct End {
    /// The signal that ended it: `SIGKILL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Its number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal_number: Option<i32>,
    /// Whether a core was dumped.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub core_dumped: bool,
    /// The last signal that the daemon sent to it: a death by another one came from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_signal: Option<String>,
    /// The limit that ended it: `memory`, `pids`, `wall` or `output`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<&'static str>,
    /// What enforced its limits: `cgroup_v2`, `cgroup_v1` or `watchdog`, else `daemon` (it counts the output) or `rlimit`;
    /// left out when it had none but that of time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_mechanism: Option<&'static str>,
    /// What a stop of its tree can promise: `cgroup` when nobody can have escaped, else `best_effort`.
    pub tree: &'static str,
    /// Whether a cancel or the daemon's stop ended it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cancelled: bool,
    /// `true` when the kernel killed it for want of memory, `false` when not, `"unknown"` without a cgroup of its own.
    #[schema(value_type = Value)]
    pub oom: Value,
    /// Peak resident set of the leader, bytes; left out when it was no larger than that of the daemon, which hides it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
    /// CPU time in user and kernel mode, milliseconds.
    pub cpu_ms: u64,
    /// Processes that still hold an output pipe; they were left alive.
    pub lingering: Vec<u32>,
}

impl From<&EndRecord> for End {
    fn from(end: &EndRecord) -> Self {
        let (signal_number, core_dumped) = match end.exit {
            Exit::Code(_) => (None, false),
            Exit::Signal { number, core_dumped } => (Some(number), core_dumped),
        };
        Self {
            signal: signal_number.map(signal_name),
            signal_number,
            core_dumped,
            sent_signal: end.sent_signal.map(signal_name),
            limit: end.limit.map(Hit::as_str),
            limit_mechanism: end.mechanism.map(Mechanism::as_str),
            tree: end.tree.as_str(),
            cancelled: end.cancelled,
            oom: match end.oom {
                Oom::Yes => Value::Bool(true),
                Oom::No => Value::Bool(false),
                Oom::Unknown => Value::from("unknown"),
            },
            peak_rss_bytes: end.peak_rss,
            cpu_ms: milliseconds(end.user_cpu + end.system_cpu),
            lingering: end.lingering.clone(),
        }
    }
}

/// What the leader returned; none after a signal or a time limit.
pub fn exit_code(end: &EndRecord) -> Option<i32> {
    match end.exit {
        Exit::Code(code) if !end.timed_out => Some(code),
        Exit::Code(_) | Exit::Signal { .. } => None,
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
pub(super) fn is_zero(value: &u64) -> bool {
    *value == 0
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
