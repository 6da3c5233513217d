//! The limits for processes made over HTTP.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ops::{ProcessConfig, ProcessConfigPatch};

/// Limits for processes made over HTTP; every value is above zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProcessConfig)]
pub struct Config {
    /// Processes running at once; the one over it is refused with 409.
    #[schema(minimum = 1)]
    pub max_concurrent_processes: u64,
    /// Time limit of a run that names none, milliseconds.
    #[schema(minimum = 1)]
    pub default_run_timeout_ms: u64,
    /// Longest time limit, milliseconds; a longer one is lowered to it.
    #[schema(minimum = 1)]
    pub max_run_timeout_ms: u64,
    /// Bytes of each output channel that a run answers at most.
    #[schema(minimum = 1)]
    pub max_output_bytes: u64,
    /// Bytes of log kept per process.
    #[schema(minimum = 1)]
    pub max_log_bytes_per_process: u64,
    /// Bytes of one input request.
    #[schema(minimum = 1)]
    pub max_input_bytes_per_request: u64,
}

/// The limits to change; those left out stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = ProcessConfigPatch)]
#[expect(missing_docs, reason = "each names the field of Config that it changes")]
pub struct ConfigPatch {
    #[schema(minimum = 1)]
    pub max_concurrent_processes: Option<u64>,
    #[schema(minimum = 1)]
    pub default_run_timeout_ms: Option<u64>,
    #[schema(minimum = 1)]
    pub max_run_timeout_ms: Option<u64>,
    #[schema(minimum = 1)]
    pub max_output_bytes: Option<u64>,
    #[schema(minimum = 1)]
    pub max_log_bytes_per_process: Option<u64>,
    #[schema(minimum = 1)]
    pub max_input_bytes_per_request: Option<u64>,
}

impl From<ProcessConfig> for Config {
    fn from(config: ProcessConfig) -> Self {
        Self {
            max_concurrent_processes: config.max_concurrent_processes,
            default_run_timeout_ms: config.default_run_timeout_ms,
            max_run_timeout_ms: config.max_run_timeout_ms,
            max_output_bytes: config.max_output_bytes,
            max_log_bytes_per_process: config.max_log_bytes_per_process,
            max_input_bytes_per_request: config.max_input_bytes_per_request,
        }
    }
}

impl From<ConfigPatch> for ProcessConfigPatch {
    fn from(patch: ConfigPatch) -> Self {
        Self {
            max_concurrent_processes: patch.max_concurrent_processes,
            default_run_timeout_ms: patch.default_run_timeout_ms,
            max_run_timeout_ms: patch.max_run_timeout_ms,
            max_output_bytes: patch.max_output_bytes,
            max_log_bytes_per_process: patch.max_log_bytes_per_process,
            max_input_bytes_per_request: patch.max_input_bytes_per_request,
        }
    }
}
