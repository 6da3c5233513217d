//! Reading: an opened regular file, the range of it that is wanted, and two ways to take that range.
//!
//! Only regular files are opened: a fifo, a terminal or `/dev/zero` would block a thread or never end. Files that the
//! kernel makes up as they are read (`/proc`, `/sys`) do not tell their size; they are read at once, up to a limit,
//! and served from memory.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use rustix::buffer::spare_capacity;
use rustix::fs::{OFlags, Stat, fstat, fstatfs};
use rustix::io::{Errno, pread, read, retry_on_intr};
use tokio::task::{JoinHandle, spawn_blocking};

use super::blocking;
use super::buffers::Buffers;
use super::path::Location;
use super::request::{Entry, Kind, Read};
use crate::error::Error;
use crate::lifecycle::Transfer;

/// How much is read at once.
const CHUNK: usize = 256 << 10;
/// The largest made-up file that is served.
const MADE_UP_LIMIT: usize = 32 << 20;

/// An open file and the range of it that will be read.
#[derive(Debug)]
pub struct OpenFile {
    content: Content,
    entry: Entry,
    version: String,
    range: Range<u64>,
    under_way: Transfer,
}

#[derive(Debug, Clone)]
enum Content {
    Disk(Arc<File>),
    Memory(Bytes),
}

/// Opens the file at `location` for `request`.
pub(super) fn open(location: &Location, request: &Read, under_way: Transfer) -> Result<OpenFile, Error> {
    let seen = location
        .followed()?
        .ok_or_else(|| location.failure("file", "open", Errno::NOENT))?;
    // Looked at before it is opened: opening alone starts watchdogs and rewinds tapes.
    let kind = Kind::of(&seen);
    if kind != Kind::File {
        return Err(kind.instead_of_file(&location.absolute));
    }
    let file = location.open("open", OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    let failed = |errno| location.failure("file", "read", errno);
    let stat = fstat(&file).map_err(failed)?;
    let kind = Kind::of(&stat);
    if kind != Kind::File {
        return Err(kind.instead_of_file(&location.absolute));
    }
    let mut entry = Entry::new(location.absolute.clone(), &stat, None);
    let content = if is_made_up(&file, &stat).map_err(failed)? {
        let content = read_made_up(&file, location)?;
        entry.size = content.len() as u64;
        Content::Memory(content)
    } else {
        Content::Disk(Arc::new(file.into()))
    };
    let mut opened = OpenFile {
        content,
        version: version(&stat, entry.size),
        range: 0..entry.size,
        entry,
        under_way,
    };
    opened.narrow(request.offset, request.length);
    Ok(opened)
}

impl OpenFile {
    /// What was opened: kind, size, owner and times after following links, under the path that was asked for.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Size of the whole file in bytes when it was opened.
    pub fn total(&self) -> u64 {
        self.entry.size
    }

    /// The bytes that will be read, always within the file.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// An opaque string that changes whenever the file or its content does, as far as the file system tells: the
    /// file's identity, size and times.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Reads `length` bytes from `offset` on (to the end for `None`) instead of the present range. What lies outside
    /// the file is left out; at or past the end nothing is left.
    pub fn narrow(&mut self, offset: u64, length: Option<u64>) {
        let total = self.total();
        let start = offset.min(total);
        let end = length.map_or(total, |length| start.saturating_add(length).min(total));
        self.range = start..end;
    }

    /// The range as one piece. More than `limit` bytes are [`Error::TooLarge`] and nothing is read.
    pub async fn read_all(self, limit: u64) -> Result<Bytes, Error> {
        if let Content::Memory(content) = &self.content {
            self.within(limit)?;
            return Ok(content.slice(self.range.start as usize..self.range.end as usize));
        }
        self.read_behind(Vec::new(), limit).await.map(Bytes::from)
    }

    /// Appends the range to `buffer`, so that what is sent in front of it is not sent separately. More than `limit`
    /// bytes are [`Error::TooLarge`] and nothing is read.
    pub async fn read_behind(self, mut buffer: Vec<u8>, limit: u64) -> Result<Vec<u8>, Error> {
        let size = self.within(limit)?;
        let Range { start, end } = self.range;
        let file = match self.content {
            Content::Memory(content) => {
                buffer.extend_from_slice(&content[start as usize..end as usize]);
                return Ok(buffer);
            }
            Content::Disk(file) => file,
        };
        let path = self.entry.path;
        blocking::run(move || {
            buffer.reserve_exact(size as usize);
            read_range(&file, &mut buffer, start, size as usize)
                .map_err(|source| Error::from_path_io("file", "read", &path, source))?;
            Ok(buffer)
        })
        .await
    }

    /// The number of bytes of the range, unless that is more than `limit`.
    fn within(&self, limit: u64) -> Result<u64, Error> {
        let size = self.range.end - self.range.start;
        if size > limit {
            return Err(Error::TooLarge {
                what: "the content",
                size,
                limit,
            });
        }
        Ok(size)
    }

    /// The range in chunks of up to 256 KiB, the next one being read while one is used. It ends with an error when
    /// the file turns out shorter than promised.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send + use<> {
        let Range { start, end } = self.range;
        let reader = Reader {
            content: self.content,
            path: self.entry.path,
            buffers: Buffers::default(),
            at: start,
            end,
            _under_way: self.under_way,
        };
        futures_util::stream::unfold(
            Some(Ahead {
                reader,
                pending: None,
            }),
            Ahead::step,
        )
    }
}

