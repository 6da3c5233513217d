//! What the owner of a daemon decides about files: plain values with defaults, read by `config.rs` of the house.

/// What is on stable storage when a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Durability {
    /// Nothing is waited for; the kernel writes back in its own time. A crash of the machine may lose the write but
    /// never mixes old and new content on a journalling file system.
    None,
    /// The content of the file (`fdatasync` before the rename).
    #[default]
    File,
    /// The content and the name (`fsync` of the directory after the rename).
    Dir,
}

impl Durability {
    /// The name in configuration files and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::File => "file",
            Self::Dir => "dir",
        }
    }
}

/// Caps on an archive; beyond one of them it is refused before anything is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Entries of one archive.
    pub entries: u64,
    /// Bytes of all files together, expanded.
    pub expanded_bytes: u64,
    /// Bytes of the headers of one entry, long names and extended attributes included.
    pub header_bytes: u64,
    /// Directories above an entry, below the destination.
    pub depth: usize,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self {
            entries: 1_000_000,
            expanded_bytes: 64 << 30,
            header_bytes: 1 << 20,
            depth: 256,
        }
    }
}

/// The configuration of the files room.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// What is on stable storage when a write is answered.
    pub durability: Durability,
    /// Whether requests that do not say so themselves may overwrite a file in place where no rename can replace it.
    pub in_place: bool,
    /// Caps on archives.
    pub unpack: UnpackLimits,
}
