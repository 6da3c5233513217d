//! Everything the daemon can do, once.
//!
//! [`Op`] is the operation, [`Reply`] its answer, [`OPERATIONS`] the table of stable names that every door, the CLI
//! and the documentation share. A door decodes its bytes into an `Op`, calls [`Rooms::perform`], and encodes the
//! `Reply`; it never calls a room.

mod batch;
mod feed;
mod files;
mod journal;
mod launch;
mod logs;
mod once;
mod perform;
mod principal;
mod process_config;
mod processes;
mod remembered;
mod repositories;
mod table;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::capability::Capability;
use crate::exec::{self, Process};
use crate::fs;
use crate::git;
use crate::host;
use crate::ids::ProcessId;
use crate::pty;
use crate::search;
use crate::update;

pub use batch::{Batch, BatchOutcome, BatchRun};
pub use feed::{Event, Feed, Search, Streamed, Watch, Watched};
pub use launch::{Create, Launch, Run};
pub use logs::{
    Following, LeftOut, LogForm, LogLimits, LogPage, LogReader, LogStream, LogText, Logs, LogsReply,
};
pub use once::{Ledger, LedgerConfig, Outcome, Product};
pub use perform::{Call, Parts, Rooms};
pub use principal::{Door, Principal, Scope};
pub use process_config::{ProcessConfig, ProcessConfigPatch};
pub use table::{OPERATIONS, Operation, operation};
pub use uploads::{UploadPiece, UploadTaken};

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
    /// Run several commands.
    ProcessBatch(Batch),
    /// Start a process that is asked for by its id.
    ProcessCreate(Box<Create>),
    /// Every process that is known.
    ProcessList {
        /// Of this owner only.
        owner: Option<exec::Owner>,
    },
    /// One process.
    ProcessGet {
        /// Its id.
        id: ProcessId,
    },
    /// Wait for the end of a process.
    ProcessWait {
        /// Its id.
        id: ProcessId,
        /// Longest wait; `None` waits for ever.
        limit: Option<Duration>,
    },
    /// Write to the standard input or terminal of a process.
    ProcessInput {
        /// Its id.
        id: ProcessId,
        /// What to write.
        bytes: Bytes,
        /// Who writes, where the terminal's writer lock may be held; empty is nobody in particular.
        holder: String,
    },
    /// End the standard input of a process.
    ProcessCloseStdin {
        /// Its id.
        id: ProcessId,
    },
    /// Send a signal.
    ProcessSignal {
        /// Whose id.
        id: ProcessId,
        /// The signal's number.
        signal: i32,
        /// Whom it is for.
        scope: exec::Scope,
    },
    /// Ask a whole tree to end.
    ProcessStop {
        /// The id of its process.
        id: ProcessId,
        /// Longest wait for the end.
        wait: Duration,
        /// What is alive then is killed; `None` leaves it alive.
        kill_after: Option<Duration>,
    },
    /// Kill a whole tree.
    ProcessKill {
        /// The id of its process.
        id: ProcessId,
        /// Longest wait for the end.
        wait: Duration,
    },
    /// Change the size of a terminal.
    ProcessResize {
        /// The id of its process.
        id: ProcessId,
        /// Columns and rows.
        size: exec::Size,
    },
    /// What a terminal shows.
    ProcessSnapshot {
        /// The id of its process.
        id: ProcessId,
        /// What is wanted besides the text.
        request: pty::SnapshotRequest,
    },
    /// Forget a process that has ended.
    ProcessDelete {
        /// Its id.
        id: ProcessId,
    },
    /// Read what a process wrote.
    ProcessLogs(Box<Logs>),
    /// Read the limits for processes made over HTTP.
    ProcessConfigGet,
    /// Change some of them.
    ProcessConfigSet(ProcessConfigPatch),
    /// Open a file for reading.
    FsRead(fs::Read),
    /// Write a file.
    FsWrite(fs::Write),
    /// Change a file.
    FsEdit(fs::Edit),
    /// Take one piece of a file that comes in pieces.
    FsUpload(Box<UploadPiece>),
    /// Give up a file that comes in pieces.
    FsUploadAbort {
        /// The upload, as its sender calls it.
        id: String,
    },
    /// List a directory.
    FsList(fs::List),
    /// Make a directory.
    FsMkdir(fs::Mkdir),
    /// Move or rename.
    FsMove(fs::Move),
    /// Copy an entry with everything in it.
    FsCopy(fs::Move),
    /// Look at one entry.
    FsStat {
        /// The entry, as the caller gave it.
        path: std::path::PathBuf,
    },
    /// The digest of what a file holds.
    FsDigest {
        /// The file, as the caller gave it.
        path: std::path::PathBuf,
    },
    /// Change permission bits or owners.
    FsChmod(fs::Chmod),
    /// Make a symbolic link.
    FsSymlink {
        /// The link, as the caller gave it.
        path: std::path::PathBuf,
        /// What it points at, which is not looked at.
        target: std::path::PathBuf,
    },
    /// Read extended attributes.
    FsXattrs {
        /// The entry, as the caller gave it.
        path: std::path::PathBuf,
    },
    /// Set or remove an extended attribute.
    FsXattrSet(fs::SetAttribute),
    /// Remove an entry.
    FsRemove(fs::Remove),
    /// Unpack an archive.
    FsUnpack(fs::Unpack),
    /// Pack a tree as an archive.
    FsPack(fs::Pack),
    /// Search below a directory.
    FsSearch(Box<Search>),
    /// Wait for changes in a tree.
    FsWatch {
        /// What is watched.
        watch: Box<Watch>,
        /// Longest wait.
        wait: Duration,
    },
    /// Ask about a repository.
    GitAsk {
        /// The repository or anything in it, as the caller gave it.
        path: std::path::PathBuf,
        /// What is asked.
        query: git::Query,
    },
    /// Change a repository.
    GitAct {
        /// The repository or anything in it, as the caller gave it.
        path: std::path::PathBuf,
        /// How.
        action: Box<git::Action>,
    },
    /// Move objects between repositories.
    GitTransfer {
        /// The repository or anything in it, as the caller gave it; of a clone, where it is to be.
        path: std::path::PathBuf,
        /// Which, and from where.
        transfer: Box<git::Transfer>,
    },
    /// The cached sample of the machine.
    HostMetrics,
    /// What works here now.
    HostCapabilities,
    /// How far an update of the daemon is.
    UpdateStatus,
    /// Look for a newer release.
    UpdateCheck(update::Apply),
    /// Begin an update.
    UpdateApply(update::Apply),
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
    Ran(Arc<exec::Finished>),
    /// To [`Op::ProcessBatch`], in the order of its commands.
    Batch(Vec<BatchOutcome>),
    /// To the operations on one process.
    Process(Arc<Process>),
    /// To [`Op::ProcessList`], oldest first.
    Processes(Vec<Arc<Process>>),
    /// To [`Op::ProcessInput`]: bytes written.
    Input(u64),
    /// To [`Op::ProcessResize`].
    Resized(exec::Size),
    /// To [`Op::ProcessSnapshot`].
    Shown(Box<pty::Shown>),
    /// To the operations that signal.
    Signalled {
        /// As it is now.
        process: Arc<Process>,
        /// Whom the signal reached.
        signalled: exec::Signalled,
    },
    /// To [`Op::ProcessLogs`].
    Logs(LogsReply),
    /// To both process config operations.
    ProcessConfig(ProcessConfig),
    /// To [`Op::FsRead`]: an open file, to be read by the door at its own pace.
    File(fs::OpenFile),
    /// To [`Op::FsWrite`].
    Written(fs::Written),
    /// To [`Op::FsEdit`].
    Edited(fs::Edited),
    /// To [`Op::FsUpload`].
    UploadTaken(UploadTaken),
    /// To operations that answer nothing but that they were done.
    Done,
    /// To [`Op::FsList`].
    Listing(fs::Listing),
    /// To [`Op::FsMkdir`], [`Op::FsRemove`] and others that make or change one entry: its absolute path.
    Path(std::path::PathBuf),
    /// To [`Op::FsMove`] and [`Op::FsCopy`].
    Moved(fs::Moved),
    /// To [`Op::FsStat`]; `None` when it does not exist.
    Stat(Option<fs::Entry>),
    /// To [`Op::FsDigest`].
    Digest(blake3::Hash),
    /// To [`Op::FsChmod`].
    Changed(fs::Changed),
    /// To [`Op::FsXattrs`].
    Attributes(Vec<fs::Attribute>),
    /// To [`Op::FsUnpack`].
    Unpacked(fs::Unpacked),
    /// To [`Op::FsPack`]: an archive on its way, to be read by the door at its own pace.
    Packed(fs::Packed),
    /// To [`Op::FsSearch`].
    Searched(search::Answer),
    /// To [`Op::FsWatch`].
    Watched(Watched),
    /// To [`Op::GitAsk`].
    GitAnswer(git::Answer),
    /// To [`Op::GitAct`] and [`Op::GitTransfer`].
    GitDid(git::Did),
    /// To [`Op::HostMetrics`].
    Metrics(Arc<host::Sample>),
    /// To [`Op::HostCapabilities`].
    Capabilities(Vec<Capability>),
    /// To [`Op::UpdateStatus`].
    UpdateStatus(update::Status),
    /// To [`Op::UpdateCheck`].
    UpdateAvailable(update::Available),
    /// To [`Op::UpdateApply`].
    UpdateBegun(update::Applied),
}
