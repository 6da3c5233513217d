//! The content of a file that was opened to be read, as one encoded reply.

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::link::Link;
use crate::error::Error;
use crate::fs::OpenFile;
use crate::wire::file_reply::FileReply;

/// A reply and the room that it takes, given back when the last of it is sent.
struct Content {
    reply: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Content {
    fn as_ref(&self) -> &[u8] {
        &self.reply
    }
}

/// Reads the range that was asked for into its reply once `link` has room for it; a reply of more than `limit` bytes
/// is [`Error::TooLarge`] and nothing is read.
pub(super) async fn read(link: &Link, open: OpenFile, request_id: &str, limit: u64) -> Result<Bytes, Error> {
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
    let room = link.content_room(size as u64).await?;
    head.reserve_exact(size - head.len());
    let mut reply = open.read_behind(head, length).await?;
    reply.extend_from_slice(&tail);
    Ok(Bytes::from_owner(Content { reply, _room: room }))
}
