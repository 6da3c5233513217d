//! What became of a command, as the control wire tells it: `OpStatus` with its `OpExit`.

use std::collections::BTreeMap;

use super::opstream::exec_exit;
use super::proto::{OpLostReason, OpState, OpStatus};
use crate::exec::{EndRecord, Exit, Oom, signal_name};
use crate::ops::{Outcome, Product};

/// The status of the command whose request id was `op_id`.
pub fn op_status(op_id: String, outcome: &Outcome) -> OpStatus {
    let (state, exit, lost_reason) = match outcome {
        Outcome::Running => (OpState::Running, None, OpLostReason::Unspecified),
        Outcome::Done(Product::Ran(finished)) => (
            OpState::Complete,
            Some(exec_exit(&finished.end, None)),
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

/// The signal that ended the leader, where one did.
pub(super) fn failure_detail(end: &EndRecord) -> BTreeMap<String, String> {
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
