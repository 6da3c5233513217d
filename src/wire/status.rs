//! What became of a command, as the control wire tells it: `OpStatus` with its `OpExit`.

use std::collections::BTreeMap;

use super::proto::{OpExit, OpLostReason, OpState, OpStatus};
use super::reply::exit_code;
use crate::exec::{EndRecord, Exit, Finished, Oom, signal_name};
use crate::ops::{Outcome, Product};
use crate::stream::Channel;

/// The status of the command whose request id was `op_id`.
pub fn op_status(op_id: String, outcome: &Outcome) -> OpStatus {
    let (state, exit, lost_reason) = match outcome {
        Outcome::Running => (OpState::Running, None, OpLostReason::Unspecified),
        Outcome::Done(Product::Ran(finished)) => (
            OpState::Complete,
            Some(op_exit(finished)),
            OpLostReason::Unspecified,
        ),
        // A streamed one is known to whoever streams it, as long as it is known at all.
        Outcome::Evicted | Outcome::Done(Product::Made(_)) => (OpState::Lost, None, OpLostReason::Evicted),
        Outcome::Lost | Outcome::Unknown => (OpState::Lost, None, OpLostReason::AgentRestarted),
    };
    let next_seq = match outcome {
        Outcome::Done(Product::Ran(finished)) => finished.end.seq + 1,
        _ => 1,
    };
    OpStatus {
        op_id,
        state: state.into(),
        next_seq,
        exit,
        lost_reason: lost_reason.into(),
    }
}

fn op_exit(finished: &Finished) -> OpExit {
    let end = &finished.end;
    let channels = [Channel::Stdout, Channel::Stderr].map(|channel| (channel.as_str(), &end.output[channel]));
    OpExit {
        exit_code: exit_code(end),
        timed_out: end.timed_out,
        cancelled: end.cancelled,
        duration_ms: end.wall.as_millis() as u64,
        digests: channels
            .map(|(name, channel)| (name.to_owned(), channel.digest.to_hex().to_string()))
            .into(),
        totals: channels
            .map(|(name, channel)| (name.to_owned(), channel.total))
            .into(),
        // Any other value is a failure of the runner to its clients.
        failure_code: String::new(),
        failure_detail: failure_detail(end),
    }
}

/// The signal that ended the leader, where one did.
fn failure_detail(end: &EndRecord) -> BTreeMap<String, String> {
    let Exit::Signal { number, .. } = end.exit else {
        return BTreeMap::new();
    };
    let oom = match end.oom {
        Oom::Yes => "true",
        Oom::No => "false",
        Oom::Unknown => "unknown",
    };
    [
        ("signal", number.to_string()),
        ("signal_name", signal_name(number)),
        ("oom", oom.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
