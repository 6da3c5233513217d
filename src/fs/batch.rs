//! Collecting a streamed body into batches that are worth a hand-over to the blocking pool.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use crate::error::Error;

/// How many bytes make a batch.
const BYTES: usize = 512 << 10;
/// And how many chunks at most, so that a trickle of tiny ones stays small in memory.
const CHUNKS: usize = 512;

/// A part of a body, as it came.
#[derive(Debug)]
pub(super) struct Batch {
    /// The bytes, in order; nothing was copied to collect them.
    pub(super) chunks: Vec<Bytes>,
    /// The body has ended.
    pub(super) is_last: bool,
}

/// Waits for the next batch. Dropping the future loses what was collected.
pub(super) async fn next_batch<S>(body: &mut S) -> Result<Batch, Error>
where
    S: Stream<Item = Result<Bytes, Error>> + Unpin,
{
    let mut batch = Batch {
        chunks: Vec::new(),
        is_last: false,
    };
    let mut bytes = 0;
    while bytes < BYTES && batch.chunks.len() < CHUNKS {
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
