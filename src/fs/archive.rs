//! Reading a tar or tar.gz archive that may be hostile: the checks on its entries and the caps on what it may cost.
//! Nothing here writes; `unpack.rs` does, with the entries that passed.

use std::cell::Cell;
use std::ffi::OsStr;
use std::io::{self, Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use flate2::read::MultiGzDecoder;
use tar::EntryType;

use super::config::UnpackLimits;
use crate::error::Error;

/// Why a sparse file is not created: `tar` stores what is not a hole, in formats of its own.
const SPARSE: &str = "a sparse file";

/// What an entry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    Directory,
    File,
    /// A symbolic link with this target, which may be anything: it is never followed out of the destination.
    Symlink(PathBuf),
    /// Another name for an entry of this path.
    Hardlink(PathBuf),
    /// Nothing: it is reported with this reason.
    Skip(&'static str),
    /// Nothing, in silence: it describes the archive itself.
    Comment,
}

/// One entry whose name is safe: relative, without `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// Below the destination; empty for the destination itself.
    pub(super) path: PathBuf,
    pub(super) wanted: Wanted,
    /// Permission bits without setuid, setgid and sticky.
    pub(super) mode: u32,
    /// Seconds since 1970, negative before.
    pub(super) modified: i64,
    /// Bytes of content.
    pub(super) size: u64,
}

/// Calls `visit` with every entry and its content. An error of the archive is [`Error::Invalid`]; one of `visit`
/// ends the walk.
pub(super) fn walk<R, V>(mut source: R, limits: &UnpackLimits, mut visit: V) -> Result<(), Error>
where
    R: Read + Seek,
    V: FnMut(Item, &mut dyn Read) -> Result<(), Error>,
{
    let mut magic = [0; 2];
    let zipped = source
        .rewind()
        .and_then(|()| source.read_exact(&mut magic))
        .and_then(|()| source.rewind())
        .map(|()| magic == [0x1f, 0x8b])
        .map_err(|_| invalid("it is empty"))?;
    let budget = Rc::new(Cell::new(limits.header_bytes));
    let source = Metered {
        source: Expanded::new(source, zipped),
        budget: Rc::clone(&budget),
    };
    let mut archive = tar::Archive::new(source);
    let mut totals = Totals::default();
    let entries = archive.entries().map_err(|source| malformed(&source))?;
    for entry in entries {
        let mut entry = entry.map_err(|source| malformed(&source))?;
        let item = item(&mut entry)?;
        totals.add(&item, limits)?;
        budget.set(u64::MAX);
        visit(item, &mut entry)?;
        // What was not wanted is passed over here, so that only headers count against the next budget.
        io::copy(&mut entry, &mut io::sink()).map_err(|source| malformed(&source))?;
        budget.set(limits.header_bytes + 512);
    }
    // What follows the last entry is only read for the checksum at the end of a compressed archive.
    budget.set(limits.expanded_bytes);
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(|source| malformed(&source))?;
    Ok(())
}

#[derive(Debug, Default)]
struct Totals {
    entries: u64,
    bytes: u64,
}

impl Totals {
    fn add(&mut self, item: &Item, limits: &UnpackLimits) -> Result<(), Error> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(item.size);
        if self.entries > limits.entries {
            return Err(invalid(&format!("it has more than {} entries", limits.entries)));
        }
        if self.bytes > limits.expanded_bytes {
            let (size, limit) = (self.bytes, limits.expanded_bytes);
            return Err(Error::TooLarge {
                what: "the expanded archive",
                size,
                limit,
            });
        }
        if item.path.components().count() > limits.depth {
            let reason = format!(
                "entry {:?} lies deeper than {} directories",
                item.path, limits.depth
            );
            return Err(invalid(&reason));
        }
        Ok(())
    }
}

fn item<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Item, Error> {
    let sparse = sparse_name(entry)?;
    let header = entry.header();
    let wanted = match header.entry_type() {
        _ if sparse.is_some() => Wanted::Skip(SPARSE),
        EntryType::Regular | EntryType::Continuous => Wanted::File,
        EntryType::Directory => Wanted::Directory,
        EntryType::Symlink => Wanted::Symlink(link(entry)?),
        EntryType::Link => Wanted::Hardlink(safe(&link(entry)?, "the target of a hard link")?),
        EntryType::XGlobalHeader => Wanted::Comment,
        EntryType::Char => Wanted::Skip("a character device"),
        EntryType::Block => Wanted::Skip("a block device"),
        EntryType::Fifo => Wanted::Skip("a fifo"),
        EntryType::GNUSparse => Wanted::Skip(SPARSE),
        _ => Wanted::Skip("an entry of unknown type"),
    };
    if wanted == Wanted::Comment {
        return Ok(Item {
            path: PathBuf::new(),
            wanted,
            mode: 0,
            modified: 0,
            size: entry.size(),
        });
    }
    let name = sparse.map_or_else(|| entry.path_bytes(), std::borrow::Cow::Owned);
    let path = safe(Path::new(OsStr::from_bytes(&name)), "an entry")?;
    // Old archives mark directories by a slash at the end of a regular entry's name.
    let wanted = if wanted == Wanted::File && name.ends_with(b"/") {
        Wanted::Directory
    } else {
        wanted
    };
    if path.as_os_str().is_empty() && wanted != Wanted::Directory {
        return Err(invalid(&format!(
            "entry {:?} has no name",
            OsStr::from_bytes(&name)
        )));
    }
    let mode = header.mode().map_err(|source| malformed(&source))? & 0o777;
    let modified = modified(header)?;
    Ok(Item {
        path,
        wanted,
        mode,
        modified,
        size: entry.size(),
    })
}

