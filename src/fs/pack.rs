//! Packing a tree as a tar archive, compressed or not, while it is read: nothing of it stands in memory whole.
//!
//! The walk works on descriptors below its top, so that an exchange of a directory for a link leads nowhere. Links are
//! packed as links, further names of a file as such. Sockets, fifos and devices are not packed: how many they were, and
//! the first of them, is said in a comment at the end of the archive and in the answer of the operation. A file that
//! becomes shorter while it is read ends the archive with an error, instead of with made-up bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::{AtFlags, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::anchor::{Mounts, descend};
use super::entry::link_target;
use super::list::names;
use super::path::{Location, failure};
use super::request::Kind;
use crate::error::Error;
use crate::lifecycle::Transfer;

/// Archives that are packed at once.
pub(super) const AT_ONCE: usize = 64;
/// Bytes of one piece.
const PIECE: usize = 256 << 10;
/// Pieces that wait to be read; then the walk waits too.
const WAITING: usize = 4;

/// Pack a directory or a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// The directory, whose content is packed under names relative to it, or one file.
    pub path: PathBuf,
    /// Compress it with gzip.
    pub gzip: bool,
}

/// An archive on its way; it ends when this is dropped.
#[derive(Debug)]
pub struct Packed {
    pieces: mpsc::Receiver<Result<Bytes, Error>>,
    /// What the archive may be called.
    pub name: String,
    _under_way: Transfer,
}

impl Packed {
    /// The next piece; `None` behind the last. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Whatever ended the archive before its end.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        self.pieces.recv().await
    }

    /// All of it, up to `limit` bytes.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] beyond them, else as [`Packed::next`].
    pub async fn whole(mut self, limit: u64) -> Result<Vec<u8>, Error> {
        let mut whole = Vec::new();
        while let Some(piece) = self.next().await {
            whole.extend_from_slice(&piece?);
            if whole.len() as u64 > limit {
                return Err(Error::TooLarge {
                    what: "the archive",
                    size: whole.len() as u64,
                    limit,
                });
            }
        }
        Ok(whole)
    }
}

/// Opens what is to be packed and starts to pack it.
pub(super) fn pack(
    location: &Location,
    request: &Pack,
    under_way: Transfer,
    place: OwnedSemaphorePermit,
) -> Result<Packed, Error> {
    let seen = location
        .followed()?
        .ok_or_else(|| location.failure("path", "pack", Errno::NOENT))?;
    let kind = Kind::of(&seen);
    if !matches!(kind, Kind::File | Kind::Directory) {
        return Err(kind.instead_of_directory(&location.absolute));
    }
    let top = location.open("pack", OFlags::RDONLY | OFlags::NONBLOCK)?;
    let root = location.absolute.clone();
    let base = root
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let (sender, pieces) = mpsc::channel(WAITING);
    let outlet = Outlet {
        sender: sender.clone(),
        piece: Vec::with_capacity(PIECE),
    };
    let gzip = request.gzip;
    drop(tokio::task::spawn_blocking(move || {
        let _until_the_end = place;
        let packed = if gzip {
            let encoder = GzEncoder::new(outlet, Compression::fast());
            walk(encoder, top, &root).and_then(|encoder| encoder.finish().map_err(|error| cut(&root, error)))
        } else {
            walk(outlet, top, &root)
        };
        let flushed = packed.and_then(|mut outlet| outlet.flush().map_err(|error| cut(&root, error)));
        if let Err(error) = flushed {
            // Whoever went away does not need it.
            let _ = sender.blocking_send(Err(error));
        }
    }));
    let name = format!("{base}{}", if gzip { ".tar.gz" } else { ".tar" });
    Ok(Packed {
        pieces,
        name,
        _under_way: under_way,
    })
}

fn cut(path: &Path, source: io::Error) -> Error {
    Error::from_path_io("path", "pack", path, source)
}

/// Hands over what is written, a piece at a time.
struct Outlet {
    sender: mpsc::Sender<Result<Bytes, Error>>,
    piece: Vec<u8>,
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE - self.piece.len();
        let taken = bytes.len().min(room);
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        let sent = self.sender.blocking_send(Ok(piece.into()));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads the archive"))
    }
}

/// Writes the whole archive and gives back what it was written to.
fn walk<W: Write>(writer: W, top: OwnedFd, root: &Path) -> Result<W, Error> {
    let mut builder = Builder::new(writer);
    builder.sparse(false);
    let mut packing = Packing {
        builder,
        root,
        linked: HashMap::new(),
        skipped: None,
    };
    let stat = fstat(&top).map_err(|errno| failure("path", "pack", root, errno))?;
    if Kind::of(&stat) == Kind::Directory {
        packing.tree(&top)?;
    } else {
        let name = PathBuf::from(root.file_name().unwrap_or_default());
        packing.file(File::from(top), &name, &stat)?;
    }
    packing.end()
}

struct Packing<'a, W: Write> {
    builder: Builder<W>,
    root: &'a Path,
    /// Where a file with several names was packed, by device and inode.
    linked: HashMap<(u64, u64), PathBuf>,
    /// What was not packed because of its kind: the first of it, and how many there are.
    skipped: Option<(PathBuf, Kind, u64)>,
}

