//! A directory that is exchanged for a symbolic link to the outside, again and again, while every operation goes
//! through it: nothing outside may be read, changed or removed.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::fixture::{Room, names, write};
use crate::error::{Code, Error};

/// How often each operation is tried.
const TRIES: usize = 2_000;

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
async fn removing_a_tree_never_follows_a_link_that_was_put_into_it() {
    // Not confined: the walk itself must hold.
    let room = Room::new();
    std::fs::write(room.outside().join("file"), "outside").unwrap();
    std::fs::create_dir(room.outside().join("tree")).unwrap();
    std::fs::write(room.outside().join("tree/kept"), "outside").unwrap();
    for _ in 0..TRIES / 10 {
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
