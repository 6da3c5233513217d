//! Writing a file: which way it is written, and the pump from a streamed body to that way.
//!
//! ```text
//!   regular or missing  -> new file beside it, renamed over it        (replace.rs)
//!   no rename possible  -> collected aside, then copied over it       (overwrite.rs), when the request allows that
//!   append              -> at the end, cut back when it fails         (append.rs)
//!   device              -> written as it comes                        (overwrite.rs)
//!   fifo                -> written without ever blocking a thread     (fifo.rs)
//! ```
//!
//! The pump holds no thread while it waits for the peer: it collects about a batch, hands it to the blocking pool and
//! collects the next one meanwhile. When the caller goes away the sink is dropped, which undoes what was begun.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;
use tokio::task::spawn_blocking;

use super::append::Append;
use super::blocking::{self, Parked};
use super::config::Durability;
use super::directory::make_parents;
use super::entry::{is_same, link_target};
use super::overwrite::{Device, Overwrite};
use super::path::{Location, Place};
use super::replace::{Replace, check_writable};
use super::request::{Body, InPlace, Kind, Reach, Write, Written};
use super::{Shared, fifo};
use crate::error::Error;

/// How much is collected before it is handed to the blocking pool.
const BATCH_BYTES: usize = 512 << 10;
/// And in how many chunks at most, so that a trickle of tiny ones stays small in memory.
const BATCH_CHUNKS: usize = 512;
/// How many symbolic links a path may end in, as in the kernel.
const LINKS: usize = 40;

/// Everything about a write but its body.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) reach: Reach,
    pub(super) path: PathBuf,
    create_parents: bool,
    append: bool,
    pub(super) mode: Option<u32>,
    in_place: InPlace,
}

/// What a file is written through until it is finished. Dropped before that, it undoes what it did.
#[derive(Debug)]
enum Sink {
    Replace(Box<Replace>),
    Overwrite(Overwrite),
    Append(Append),
    Device(Device),
}

/// A begun write.
enum Begun {
    Sink(Box<Writing>),
    Fifo(PathBuf, File),
}

/// A sink with its count.
#[derive(Debug)]
struct Writing {
    shared: Arc<Shared>,
    path: PathBuf,
    sink: Sink,
    bytes: u64,
}

/// Writes `request`, see the module.
pub(super) async fn write(shared: Arc<Shared>, reach: Reach, request: Write) -> Result<Written, Error> {
    let Write {
        path,
        create_parents,
        append,
        mode,
        in_place,
        body,
    } = request;
    let order = Order {
        reach,
        path,
        create_parents,
        append,
        mode,
        in_place,
    };
    match body {
        Body::Bytes(bytes) => {
            let short = move || match begin(&shared, &order)? {
                Begun::Sink(writing) => writing.write(&[bytes])?.finish().map(Ok),
                Begun::Fifo(path, fifo) => Ok(Err((path, fifo, bytes))),
            };
            match blocking::run(short).await? {
                Ok(written) => Ok(written),
                Err((path, fifo, bytes)) => {
                    fifo::feed(path, fifo, Box::pin(futures_util::stream::iter([Ok(bytes)]))).await
                }
            }
        }
        Body::Stream(body) => match blocking::run(move || begin(&shared, &order)).await? {
            Begun::Sink(writing) => pump(*writing, body).await,
            Begun::Fifo(path, fifo) => fifo::feed(path, fifo, body).await,
        },
    }
}

/// Moves the body into the sink, a batch at a time, collecting the next one while one is written.
async fn pump(
    writing: Writing,
    mut body: std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<Bytes, Error>> + Send>>,
) -> Result<Written, Error> {
    let mut idle = Parked::new(writing);
    let mut next = collect(&mut body).await?;
    while !next.is_last {
        let Some(writing) = idle.take() else {
            return Err(gone());
        };
        let chunks = next.chunks;
        let busy = spawn_blocking(move || writing.write(&chunks).map(Parked::new));
        next = collect(&mut body).await?;
        idle = blocking::joined(busy).await?;
    }
    let Some(writing) = idle.take() else {
        return Err(gone());
    };
    blocking::run(move || writing.write(&next.chunks)?.finish()).await
}

