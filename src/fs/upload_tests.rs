//! Uploads through the room: pieces in any order, what is expected to be there, and what is left of one that ends early.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use bytes::Bytes;
use proptest::prelude::*;
use rustix::process::geteuid;

use super::fixture::Room;
use super::{Base, Begin, Config, Durability, InPlace, Reach, Upload, Uploaded};
use crate::error::{Code, Error};

fn begin(room: &Room, name: &str, base: Option<Base>) -> Begin {
    Begin {
        path: room.at(name),
        create_parents: false,
        mode: None,
        in_place: InPlace::IfConfigured,
        base,
    }
}

fn content(text: &str) -> Base {
    Base::Content(blake3::hash(text.as_bytes()))
}

impl Room {
    async fn begin(&self, begin: Begin) -> Result<Upload, Error> {
        self.files.upload(self.reach, begin).await
    }

    /// Uploads `text` over what is believed to be there.
    async fn upload(&self, name: &str, text: &str, base: Option<Base>) -> Result<Uploaded, Error> {
        let upload = self.begin(begin(self, name, base)).await?;
        upload
            .write_at(0, Bytes::copy_from_slice(text.as_bytes()))
            .await?;
        upload.commit().await
    }
}

#[tokio::test]
async fn pieces_in_any_order_become_the_file_and_nothing_is_seen_before() {
    let room = Room::new();
    let upload = room.begin(begin(&room, "new", None)).await.unwrap();
    for (offset, piece) in [(4, "two "), (8, "three"), (0, "one ")] {
        upload.write_at(offset, piece.into()).await.unwrap();
        assert!(!room.at("new").exists());
    }
    let uploaded = upload.commit().await.unwrap();
    assert_eq!(uploaded.bytes, 13);
    assert_eq!(uploaded.digest, blake3::hash(b"one two three"));
    assert_eq!(
        (room.text("new").as_str(), room.names()),
        ("one two three", vec!["new".into()])
    );
    let late = upload.write_at(0, "x".into()).await.unwrap_err();
    assert_eq!(late.code(), Code::Conflict);
    assert_eq!(upload.commit().await.unwrap_err().code(), Code::Conflict);
    upload.abort().await.unwrap();
    assert_eq!(room.text("new"), "one two three");
}

#[tokio::test]
async fn one_that_ends_early_or_leaves_a_hole_leaves_nothing() {
    let room = Room::new();
    std::fs::write(room.at("old"), "old").unwrap();
    let upload = room.begin(begin(&room, "old", None)).await.unwrap();
    upload.write_at(0, "new content".into()).await.unwrap();
    upload.abort().await.unwrap();
    assert_eq!(
        upload.write_at(0, "x".into()).await.unwrap_err().code(),
        Code::Conflict
    );
    let hole = room.begin(begin(&room, "old", None)).await.unwrap();
    hole.write_at(1 << 40, "far away".into()).await.unwrap();
    assert_eq!(hole.commit().await.unwrap_err().code(), Code::Invalid);
    assert_eq!(
        (room.text("old").as_str(), room.names()),
        ("old", vec!["old".into()])
    );
}

