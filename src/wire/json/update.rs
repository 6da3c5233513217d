//! Updates of the daemon itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::update;

/// Arguments of `update.check` and `update.apply`. What is left out is as configured.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
#[schema(as = UpdateRequest)]
pub struct UpdateRequest {
    /// Comes back with everything that is said of this update; one is made up where none is given.
    pub operation_id: Option<String>,
    /// This version and no other.
    pub version: Option<String>,
    /// Of this channel: `stable`.
    pub channel: Option<String>,
    /// From there: an absolute directory or an `https://` URL.
    pub base_url: Option<String>,
    /// Only when this version runs.
    pub expected_version: Option<String>,
    /// Only when the executable that runs has this SHA-256, lower-case hex.
    pub expected_sha256: Option<String>,
    /// Before this machine's turn in a staged rollout, and without waiting until no process runs: they are stopped.
    pub force: bool,
}

impl From<UpdateRequest> for update::Apply {
    fn from(request: UpdateRequest) -> Self {
        Self {
            operation_id: request
                .operation_id
                .filter(|id| !id.is_empty())
                .unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
            version: request.version,
            channel: request.channel,
            base_url: request.base_url,
            expected_version: request.expected_version,
            expected_sha256: request.expected_sha256,
            agent_id: None,
            force: request.force,
        }
    }
}

/// What there is to be had.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateAvailable {
    /// The version that runs.
    pub current: &'static str,
    /// The version of the channel.
    pub newest: String,
    /// Whether it would be taken now: it is newer, and this machine's turn.
    pub due: bool,
}

impl From<&update::Available> for UpdateAvailable {
    fn from(available: &update::Available) -> Self {
        Self {
            current: available.current,
            newest: available.newest.clone(),
            due: available.is_due,
        }
    }
}

/// An update was begun; what comes of it is told by `update.status`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateBegun {
    /// Its id.
    pub operation_id: String,
    /// The version that runs.
    pub current_version: &'static str,
    /// The SHA-256 of its executable.
    pub current_sha256: String,
}

impl From<&update::Applied> for UpdateBegun {
    fn from(applied: &update::Applied) -> Self {
        Self {
            operation_id: applied.operation_id.clone(),
            current_version: applied.current_version,
            current_sha256: applied.current_sha256.clone(),
        }
    }
}

/// An update that was put in place.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstalledUpdate {
    /// What whoever asked for it called it.
    pub operation_id: String,
    /// Its version.
    pub version: String,
    /// The SHA-256 of its executable.
    pub sha256: String,
}

impl From<&update::Completed> for InstalledUpdate {
    fn from(update: &update::Completed) -> Self {
        Self {
            operation_id: update.operation_id.clone(),
            version: update.version.clone(),
            sha256: update.sha256.clone(),
        }
    }
}

/// How far an update is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateProgress {
    /// Its id.
    pub operation_id: String,
    /// `accepted`, `downloading`, `verifying`, `waiting_for_idle`, `applying`, `restarting`, `up_to_date` or `failed`.
    pub stage: &'static str,
    /// The version, once it is known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The SHA-256 of its executable, once it is known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    /// Why it failed: the stable code of the error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What is known of updates.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStatus {
    /// The version that runs.
    pub current: &'static str,
    /// The one that is under way, or the last one of this daemon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<UpdateProgress>,
    /// The update that led to this executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<InstalledUpdate>,
    /// The last one that did not come up and was taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<InstalledUpdate>,
}

impl From<&update::Status> for UpdateStatus {
    fn from(status: &update::Status) -> Self {
        Self {
            current: env!("CARGO_PKG_VERSION"),
            progress: status.progress.as_ref().map(|progress| UpdateProgress {
                operation_id: progress.operation_id.clone(),
                stage: progress.stage.as_str(),
                version: progress.version.clone(),
                sha256: progress.sha256.clone(),
                code: progress.error.as_ref().map(|error| error.code().as_str()),
                error: progress.error.as_ref().map(ToString::to_string),
            }),
            completed: status.completed.as_ref().map(InstalledUpdate::from),
            rolled_back: status.rolled_back.as_ref().map(InstalledUpdate::from),
        }
    }
}
