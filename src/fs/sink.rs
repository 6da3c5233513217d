//! What a file is written through until it is finished, whichever way it is written. Dropped before that, it undoes
//! what it did.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::fstatfs;

use super::Shared;
use super::append::Append;
use super::config::Durability;
use super::overwrite::{Device, Overwrite};
use super::replace::Replace;
use super::request::Written;
use crate::error::Error;

/// The way a file is written.
#[derive(Debug)]
pub(super) enum Way {
    Replace(Box<Replace>),
    Overwrite(Overwrite),
    Append(Append),
    Device(Device),
}

/// A begun write.
#[derive(Debug)]
pub(super) struct Sink {
    shared: Arc<Shared>,
    path: PathBuf,
    way: Way,
    bytes: u64,
}

impl Sink {
    /// A sink for `path`, as the answer will call it.
    pub(super) fn new(shared: &Arc<Shared>, path: PathBuf, way: Way) -> Self {
        Self {
            shared: Arc::clone(shared),
            path,
            way,
            bytes: 0,
        }
    }

    /// Takes bytes; after an error everything is undone.
    pub(super) fn write(mut self, chunks: &[Bytes]) -> Result<Self, Error> {
        for chunk in chunks {
            let written = match &mut self.way {
                Way::Replace(replace) => replace.write(chunk),
                Way::Overwrite(overwrite) => overwrite.write(chunk),
                Way::Append(append) => append.write(chunk),
                Way::Device(device) => device.write(chunk),
            };
            if let Err(source) = written {
                return Err(self.abandon(source));
            }
            self.bytes += chunk.len() as u64;
        }
        Ok(self)
    }

    /// The file that the content is collected in, where pieces of it can be written in any order.
    pub(super) fn collected(&self) -> Option<&File> {
        match &self.way {
            Way::Replace(replace) => Some(replace.file()),
            Way::Overwrite(overwrite) => overwrite.aside(),
            Way::Append(_) | Way::Device(_) => None,
        }
    }

    /// Whether the content is collected in a file system that is all memory, which no disk or network can hold up.
    pub(super) fn is_in_memory(&self) -> bool {
        /// tmpfs and ramfs (linux/magic.h).
        const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
        let found = self.collected().map(fstatfs);
        matches!(found, Some(Ok(found)) if IN_MEMORY.contains(&(found.f_type as u64 & 0xffff_ffff)))
    }

    /// Looks again at what is to be replaced, which may be another file by now; with `only_new` nothing is.
    pub(super) fn look_again(&mut self, only_new: bool) -> Result<(), Error> {
        match &mut self.way {
            Way::Replace(replace) => replace.look_again(only_new),
            Way::Overwrite(_) | Way::Append(_) | Way::Device(_) => Ok(()),
        }
    }

    /// Makes what was written the content of the file.
    pub(super) fn finish(self) -> Result<Written, Error> {
        let Self {
            shared,
            path,
            way,
            bytes,
        } = self;
        let configured = shared.config.durability;
        let (atomic, durability) = match way {
            Way::Replace(replace) => (replace.finish(&shared, &path)?, configured),
            Way::Overwrite(overwrite) => {
                overwrite.finish(&shared, bytes)?;
                (false, configured)
            }
            Way::Append(append) => {
                append.finish(&path, configured)?;
                (false, configured)
            }
            Way::Device(_) => (false, Durability::None),
        };
        Ok(Written {
            path,
            bytes,
            atomic,
            durability,
        })
    }

    /// The error for `source`, made after everything is undone, so that the free bytes it names are right.
    fn abandon(self, source: io::Error) -> Error {
        let Self { path, way, .. } = self;
        let is_half_written = match &way {
            Way::Replace(_) | Way::Device(_) => false,
            Way::Overwrite(overwrite) => overwrite.has_begun(),
            Way::Append(append) => !append.can_be_undone(),
        };
        drop(way);
        if is_half_written {
            half_written(&path, source)
        } else {
            Error::from_path_io("file", "write", &path, source)
        }
    }
}

/// The error for a file that could not be kept as it was.
pub(super) fn half_written(path: &Path, source: io::Error) -> Error {
    Error::Io {
        doing: format!("write {path:?} in place, a part of the new content is in it"),
        source,
    }
}
