//! Everything the daemon can do, once.
//!
//! [`Op`] is the operation, [`Reply`] its answer, [`OPERATIONS`] the table of stable names that every door, the CLI
//! and the documentation share. A door decodes its bytes into an `Op`, calls [`Rooms::perform`], and encodes the
//! `Reply`; it never calls a room.

mod journal;
mod once;
mod perform;
mod principal;
mod table;

use crate::capability::Capability;
use crate::exec;
use crate::fs;
use crate::host;

pub use once::{Ledger, LedgerConfig, Outcome};
pub use perform::{Call, Parts, Rooms};
pub use principal::{Door, Principal, Scope};
pub use table::{OPERATIONS, Operation, operation};

/// One unary operation with its arguments.
#[derive(Debug)]
pub enum Op {
    /// Answer at once; the nonce comes back.
    Ping {
        /// Any number.
        nonce: u64,
    },
    /// Run a command to its end.
    ProcessRun(Box<Run>),
    /// Read the limits for processes made over HTTP.
    ProcessConfigGet,
    /// Change some of them.
    ProcessConfigSet(ProcessConfigPatch),
    /// Open a file for reading.
    FsRead(fs::Read),
    /// Write a file.
    FsWrite(fs::Write),
    /// List a directory.
    FsList(fs::List),
    /// Make a directory.
    FsMkdir(fs::Mkdir),
    /// Move or rename.
    FsMove(fs::Move),
    /// Look at one entry.
    FsStat {
        /// The entry, as the caller gave it.
        path: std::path::PathBuf,
    },
    /// Remove an entry.
    FsRemove(fs::Remove),
    /// Unpack an archive.
    FsUnpack(fs::Unpack),
    /// The cached sample of the machine.
    HostMetrics,
    /// What works here now.
    HostCapabilities,
}

/// The answer of an [`Op`], in the order of its variants.
#[derive(Debug)]
pub enum Reply {
    /// To [`Op::Ping`].
    Pong {
        /// The nonce of the request.
        nonce: u64,
        /// Milliseconds since the daemon started, monotonic.
        uptime_ms: u64,
    },
    /// To [`Op::ProcessRun`]; shared because the ledger keeps it for repeats.
    Ran(std::sync::Arc<exec::Finished>),
    /// To both process config operations.
    ProcessConfig(ProcessConfig),
    /// To [`Op::FsRead`]: an open file, to be read by the door at its own pace.
    File(fs::OpenFile),
    /// To [`Op::FsWrite`].
    Written(fs::Written),
    /// To [`Op::FsList`].
    Listing(fs::Listing),
    /// To [`Op::FsMkdir`] and [`Op::FsRemove`]: the absolute path.
    Path(std::path::PathBuf),
    /// To [`Op::FsMove`].
    Moved(fs::Moved),
    /// To [`Op::FsStat`]; `None` when it does not exist.
    Stat(Option<fs::Entry>),
    /// To [`Op::FsUnpack`].
    Unpacked(fs::Unpacked),
    /// To [`Op::HostMetrics`].
    Metrics(std::sync::Arc<host::Sample>),
    /// To [`Op::HostCapabilities`].
    Capabilities(Vec<Capability>),
}

/// Run a command to its end, as a caller asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What to run.
    pub command: exec::Command,
    /// Working directory as the caller gave it; empty is the workspace root.
    pub cwd: std::path::PathBuf,
    /// The environment.
    pub environment: exec::Environment,
    /// Standard input.
    pub stdin: bytes::Bytes,
    /// Wall time limit; `None` is none.
    pub timeout: Option<std::time::Duration>,
    /// What is kept of each output channel.
    pub keep: exec::Keep,
}

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
