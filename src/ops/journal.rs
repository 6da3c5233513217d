//! The journal of the ledger: which keys were begun, in two files that take turns.
//!
//! A record is appended before the command is started. The file in use is put aside when its oldest record no longer
//! matters, so at most two spans of keys are on the disk. Ages are told by the boot clock while the machine runs, and
//! by the wall clock across a reboot, where nothing that ran is alive anyway.
//!
//! ```text
//!   record, 32 bytes:  key (16) | boot clock, ms (u64 LE) | kind (u8) and unix ms (7 bytes LE)
//!   kinds: 0 begun, 1 not used after all, 2 a new boot: its id stands in the place of the key
//! ```

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::time::{ClockId, clock_gettime};

use crate::error::Error;

const CURRENT: &str = "once";
const PREVIOUS: &str = "once.previous";
const FRESH: &str = "once.fresh";

/// A hash of principal and idempotency key.
pub(super) type Key = [u8; 16];

const RECORD: usize = 32;
/// Bytes reserved on the disk for one file: 32,768 records.
const RESERVED: i64 = 1024 * 1024;
/// Less than this is not worth asking for.
const SMALLEST_RESERVE: i64 = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Begun = 0,
    Undone = 1,
    Boot = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    key: Key,
    up_ms: u64,
    kind: Kind,
    at_ms: u64,
}

/// The journal, open for appending.
#[derive(Debug)]
pub(super) struct Journal {
    directory: PathBuf,
    file: Arc<File>,
    fsync: bool,
    span: Duration,
    boot: Key,
    /// Boot clock of the oldest record in the current file.
    since: Option<u64>,
}

/// Records that were written and may not be on the disk yet. A disk takes its time, so this is told apart from writing
/// them, which keeps them in order.
#[derive(Debug)]
pub(super) struct Unsynced {
    /// `None` when nobody asked for more than writing.
    file: Option<Arc<File>>,
    path: PathBuf,
}

impl Unsynced {
    /// Whether there is something to wait for.
    pub(super) fn is_owed(&self) -> bool {
        self.file.is_some()
    }

    /// Waits for the disk. Blocks.
    pub(super) fn sync(self) -> Result<(), Error> {
        let synced = self.file.map_or(Ok(()), |file| file.sync_data());
        synced.map_err(|source| Error::from_path_io("journal", "sync", &self.path, source))
    }
}

impl Journal {
    /// Opens it and answers the keys of the last `span`.
    pub(super) fn open(directory: &Path, fsync: bool, span: Duration) -> Result<(Self, HashSet<Key>), Error> {
        let boot = boot_id();
        let mut begun = HashSet::new();
        read(&directory.join(PREVIOUS), boot, span, &mut begun)?;
        let oldest = read(&directory.join(CURRENT), boot, span, &mut begun)?;
        let file = Arc::new(open_for_append(&directory.join(CURRENT))?);
        let mut journal = Self {
            directory: directory.to_owned(),
            file,
            fsync,
            span,
            boot,
            since: oldest.map(|age| boot_clock_ms().saturating_sub(age.as_millis() as u64)),
        };
        journal.write(boot, Kind::Boot)?;
        // Daemons that are restarted often would never see a file of theirs grow old.
        if oldest.is_some_and(|age| age >= span) {
            journal.put_aside()?;
        }
        Ok((journal, begun))
    }

    /// Notes that `key` is about to be used, which it may be when the answer was synced.
    pub(super) fn begin(&mut self, key: Key) -> Result<Unsynced, Error> {
        self.take_turns()?;
        self.write(key, Kind::Begun)?;
        Ok(Unsynced {
            file: self.fsync.then(|| Arc::clone(&self.file)),
            path: self.directory.join(CURRENT),
        })
    }

    /// Notes that `key` was not used after all. Should power fail before this is on the disk, the key is lost: safe.
    pub(super) fn undo(&mut self, key: Key) -> Result<(), Error> {
        self.write(key, Kind::Undone)
    }

