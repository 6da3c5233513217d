//! Records back from the spool, for readers.

use crate::error::Error;
use crate::stream::{Item, Record, Stored};

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
