//! Records back from the spool, for readers.

use bytes::{Buf, BytesMut};

use super::output::Output;
use crate::error::Error;
use crate::stream::{Channel, Cursor, Item, Keep, Kept, Record, Stored, Tail};

/// Bytes that are read at once when an answer is put together.
const GATHERED: u64 = 1 << 20;

/// The same items with all of their bytes in memory.
pub(super) async fn in_memory(items: Vec<Item<Stored>>) -> Result<Vec<Item>, Error> {
    let spilled = |item: &Item<Stored>| {
        matches!(
            item,
            Item::Record(Record {
                bytes: Stored::Spilled(_),
                ..
            })
        )
    };
    if !items.iter().any(spilled) {
        return items.into_iter().map(fetched).collect();
    }
    let fetching = tokio::task::spawn_blocking(move || items.into_iter().map(fetched).collect());
    fetching.await.map_err(|panic| Error::Internal {
        reason: format!("reading the spool panicked: {panic}"),
    })?
}

fn fetched(item: Item<Stored>) -> Result<Item, Error> {
    let record = match item {
        Item::Gap(gap) => return Ok(Item::Gap(gap)),
        Item::Record(record) => record,
    };
    let bytes = match record.bytes {
        Stored::Memory(bytes) => bytes,
        Stored::Spilled(place) => {
            let read = place.holder.read(place.position, place.length);
            read.map_err(|source| Error::Io {
                doing: "read output from the spool".into(),
                source,
            })?
        }
    };
    Ok(Item::Record(Record {
        seq: record.seq,
        channel: record.channel,
        at_ms: record.at_ms,
        offset: record.offset,
        bytes,
    }))
}

/// What was kept of a channel that carried `total` bytes, as far as `keep` goes, also where some of them are in the spool.
///
/// # Errors
///
/// [`Error::Io`] when the spool cannot be read.
pub(super) async fn gathered(
    output: &Output,
    channel: Channel,
    keep: Keep,
    total: u64,
) -> Result<Kept, Error> {
    let kept = output.kept(channel, keep);
    let tail_limit = match keep.tail {
        Tail::EachChannel(bytes) | Tail::Together(bytes) => bytes,
        Tail::All => u64::MAX,
    };
    let wanted = keep.head.saturating_add(tail_limit).min(total);
    if !output.has_spool() || (kept.head.len() + kept.tail.len()) as u64 >= wanted {
        return Ok(kept);
    }
    let limit = usize::try_from(tail_limit).unwrap_or(usize::MAX);
    let (mut head, mut tail) = (BytesMut::new(), BytesMut::new());
    let mut cursor = Cursor::start().only(&[channel]);
    loop {
        let items = output.read(&mut cursor, GATHERED).await?;
        if items.is_empty() {
            break;
        }
        for item in items {
            let Item::Record(mut record) = item else { continue };
            let room = keep.head.saturating_sub(head.len() as u64);
            let first = usize::try_from(room)
                .unwrap_or(usize::MAX)
                .min(record.bytes.len());
            head.extend_from_slice(&record.bytes.split_to(first));
            tail.extend_from_slice(&record.bytes);
            // What is too much goes now and then, not byte by byte.
            if tail.len() / 2 > limit {
                tail.advance(tail.len() - limit);
            }
        }
    }
    tail.advance(tail.len().saturating_sub(limit));
    let omitted = total - (head.len() + tail.len()) as u64;
    if omitted == 0 {
        head.extend_from_slice(&std::mem::take(&mut tail));
    }
    Ok(Kept {
        head: head.freeze(),
        tail: tail.freeze(),
        omitted,
    })
}
