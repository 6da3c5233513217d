//! The table of operations: one stable name each, the scope it needs and what it answers when repeated.
//!
//! Extension names on the wire, `boxd call op NAME`, capability rows and (later) MCP tools are these names.

use super::{Op, Scope};

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// The stable name, `room.verb`.
    pub name: &'static str,
    /// What a principal must hold.
    pub scope: Scope,
    /// Whether it changes nothing.
    pub read_only: bool,
    /// Whether a request id makes it exactly-once.
    pub once: bool,
    /// One sentence for people and models.
    pub summary: &'static str,
}

const fn row(
    name: &'static str,
    scope: Scope,
    read_only: bool,
    once: bool,
    summary: &'static str,
) -> Operation {
    Operation {
        name,
        scope,
        read_only,
        once,
        summary,
    }
}

/// Every operation, in the order of [`Op`].
pub const OPERATIONS: &[Operation] = &[
    row(
        "ping",
        Scope::Read,
        true,
        false,
        "Answer at once with the nonce of the request.",
    ),
    row(
        "process.run",
        Scope::Full,
        false,
        true,
        "Run a command to its end and answer its output.",
    ),
    row(
        "process.batch",
        Scope::Full,
        false,
        false,
        "Run several commands, some at a time.",
    ),
    row(
        "process.create",
        Scope::Full,
        false,
        true,
        "Start a process that is asked for by its id.",
    ),
    row(
        "process.list",
        Scope::Read,
        true,
        false,
        "List the processes that are known.",
    ),
    row("process.get", Scope::Read, true, false, "Look at one process."),
    row(
        "process.wait",
        Scope::Read,
        true,
        false,
        "Wait for the end of a process.",
    ),
    row(
        "process.input",
        Scope::Full,
        false,
        false,
        "Write to the standard input or terminal of a process.",
    ),
    row(
        "process.stdin.close",
        Scope::Full,
        false,
        false,
        "End the standard input of a process.",
    ),
    row(
        "process.signal",
        Scope::Full,
        false,
        false,
        "Send a signal to a process or its whole tree.",
    ),
    row(
        "process.stop",
        Scope::Full,
        false,
        false,
        "Ask a process and its whole tree to end.",
    ),
    row(
        "process.kill",
        Scope::Full,
        false,
        false,
        "Kill a process and its whole tree.",
    ),
    row(
        "process.resize",
        Scope::Full,
        false,
        false,
        "Change the size of a process's terminal.",
    ),
    row(
        "process.snapshot",
        Scope::Read,
        true,
        false,
        "Look at what a process's terminal shows.",
    ),
    row(
        "process.delete",
        Scope::Full,
        false,
        false,
        "Forget a process that has ended.",
    ),
    row(
        "process.logs",
        Scope::Read,
        true,
        false,
        "Read what a process wrote: records, or chosen lines.",
    ),
    row(
        "process.config.get",
        Scope::Read,
        true,
        false,
        "Read the limits for processes made over HTTP.",
    ),
    row(
        "process.config.set",
        Scope::Full,
        false,
        false,
        "Change limits for processes made over HTTP.",
    ),
    row(
        "fs.read",
        Scope::Read,
        true,
        false,
        "Read a file or a range of it.",
    ),
    row(
        "fs.write",
        Scope::Workspace,
        false,
        false,
        "Write a file, whole or not at all.",
    ),
    row(
        "fs.edit",
        Scope::Workspace,
        false,
        false,
        "Change a file: an exact replacement, lines put in, or a unified diff.",
    ),
    row(
        "fs.upload",
        Scope::Workspace,
        false,
        false,
        "Take one piece of a file that comes in pieces.",
    ),
    row(
        "fs.upload.abort",
        Scope::Workspace,
        false,
        false,
        "Give up a file that comes in pieces.",
    ),
    row("fs.list", Scope::Read, true, false, "List a directory."),
    row("fs.mkdir", Scope::Workspace, false, false, "Make a directory."),
    row(
        "fs.move",
        Scope::Workspace,
        false,
        false,
        "Move or rename a file or directory.",
    ),
    row(
        "fs.copy",
        Scope::Workspace,
        false,
        false,
        "Copy a file or directory with everything in it.",
    ),
    row(
        "fs.stat",
        Scope::Read,
        true,
        false,
        "Look at one file-system entry.",
    ),
    row(
        "fs.digest",
        Scope::Read,
        true,
        false,
        "The BLAKE3 digest of what a file holds.",
    ),
    row(
        "fs.chmod",
        Scope::Workspace,
        false,
        false,
        "Change permission bits or owners, of one entry or a tree.",
    ),
    row(
        "fs.symlink",
        Scope::Workspace,
        false,
        false,
        "Make a symbolic link.",
    ),
    row(
        "fs.xattrs",
        Scope::Read,
        true,
        false,
        "Read the extended attributes of an entry.",
    ),
    row(
        "fs.xattr.set",
        Scope::Workspace,
        false,
        false,
        "Set or remove an extended attribute.",
    ),
    row(
        "fs.remove",
        Scope::Workspace,
        false,
        false,
        "Remove a file, link or directory.",
    ),
    row(
        "fs.unpack",
        Scope::Workspace,
        false,
        false,
        "Unpack a tar or tar.gz archive below a directory.",
    ),
    row(
        "fs.pack",
        Scope::Read,
        true,
        false,
        "Pack a directory as a tar or tar.gz archive.",
    ),
    row(
        "fs.search",
        Scope::Read,
        true,
        false,
        "Search what files hold, or what they are called.",
    ),
    row(
        "fs.watch",
        Scope::Read,
        true,
        false,
        "Wait for changes below a directory.",
    ),
    row(
        "host.metrics",
        Scope::Read,
        true,
        false,
        "CPU, memory, disk, load and GPUs of the machine.",
    ),
    row(
        "host.capabilities",
        Scope::Read,
        true,
        false,
        "What works on this machine now, and why not.",
    ),
    row(
        "update.status",
        Scope::Read,
        true,
        false,
        "How far an update of the daemon is, and which one led to it.",
    ),
    row(
        "update.check",
        Scope::Full,
        true,
        false,
        "Look whether there is a newer release of the daemon.",
    ),
    row(
        "update.apply",
        Scope::Full,
        false,
        false,
        "Update the daemon to a signed release and restart it.",
    ),
];