fn gone() -> Error {
    Error::Internal {
        reason: "a write lost its sink".into(),
    }
}

struct Batch {
    chunks: Vec<Bytes>,
    is_last: bool,
}

async fn collect<S>(body: &mut S) -> Result<Batch, Error>
where
    S: futures_util::Stream<Item = Result<Bytes, Error>> + Unpin,
{
    let mut batch = Batch {
        chunks: Vec::new(),
        is_last: false,
    };
    let mut bytes = 0;
    while bytes < BATCH_BYTES && batch.chunks.len() < BATCH_CHUNKS {
        let Some(chunk) = body.next().await else {
            batch.is_last = true;
            break;
        };
        let chunk = chunk?;
        bytes += chunk.len();
        batch.chunks.push(chunk);
    }
    Ok(batch)
}

/// Finds the way to write and prepares it; nothing that exists is touched yet.
fn begin(shared: &Arc<Shared>, order: &Order) -> Result<Begun, Error> {
    let location = Location::new(order.reach, &shared.workspace, &order.path)?;
    let path = location.absolute.clone();
    let followed = location.followed()?;
    let sink = match followed.as_ref().map(Kind::of) {
        Some(Kind::Fifo) => return fifo::open(&location).map(|fifo| Begun::Fifo(path, fifo)),
        Some(Kind::CharDevice | Kind::BlockDevice) => Sink::Device(Device::open(&location)?),
        Some(kind @ (Kind::Directory | Kind::Socket | Kind::Symlink)) => {
            return Err(kind.instead_of_file(&path));
        }
        Some(Kind::File) | None => regular(shared, order, location, followed)?,
    };
    Ok(Begun::Sink(Box::new(Writing {
        shared: Arc::clone(shared),
        path,
        sink,
        bytes: 0,
    })))
}

fn regular(
    shared: &Shared,
    order: &Order,
    location: Location,
    followed: Option<Stat>,
) -> Result<Sink, Error> {
    if location.names_directory {
        let reason = format!(
            "{:?} ends with a slash, which names a directory",
            location.absolute
        );
        return Err(Error::Invalid {
            field: "path",
            reason,
        });
    }
    let magic = location.clone();
    let (place, present) = follow_links(location, order.create_parents)?;
    if order.append {
        return Append::open(&place, present.is_some(), order.mode).map(Sink::Append);
    }
    let allowed = InPlaceRule {
        path: magic.absolute.clone(),
        allowed: shared.allows_in_place(order.in_place),
    };
    if let Some(followed) = followed
        && !present
            .as_ref()
            .is_some_and(|present| is_same(present, &followed))
    {
        // `/proc/self/fd/3` leads to files that no path names.
        allowed.check("it is reached through a link that names no path")?;
        let target = magic.open("write", OFlags::WRONLY | OFlags::NONBLOCK)?;
        return Ok(Sink::Overwrite(Overwrite::new(&place, target.into(), allowed)));
    }
    if let Some(kind) = present.as_ref().map(Kind::of) {
        if kind != Kind::File {
            return Err(kind.instead_of_file(&allowed.path));
        }
        check_writable(&place)?;
    }
    match present {
        Some(stat) if stat.st_nlink > 1 => {
            allowed.check(&format!("it has {} hard links", stat.st_nlink))?;
            Overwrite::open(&place, allowed).map(Sink::Overwrite)
        }
        present => match Replace::open(&place, present, order.mode, allowed.clone()) {
            // A directory that takes no new file, with a file that can be written.
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) if present.is_some() => {
                allowed.check("its directory takes no new file")?;
                Overwrite::open(&place, allowed).map(Sink::Overwrite)
            }
            Err(errno) => Err(place.failure("directory", "write", errno)),
            Ok(replace) => Ok(Sink::Replace(Box::new(replace))),
        },
    }
}

