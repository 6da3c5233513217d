//! The watch room on real trees: whatever happens on disk, the events applied one by one lead to what is there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::*;

/// What somebody knows who only sees events.
#[derive(Debug, Default)]
pub(super) struct Known(pub(super) BTreeMap<PathBuf, Kind>);

impl Known {
    pub(super) fn of(root: &Path) -> Self {
        let mut known = Self::default();
        let mut waiting = vec![root.to_owned()];
        while let Some(directory) = waiting.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let (path, kind) = entry
                    .map(|entry| (entry.path(), entry.file_type().unwrap()))
                    .unwrap();
                let kind = if kind.is_dir() {
                    waiting.push(path.clone());
                    Kind::Directory
                } else if kind.is_symlink() {
                    Kind::Symlink
                } else {
                    Kind::File
                };
                known.0.insert(path, kind);
            }
        }
        known
    }

    /// Applies one event; what it speaks of must be known, or not, as it says.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Created { path, kind } => {
                assert!(
                    self.0.insert(path.clone(), *kind).is_none(),
                    "{change:?} was known"
                );
            }
            Change::Modified { path, kind } => assert_eq!(self.0.get(path), Some(kind), "{change:?}"),
            Change::Removed { path, kind } => assert_eq!(self.0.remove(path), Some(*kind), "{change:?}"),
            Change::Renamed { from, to, kind } => {
                assert_eq!(self.0.get(from), Some(kind), "{change:?}");
                self.0.retain(|path, _| !path.starts_with(to));
                let moved: Vec<_> = self
                    .0
                    .keys()
                    .filter(|path| path.starts_with(from))
                    .cloned()
                    .collect();
                for path in moved {
                    let kind = self.0.remove(&path).unwrap();
                    let below = path.strip_prefix(from).unwrap();
                    let target = if below.as_os_str().is_empty() {
                        to.clone()
                    } else {
                        to.join(below)
                    };
                    self.0.insert(target, kind);
                }
            }
            Change::Overflow { .. } | Change::Rescanned { .. } | Change::Gap { .. } | Change::Gone { .. } => {
            }
        }
    }
}

pub(super) fn request(path: &Path) -> Request {
    Request {
        owner: Arc::from("somebody"),
        path: path.to_owned(),
        recursive: true,
        globs: Vec::new(),
        window: Duration::from_millis(5),
    }
}

pub(super) fn room() -> (Arc<Watches>, Tasks) {
    let tasks = Tasks::new();
    (Arc::new(Watches::new(tasks.clone())), tasks)
}

