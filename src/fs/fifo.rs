//! Writing to a fifo. A fifo whose reader stands still must not hold a thread, so this is the one kind of file that
//! is written by the event loop.

use std::fs::File;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Sender;

use super::config::Durability;
use super::path::Location;
use super::request::Written;
use crate::error::Error;

/// How long a reader may take nothing before the write ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// Opens the fifo; answers at once, with an error when nobody reads it.
pub(super) fn open(location: &Location) -> Result<File, Error> {
    match location.try_open(OFlags::WRONLY | OFlags::NONBLOCK) {
        Ok(fifo) => Ok(fifo.into()),
        Err(Errno::NXIO) => Err(Error::Conflict {
            what: format!("write {:?}", location.absolute),
            reason: "it is a fifo that nobody reads".into(),
        }),
        Err(errno) => Err(location.failure("fifo", "write", errno)),
    }
}

/// Writes `body` to the fifo.
pub(super) async fn feed(
    path: PathBuf,
    fifo: File,
    mut body: Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>,
) -> Result<Written, Error> {
    let failed = |source| Error::from_path_io("fifo", "write", &path, source);
    let mut sender = Sender::from_file(fifo).map_err(failed)?;
    let mut bytes = 0;
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        for part in chunk.chunks(64 << 10) {
            match tokio::time::timeout(PATIENCE, sender.write_all(part)).await {
                Ok(result) => result.map_err(failed)?,
                Err(_) => {
                    return Err(Error::Timeout {
                        what: "the reader of the fifo",
                        after: PATIENCE,
                    });
                }
            }
        }
        bytes += chunk.len() as u64;
    }
    Ok(Written {
        path,
        bytes,
        atomic: false,
        durability: Durability::None,
    })
}