/// The place that a chain of symbolic links ends in, and what is there.
fn follow_links(mut location: Location, create_parents: bool) -> Result<(Place, Option<Stat>), Error> {
    for _ in 0..LINKS {
        let place = if create_parents {
            make_parents(&location)?
        } else {
            location.place()?
        };
        let present = place.look()?;
        match present {
            Some(stat) if Kind::of(&stat) == Kind::Symlink => {
                let target = link_target(rustix::fd::AsFd::as_fd(&place.directory), &place.name)
                    .map_err(|errno| place.failure("link", "follow", errno))?;
                location = location.beside(&target)?;
            }
            present => return Ok((place, present)),
        }
    }
    Err(location.failure("link", "follow", Errno::LOOP))
}

/// Whether this write may overwrite in place, and the path that a refusal names.
#[derive(Debug, Clone)]
pub(super) struct InPlaceRule {
    pub(super) path: PathBuf,
    allowed: bool,
}

impl InPlaceRule {
    /// Refuses with `reason` when in place is not allowed.
    pub(super) fn check(&self, reason: &str) -> Result<(), Error> {
        if self.allowed {
            return Ok(());
        }
        Err(Error::Conflict {
            what: format!("write {:?}", self.path),
            reason: format!(
                "{reason}, so only a write in place is possible, which fs.in_place does not allow"
            ),
        })
    }
}

impl Writing {
    fn write(mut self, chunks: &[Bytes]) -> Result<Self, Error> {
        for chunk in chunks {
            if let Err(source) = self.sink.write(chunk) {
                return Err(self.fail(source));
            }
            self.bytes += chunk.len() as u64;
        }
        Ok(self)
    }

    fn finish(self) -> Result<Written, Error> {
        let Self {
            shared,
            path,
            sink,
            bytes,
        } = self;
        let configured = shared.config.durability;
        let (atomic, durability) = match sink {
            Sink::Replace(replace) => (replace.finish(&shared, &path)?, configured),
            Sink::Overwrite(overwrite) => {
                overwrite.finish(&shared, bytes)?;
                (false, configured)
            }
            Sink::Append(append) => {
                append.finish(&path, configured)?;
                (false, configured)
            }
            Sink::Device(_) => (false, Durability::None),
        };
        Ok(Written {
            path,
            bytes,
            atomic,
            durability,
        })
    }

    /// The error for `source`, made after the sink is gone so that the free bytes it names are those without it.
    fn fail(self, source: io::Error) -> Error {
        let Self { path, sink, .. } = self;
        sink.abandon(&path, source)
    }
}

impl Sink {
    fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        match self {
            Self::Replace(replace) => replace.write(chunk),
            Self::Overwrite(overwrite) => overwrite.write(chunk),
            Self::Append(append) => append.write(chunk),
            Self::Device(device) => device.write(chunk),
        }
    }

    fn abandon(self, path: &std::path::Path, source: io::Error) -> Error {
        let half_written = match &self {
            Self::Replace(_) | Self::Device(_) => false,
            Self::Overwrite(overwrite) => overwrite.has_begun(),
            Self::Append(append) => !append.can_be_undone(),
        };
        drop(self);
        if half_written {
            return Error::Io {
                doing: format!("write {path:?} in place, a part of the new content is in it"),
                source,
            };
        }
        Error::from_path_io("file", "write", path, source)
    }
}

/// The mode a new file is made with: closed until its exact mode is set, or what the umask makes of 0666.
pub(super) fn initial_mode(exact: Option<u32>) -> Mode {
    if exact.is_some() {
        Mode::RUSR | Mode::WUSR
    } else {
        Mode::from_raw_mode(0o666)
    }
}
