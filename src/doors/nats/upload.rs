//! The pieces of a file that a control plane sends one by one, and what it is told of their end.

use super::error::agent_error;
use crate::error::Error;
use crate::fs::{Piece, Pieces, Uploaded};
use crate::wire::opstream::Failure;
use crate::wire::proto::{WriteChunk, WriteChunkAck};

/// Bytes of one piece at most.
const CHUNK: usize = 512 << 10;

/// Puts a piece where it belongs; one that is there already is acknowledged again.
pub(super) async fn take(pieces: &Pieces, chunk: WriteChunk) -> Result<WriteChunkAck, Error> {
    let size = chunk.bytes.len();
    if size > CHUNK {
        return Err(Error::TooLarge {
            what: "the chunk",
            size: size as u64,
            limit: CHUNK as u64,
        });
    }
    let seq = chunk.seq;
    let piece = Piece {
        seq,
        is_last: chunk.last,
        offset: chunk.offset,
        bytes: chunk.bytes,
    };
    pieces.take(piece).await?;
    Ok(WriteChunkAck { seq })
}

/// Gives the file its name.
pub(super) async fn commit(pieces: &Pieces) -> Result<Uploaded, Failure> {
    pieces.commit().await.map_err(|error| {
        let refusal = agent_error(&error, "fs.write");
        let mut detail = refusal.detail.clone();
        detail.insert("message".into(), refusal.message.clone());
        let code = refusal.code().as_str_name();
        Failure::refused(code.trim_start_matches("ERROR_CODE_"), detail)
    })
}