    fn write(&mut self, key: Key, kind: Kind) -> Result<(), Error> {
        let record = Record {
            key,
            up_ms: boot_clock_ms(),
            kind,
            at_ms: wall_clock_ms(),
        };
        (&*self.file).write_all(&record.encode()).map_err(|source| {
            Error::from_path_io("journal", "append to", &self.directory.join(CURRENT), source)
        })
    }

    fn take_turns(&mut self) -> Result<(), Error> {
        let up = boot_clock_ms();
        let since = *self.since.get_or_insert(up);
        if Duration::from_millis(up.saturating_sub(since)) < self.span {
            return Ok(());
        }
        self.put_aside()
    }

    fn put_aside(&mut self) -> Result<(), Error> {
        let current = self.directory.join(CURRENT);
        let fresh = self.directory.join(FRESH);
        let file = match open_for_append(&fresh) {
            Ok(file) => file,
            // No room for another file: this one goes on, older records in it do no harm.
            Err(Error::StorageFull { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let put_aside = |source| Error::from_path_io("journal", "put aside", &current, source);
        std::fs::rename(&current, self.directory.join(PREVIOUS)).map_err(put_aside)?;
        std::fs::rename(&fresh, &current).map_err(put_aside)?;
        self.file = Arc::new(file);
        self.since = None;
        self.write(self.boot, Kind::Boot)
    }
}

impl Record {
    fn encode(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[..16].copy_from_slice(&self.key);
        bytes[16..24].copy_from_slice(&self.up_ms.to_le_bytes());
        bytes[24] = self.kind as u8;
        bytes[25..].copy_from_slice(&self.at_ms.to_le_bytes()[..7]);
        bytes
    }

    fn decode(bytes: &[u8; RECORD]) -> Option<Self> {
        let kind = match bytes[24] {
            0 => Kind::Begun,
            1 => Kind::Undone,
            2 => Kind::Boot,
            _ => return None,
        };
        let (mut key, mut up, mut at) = ([0; 16], [0; 8], [0; 8]);
        key.copy_from_slice(&bytes[..16]);
        up.copy_from_slice(&bytes[16..24]);
        at[..7].copy_from_slice(&bytes[25..]);
        Some(Self {
            key,
            up_ms: u64::from_le_bytes(up),
            kind,
            at_ms: u64::from_le_bytes(at),
        })
    }

    /// A record from the future (the clock was set back) is as young as can be.
    fn age(&self, same_boot: bool) -> Duration {
        let (now, then) = if same_boot {
            (boot_clock_ms(), self.up_ms)
        } else {
            (wall_clock_ms(), self.at_ms)
        };
        Duration::from_millis(now.saturating_sub(then))
    }
}

fn open_for_append(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| Error::from_path_io("journal", "open", path, source))?;
    cut_partial_record(&file).map_err(|source| Error::from_path_io("journal", "truncate", path, source))?;
    reserve(&file);
    Ok(file)
}

/// A record that a crash cut short was not followed by a start; what comes next must stand at its own place.
fn cut_partial_record(file: &File) -> std::io::Result<()> {
    let length = file.metadata()?.len();
    match length % RECORD as u64 {
        0 => Ok(()),
        partial => file.set_len(length - partial),
    }
}

/// Room for what is written later, so that a full disk does not refuse commands: the owner needs one to clean it up.
/// A disk with less room gives what it has; a file system that cannot reserve takes records as long as it has room.
/// A later change of the length, even to what it is, would give the room back.
fn reserve(file: &File) {
    let mut room = RESERVED;
    while room >= SMALLEST_RESERVE
        && fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, room) == Err(Errno::ENOSPC)
    {
        room /= 2;
    }
}

/// Adds the keys of the last `span` to `begun`; answers the age of the oldest key in the file.
fn read(path: &Path, boot: Key, span: Duration, begun: &mut HashSet<Key>) -> Result<Option<Duration>, Error> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::from_path_io("journal", "read", path, source)),
    };
    let (mut same_boot, mut oldest) = (false, None);
    for record in bytes.as_chunks::<RECORD>().0.iter().filter_map(Record::decode) {
        match record.kind {
            Kind::Boot => same_boot = record.key == boot,
            Kind::Undone => drop(begun.remove(&record.key)),
            Kind::Begun => {
                let age = record.age(same_boot);
                oldest = oldest.max(Some(age));
                if age < span {
                    begun.insert(record.key);
                }
            }
        }
    }
    Ok(oldest)
}

