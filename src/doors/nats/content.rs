//! The content of a file that was opened to be read, as one reply.

use crate::error::Error;
use crate::fs::OpenFile;
use crate::wire::proto::control_response::Result as Outcome;
use crate::wire::reply;

/// Reads the range that was asked for; more than `limit` bytes are [`Error::TooLarge`] and nothing is read.
pub(super) async fn read(open: OpenFile, limit: u64) -> Result<Outcome, Error> {
    let total = open.total();
    Ok(reply::file(open.read_all(limit).await?, total))
}
