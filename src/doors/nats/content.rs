//! The content of a file that was opened to be read, as one encoded reply.

use bytes::Bytes;

use crate::error::Error;
use crate::fs::OpenFile;
use crate::wire::file_reply::FileReply;

/// Reads the range that was asked for into its reply; a reply of more than `limit` bytes is [`Error::TooLarge`] and
/// nothing is read.
pub(super) async fn read(open: OpenFile, request_id: &str, limit: u64) -> Result<Bytes, Error> {
    let range = open.range();
    let length = range.end - range.start;
    let FileReply { mut head, tail, size } = FileReply::new(request_id, length, open.total());
    if size as u64 > limit {
        return Err(Error::TooLarge {
            what: "the reply",
            size: size as u64,
            limit,
        });
    }
    head.reserve_exact(size - head.len());
    let mut reply = open.read_behind(head, length).await?;
    reply.extend_from_slice(&tail);
    Ok(reply.into())
}
