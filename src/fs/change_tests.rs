//! Edits, copies, rights, attributes and archives through the room.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;

use super::fixture::{Room, write};
use super::{Base, Body, Change, Chmod, Edit, Edited, Kind, Move, Pack, Select, SetAttribute, Unpack, Write};
use crate::error::{Code, Error};

impl Room {
    fn edit(&self, name: &str, change: Change) -> Edit {
        Edit {
            path: self.at(name),
            change,
            base: None,
            dry_run: false,
        }
    }

    async fn edited(&self, edit: Edit) -> Result<Edited, Error> {
        self.files.edit(self.reach, edit).await
    }

    async fn copied(&self, from: &str, to: &str, overwrite: bool) -> Result<(), Error> {
        let request = Move {
            from: self.at(from),
            to: self.at(to),
            overwrite,
        };
        self.files.copy(self.reach, request).await.map(drop)
    }

    async fn packed(&self, name: &str, gzip: bool) -> Result<Vec<u8>, Error> {
        let path = self.at(name);
        let packed = self.files.pack(self.reach, Pack { path, gzip }).await?;
        packed.whole(64 << 20).await
    }
}

fn replace(old: &str, new: &str) -> Change {
    Change::Replace {
        old: old.into(),
        new: new.into(),
        count: 1,
    }
}

