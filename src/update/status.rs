//! What is asked of an update, and what is known of one: plain values.

use std::sync::Arc;

use super::trial::Completed;
use crate::error::Error;

/// What is asked for. What is left out is as configured.
#[derive(Debug, Clone, Default)]
pub struct Apply {
    /// What whoever asks calls it; it comes back with everything that is said of it.
    pub operation_id: String,
    /// This version and no other.
    pub version: Option<String>,
    /// Of this channel.
    pub channel: Option<String>,
    /// From there.
    pub base_url: Option<String>,
    /// Only when this version runs.
    pub expected_version: Option<String>,
    /// Only when this executable runs, lower-case hex.
    pub expected_sha256: Option<String>,
    /// Who asks, for a staged rollout.
    pub agent_id: Option<String>,
    /// Before its turn in a staged rollout, and without waiting until nothing runs.
    pub force: bool,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It will be done.
    Accepted,
    /// The release is being fetched.
    Downloading,
    /// It is being checked and tried.
    Verifying,
    /// Nothing is to be running when it is put in place.
    WaitingForIdle,
    /// It is being put in place.
    Applying,
    /// It is started.
    Restarting,
    /// There is nothing to do: no newer release, or not this machine's turn.
    UpToDate,
    /// It was not done; nothing has changed.
    Failed,
}

impl Stage {
    /// The name that crosses the doors.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Downloading => "downloading",
            Self::Verifying => "verifying",
            Self::WaitingForIdle => "waiting_for_idle",
            Self::Applying => "applying",
            Self::Restarting => "restarting",
            Self::UpToDate => "up_to_date",
            Self::Failed => "failed",
        }
    }

    pub(super) fn is_over(self) -> bool {
        matches!(self, Self::UpToDate | Self::Failed)
    }
}

/// What is known of updates.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The one that is under way, or the last one of this daemon.
    pub progress: Option<Progress>,
    /// The update that led to this executable.
    pub completed: Option<Completed>,
    /// The last one that did not come up and was taken back.
    pub rolled_back: Option<Completed>,
}

/// How far one update is.
#[derive(Debug, Clone)]
pub struct Progress {
    /// What whoever asked calls it.
    pub operation_id: String,
    /// How far it is.
    pub stage: Stage,
    /// The version, once it is known.
    pub version: String,
    /// The digest of its executable, once it is known.
    pub sha256: String,
    /// Why it failed.
    pub error: Option<Arc<Error>>,
}

/// What an update is begun from.
#[derive(Debug, Clone)]
pub struct Applied {
    /// What whoever asks calls it.
    pub operation_id: String,
    /// The version that runs.
    pub current_version: &'static str,
    /// The digest of its executable, lower-case hex.
    pub current_sha256: String,
    /// The version that is to run, where one was named.
    pub version: String,
}

/// What there is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Available {
    /// The version that runs.
    pub current: &'static str,
    /// The version of the channel.
    pub newest: String,
    /// Whether it would be taken now.
    pub is_due: bool,
}

/// How an update came out that did not fail.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is nothing newer that is for us.
    UpToDate(String),
    /// It is in place.
    Replaced(Completed),
}
