//! What can be asked of the files room and what it answers: plain data.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::Stream;

use super::config::Durability;
use crate::error::Error;

/// A body of bytes that may be larger than memory.
pub enum Body {
    /// All of it, already here.
    Bytes(Bytes),
    /// Chunks as the peer sends them; an error ends the write and leaves the old content in place.
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>),
}

impl std::fmt::Debug for Body {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(formatter, "Body::Bytes({} bytes)", bytes.len()),
            Self::Stream(_) => formatter.write_str("Body::Stream"),
        }
    }
}

/// How far the paths of a request may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The whole machine, as the operating system allows it.
    Machine,
    /// Beneath the workspace root; anything else is [`Error::Denied`] with `EACCES`, naming the rule.
    Confined,
    /// Beneath the workspace root, because the owner did not consent to more; anything else is
    /// [`Error::ConsentRequired`].
    Unconsented,
}

/// Whether a regular file that no rename can replace (hard links, bind mounts, a directory that is read-only or
/// sticky, an owner that cannot be kept) may be overwritten in place, where a crash can leave it half written.
///
/// It says nothing about appending and about devices and fifos: those are written in place by their nature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InPlace {
    /// Only when [`super::Config::in_place`] says so; else [`Error::Conflict`] with the reason.
    #[default]
    IfConfigured,
    /// Yes, and the answer says so in [`Written::atomic`].
    Allow,
}

/// Write a file, whole or not at all.
#[derive(Debug)]
pub struct Write {
    /// The file, as the caller gave it.
    pub path: PathBuf,
    /// Make missing parent directories.
    pub create_parents: bool,
    /// Append instead of replacing (then not atomic: see [`Written::atomic`]).
    pub append: bool,
    /// Permission bits of a file that did not exist, exactly; `None` follows the umask.
    pub mode: Option<u32>,
    /// What to do where no rename can replace the file.
    pub in_place: InPlace,
    /// What must be there now, and still when it is replaced; `None` for anything.
    pub base: Option<Base>,
    /// The content.
    pub body: Body,
}

/// What a write did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The absolute path.
    pub path: PathBuf,
    /// Bytes of the body.
    pub bytes: u64,
    /// Whether a reader could only ever see the old or the new content.
    pub atomic: bool,
    /// What was made durable before this answer.
    pub durability: Durability,
}

/// Write a file piece by piece, in any order, whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// The file, as the caller gave it.
    pub path: PathBuf,
    /// Make missing parent directories.
    pub create_parents: bool,
    /// Permission bits of a file that did not exist, exactly; `None` follows the umask.
    pub mode: Option<u32>,
    /// What to do where no rename can replace the file.
    pub in_place: InPlace,
    /// What must be there now, and still when it is replaced; `None` for anything.
    pub base: Option<Base>,
}

/// What somebody believes to be in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// There is no file.
    Absent,
    /// The digest of all of its content.
    Content(blake3::Hash),
    /// What [`super::OpenFile::version`] said.
    Version(String),
}

/// What an upload put there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// The absolute path.
    pub path: PathBuf,
    /// The size of the file in bytes.
    pub bytes: u64,
    /// The digest of all of its content.
    pub digest: blake3::Hash,
    /// Whether a reader could only ever see the old or the new content.
    pub atomic: bool,
    /// What was made durable before this answer.
    pub durability: Durability,
}

/// Read a file or a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The file, as the caller gave it.
    pub path: PathBuf,
    /// First byte; at or past the end reads nothing.
    pub offset: u64,
    /// Number of bytes; `None` reads to the end.
    pub length: Option<u64>,
}

/// List a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// The directory, as the caller gave it.
    pub path: PathBuf,
    /// Descend into directories (never through symbolic links).
    pub recursive: bool,
    /// What of it is answered.
    pub select: Select,
}

/// Which entries of a listing are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Select {
    /// Levels below the directory, from 1; `None` for all of them.
    pub depth: Option<usize>,
    /// Names that begin with a dot, and what lies below them.
    pub hidden: bool,
    /// Leave out what `.gitignore` and `.ignore` files name, those of parent directories up to a repository's too.
    pub ignore_files: bool,
    /// Only what one of these globs names, wherever it lies; with `!` in front, not that and nothing below it.
    pub globs: Vec<String>,
    /// Only what comes behind this path, which is relative to the directory.
    pub after: Option<PathBuf>,
    /// Entries at most.
    pub limit: Option<usize>,
}

impl Default for Select {
    fn default() -> Self {
        Self {
            depth: None,
            hidden: true,
            ignore_files: false,
            globs: Vec::new(),
            after: None,
            limit: None,
        }
    }
}

/// The kind of a directory entry, by `lstat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the POSIX file types")]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    BlockDevice,
    CharDevice,
}

/// One file-system entry, never followed through a symbolic link unless said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Absolute path.
    pub path: PathBuf,
    /// Its kind.
    pub kind: Kind,
    /// Size in bytes.
    pub size: u64,
    /// Last modification of the content.
    pub modified: SystemTime,
    /// Permission bits, `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Where a symbolic link points.
    pub target: Option<PathBuf>,
}

impl Entry {
    /// The last component; that of the root is `/`.
    pub fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or(OsStr::new("/"))
    }
}

/// The entries of a directory, sorted by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The absolute directory that was listed.
    pub root: PathBuf,
    /// What could be read.
    pub entries: Vec<Entry>,
    /// There is more: what [`Select::after`] goes on behind.
    pub next: Option<PathBuf>,
    /// Directories and entries that could not be read, with the reason.
    pub unreadable: Vec<(PathBuf, String)>,
}

/// Make a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mkdir {
    /// The directory, as the caller gave it.
    pub path: PathBuf,
    /// Make missing parents, and accept a directory that exists.
    pub parents: bool,
    /// Permission bits; `None` follows the umask.
    pub mode: Option<u32>,
}

/// Move or rename.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The source, as the caller gave it.
    pub from: PathBuf,
    /// The destination, as the caller gave it.
    pub to: PathBuf,
    /// Replace an existing destination.
    pub overwrite: bool,
}

/// What a move did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Absolute source.
    pub from: PathBuf,
    /// Absolute destination.
    pub to: PathBuf,
}

/// Remove a file, a symbolic link or a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remove {
    /// The entry, as the caller gave it; symbolic links are removed, not followed.
    pub path: PathBuf,
    /// Remove a directory with everything in it.
    pub recursive: bool,
}

/// Unpack a tar or tar.gz archive below a directory.
#[derive(Debug)]
pub struct Unpack {
    /// The destination, as the caller gave it; made when missing.
    pub path: PathBuf,
    /// The archive.
    pub body: Body,
}

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Absolute paths that were written, in archive order, at most [`Unpacked::MAX_PATHS`].
    pub paths: Vec<PathBuf>,
    /// Whether more was written than `paths` lists, or more not created than `skipped` does.
    pub truncated: bool,
    /// Entries that were not created because of their kind (devices, sockets), with the reason, as many at most.
    pub skipped: Vec<(PathBuf, String)>,
}

impl Unpacked {
    /// How many paths an answer lists, of those that were written and of those that were not.
    pub const MAX_PATHS: usize = 1024;
}