/// The row of a stable name.
pub fn operation(name: &str) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|row| row.name == name)
}

impl Op {
    /// The stable name of this operation.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ping { .. } => "ping",
            Self::ProcessRun(_) => "process.run",
            Self::ProcessBatch(_) => "process.batch",
            Self::ProcessCreate(_) => "process.create",
            Self::ProcessList { .. } => "process.list",
            Self::ProcessGet { .. } => "process.get",
            Self::ProcessWait { .. } => "process.wait",
            Self::ProcessInput { .. } => "process.input",
            Self::ProcessCloseStdin { .. } => "process.stdin.close",
            Self::ProcessSignal { .. } => "process.signal",
            Self::ProcessStop { .. } => "process.stop",
            Self::ProcessKill { .. } => "process.kill",
            Self::ProcessResize { .. } => "process.resize",
            Self::ProcessSnapshot { .. } => "process.snapshot",
            Self::ProcessDelete { .. } => "process.delete",
            Self::ProcessLogs(_) => "process.logs",
            Self::ProcessConfigGet => "process.config.get",
            Self::ProcessConfigSet(_) => "process.config.set",
            Self::FsRead(_) => "fs.read",
            Self::FsWrite(_) => "fs.write",
            Self::FsEdit(_) => "fs.edit",
            Self::FsUpload(_) => "fs.upload",
            Self::FsUploadAbort { .. } => "fs.upload.abort",
            Self::FsList(_) => "fs.list",
            Self::FsMkdir(_) => "fs.mkdir",
            Self::FsMove(_) => "fs.move",
            Self::FsCopy(_) => "fs.copy",
            Self::FsStat { .. } => "fs.stat",
            Self::FsDigest { .. } => "fs.digest",
            Self::FsChmod(_) => "fs.chmod",
            Self::FsSymlink { .. } => "fs.symlink",
            Self::FsXattrs { .. } => "fs.xattrs",
            Self::FsXattrSet(_) => "fs.xattr.set",
            Self::FsRemove(_) => "fs.remove",
            Self::FsUnpack(_) => "fs.unpack",
            Self::FsPack(_) => "fs.pack",
            Self::FsSearch(_) => "fs.search",
            Self::FsWatch { .. } => "fs.watch",
            Self::HostMetrics => "host.metrics",
            Self::HostCapabilities => "host.capabilities",
            Self::UpdateStatus => "update.status",
            Self::UpdateCheck(_) => "update.check",
            Self::UpdateApply(_) => "update.apply",
        }
    }
}
