//! What a log is made of: channels, records, gaps, and bytes that were moved out of memory.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Where the bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Channel {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A terminal, where output and error are one.
    Tty,
    /// The content of a file, or the lines of a streamed operation.
    Content,
    /// Signs of life: records without bytes.
    Progress,
}

impl Channel {
    /// How many there are.
    pub const COUNT: usize = 5;

    /// All of them, in the order that tables use.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Stdout,
        Self::Stderr,
        Self::Tty,
        Self::Content,
        Self::Progress,
    ];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Tty => "pty",
            Self::Content => "content",
            Self::Progress => "progress",
        }
    }

    pub(super) fn index(self) -> usize {
        self as usize
    }
}

/// Some bytes of one channel. Never changes once it has its number, so that it can be sent again byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<B = Bytes> {
    /// Position in the process's one sequence, from 1.
    pub seq: u64,
    /// The channel.
    pub channel: Channel,
    /// When the first of the bytes arrived, unix milliseconds.
    pub at_ms: u64,
    /// Offset of the first byte within its channel.
    pub offset: u64,
    /// The bytes; empty on [`Channel::Progress`] only.
    pub bytes: B,
}

/// Bytes of a channel that were counted and are not kept any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The channel.
    pub channel: Channel,
    /// Sequence of the first record that is missing.
    pub from: u64,
    /// Sequence of the last record that is missing (others of another channel may lie between).
    pub to: u64,
    /// How many bytes are missing.
    pub bytes: u64,
}

/// What a reader gets next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item<B = Bytes> {
    /// Bytes.
    Record(Record<B>),
    /// Bytes that were dropped.
    Gap(Gap),
}

/// The bytes of a record where they are kept.
#[derive(Debug, Clone)]
pub enum Stored {
    /// In memory.
    Memory(Bytes),
    /// Elsewhere.
    Spilled(Spilled),
}

impl Stored {
    /// How many bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Spilled(spilled) => spilled.length.into(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Bytes that were moved out of memory.
#[derive(Debug, Clone)]
pub struct Spilled {
    /// What holds them; dropped with the last record that it holds.
    pub holder: Arc<dyn Holder>,
    /// Where in it they begin.
    pub position: u64,
    /// How many.
    pub length: u32,
}

/// Something that holds bytes outside of memory. A log knows it only to let go of it.
pub trait Holder: Debug + Send + Sync {
    /// Reads `length` bytes at `position`. May block.
    ///
    /// # Errors
    ///
    /// What the storage says.
    fn read(&self, position: u64, length: u32) -> io::Result<Bytes>;
}