#[tokio::test]
async fn what_is_replaced_is_what_it_is_believed_to_be() {
    let room = Room::new();
    let stale = |outcome: Result<Uploaded, Error>| {
        let error = outcome.unwrap_err();
        assert_eq!(
            (error.code(), error.errno()),
            (Code::Conflict, Some(libc::ESTALE)),
            "{error}"
        );
    };
    stale(room.upload("file", "x", Some(content("something"))).await);
    room.upload("file", "one", Some(Base::Absent)).await.unwrap();
    stale(room.upload("file", "two", Some(Base::Absent)).await);
    stale(room.upload("file", "two", Some(content("another"))).await);
    room.upload("file", "two", Some(content("one"))).await.unwrap();
    assert_eq!(room.text("file"), "two");
    // It was right at the beginning and is not any more.
    for (base, change) in [(Some(content("two")), "changed"), (Some(content("two")), "")] {
        std::fs::write(room.at("file"), "two").unwrap();
        let upload = room.begin(begin(&room, "file", base.clone())).await.unwrap();
        upload.write_at(0, "three".into()).await.unwrap();
        std::fs::write(room.at("file"), change).unwrap();
        stale(upload.commit().await);
        assert_eq!(room.text("file"), change);
    }
    let upload = room
        .begin(begin(&room, "fresh", Some(Base::Absent)))
        .await
        .unwrap();
    std::fs::write(room.at("fresh"), "faster").unwrap();
    stale(upload.commit().await);
    assert_eq!(room.text("fresh"), "faster");
    let upload = room.begin(begin(&room, "file", Some(content("")))).await.unwrap();
    std::fs::remove_file(room.at("file")).unwrap();
    stale(upload.commit().await);
    assert_eq!(room.names(), ["fresh"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_writers_that_believe_the_same_exactly_one_wins() {
    let room = Room::new();
    for base in [Some(Base::Absent), Some(content("base"))] {
        let _absent = std::fs::remove_file(room.at("file"));
        if base != Some(Base::Absent) {
            std::fs::write(room.at("file"), "base").unwrap();
        }
        let mut uploads = Vec::new();
        for writer in 0..16 {
            let upload = room.begin(begin(&room, "file", base.clone())).await.unwrap();
            upload
                .write_at(0, format!("writer {writer}").into())
                .await
                .unwrap();
            uploads.push(upload);
        }
        let ends = futures_util::future::join_all(uploads.iter().map(Upload::commit)).await;
        let winners: Vec<_> = (0..16).filter(|writer| ends[*writer].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{ends:?}");
        assert_eq!(room.text("file"), format!("writer {}", winners[0]));
        for error in ends.into_iter().filter_map(Result::err) {
            assert_eq!(error.errno(), Some(libc::ESTALE), "{error}");
        }
    }
    assert_eq!(room.names(), ["file"]);
}

#[tokio::test]
async fn mode_owner_links_and_parents_are_those_of_a_plain_write() {
    let room = Room::new();
    let upload = Begin {
        create_parents: true,
        mode: Some(0o640),
        ..begin(&room, "deep/er/file", Some(Base::Absent))
    };
    let upload = room.begin(upload).await.unwrap();
    upload.write_at(0, "x".into()).await.unwrap();
    upload.commit().await.unwrap();
    let mode = |name: &str| std::fs::metadata(room.at(name)).unwrap().mode() & 0o7777;
    assert_eq!(mode("deep/er/file"), 0o640);
    let missing = room.begin(begin(&room, "no/where", None)).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);

    std::fs::write(room.at("kept"), "old").unwrap();
    std::fs::set_permissions(room.at("kept"), PermissionsExt::from_mode(0o751)).unwrap();
    if geteuid().is_root() {
        std::os::unix::fs::chown(room.at("kept"), Some(1234), Some(4321)).unwrap();
    }
    symlink("kept", room.at("link")).unwrap();
    room.upload("link", "new", Some(content("old"))).await.unwrap();
    assert_eq!((room.text("kept").as_str(), mode("kept")), ("new", 0o751));
    if geteuid().is_root() {
        let kept = std::fs::metadata(room.at("kept")).unwrap();
        assert_eq!((kept.uid(), kept.gid()), (1234, 4321));
    }
    assert!(room.at("link").is_symlink());
    let directory = room.begin(begin(&room, "deep", None)).await.unwrap_err();
    assert_eq!(directory.code(), Code::WrongKind);
}

#[tokio::test]
async fn in_place_is_refused_unless_it_is_allowed_and_devices_always_are() {
    for in_place in [false, true] {
        let config = Config {
            durability: Durability::None,
            in_place,
            ..Config::default()
        };
        let room = Room::with(config, Reach::Machine);
        std::fs::write(room.at("one"), "old content").unwrap();
        std::fs::hard_link(room.at("one"), room.at("other")).unwrap();
        let outcome = room.upload("one", "new", Some(content("old content"))).await;
        if in_place {
            assert_eq!(outcome.unwrap().bytes, 3);
            assert_eq!(room.text("other"), "new");
        } else {
            assert_eq!(outcome.unwrap_err().code(), Code::Conflict);
            assert_eq!(room.text("other"), "old content");
        }
        let device = Begin {
            path: "/dev/null".into(),
            ..begin(&room, "x", None)
        };
        assert_eq!(room.begin(device).await.unwrap_err().code(), Code::Conflict);
    }
}

#[tokio::test]
async fn a_confined_upload_stays_inside() {
    let room = Room::confined();
    symlink(room.outside(), room.at("out")).unwrap();
    for path in [room.outside().join("x"), room.at("out/x")] {
        let outside = Begin {
            path,
            ..begin(&room, "x", Some(Base::Absent))
        };
        let error = room.begin(outside).await.unwrap_err();
        assert_eq!(error.code(), Code::Denied, "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_pieces_in_any_order_are_the_content(
        content in proptest::collection::vec(any::<u8>(), 1..20_000),
        sizes in proptest::collection::vec(1..4_000_usize, 8),
        seed in any::<u64>(),
    ) {
        let mut pieces = Vec::new();
        let (mut at, mut sizes) = (0, sizes.into_iter().cycle());
        while at < content.len() {
            let end = (at + sizes.next().unwrap_or(1)).min(content.len());
            pieces.push((at, content[at..end].to_vec()));
            at = end;
        }
        fastrand::Rng::with_seed(seed).shuffle(&mut pieces);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let room = Room::new();
        runtime.block_on(async {
            let upload = room.begin(begin(&room, "file", None)).await.unwrap();
            for (offset, piece) in pieces {
                upload.write_at(offset as u64, piece.into()).await.unwrap();
            }
            let uploaded = upload.commit().await.unwrap();
            assert_eq!(uploaded.digest, blake3::hash(&content));
        });
        assert_eq!(std::fs::read(room.at("file")).unwrap(), content);
    }
}
