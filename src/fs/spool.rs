//! Collecting a whole body in a file without a name, for what has to be read more than once or from its end.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use rustix::fs::Mode;
use tokio::task::spawn_blocking;

use super::batch::next_batch;
use super::blocking::{self, Parked};
use super::path::Location;
use super::temp::Temp;
use crate::error::Error;

/// Makes the file on the file system of `location`, in the nearest directory above it that exists (or in itself).
pub(super) fn make(location: &Location) -> Result<Temp, Error> {
    let (nearest, _missing) = location.nearest(true)?;
    Temp::create(&Arc::new(nearest), Mode::RUSR | Mode::WUSR)
        .map_err(|errno| location.failure("directory", "write into", errno))
}

/// Moves the body into `spool`, a batch at a time; `path` is what an error names. When the body breaks off, or the
/// caller goes away, the file is gone.
pub(super) async fn fill<S>(spool: Temp, path: PathBuf, mut body: S) -> Result<Temp, Error>
where
    S: Stream<Item = Result<Bytes, Error>> + Unpin,
{
    let mut idle = Parked::new(spool);
    loop {
        let batch = match next_batch(&mut body).await {
            Ok(batch) => batch,
            Err(error) => {
                idle.discard().await?;
                return Err(error);
            }
        };
        let (spool, path, is_last) = (idle.take()?, path.clone(), batch.is_last);
        let busy = spawn_blocking(move || write(spool, &path, &batch.chunks).map(Parked::new));
        idle = blocking::joined(busy).await?;
        if is_last {
            return idle.take();
        }
    }
}

fn write(spool: Temp, path: &Path, chunks: &[Bytes]) -> Result<Temp, Error> {
    for chunk in chunks {
        if let Err(source) = spool.file().write_all(chunk) {
            drop(spool);
            return Err(Error::from_path_io("directory", "write into", path, source));
        }
    }
    Ok(spool)
}
