//! Limits for processes made over HTTP, which change while the daemon runs.

use crate::error::Error;

/// Limits for processes made over HTTP; every value is above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessConfig {
    /// Processes running at once.
    pub max_concurrent_processes: u64,
    /// Time limit of a run that names none, milliseconds.
    pub default_run_timeout_ms: u64,
    /// Longest time limit a run may name, milliseconds.
    pub max_run_timeout_ms: u64,
    /// Bytes of each output channel that a run answers.
    pub max_output_bytes: u64,
    /// Bytes of log kept per process.
    pub max_log_bytes_per_process: u64,
    /// Bytes of one input request.
    pub max_input_bytes_per_request: u64,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            max_concurrent_processes: 64,
            default_run_timeout_ms: 30_000,
            max_run_timeout_ms: 300_000,
            max_output_bytes: 1_048_576,
            max_log_bytes_per_process: 10_485_760,
            max_input_bytes_per_request: 65_536,
        }
    }
}

/// The values to change in a [`ProcessConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(
    missing_docs,
    reason = "each names the field of ProcessConfig that it changes"
)]
pub struct ProcessConfigPatch {
    pub max_concurrent_processes: Option<u64>,
    pub default_run_timeout_ms: Option<u64>,
    pub max_run_timeout_ms: Option<u64>,
    pub max_output_bytes: Option<u64>,
    pub max_log_bytes_per_process: Option<u64>,
    pub max_input_bytes_per_request: Option<u64>,
}

impl ProcessConfig {
    /// This configuration with the values of `patch`; zero is refused by field, and the default time limit is
    /// lowered to the longest one allowed.
    pub fn patched(self, patch: &ProcessConfigPatch) -> Result<Self, Error> {
        let mut config = self;
        let fields = [
            (
                "maxConcurrentProcesses",
                patch.max_concurrent_processes,
                &mut config.max_concurrent_processes,
            ),
            (
                "defaultRunTimeoutMs",
                patch.default_run_timeout_ms,
                &mut config.default_run_timeout_ms,
            ),
            (
                "maxRunTimeoutMs",
                patch.max_run_timeout_ms,
                &mut config.max_run_timeout_ms,
            ),
            (
                "maxOutputBytes",
                patch.max_output_bytes,
                &mut config.max_output_bytes,
            ),
            (
                "maxLogBytesPerProcess",
                patch.max_log_bytes_per_process,
                &mut config.max_log_bytes_per_process,
            ),
            (
                "maxInputBytesPerRequest",
                patch.max_input_bytes_per_request,
                &mut config.max_input_bytes_per_request,
            ),
        ];
        for (field, value, slot) in fields {
            match value {
                Some(0) => {
                    return Err(Error::Invalid {
                        field,
                        reason: "must be above zero".into(),
                    });
                }
                Some(value) => *slot = value,
                None => {}
            }
        }
        config.default_run_timeout_ms = config.default_run_timeout_ms.min(config.max_run_timeout_ms);
        Ok(config)
    }
}
