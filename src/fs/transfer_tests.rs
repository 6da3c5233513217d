//! What is under way is counted for as long as it is, so that an update can wait for it.

use std::future::Future;

use futures_util::stream;

use super::fixture::Room;
use super::{Begin, Body, InPlace, Move, Pack, Read, Unpack, Write};
use crate::lifecycle::Transfers;

fn endless() -> Body {
    Body::Stream(Box::pin(stream::pending()))
}

#[track_caller]
fn counts(transfers: &Transfers, count: usize) {
    assert_eq!(transfers.under_way(), count);
}

/// Begins what does not end at once, and lets go of it after the look.
async fn while_pending(work: impl Future, look: impl FnOnce()) {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        _ = &mut work => panic!("it is over"),
        () = std::future::ready(()) => look(),
    }
}

#[tokio::test]
async fn what_comes_in_or_goes_out_is_counted_until_its_end() {
    let room = Room::new();
    let (files, reach) = (&room.files, room.reach);
    let transfers = files.transfers();
    std::fs::write(room.at("file"), "content").unwrap();
    let read = Read {
        path: room.at("file"),
        offset: 0,
        length: None,
    };
    let open = files.open(reach, read).await.unwrap();
    counts(&transfers, 1);
    let stream = open.into_stream();
    counts(&transfers, 1);
    drop(stream);
    counts(&transfers, 0);
    let pack = Pack {
        path: room.at(""),
        gzip: false,
    };
    let packed = files.pack(reach, pack).await.unwrap();
    counts(&transfers, 1);
    drop(packed);
    counts(&transfers, 0);
    let begin = || Begin {
        path: room.at("uploaded"),
        create_parents: false,
        mode: None,
        in_place: InPlace::IfConfigured,
        base: None,
    };
    for ends_well in [true, false] {
        let upload = files.upload(reach, begin()).await.unwrap();
        counts(&transfers, 1);
        upload.write_at(0, "x".into()).await.unwrap();
        if ends_well {
            upload.commit().await.unwrap();
        } else {
            upload.abort().await.unwrap();
        }
        counts(&transfers, 0);
    }
    let write = Write {
        path: room.at("written"),
        create_parents: false,
        append: false,
        mode: None,
        in_place: InPlace::IfConfigured,
        base: None,
        body: endless(),
    };
    while_pending(files.write(reach, write), || counts(&transfers, 1)).await;
    let unpack = Unpack {
        path: room.at("unpacked"),
        body: endless(),
    };
    while_pending(files.unpack(reach, unpack), || counts(&transfers, 1)).await;
    // Large enough that it is not over before it is looked at.
    std::fs::write(room.at("large"), vec![7; 64 << 20]).unwrap();
    let copy = Move {
        from: room.at("large"),
        to: room.at("copy"),
        overwrite: false,
    };
    counts(&transfers, 0);
    // Which goes on to its end when nobody waits for it.
    while_pending(files.copy(reach, copy), || counts(&transfers, 1)).await;
    while transfers.under_way() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(room.at("copy").exists());
}