/// The rest of a range.
struct Reader {
    content: Content,
    path: std::path::PathBuf,
    buffers: Buffers,
    at: u64,
    end: u64,
    _under_way: Transfer,
}

/// A reader with the chunk that is on its way.
struct Ahead {
    reader: Reader,
    pending: Option<JoinHandle<Result<Bytes, Error>>>,
}

impl Ahead {
    async fn step(this: Option<Self>) -> Option<(Result<Bytes, Error>, Option<Self>)> {
        let mut this = this?;
        if let Content::Memory(content) = &this.reader.content {
            let range = this.reader.at as usize..this.reader.end as usize;
            return (!range.is_empty()).then(|| (Ok(content.slice(range)), None));
        }
        let pending = this.pending.take().or_else(|| this.reader.start_chunk())?;
        let chunk = blocking::joined(pending).await;
        if chunk.is_err() {
            return Some((chunk, None));
        }
        this.pending = this.reader.start_chunk();
        Some((chunk, Some(this)))
    }
}

impl Reader {
    /// Starts to read the next chunk, `None` at the end of the range.
    fn start_chunk(&mut self) -> Option<JoinHandle<Result<Bytes, Error>>> {
        let Content::Disk(file) = &self.content else {
            return None;
        };
        let length = (self.end - self.at).min(CHUNK as u64) as usize;
        if length == 0 {
            return None;
        }
        let (file, path, buffers, at) = (Arc::clone(file), self.path.clone(), self.buffers.clone(), self.at);
        self.at += length as u64;
        Some(spawn_blocking(move || {
            let mut buffer = buffers.take(length);
            match read_range(&file, &mut buffer, at, length) {
                Ok(()) => Ok(buffers.freeze(buffer)),
                Err(source) => Err(Error::from_path_io("file", "read", &path, source)),
            }
        }))
    }
}

/// Appends exactly `length` bytes from `offset` on to `buffer`, which has the room for them.
fn read_range(file: &File, buffer: &mut Vec<u8>, offset: u64, length: usize) -> io::Result<()> {
    let held = buffer.len();
    while buffer.len() < held + length {
        let before = buffer.len();
        let at = offset + (before - held) as u64;
        retry_on_intr(|| pread(file, spare_capacity(buffer), at))?;
        if buffer.len() == before {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was read",
            ));
        }
    }
    // A buffer may have more room than was asked for.
    buffer.truncate(held + length);
    Ok(())
}

/// Whether the size in `stat` says nothing about what reading gives.
fn is_made_up(file: &OwnedFd, stat: &Stat) -> Result<bool, Errno> {
    // Ordinary file systems tell sizes; of the others most say nothing, sysfs says one page.
    if stat.st_size != 0 && stat.st_size != 4096 {
        return Ok(false);
    }
    Ok(MADE_UP.contains(&(fstatfs(file)?.f_type as u64 & 0xffff_ffff)))
}

/// The magic numbers of file systems whose files are made as they are read (linux/magic.h).
const MADE_UP: [u64; 12] = [
    0x0000_9fa0, // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x6e73_6673, // nsfs
    0xf97c_ff8c, // selinuxfs
    0x6265_6570, // configfs
    0xcafe_4a11, // bpf
    0xde5e_81e4, // efivarfs
];

fn read_made_up(file: &OwnedFd, location: &Location) -> Result<Bytes, Error> {
    let mut content = Vec::with_capacity(64 << 10);
    loop {
        if content.len() > MADE_UP_LIMIT {
            let (size, limit) = (content.len() as u64, MADE_UP_LIMIT as u64);
            return Err(Error::TooLarge {
                what: "the content of a kernel file",
                size,
                limit,
            });
        }
        content.reserve(64 << 10);
        match retry_on_intr(|| read(file.as_fd(), spare_capacity(&mut content))) {
            Ok(0) => return Ok(content.into()),
            Ok(_) => {}
            Err(errno) => return Err(location.failure("file", "read", errno)),
        }
    }
}

/// See [`OpenFile::version`].
pub(super) fn version(stat: &Stat, size: u64) -> String {
    format!(
        "{:x}-{:x}-{size:x}-{:x}.{:x}-{:x}.{:x}",
        stat.st_dev, stat.st_ino, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec
    )
}
