//! The messages of the op stream: frames from log records, the exit from an end record, and the state of an op. Pure.

use std::collections::BTreeMap;

use prost::Message as _;

use super::proto::{
    OpChannel, OpData, OpExit, OpFrame, OpLostReason, OpProgress, OpState, OpStatus, op_frame,
};
use super::reply::exit_code;
use super::status::failure_detail;
use crate::exec::EndRecord;
use crate::stream::{Channel, Record, Totals};

/// Bytes that a frame takes besides its payload and the id of its op: tags, lengths and the sequence.
pub const FRAME_OVERHEAD: usize = 4096;

/// A failure of the runner, as its clients know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `OP_OVERFLOW`, `OP_SPOOL_IO`, `OP_PIPE_IO`, or the error code of a refused file without its prefix (`OS`).
    pub code: &'static str,
    /// Figures and names.
    pub detail: BTreeMap<String, String>,
}

impl Failure {
    /// More was retained than may be.
    pub fn overflow(retained: u64) -> Self {
        Self::new("OP_OVERFLOW", "retained_bytes", retained.to_string())
    }

    /// The spool failed.
    pub fn spool(error: String) -> Self {
        Self::new("OP_SPOOL_IO", "io_error", error)
    }

    /// What the op reads from failed.
    pub fn pipe(error: String) -> Self {
        Self::new("OP_PIPE_IO", "io_error", error)
    }

    /// A file could not take the place it was written for: the code and detail of the refusal that a plain write would get.
    pub fn refused(code: &'static str, detail: BTreeMap<String, String>) -> Self {
        Self { code, detail }
    }

    fn new(code: &'static str, key: &str, value: String) -> Self {
        Self {
            code,
            detail: [(key.to_owned(), value)].into(),
        }
    }
}

/// A record as a frame, the same bytes each time.
pub fn frame(op_id: &str, record: Record) -> Vec<u8> {
    let body = match channel(record.channel) {
        None => op_frame::Body::Progress(OpProgress {}),
        Some(channel) => op_frame::Body::Data(OpData {
            channel: channel.into(),
            bytes: record.bytes,
        }),
    };
    encoded(op_id, record.seq, body)
}

/// The exit as a frame.
pub fn exit_frame(op_id: &str, seq: u64, exit: OpExit) -> Vec<u8> {
    encoded(op_id, seq, op_frame::Body::Exit(exit))
}

fn encoded(op_id: &str, seq: u64, body: op_frame::Body) -> Vec<u8> {
    let frame = OpFrame {
        op_id: op_id.to_owned(),
        seq,
        body: Some(body),
    };
    frame.encode_to_vec()
}

/// The channel that carries bytes of this one; progress carries none.
fn channel(channel: Channel) -> Option<OpChannel> {
    match channel {
        Channel::Stdout | Channel::Tty => Some(OpChannel::Stdout),
        Channel::Stderr => Some(OpChannel::Stderr),
        Channel::Content => Some(OpChannel::Content),
        Channel::Progress => None,
    }
}

/// The exit of a command.
pub fn exec_exit(end: &EndRecord, failure: Option<&Failure>) -> OpExit {
    let mut exit = exit_of(&end.output, &[Channel::Stdout, Channel::Stderr], failure);
    exit.exit_code = if failure.is_some() { -1 } else { exit_code(end) };
    exit.timed_out = end.timed_out;
    exit.cancelled = end.cancelled && failure.is_none();
    exit.duration_ms = end.wall.as_millis() as u64;
    exit.failure_detail.extend(failure_detail(end));
    exit
}

/// How the work on a file came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileEnd {
    /// All of it was done, unless there is a failure.
    Whole,
    /// It was cancelled.
    Cancelled,
    /// Its time was over.
    TimedOut,
}

/// The exit of what moves the content of a file.
pub fn content_exit(output: &Totals, end: FileEnd, failure: Option<&Failure>) -> OpExit {
    let whole = end == FileEnd::Whole && failure.is_none();
    OpExit {
        exit_code: if whole { 0 } else { -1 },
        cancelled: end == FileEnd::Cancelled && failure.is_none(),
        timed_out: end == FileEnd::TimedOut && failure.is_none(),
        ..exit_of(output, &[Channel::Content], failure)
    }
}

/// The exit of a command whose time was over before it was asked for.
pub fn stillborn_exit(output: &Totals) -> OpExit {
    OpExit {
        exit_code: -1,
        timed_out: true,
        ..exit_of(output, &[Channel::Stdout, Channel::Stderr], None)
    }
}

/// The exit of an upload that put `digest` of `bytes` bytes in its place.
pub fn upload_exit(digest: &blake3::Hash, bytes: u64) -> OpExit {
    let content = Channel::Content.as_str();
    OpExit {
        digests: [(content.to_owned(), digest.to_hex().to_string())].into(),
        totals: [(content.to_owned(), bytes)].into(),
        ..OpExit::default()
    }
}

fn exit_of(output: &Totals, channels: &[Channel], failure: Option<&Failure>) -> OpExit {
    let name = |channel: &Channel| channel.as_str().to_owned();
    let digest = |channel: &Channel| output[*channel].digest.to_hex().to_string();
    OpExit {
        digests: channels
            .iter()
            .map(|channel| (name(channel), digest(channel)))
            .collect(),
        totals: channels
            .iter()
            .map(|channel| (name(channel), output[*channel].total))
            .collect(),
        failure_code: failure.map_or_else(String::new, |failure| failure.code.to_owned()),
        failure_detail: failure.map_or_else(BTreeMap::new, |failure| failure.detail.clone()),
        ..OpExit::default()
    }
}

/// An op that was cancelled before it was seen.
pub fn tombstoned(op_id: &str) -> OpStatus {
    let exit = OpExit {
        exit_code: -1,
        cancelled: true,
        ..OpExit::default()
    };
    status(op_id, OpState::Complete, 1, Some(exit))
}

/// An op of which nothing is left.
pub fn lost(op_id: &str, reason: OpLostReason) -> OpStatus {
    OpStatus {
        lost_reason: reason.into(),
        ..status(op_id, OpState::Lost, 1, None)
    }
}

/// The state of an op; `next_seq` is one more than the highest frame.
pub fn status(op_id: &str, state: OpState, next_seq: u64, exit: Option<OpExit>) -> OpStatus {
    OpStatus {
        op_id: op_id.to_owned(),
        state: state.into(),
        next_seq,
        exit,
        lost_reason: OpLostReason::Unspecified.into(),
    }
}
