//! How watches begin, are shared, fall behind, overflow and end, on real trees.

use std::path::PathBuf;

use super::limits::KEPT;
use super::tests::{Known, request, room, until_known};
use super::*;
use crate::error::Code;

struct Place {
    _directory: tempfile::TempDir,
    root: PathBuf,
}

fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    Place {
        _directory: directory,
        root,
    }
}

async fn changes(follower: &mut Follower) -> Vec<Change> {
    let next = tokio::time::timeout(Duration::from_secs(10), follower.next()).await;
    let events = next.unwrap();
    events.into_iter().map(|event| event.change).collect()
}

async fn opened(watches: &Arc<Watches>, request: Request) -> Follower {
    watches.follow(request, None).await.unwrap()
}

/// The runtime has one thread, which makes more files than the kernel's queue holds before it reads any of it.
#[tokio::test]
async fn when_the_queue_of_the_kernel_runs_over_the_difference_is_told_exactly() {
    let place = place();
    std::fs::create_dir_all(place.root.join("old/deep")).unwrap();
    std::fs::write(place.root.join("old/deep/file"), "x").unwrap();
    std::fs::write(place.root.join("changes"), "x").unwrap();
    std::fs::write(place.root.join("goes"), "x").unwrap();
    let (watches, _tasks) = room();
    let mut known = Known::of(&place.root);
    let mut follower = opened(&watches, request(&place.root)).await;
    let queue = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let queue: usize = queue.trim().parse().unwrap();
    assert!(
        queue < KEPT / 2,
        "this host queues {queue} events: more files than a test should make"
    );
    std::fs::create_dir(place.root.join("new")).unwrap();
    for number in 0..=queue / 2 {
        let path = place.root.join("f");
        std::fs::write(&path, "x").unwrap();
        std::fs::remove_file(&path).unwrap();
        if number % 100 == 0 {
            std::fs::write(place.root.join(format!("new/{number}")), "x").unwrap();
        }
    }
    // None of these is in the queue any more.
    std::fs::rename(place.root.join("old"), place.root.join("moved")).unwrap();
    std::fs::write(place.root.join("moved/deep/later"), "x").unwrap();
    std::fs::write(place.root.join("changes"), "xx").unwrap();
    std::fs::remove_file(place.root.join("goes")).unwrap();
    let mut told = until_known(&mut follower, &mut known, &place.root).await;
    while !matches!(told.last(), Some(Change::Rescanned { .. })) {
        for change in changes(&mut follower).await {
            known.apply(&change);
            told.push(change);
        }
    }
    let entries = known.0.len() as u64;
    assert_eq!(told.last(), Some(&Change::Rescanned { entries }));
    assert!(
        matches!(&told[0], Change::Overflow { reason } if reason.contains("max_queued_events")),
        "{:?}",
        told[0]
    );
    let (path, kind) = (place.root.join("changes"), Kind::File);
    assert!(told.contains(&Change::Modified { path, kind }));
    // It goes on as before.
    std::fs::write(place.root.join("moved/deep/last"), "x").unwrap();
    until_known(&mut follower, &mut known, &place.root).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_follower_is_told_what_it_missed_and_delays_nobody() {
    let place = place();
    let (watches, _tasks) = room();
    let mut slow = opened(&watches, request(&place.root)).await;
    let mut quick = opened(&watches, request(&place.root)).await;
    assert_eq!(watches.running.lock().len(), 1, "they share it");
    let ring = watches.running.lock().values().next().cloned().unwrap();
    std::fs::write(place.root.join("first"), "x").unwrap();
    assert_eq!(changes(&mut quick).await.len(), 1);
    ring.push(vec![Change::Rescanned { entries: 0 }; KEPT]);
    std::fs::write(place.root.join("last"), "x").unwrap();
    let (path, kind) = (place.root.join("last"), Kind::File);
    let last = Change::Created { path, kind };
    while !changes(&mut quick).await.contains(&last) {}
    let missed = slow.next().await;
    assert_eq!(missed[0].change, Change::Gap { from: 1, to: 2 });
    assert_eq!(missed[1].sequence, 3);
    while !changes(&mut slow).await.contains(&last) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_a_while_after_its_last_follower_and_is_not_known_then() {
    let place = place();
    let mut watches = Watches::new(Tasks::new());
    watches.linger = Duration::from_millis(300);
    let watches = Arc::new(watches);
    let follower = opened(&watches, request(&place.root)).await;
    let id = follower.id();
    drop(follower);
    // Within the time somebody comes back, and keeps it.
    let back = watches.follow(request(&place.root), Some(&id)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(watches.running.lock().len(), 1);
    drop(back);
    let began = std::time::Instant::now();
    while !watches.running.lock().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let late = watches.follow(request(&place.root), Some(&id)).await;
    assert_eq!(late.unwrap_err().code(), Code::NotFound);
    opened(&watches, request(&place.root)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_cut_off_when_it_was_gone_is_told_so() {
    let place = place();
    let root = place.root.join("root");
    std::fs::create_dir(&root).unwrap();
    let (watches, _tasks) = room();
    let mut follower = opened(&watches, request(&root)).await;
    let id = follower.id();
    let gone = [Change::Gone { path: root.clone() }];
    let mut other = watches.follow(request(&root), Some(&id)).await.unwrap();
    std::fs::rename(&root, place.root.join("elsewhere")).unwrap();
    assert_eq!(changes(&mut other).await, gone);
    assert_eq!(changes(&mut follower).await, gone);
    assert_eq!(changes(&mut follower).await, []);
    let mut again = watches.follow(request(&root), Some(&id)).await.unwrap();
    assert_eq!(changes(&mut again).await, gone);
    assert_eq!(changes(&mut again).await, []);
    assert_eq!(
        watches.follow(request(&root), None).await.unwrap_err().code(),
        Code::NotFound
    );
    // What is there later under that name is watched anew.
    std::fs::create_dir(&root).unwrap();
    let mut anew = opened(&watches, request(&root)).await;
    std::fs::write(root.join("a"), "x").unwrap();
    let (path, kind) = (root.join("a"), Kind::File);
    assert_eq!(changes(&mut anew).await, [Change::Created { path, kind }]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_has_so_many_watches_and_another_has_its_own() {
    let place = place();
    let (watches, _tasks) = room();
    let numbered = |number: usize| Request {
        window: Duration::from_millis(number as u64),
        ..request(&place.root)
    };
    let mut followers = Vec::new();
    for number in 0..WATCHES {
        followers.push(opened(&watches, numbered(number)).await);
    }
    let refused = watches.follow(numbered(WATCHES), None).await;
    assert_eq!(refused.unwrap_err().code(), Code::Overloaded);
    // What stands is shared, and others are not concerned.
    opened(&watches, numbered(3)).await;
    let other = Request {
        owner: Arc::from("another"),
        ..numbered(WATCHES)
    };
    opened(&watches, other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_renamed_and_changed_at_once_is_told_as_both() {
    let place = place();
    std::fs::write(place.root.join("a"), "x").unwrap();
    let (watches, _tasks) = room();
    let slow = Request {
        window: Duration::from_millis(200),
        ..request(&place.root)
    };
    let mut follower = opened(&watches, slow).await;
    std::fs::write(place.root.join("a"), "other content").unwrap();
    std::fs::rename(place.root.join("a"), place.root.join("b")).unwrap();
    let (from, to, kind) = (place.root.join("a"), place.root.join("b"), Kind::File);
    let renamed = Change::Renamed {
        from,
        to: to.clone(),
        kind,
    };
    assert_eq!(
        changes(&mut follower).await,
        [renamed, Change::Modified { path: to, kind }]
    );
    // Several changes in one window are one event.
    for length in 1..20 {
        std::fs::write(place.root.join("b"), "x".repeat(length)).unwrap();
    }
    let path = place.root.join("b");
    assert_eq!(changes(&mut follower).await, [Change::Modified { path, kind }]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_renamed_to_where_another_glob_counts_is_told_as_two() {
    let place = place();
    std::fs::create_dir_all(place.root.join("a/private")).unwrap();
    std::fs::write(place.root.join("a/private/x"), "x").unwrap();
    let (watches, _tasks) = room();
    let narrow = Request {
        globs: vec!["!b/private".to_owned()],
        ..request(&place.root)
    };
    let mut follower = opened(&watches, narrow).await;
    std::fs::rename(place.root.join("a"), place.root.join("b")).unwrap();
    let removed = |name: &str, kind| Change::Removed {
        path: place.root.join(name),
        kind,
    };
    let (path, kind) = (place.root.join("b"), Kind::Directory);
    let expected = [
        removed("a/private/x", Kind::File),
        removed("a/private", kind),
        removed("a", kind),
        Change::Created { path, kind },
    ];
    assert_eq!(changes(&mut follower).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_deeper_than_one_path_may_be_long_is_told_too() {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let place = place();
    let (watches, _tasks) = room();
    let mut follower = opened(&watches, request(&place.root)).await;
    let name = "n".repeat(200);
    let mut at = openat(CWD, &place.root, OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut path = place.root.clone();
    for _ in 0..30 {
        mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = openat(&at, &name, OFlags::DIRECTORY, Mode::empty()).unwrap();
        path.push(&name);
    }
    let path = path.join("file");
    assert!(path.as_os_str().len() > 4096);
    let (written, kind) = (OFlags::WRONLY | OFlags::CREATE, Kind::File);
    let file = openat(&at, "file", written, Mode::RWXU).unwrap();
    let created = Change::Created {
        path: path.clone(),
        kind,
    };
    while !changes(&mut follower).await.contains(&created) {}
    std::io::Write::write_all(&mut std::fs::File::from(file), b"x").unwrap();
    assert_eq!(changes(&mut follower).await, [Change::Modified { path, kind }]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_daemon_stops_watches_end() {
    let place = place();
    let (watches, tasks) = room();
    let mut follower = opened(&watches, request(&place.root)).await;
    tasks.stop();
    assert_eq!(changes(&mut follower).await, []);
}