/// Applies events until what is known is what is there.
pub(super) async fn until_known(follower: &mut Follower, known: &mut Known, root: &Path) -> Vec<Change> {
    let mut changes = Vec::new();
    let began = Instant::now();
    loop {
        let there = Known::of(root);
        if there.0 == known.0 {
            return changes;
        }
        let next = tokio::time::timeout(Duration::from_secs(20), follower.next()).await;
        let events = next.unwrap_or_else(|_| {
            let missing: Vec<_> = there
                .0
                .keys()
                .filter(|path| !known.0.contains_key(*path))
                .take(5)
                .collect();
            let surplus: Vec<_> = known
                .0
                .keys()
                .filter(|path| !there.0.contains_key(*path))
                .take(5)
                .collect();
            panic!(
                "nothing comes after {:?}; not told {missing:?}, told {surplus:?}",
                began.elapsed()
            )
        });
        for event in events {
            known.apply(&event.change);
            changes.push(event.change);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_changes_are_told_as_what_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    std::fs::write(root.join("a"), "1").unwrap();
    let (watches, _tasks) = room();
    let mut follower = watches.follow(request(&root), None).await.unwrap();
    let mut next = async || {
        let events = tokio::time::timeout(Duration::from_secs(10), follower.next())
            .await
            .unwrap();
        events.into_iter().map(|event| event.change).collect::<Vec<_>>()
    };
    let path = |name: &str| root.join(name);
    std::fs::write(path("a"), "22").unwrap();
    let kind = Kind::File;
    assert_eq!(
        next().await,
        [Change::Modified {
            path: path("a"),
            kind
        }]
    );
    std::fs::rename(path("a"), path("b")).unwrap();
    let (from, to) = (path("a"), path("b"));
    assert_eq!(next().await, [Change::Renamed { from, to, kind }]);
    // As editors save.
    std::fs::write(path(".b.swp"), "333").unwrap();
    assert_eq!(
        next().await,
        [Change::Created {
            path: path(".b.swp"),
            kind
        }]
    );
    std::fs::rename(path(".b.swp"), path("b")).unwrap();
    let (from, to) = (path(".b.swp"), path("b"));
    assert_eq!(next().await, [Change::Renamed { from, to, kind }]);
    std::fs::remove_file(path("b")).unwrap();
    assert_eq!(
        next().await,
        [Change::Removed {
            path: path("b"),
            kind
        }]
    );
    let began = Instant::now();
    std::fs::remove_dir(&root).unwrap();
    assert_eq!(next().await, [Change::Gone { path: root.clone() }]);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(next().await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_goes_and_comes_back_is_told_whole() {
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path().canonicalize().unwrap();
    let root = top.join("root");
    std::fs::create_dir_all(root.join("d/deep")).unwrap();
    for name in ["d/x", "d/deep/y"] {
        std::fs::write(root.join(name), "x").unwrap();
    }
    let (watches, _tasks) = room();
    let mut known = Known::of(&root);
    let mut follower = watches.follow(request(&root), None).await.unwrap();
    for round in 0..5 {
        std::fs::rename(root.join("d"), top.join("away")).unwrap();
        until_known(&mut follower, &mut known, &root).await;
        assert!(known.0.is_empty(), "{round}: {known:?}");
        std::fs::write(top.join("away/deep/new").with_extension(round.to_string()), "x").unwrap();
        std::fs::rename(top.join("away"), root.join("d")).unwrap();
        until_known(&mut follower, &mut known, &root).await;
        // It is watched again.
        std::fs::write(root.join("d/deep/later").with_extension(round.to_string()), "x").unwrap();
        until_known(&mut follower, &mut known, &root).await;
    }
    std::fs::rename(root.join("d"), root.join("e")).unwrap();
    let changes = until_known(&mut follower, &mut known, &root).await;
    assert_eq!(changes.len(), 1, "one event speaks for all of it: {changes:?}");
    std::fs::write(root.join("e/deep/last"), "x").unwrap();
    until_known(&mut follower, &mut known, &root).await;
}

/// A step of somebody who changes a tree, from random numbers.
fn step(root: &Path, numbers: (u8, u8, u8)) {
    let (what, one, other) = numbers;
    let name = |number: u8| {
        let names = ["a", "b", "c"];
        let depth = number as usize % 3 + 1;
        let parts = (0..depth).map(|level| names[(number as usize / 3 + level * 7) % 3]);
        root.join(parts.collect::<PathBuf>())
    };
    let (one, other) = (name(one), name(other));
    // Most fail because of what is there, which is fine.
    let _ = match what % 7 {
        0 => std::fs::create_dir_all(&one),
        1 | 2 => std::fs::write(&one, [what]),
        3 => std::fs::rename(&one, &other),
        4 => std::fs::remove_file(&one),
        5 => std::fs::remove_dir_all(&one),
        _ => std::os::unix::fs::symlink("target", &one),
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_changes_are_told_so_that_events_lead_to_what_is_there() {
    for round in 0..25 {
        let mut random = fastrand::Rng::with_seed(round);
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let (watches, _tasks) = room();
        for _ in 0..10 {
            step(&root, (random.u8(..), random.u8(..), random.u8(..)));
        }
        let mut known = Known::of(&root);
        let mut follower = watches.follow(request(&root), None).await.unwrap();
        for _ in 0..20 {
            for _ in 0..random.usize(1..15) {
                step(&root, (random.u8(..), random.u8(..), random.u8(..)));
                if random.u8(..) < 20 {
                    tokio::time::sleep(Duration::from_millis(random.u64(1..8))).await;
                }
            }
            until_known(&mut follower, &mut known, &root).await;
        }
        assert!(known.0 == Known::of(&root).0, "round {round}");
    }
}

/// Makes so many files in so many directories.
fn many(root: &Path, directories: usize, files: usize) {
    for number in 0..directories {
        let directory = root.join(format!("d{}/e{number}", number % 7));
        std::fs::create_dir_all(&directory).unwrap();
        for file in 0..files {
            std::fs::File::create(directory.join(format!("f{file}"))).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_thousand_files_at_once_are_all_told() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let (watches, _tasks) = room();
    let mut follower = watches.follow(request(&root), None).await.unwrap();
    let maker = root.clone();
    let making = tokio::task::spawn_blocking(move || many(&maker, 500, 100));
    let mut known = Known::default();
    // All of them are read as they come: a ring holds as many as there are.
    while known.0.len() < 50_000 + 500 + 7 {
        let events = tokio::time::timeout(Duration::from_secs(30), follower.next()).await;
        for event in events.unwrap_or_else(|_| panic!("{} are told", known.0.len())) {
            assert!(!matches!(event.change, Change::Gap { .. }), "{event:?}");
            known.apply(&event.change);
        }
    }
    making.await.unwrap();
    until_known(&mut follower, &mut known, &root).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_comes_soon() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let (watches, _tasks) = room();
    let usual = Request {
        window: Duration::from_millis(20),
        ..request(&root)
    };
    let mut follower = watches.follow(usual, None).await.unwrap();
    let mut times = Vec::new();
    for number in 0..40 {
        let began = Instant::now();
        std::fs::write(root.join(number.to_string()), "x").unwrap();
        follower.next().await;
        times.push(began.elapsed());
    }
    times.sort();
    println!(
        "events come after p50 {:?}, p95 {:?}, their window of 20 ms included",
        times[20], times[37]
    );
    // The benchmark holds it to 50 ms; here others want the processor too.
    assert!(times[37] < Duration::from_millis(500), "{times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_cut_off_goes_on_behind_the_last_event_it_saw() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let (watches, _tasks) = room();
    let mut first = watches.follow(request(&root), None).await.unwrap();
    std::fs::write(root.join("one"), "x").unwrap();
    let seen = first.next().await.pop().unwrap();
    drop(first);
    std::fs::write(root.join("two"), "x").unwrap();
    let mut again = watches.follow(request(&root), Some(&seen.id)).await.unwrap();
    let next = again.next().await;
    assert_eq!(next[0].sequence, seen.sequence + 1);
    let kind = Kind::File;
    assert_eq!(
        next[0].change,
        Change::Created {
            path: root.join("two"),
            kind
        }
    );
    let stranger = Request {
        owner: Arc::from("somebody else"),
        ..request(&root)
    };
    let refused = watches.follow(stranger, Some(&seen.id)).await;
    assert_eq!(refused.unwrap_err().code(), crate::error::Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn globs_depth_and_single_files_narrow_a_watch() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    std::fs::create_dir_all(root.join("src/deep")).unwrap();
    std::fs::create_dir_all(root.join("target")).unwrap();
    let (watches, _tasks) = room();
    let globs = |globs: &[&str]| Request {
        globs: globs.iter().map(|glob| (*glob).to_owned()).collect(),
        ..request(&root)
    };
    let mut rust = watches.follow(globs(&["*.rs"]), None).await.unwrap();
    let mut rest = watches.follow(globs(&["!target"]), None).await.unwrap();
    let flat = Request {
        recursive: false,
        ..request(&root)
    };
    let mut flat = watches.follow(flat, None).await.unwrap();
    let mut file = watches.follow(request(&root.join("target")), None).await.unwrap();
    for name in ["target/t", "src/deep/a.txt", "src/deep/a.rs", "last"] {
        std::fs::write(root.join(name), "x").unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let kind = Kind::File;
    let created = |name: &str| Change::Created {
        path: root.join(name),
        kind,
    };
    let changes = |events: Vec<Event>| events.into_iter().map(|event| event.change).collect::<Vec<_>>();
    assert_eq!(changes(rust.next().await), [created("src/deep/a.rs")]);
    assert_eq!(changes(flat.next().await), [created("last")]);
    assert_eq!(changes(file.next().await), [created("target/t")]);
    let seen = changes(rest.next().await);
    assert_eq!(
        seen,
        [
            created("src/deep/a.txt"),
            created("src/deep/a.rs"),
            created("last")
        ]
    );
    // What carries no name of its own is told by what lies in it.
    std::fs::rename(root.join("src"), root.join("lib")).unwrap();
    let (from, to) = (root.join("src/deep/a.rs"), root.join("lib/deep/a.rs"));
    assert_eq!(changes(rust.next().await), [Change::Renamed { from, to, kind }]);
    let one = watches.follow(request(&root.join("last")), None).await;
    std::fs::write(root.join("last"), "xx").unwrap();
    let path = root.join("last");
    assert_eq!(
        changes(one.unwrap().next().await),
        [Change::Modified { path, kind }]
    );
}