fn boot_id() -> Key {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    uuid::Uuid::parse_str(text.trim())
        .unwrap_or_default()
        .into_bytes()
}

fn boot_clock_ms() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
        time.tv_sec() as u64 * 1000 + time.tv_nsec() as u64 / 1_000_000
    })
}

fn wall_clock_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(600);

    #[test]
    fn what_was_begun_and_not_undone_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, begun) = Journal::open(directory.path(), true, SPAN).unwrap();
        assert!(begun.is_empty());
        journal.begin([1; 16]).unwrap().sync().unwrap();
        journal.begin([2; 16]).unwrap();
        journal.undo([2; 16]).unwrap();
        (&*journal.file).write_all(b"cut in the middle").unwrap();
        drop(journal);
        let (mut journal, begun) = Journal::open(directory.path(), false, SPAN).unwrap();
        assert_eq!(begun, HashSet::from([[1; 16]]));
        journal.begin([3; 16]).unwrap();
        drop(journal);
        let (_, begun) = Journal::open(directory.path(), false, SPAN).unwrap();
        assert_eq!(begun, HashSet::from([[1; 16], [3; 16]]));
    }

    #[test]
    fn the_files_take_turns_and_old_keys_go() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(directory.path(), false, Duration::ZERO).unwrap();
        for key in 1..=5 {
            journal.begin([key; 16]).unwrap();
        }
        let size = |name: &str| std::fs::metadata(directory.path().join(name)).unwrap().len();
        assert!(size(CURRENT) + size(PREVIOUS) <= 4 * RECORD as u64);
    }

    #[test]
    fn a_daemon_that_is_restarted_often_does_not_let_the_file_grow() {
        let directory = tempfile::tempdir().unwrap();
        let old = Record {
            key: [7; 16],
            up_ms: 0,
            kind: Kind::Begun,
            at_ms: wall_clock_ms() - 700_000,
        };
        let recent = Record {
            key: [8; 16],
            at_ms: wall_clock_ms() - 1000,
            ..old
        };
        let before = [vec![old; 1000], vec![recent]].concat();
        let bytes: Vec<u8> = before.iter().flat_map(Record::encode).collect();
        std::fs::write(directory.path().join(CURRENT), bytes).unwrap();
        for _restart in 0..3 {
            let (_, begun) = Journal::open(directory.path(), false, SPAN).unwrap();
            assert_eq!(
                begun,
                HashSet::from([recent.key]),
                "a key that still matters was forgotten"
            );
        }
        let size = std::fs::metadata(directory.path().join(CURRENT)).unwrap().len();
        assert!(size < 10 * RECORD as u64, "{size}");
    }

    #[test]
    fn ages_go_by_the_boot_clock_or_across_a_reboot_by_the_wall_clock() {
        let record = |up_ms, at_ms| Record {
            key: [0; 16],
            up_ms,
            kind: Kind::Begun,
            at_ms,
        };
        let (up, at) = (boot_clock_ms(), wall_clock_ms());
        assert!(record(up, 0).age(true) < SPAN);
        assert!(record(up, at - 700_000).age(false) >= SPAN);
        assert!(record(up, at + 700_000).age(false) < SPAN);
        let some = record(7, 1_800_000_000_000);
        assert_eq!(Record::decode(&some.encode()), Some(some));
    }
}
