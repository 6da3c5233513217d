//! What a watch reports: plain data.

use std::path::PathBuf;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A fifo, socket or device.
    Other,
}

/// One change. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Something is there that was not.
    Created {
        /// Where.
        path: PathBuf,
        /// What.
        kind: Kind,
    },
    /// Its content, or what the file system says of it, has changed; a file that was replaced by another counts as such.
    Modified {
        /// Where.
        path: PathBuf,
        /// What.
        kind: Kind,
    },
    /// It is not there any more. Of a directory, what was below it is reported before it.
    Removed {
        /// Where.
        path: PathBuf,
        /// What it was.
        kind: Kind,
    },
    /// It is called otherwise now, and everything below it with it; what had that name before is gone.
    Renamed {
        /// Where it was.
        from: PathBuf,
        /// Where it is.
        to: PathBuf,
        /// What.
        kind: Kind,
    },
    /// Hints were missing; the difference follows, and a [`Change::Rescanned`].
    Overflow {
        /// Why, and what would help.
        reason: String,
    },
    /// Everything was looked at, and every difference was reported before this.
    Rescanned {
        /// So many entries there are.
        entries: u64,
    },
    /// Events that this follower has not seen are not kept any more.
    Gap {
        /// The first of them.
        from: u64,
        /// The last of them.
        to: u64,
    },
    /// What was watched is not there any more: the last event.
    Gone {
        /// What was watched.
        path: PathBuf,
    },
}

impl Change {
    /// About so many bytes are taken by its texts.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Created { path, .. }
            | Self::Modified { path, .. }
            | Self::Removed { path, .. }
            | Self::Gone { path } => path.as_os_str().len(),
            Self::Renamed { from, to, .. } => from.as_os_str().len() + to.as_os_str().len(),
            Self::Overflow { reason } => reason.len(),
            Self::Rescanned { .. } | Self::Gap { .. } => 0,
        }
    }
}

/// A change with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// From 1, without holes; that of a gap is its last one's.
    pub sequence: u64,
    /// What to resume behind: the watch and the number.
    pub id: String,
    /// What changed.
    pub change: Change,
}
