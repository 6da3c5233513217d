//! Where output goes that does not fit in memory: files without a name in the state directory, so that nothing is left
//! of them when the daemon ends, however it ends. Without a state directory everything stays in memory, and less of it.
//!
//! A file is a segment of one log; it is freed with the last record that it holds.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use nix::sys::statvfs::fstatvfs;

use crate::stream::{Holder, Spilled};

/// A segment is closed at this size.
const SEGMENT: u64 = 16 << 20;
/// Memory of all logs together, at least.
const MEMORY: u64 = 16 << 20;
/// Memory of one log at most, and at least, however many there are.
const SHARE: (u64, u64) = (256 << 10, 4 << 20);
/// What one log may keep at least, where the disk has it.
const ALLOWANCE: u64 = 256 << 20;
/// Part of the file system that is always left to others.
const LEFT: u64 = 20;

/// The place, and how much of it is in use.
#[derive(Debug)]
pub struct Spool {
    directory: Option<PathBuf>,
    /// Bytes of memory for all logs.
    memory: u64,
    /// Bytes of all segments.
    used: AtomicU64,
    /// Logs that may need it.
    logs: AtomicUsize,
}

/// One file, as its writer holds it.
#[derive(Debug)]
pub(super) struct Segment {
    file: Arc<SegmentFile>,
    length: u64,
}

#[derive(Debug)]
struct SegmentFile {
    file: File,
    charged: AtomicU64,
    spool: Arc<Spool>,
}

impl Spool {
    /// In `directory`; `None` keeps everything in memory. `available` is the memory that can be had, bytes.
    pub fn new(directory: Option<PathBuf>, available: u64) -> Arc<Self> {
        Arc::new(Self {
            directory,
            memory: MEMORY.max(available / 64),
            used: AtomicU64::new(0),
            logs: AtomicUsize::new(0),
        })
    }

    /// Counts a log in; it counts itself out by [`Spool::leave`].
    pub(super) fn join(&self) {
        self.logs.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.logs.fetch_sub(1, Ordering::Relaxed);
    }

    /// Bytes that one log may hold in memory.
    pub(super) fn share(&self) -> u64 {
        let logs = self.logs.load(Ordering::Relaxed).max(1) as u64;
        (self.memory / logs).clamp(SHARE.0, SHARE.1)
    }

    /// Bytes that one log may keep in all. Blocks for a look at the file system.
    pub fn allowance(&self) -> u64 {
        let Some(free) = self
            .directory
            .as_ref()
            .and_then(|directory| free(File::open(directory).ok()?))
        else {
            return self.share();
        };
        let free = free.available + self.used.load(Ordering::Relaxed);
        ALLOWANCE.max(free / 16).min(free / 4).max(self.share())
    }

    /// Bytes of all segments.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Writes the pieces behind one another and says where they are. Blocks. Fails when the disk is to keep what is left of
    /// it, and as the disk does; nothing is lost then.
    pub(super) fn write(
        self: &Arc<Self>,
        segment: &mut Option<Segment>,
        pieces: &[Bytes],
    ) -> io::Result<Vec<Spilled>> {
        let size: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let mut current = match segment.take() {
            Some(current) if current.length < SEGMENT => current,
            _ => self.segment()?,
        };
        self.admit(&current.file.file, size)?;
        let mut all = BytesMut::with_capacity(size as usize);
        for piece in pieces {
            all.extend_from_slice(piece);
        }
        // Charged first: what a failed write left behind is in the file until that is freed.
        current.file.charge(size);
        current.file.file.write_all_at(&all, current.length)?;
        let mut places = Vec::with_capacity(pieces.len());
        for piece in pieces {
            places.push(Spilled {
                holder: Arc::clone(&current.file) as Arc<dyn Holder>,
                position: current.length,
                length: piece.len() as u32,
            });
            current.length += piece.len() as u64;
        }
        *segment = Some(current);
        Ok(places)
    }

    fn segment(self: &Arc<Self>) -> io::Result<Segment> {
        let directory = self.directory.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        Ok(Segment {
            file: Arc::new(SegmentFile {
                file: nameless(directory)?,
                charged: AtomicU64::new(0),
                spool: Arc::clone(self),
            }),
            length: 0,
        })
    }

    fn admit(&self, file: &File, size: u64) -> io::Result<()> {
        let space = free(file).ok_or(io::ErrorKind::StorageFull)?;
        let used = self.used.load(Ordering::Relaxed);
        let too_much = used + size > (space.available + used) / 4;
        if too_much || space.available < size + space.total / LEFT {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

/// A file in `directory` that is in it for a moment at most.
fn nameless(directory: &PathBuf) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.clone().custom_flags(libc::O_TMPFILE).open(directory) {
        Ok(file) => Ok(file),
        // Not every file system knows files without a name (overlayfs before 6.0, NFS).
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)
            ) =>
        {
            let path = directory.join(format!("{:016x}", fastrand::u64(..)));
            let file = options.create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
        Err(error) => Err(error),
    }
}

/// Bytes of a file system.
struct Space {
    available: u64,
    total: u64,
}

fn free(file: impl std::os::fd::AsFd) -> Option<Space> {
    let stat = fstatvfs(file).ok()?;
    let unit = stat.fragment_size();
    Some(Space {
        available: stat.blocks_available() * unit,
        total: stat.blocks() * unit,
    })
}

impl SegmentFile {
    fn charge(&self, bytes: u64) {
        self.charged.fetch_add(bytes, Ordering::Relaxed);
        self.spool.used.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for SegmentFile {
    fn drop(&mut self) {
        let charged = self.charged.load(Ordering::Relaxed);
        self.spool.used.fetch_sub(charged, Ordering::Relaxed);
    }
}

impl Holder for SegmentFile {
    fn read(&self, position: u64, length: u32) -> io::Result<Bytes> {
        let mut bytes = BytesMut::zeroed(length as usize);
        self.file.read_exact_at(&mut bytes, position)?;
        Ok(bytes.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_freed_with_its_last_record() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::new(Some(directory.path().to_owned()), 0);
        let mut segment = None;
        let mut places = Vec::new();
        for text in ["first", "second", "third"] {
            places.extend(spool.write(&mut segment, &[Bytes::from(text)]).unwrap());
        }
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            0,
            "it has a name"
        );
        let read: Vec<_> = places
            .iter()
            .map(|place| place.holder.read(place.position, place.length).unwrap())
            .collect();
        assert_eq!(read, ["first", "second", "third"]);
        assert_eq!(spool.used(), 16);
        drop(segment);
        places.truncate(1);
        assert_eq!(spool.used(), 16, "one of its records is still there");
        places.clear();
        assert_eq!(spool.used(), 0);
    }

    #[test]
    fn without_a_directory_nothing_can_be_written() {
        let spool = Spool::new(None, 0);
        let failed = spool.write(&mut None, &[Bytes::from("x")]).unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::Unsupported);
        assert_eq!(spool.allowance(), spool.share());
    }
}