#[tokio::test]
async fn an_edit_keeps_mode_and_says_what_it_did() {
    let room = Room::new();
    std::fs::write(room.at("file"), "one\ntwo\n").unwrap();
    std::fs::set_permissions(room.at("file"), PermissionsExt::from_mode(0o600)).unwrap();
    let edited = room.edited(room.edit("file", replace("two", "2"))).await.unwrap();
    assert_eq!(room.text("file"), "one\n2\n");
    assert_eq!(edited.digest, blake3::hash(b"one\n2\n"));
    assert!(String::from_utf8(edited.diff).unwrap().contains("-two\n+2\n"));
    assert_eq!(std::fs::metadata(room.at("file")).unwrap().mode() & 0o7777, 0o600);
    let dry = Edit {
        dry_run: true,
        ..room.edit("file", replace("one", "1"))
    };
    assert_eq!(room.edited(dry).await.unwrap().places, 1);
    assert_eq!(room.text("file"), "one\n2\n");
    let stale = Edit {
        base: Some(Base::Content(blake3::hash(b"other"))),
        ..room.edit("file", replace("one", "1"))
    };
    let error = room.edited(stale).await.unwrap_err();
    assert_eq!(error.errno(), Some(libc::ESTALE), "{error}");
    for (name, code) in [("none", Code::NotFound), (".", Code::WrongKind)] {
        let error = room.edited(room.edit(name, replace("a", "b"))).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn edits_at_once_are_all_there() {
    let room = Room::new();
    let lines: Vec<_> = (0..16).map(|number| format!("line {number} old\n")).collect();
    std::fs::write(room.at("file"), lines.concat()).unwrap();
    let edits = (0..16).map(|number| {
        let change = replace(&format!("line {number} old"), &format!("line {number} new"));
        room.edited(room.edit("file", change))
    });
    for edited in futures_util::future::join_all(edits).await {
        edited.unwrap();
    }
    assert_eq!(room.text("file"), lines.concat().replace("old", "new"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_writers_with_one_version_exactly_one_wins() {
    let room = Room::new();
    for round in 0..10 {
        std::fs::write(room.at("file"), "base").unwrap();
        let read = super::Read {
            path: room.at("file"),
            offset: 0,
            length: None,
        };
        let version = room
            .files
            .open(room.reach, read)
            .await
            .unwrap()
            .version()
            .to_owned();
        let writes = (0..8).map(|writer| {
            let write = Write {
                base: Some(Base::Version(version.clone())),
                body: Body::Bytes(format!("writer {writer}").into()),
                ..write(room.at("file"), "")
            };
            room.files.write(room.reach, write)
        });
        let outcomes = futures_util::future::join_all(writes).await;
        let winners: Vec<_> = (0..8).filter(|writer| outcomes[*writer].is_ok()).collect();
        assert_eq!(winners.len(), 1, "round {round}: {outcomes:?}");
        assert_eq!(room.text("file"), format!("writer {}", winners[0]));
    }
}

#[tokio::test]
async fn a_condition_is_for_files_that_are_replaced() {
    let room = Room::new();
    std::fs::write(room.at("file"), "base").unwrap();
    let append = Write {
        append: true,
        base: Some(Base::Content(blake3::hash(b"base"))),
        ..write(room.at("file"), "more")
    };
    let error = room.files.write(room.reach, append).await.unwrap_err();
    assert_eq!(error.code(), Code::Invalid, "{error}");
    let absent = || Write {
        base: Some(Base::Absent),
        ..write(room.at("new"), "x")
    };
    room.files.write(room.reach, absent()).await.unwrap();
    let error = room.files.write(room.reach, absent()).await.unwrap_err();
    assert_eq!(error.errno(), Some(libc::ESTALE), "{error}");
}

#[tokio::test]
async fn a_copy_has_everything_and_gives_no_rights() {
    let room = Room::new();
    std::fs::create_dir_all(room.at("tree/deep")).unwrap();
    std::fs::write(room.at("tree/deep/tool"), "x").unwrap();
    std::fs::set_permissions(room.at("tree/deep/tool"), PermissionsExt::from_mode(0o4755)).unwrap();
    symlink("deep", room.at("tree/link")).unwrap();
    room.copied("tree", "copy", false).await.unwrap();
    let tool = std::fs::metadata(room.at("copy/deep/tool")).unwrap();
    assert_eq!(tool.mode() & 0o7777, 0o755);
    assert_eq!(
        std::fs::read_link(room.at("copy/link")).unwrap(),
        Path::new("deep")
    );
    let error = room.copied("tree", "copy", false).await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists, "{error}");
    room.copied("tree/deep/tool", "copy", true).await.unwrap();
    assert_eq!(room.text("copy"), "x");
    for into in ["tree/deep/tree", "tree/again"] {
        let error = room.copied("tree", into, false).await.unwrap_err();
        assert_eq!(error.code(), Code::Invalid, "{error}");
    }
    let error = room.copied("copy", "copy", true).await.unwrap_err();
    assert_eq!(error.code(), Code::Invalid, "{error}");
    assert_eq!(room.text("copy"), "x");
}

#[tokio::test]
async fn rights_are_changed_below_and_never_through_links() {
    let room = Room::new();
    std::fs::create_dir_all(room.at("tree/deep")).unwrap();
    for name in ["tree/a", "tree/deep/b", "outside the tree"] {
        std::fs::write(room.at(name), "x").unwrap();
        std::fs::set_permissions(room.at(name), PermissionsExt::from_mode(0o644)).unwrap();
    }
    symlink("../outside the tree", room.at("tree/link")).unwrap();
    let chmod = Chmod {
        path: room.at("tree"),
        mode: Some(0o600),
        directory_mode: Some(0o700),
        uid: None,
        gid: None,
        recursive: true,
    };
    let changed = room.files.chmod(room.reach, chmod).await.unwrap();
    assert_eq!((changed.changed, changed.failed.0), (5, 0));
    let mode = |name: &str| std::fs::symlink_metadata(room.at(name)).unwrap().mode() & 0o7777;
    assert_eq!([mode("tree"), mode("tree/deep")], [0o700; 2]);
    assert_eq!([mode("tree/a"), mode("tree/deep/b")], [0o600; 2]);
    assert_eq!(mode("outside the tree"), 0o644);
}

#[tokio::test]
async fn attributes_are_set_read_and_removed() {
    let room = Room::new();
    std::fs::write(room.at("file"), "x").unwrap();
    let set = |value: Option<&[u8]>| SetAttribute {
        path: room.at("file"),
        name: "user.origin".into(),
        value: value.map(<[u8]>::to_vec),
    };
    room.files
        .set_attribute(room.reach, set(Some(b"a\0b")))
        .await
        .unwrap();
    let attributes = room.files.attributes(room.reach, room.at("file")).await.unwrap();
    assert!(
        attributes
            .iter()
            .any(|one| one.name == "user.origin" && one.value == b"a\0b")
    );
    room.files.set_attribute(room.reach, set(None)).await.unwrap();
    let error = room.files.set_attribute(room.reach, set(None)).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
}

#[tokio::test]
async fn what_is_packed_is_unpacked_the_same() {
    let room = Room::new();
    std::fs::create_dir_all(room.at("tree/empty")).unwrap();
    let long = format!("tree/{}", "n".repeat(200));
    std::fs::write(room.at(&long), "long").unwrap();
    std::fs::write(room.at("tree/big"), vec![7; 3 << 20]).unwrap();
    std::fs::hard_link(room.at("tree/big"), room.at("tree/same")).unwrap();
    symlink("big", room.at("tree/link")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(room.at("tree/socket")).unwrap();
    for gzip in [true, false] {
        let archive = room.packed("tree", gzip).await.unwrap();
        let target = format!("out {gzip}");
        let unpack = Unpack {
            path: room.at(&target),
            body: Body::Bytes(archive.clone().into()),
        };
        let unpacked = room.files.unpack(room.reach, unpack).await.unwrap();
        assert!(unpacked.skipped.is_empty(), "{:?}", unpacked.skipped);
        let listed = room.choose(&target, true, Select::default()).await.unwrap();
        let kinds: Vec<_> = listed
            .entries
            .iter()
            .map(|entry| (entry.name().to_owned(), entry.kind))
            .collect();
        let expected = [
            ("big", Kind::File),
            ("empty", Kind::Directory),
            ("link", Kind::Symlink),
            (&long[5..], Kind::File),
            ("same", Kind::File),
        ];
        assert_eq!(kinds, expected.map(|(name, kind)| (name.into(), kind)));
        assert_eq!(
            std::fs::read(room.at(format!("{target}/same"))).unwrap(),
            vec![7; 3 << 20]
        );
        if !gzip {
            let says_so = memchr::memmem::find(&archive, b"1 entries are not in this archive").is_some();
            assert!(says_so, "the socket is told of");
        }
    }
    assert!(
        std::fs::metadata(room.at("tree/socket"))
            .unwrap()
            .file_type()
            .is_socket()
    );
    drop(socket);
    let one = room.packed("tree/link", false).await.unwrap();
    assert!(
        one.len() > 3 << 20,
        "what a link leads to is packed when it is named"
    );
}

fn chosen(listing: &super::Listing) -> Vec<String> {
    let below = |entry: &super::Entry| {
        let below = entry.path.strip_prefix(&listing.root).unwrap();
        below.to_string_lossy().into_owned()
    };
    listing.entries.iter().map(below).collect()
}

#[tokio::test]
async fn a_listing_is_narrowed_by_depth_glob_and_ignore_files() {
    let room = Room::new();
    std::fs::create_dir_all(room.at("tree/src/deep")).unwrap();
    std::fs::create_dir_all(room.at("tree/target/x")).unwrap();
    std::fs::create_dir(room.at(".git")).unwrap();
    for name in [
        "tree/a.rs",
        "tree/.hidden",
        "tree/src/b.rs",
        "tree/src/deep/c.rs",
        "tree/src/deep/d.log",
    ] {
        std::fs::write(room.at(name), "x").unwrap();
    }
    std::fs::write(room.at(".gitignore"), "target\n").unwrap();
    std::fs::write(room.at("tree/src/.gitignore"), "*.log\n!keep.log\n").unwrap();
    let list = async |select: Select| chosen(&room.choose("tree", true, select).await.unwrap());
    let globs = |globs: &[&str]| Select {
        globs: globs.iter().map(|glob| (*glob).to_owned()).collect(),
        ..Select::default()
    };
    assert_eq!(
        list(globs(&["*.rs"])).await,
        ["a.rs", "src/b.rs", "src/deep/c.rs"]
    );
    assert_eq!(list(globs(&["!src", "!target"])).await, [".hidden", "a.rs"]);
    let shallow = Select {
        depth: Some(1),
        hidden: false,
        ..Select::default()
    };
    assert_eq!(list(shallow).await, ["a.rs", "src", "target"]);
    let ignoring = Select {
        ignore_files: true,
        hidden: false,
        ..Select::default()
    };
    assert_eq!(
        list(ignoring).await,
        ["a.rs", "src", "src/b.rs", "src/deep", "src/deep/c.rs"]
    );
    let wrong = room.choose("tree", true, globs(&["["])).await.unwrap_err();
    assert_eq!(wrong.code(), Code::Invalid, "{wrong}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn pages_are_the_whole_listing(
        names in proptest::collection::btree_set("[ab.-]{1,2}(/[ab.-]{1,2}){0,3}", 1..25),
        limit in 1..6_usize,
    ) {
        let room = Room::new();
        for name in &names {
            // Some are directories for others, or no names at all.
            let path = room.at("tree").join(name);
            let _ = std::fs::create_dir_all(path.parent().unwrap());
            let _ = std::fs::write(&path, "x");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            std::fs::create_dir_all(room.at("tree")).unwrap();
            let whole = chosen(&room.choose("tree", true, Select::default()).await.unwrap());
            let (mut pages, mut after) = (Vec::new(), None);
            loop {
                let select = Select { limit: Some(limit), after, ..Select::default() };
                let page = room.choose("tree", true, select).await.unwrap();
                assert!(page.entries.len() <= limit);
                pages.extend(chosen(&page));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(pages, whole);
        });
    }
}