impl<W: Write> Packing<'_, W> {
    /// Everything below `top`, the names of each directory in byte order.
    fn tree(&mut self, top: &OwnedFd) -> Result<(), Error> {
        let mut waiting = vec![PathBuf::new()];
        while let Some(below) = waiting.pop() {
            let path = self.root.join(&below);
            let failed = |errno| failure("directory", "pack", &path, errno);
            let directory = descend(top.as_fd(), &below, OFlags::RDONLY, Mounts::Enter).map_err(failed)?;
            if !below.as_os_str().is_empty() {
                let stat = fstat(&directory).map_err(failed)?;
                let mut header = header(EntryType::Directory, &stat, 0);
                self.append(&mut header, &below, io::empty())?;
            }
            let mut names = names(directory.as_fd()).map_err(failed)?;
            names.sort_unstable();
            let mut below_it = Vec::new();
            for name in names {
                let child = below.join(&name);
                if self.entry(directory.as_fd(), Path::new(&name), &child)? {
                    below_it.push(child);
                }
            }
            waiting.extend(below_it.into_iter().rev());
        }
        Ok(())
    }

    /// Packs one entry; says whether it is a directory, which comes later.
    fn entry(&mut self, directory: BorrowedFd<'_>, name: &Path, below: &Path) -> Result<bool, Error> {
        let path = self.root.join(below);
        let failed = |errno| failure("path", "pack", &path, errno);
        let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            // Removed since the directory was read: it is not there any more.
            Err(Errno::NOENT) => return Ok(false),
            stat => stat.map_err(failed)?,
        };
        match Kind::of(&stat) {
            Kind::Directory => return Ok(true),
            Kind::File => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = openat(directory, name, flags, Mode::empty()).map_err(failed)?;
                let stat = fstat(&file).map_err(failed)?;
                self.file(File::from(file), below, &stat)?;
            }
            Kind::Symlink => {
                let target = link_target(directory, name.as_os_str()).map_err(failed)?;
                let mut header = header(EntryType::Symlink, &stat, 0);
                self.builder
                    .append_link(&mut header, below, target)
                    .map_err(|error| cut(&path, error))?;
            }
            kind => self.skipped.get_or_insert((path, kind, 0)).2 += 1,
        }
        Ok(false)
    }

    fn file(&mut self, file: File, below: &Path, stat: &Stat) -> Result<(), Error> {
        let id = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.linked.get(&id) {
            let mut header = header(EntryType::Link, stat, 0);
            let linked = self.builder.append_link(&mut header, below, first);
            return linked.map_err(|error| cut(&self.root.join(below), error));
        }
        let size = stat.st_size as u64;
        let mut header = header(EntryType::Regular, stat, size);
        let content = Exactly { file, left: size };
        self.append(&mut header, below, content)?;
        if stat.st_nlink > 1 {
            self.linked.insert(id, below.to_owned());
        }
        Ok(())
    }

    fn append(&mut self, header: &mut Header, below: &Path, content: impl Read) -> Result<(), Error> {
        self.builder
            .append_data(header, below, content)
            .map_err(|error| cut(&self.root.join(below), error))
    }

    /// The end of the archive, with what is not in it.
    fn end(mut self) -> Result<W, Error> {
        let failed = |error| cut(self.root, error);
        if let Some((path, kind, count)) = &self.skipped {
            tracing::warn!(count = *count, first = ?path, "an archive is without what is no file, link or directory");
            let comment = format!(
                "{count} entries are not in this archive, the first: {} is {}",
                path.display(),
                kind.described()
            );
            comment_on(&mut self.builder, &comment).map_err(failed)?;
        }
        self.builder.into_inner().map_err(failed)
    }
}

/// A comment that stands for itself: a global extended header (POSIX.1-2001 pax).
fn comment_on<W: Write>(builder: &mut Builder<W>, comment: &str) -> io::Result<()> {
    let body = format!(" comment={comment}\n");
    let mut length = body.len();
    // The length counts its own digits.
    while format!("{length}{body}").len() != length {
        length = format!("{length}{body}").len();
    }
    let record = format!("{length}{body}");
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XGlobalHeader);
    header.set_path("pax_global_header")?;
    header.set_mode(0o644);
    header.set_size(record.len() as u64);
    header.set_cksum();
    builder.append(&header, record.as_bytes())
}

fn header(kind: EntryType, stat: &Stat, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(u64::from(stat.st_uid));
    header.set_gid(u64::from(stat.st_gid));
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(size);
    header
}

/// As many bytes of a file as were promised: more are left out, fewer are an error.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.file.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was packed",
            ));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_counts_its_own_length() {
        for length in [1, 80, 85, 86, 87, 88, 980, 985, 990] {
            let mut builder = Builder::new(Vec::new());
            comment_on(&mut builder, &"x".repeat(length)).unwrap();
            let bytes = builder.into_inner().unwrap();
            let text = String::from_utf8_lossy(&bytes[512..]);
            let record = &text[..=text.find('\n').unwrap()];
            let told: usize = record[..record.find(' ').unwrap()].parse().unwrap();
            assert_eq!(told, record.len());
        }
    }
}