/// The name of an entry that is a sparse file in one of the POSIX formats: its content is then a map and what the map
/// points at, which is not what the file holds. Some of them store it under a made-up name and tell the real one beside
/// it.
fn sparse_name<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Option<Vec<u8>>, Error> {
    let (mut is_sparse, mut name) = (false, None);
    let extensions = entry.pax_extensions().map_err(|source| malformed(&source))?;
    for extension in extensions.into_iter().flatten() {
        let extension = extension.map_err(|source| malformed(&source))?;
        is_sparse |= extension.key_bytes().starts_with(b"GNU.sparse.");
        if extension.key_bytes() == b"GNU.sparse.name" {
            name = Some(extension.value_bytes().to_vec());
        }
    }
    Ok(is_sparse.then(|| name.unwrap_or_else(|| entry.path_bytes().into_owned())))
}

/// The time in the header; the library takes one before 1970, a negative binary number, for one far ahead.
fn modified(header: &tar::Header) -> Result<i64, Error> {
    let [0xff, _, _, _, number @ ..] = header.as_old().mtime else {
        let seconds = header.mtime().map_err(|source| malformed(&source))?;
        return Ok(i64::try_from(seconds).unwrap_or(i64::MAX));
    };
    Ok(i64::from_be_bytes(number))
}

fn link<R: Read>(entry: &tar::Entry<'_, R>) -> Result<PathBuf, Error> {
    let missing = || {
        invalid(&format!(
            "link {:?} has no target",
            OsStr::from_bytes(&entry.path_bytes())
        ))
    };
    let target = entry
        .link_name_bytes()
        .filter(|target| !target.is_empty())
        .ok_or_else(missing)?;
    Ok(OsStr::from_bytes(&target).into())
}

/// `path` without `.` components; refused when it is absolute, has `..` or a NUL byte, or a name that is too long.
pub(super) fn safe(path: &Path, what: &str) -> Result<PathBuf, Error> {
    let refused = |why: &str| Err(invalid(&format!("{what} is called {path:?}, which {why}")));
    if path.as_os_str().as_bytes().contains(&0) {
        return refused("has a NUL byte");
    }
    let mut safe = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) if name.len() > 255 => {
                return refused("has a name of more than 255 bytes");
            }
            Component::Normal(name) => safe.push(name),
            Component::CurDir => {}
            Component::ParentDir => return refused("leads outside with \"..\""),
            Component::RootDir | Component::Prefix(_) => return refused("is absolute"),
        }
    }
    Ok(safe)
}

/// An archive error with its reason.
pub(super) fn invalid(reason: &str) -> Error {
    Error::Invalid {
        field: "archive",
        reason: reason.to_owned(),
    }
}

/// The error for an archive that cannot be read on.
pub(super) fn malformed(source: &io::Error) -> Error {
    invalid(&format!("it cannot be read: {source}"))
}

/// The archive without its compression.
enum Expanded<R: Read> {
    Plain(io::BufReader<R>),
    /// Expanded into a buffer, because headers are read in small pieces.
    Gzip(Box<io::BufReader<MultiGzDecoder<io::BufReader<R>>>>),
}

impl<R: Read> Expanded<R> {
    fn new(source: R, zipped: bool) -> Self {
        let source = io::BufReader::with_capacity(256 << 10, source);
        if zipped {
            let expanded = MultiGzDecoder::new(source);
            return Self::Gzip(Box::new(io::BufReader::with_capacity(64 << 10, expanded)));
        }
        Self::Plain(source)
    }
}

impl<R: Read> Read for Expanded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(buffer),
            Self::Gzip(source) => source.read(buffer),
        }
    }
}

/// Ends with an error when headers take more than their budget: the library reads long names into memory whole.
struct Metered<R> {
    source: R,
    budget: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        match self.budget.get().checked_sub(count as u64) {
            Some(left) => self.budget.set(left),
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the headers of an entry are too large",
                ));
            }
        }
        Ok(count)
    }
}
