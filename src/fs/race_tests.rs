//! A directory that is exchanged for a symbolic link to the outside, again and again, while every operation goes
//! through it: nothing outside may be read, changed or removed.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::fs::{CWD, RenameFlags, lgetxattr, renameat_with};

use super::fixture::{Room, names, write};
use super::{Begin, Change, Chmod, Edit, InPlace, Move, Pack, SetAttribute};
use crate::error::{Code, Error};

/// How often each operation is tried.
const TRIES: usize = 10_000;
/// How often those are tried that come down to the same as others.
const FEWER: usize = 2_000;

/// Exchanges two names until it is dropped.
struct Swapper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<usize>>,
}

impl Swapper {
    fn start(one: &Path, other: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (one, other, stopped) = (one.to_owned(), other.to_owned(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut swaps = 0;
            while !stopped.load(Ordering::Relaxed) {
                // The name may be missing for a moment after it was removed.
                if renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).is_ok() {
                    swaps += 1;
                }
            }
            swaps
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    fn finish(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(0, |thread| thread.join().unwrap())
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn prepare(room: &Room) -> Swapper {
    std::fs::create_dir(room.at("dir")).unwrap();
    std::fs::write(room.at("dir/file"), "inside").unwrap();
    std::fs::write(room.outside().join("file"), "outside").unwrap();
    std::fs::create_dir(room.outside().join("tree")).unwrap();
    std::fs::write(room.outside().join("tree/kept"), "outside").unwrap();
    symlink(room.outside(), room.at("link")).unwrap();
    Swapper::start(&room.at("dir"), &room.at("link"))
}

fn assert_outside_is_whole(room: &Room) {
    assert_eq!(names(&room.outside()), ["file", "tree"]);
    assert_eq!(names(&room.outside().join("tree")), ["kept"]);
    assert_eq!(std::fs::read(room.outside().join("file")).unwrap(), b"outside");
}

/// What may happen to a caller while the directory is exchanged.
fn is_expected(error: &Error) -> bool {
    matches!(
        error.code(),
        Code::Denied | Code::NotFound | Code::WrongKind | Code::Conflict | Code::AlreadyExists
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn confined_reads_and_writes_never_leave_the_root() {
    let room = Room::confined();
    let swapper = prepare(&room);
    let (mut inside, mut refused) = (0, 0);
    for try_number in 0..TRIES {
        match room.read("dir/file").await {
            Ok(content) => {
                assert_ne!(content, "outside");
                inside += 1;
            }
            Err(error) => {
                assert!(is_expected(&error), "{error:?}");
                refused += 1;
            }
        }
        let mut request = write("dir/file", "inside");
        request.append = try_number % 2 == 0;
        request.create_parents = try_number % 3 == 0;
        if let Err(error) = room.send(request).await {
            assert!(is_expected(&error), "{error:?}");
        }
        match room.list("dir", true).await {
            Ok(listing) => assert!(listing.entries.iter().all(|entry| entry.name() != "tree")),
            Err(error) => assert!(is_expected(&error), "{error:?}"),
        }
    }
    assert!(swapper.finish() > 100);
    assert!(inside > 0 && refused > 0, "{inside} {refused}");
    assert_outside_is_whole(&room);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn confined_changes_of_the_tree_never_leave_the_root() {
    let room = Room::confined();
    let swapper = prepare(&room);
    for number in 0..TRIES {
        let made = room.mkdir(format!("dir/made/{number}"), true, Some(0o700)).await;
        let moved = room.rename("dir/file", "dir/moved", false).await.map(drop);
        let back = room.rename("dir/moved", "dir/file", true).await.map(drop);
        let removed = room.remove("dir/made", true).await.map(drop);
        let tree = room.remove("dir/tree", true).await.map(drop);
        for result in [made.map(drop), moved, back, removed, tree] {
            if let Err(error) = result {
                assert!(is_expected(&error), "{error:?}");
            }
        }
    }
    assert!(swapper.finish() > 100);
    assert_outside_is_whole(&room);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn confined_edits_uploads_and_copies_never_leave_the_root() {
    let room = Room::confined();
    let swapper = prepare(&room);
    std::fs::write(room.at("source"), "inside").unwrap();
    let (files, reach) = (&room.files, room.reach);
    for number in 0..FEWER {
        // What is outside would fit the edit, too.
        let (old, new) = [("side", "SIDE"), ("SIDE", "side")][number % 2];
        let change = Change::Replace {
            old: old.into(),
            new: new.into(),
            count: 1,
        };
        let edit = Edit {
            path: "dir/file".into(),
            change,
            base: None,
            dry_run: false,
        };
        match files.edit(reach, edit).await {
            Ok(edited) => assert!(edited.diff.windows(8).all(|text| text != b"\n-outsid")),
            Err(error) => assert!(is_expected(&error) || error.code() == Code::Invalid, "{error:?}"),
        }
        let begin = Begin {
            path: "dir/file".into(),
            create_parents: number % 3 == 0,
            mode: None,
            in_place: InPlace::Allow,
            base: None,
        };
        let uploaded = async {
            let upload = files.upload(reach, begin).await?;
            upload.write_at(0, "inside".into()).await?;
            upload.commit().await.map(drop)
        };
        let copy = |from: &str, to: &str| Move {
            from: from.into(),
            to: to.into(),
            overwrite: true,
        };
        let out = files.copy(reach, copy("dir/file", "copied")).await.map(drop);
        let into = files.copy(reach, copy("source", "dir/file")).await.map(drop);
        for result in [uploaded.await, out, into] {
            if let Err(error) = result {
                assert!(is_expected(&error), "{error:?}");
            }
        }
        match files.digest(reach, "dir/file".into()).await {
            Ok(digest) => assert_ne!(digest, blake3::hash(b"outside")),
            Err(error) => assert!(is_expected(&error), "{error:?}"),
        }
    }
    assert!(swapper.finish() > 100);
    assert_ne!(room.text("copied"), "outside");
    assert_outside_is_whole(&room);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn confined_rights_and_attributes_never_leave_the_root() {
    let room = Room::confined();
    let swapper = prepare(&room);
    let mode = || std::fs::metadata(room.outside().join("file")).unwrap().mode();
    let before = mode();
    let (files, reach) = (&room.files, room.reach);
    for number in 0..FEWER {
        let chmod = Chmod {
            path: "dir".into(),
            mode: Some(0o600),
            directory_mode: Some(0o700),
            uid: None,
            gid: None,
            recursive: true,
        };
        let attribute = SetAttribute {
            path: "dir/file".into(),
            name: "user.intruder".into(),
            value: Some(b"x".to_vec()),
        };
        let link = format!("dir/link {number}");
        let changed = files.chmod(reach, chmod).await.map(drop);
        let set = files.set_attribute(reach, attribute).await.map(drop);
        let linked = files.symlink(reach, link.clone().into(), "file".into()).await;
        let removed = room.remove(&link, false).await;
        for result in [changed, set, linked.map(drop), removed.map(drop)] {
            if let Err(error) = result {
                assert!(is_expected(&error), "{error:?}");
            }
        }
    }
    assert!(swapper.finish() > 100);
    assert_outside_is_whole(&room);
    assert_eq!(mode(), before);
    let attribute = lgetxattr(room.outside().join("file"), "user.intruder", &mut [0; 8]);
    assert!(attribute.is_err(), "{attribute:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn confined_archives_never_leave_the_root() {
    let room = Room::confined();
    let swapper = prepare(&room);
    let archive = |names: &[&str]| {
        let mut archive = tar::Builder::new(Vec::new());
        for name in names {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            if name.ends_with("link") {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                archive.append_link(&mut header, name, "kept").unwrap();
            } else {
                header.set_size(6);
                archive
                    .append_data(&mut header, name, b"inside".as_slice())
                    .unwrap();
            }
        }
        archive.into_inner().unwrap()
    };
    // A file that replaces another waits for the disk.
    let (links, files) = (
        archive(&["link", "tree/link"]),
        archive(&["file", "tree/kept", "new"]),
    );
    let (mut packed, mut unpacked, mut refused) = (0, 0, 0);
    for number in 0..TRIES {
        let archive = if number % 10 == 0 { &files } else { &links };
        match room.unpack("dir", archive.clone()).await {
            Ok(_) => unpacked += 1,
            Err(error) => {
                assert!(is_expected(&error) || error.code() == Code::Invalid, "{error:?}");
                refused += 1;
            }
        }
        let pack = Pack {
            path: "dir".into(),
            gzip: false,
        };
        let whole = async { room.files.pack(room.reach, pack).await?.whole(1 << 20).await };
        match whole.await {
            Ok(archive) => {
                assert!(archive.windows(7).all(|text| text != b"outside"));
                packed += 1;
            }
            Err(error) => assert!(is_expected(&error), "{error:?}"),
        }
    }
    assert!(swapper.finish() > 100);
    assert!(
        packed > 0 && unpacked > 0 && refused > 0,
        "{packed} {unpacked} {refused}"
    );
    assert_outside_is_whole(&room);
    assert_eq!(
        std::fs::read(room.outside().join("tree/kept")).unwrap(),
        b"outside"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn removing_a_tree_never_follows_a_link_that_was_put_into_it() {
    // Not confined: the walk itself must hold.
    let room = Room::new();
    std::fs::write(room.outside().join("file"), "outside").unwrap();
    std::fs::create_dir(room.outside().join("tree")).unwrap();
    std::fs::write(room.outside().join("tree/kept"), "outside").unwrap();
    for _ in 0..FEWER / 10 {
        std::fs::create_dir_all(room.at("top/sub")).unwrap();
        std::fs::create_dir(room.at("top/sub/tree")).unwrap();
        std::fs::write(room.at("top/sub/tree/file"), "x").unwrap();
        symlink(room.outside(), room.at("aside")).unwrap();
        let swapper = Swapper::start(&room.at("top/sub"), &room.at("aside"));
        if let Err(error) = room.remove("top", true).await {
            assert!(is_expected(&error), "{error:?}");
        }
        swapper.finish();
        for left in ["top", "aside"] {
            match room.remove(left, true).await {
                Ok(_) => {}
                Err(error) => assert_eq!(error.code(), Code::NotFound, "{error:?}"),
            }
        }
    }
    assert_outside_is_whole(&room);
}
