//! The digest of what a file holds.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::path::Location;
use super::request::Kind;
use crate::error::Error;

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// The blake3 digest of the regular file at `location`.
pub(super) fn of(location: &Location) -> Result<blake3::Hash, Error> {
    let seen = location
        .followed()?
        .ok_or_else(|| location.failure("file", "read", Errno::NOENT))?;
    let kind = Kind::of(&seen);
    if kind != Kind::File {
        return Err(kind.instead_of_file(&location.absolute));
    }
    let file = File::from(location.open("read", OFlags::RDONLY | OFlags::NONBLOCK)?);
    digest(&file).map_err(|source| Error::from_path_io("file", "read", &location.absolute, source))
}

/// The blake3 digest of all of `file`.
pub(super) fn digest(file: &File) -> io::Result<blake3::Hash> {
    let (mut hasher, mut chunk, mut offset) = (blake3::Hasher::new(), vec![0; CHUNK], 0);
    loop {
        match file.read_at(&mut chunk, offset) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(read) => {
                hasher.update(&chunk[..read]);
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
