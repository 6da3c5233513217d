//! The search room on real trees.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::error::Code;

fn content(pattern: &str) -> Request {
    Request {
        pattern: pattern.into(),
        ..Request::default()
    }
}

async fn search(path: &Path, request: Request) -> Answer {
    let running = Searches::default().start(path.to_owned(), request).await.unwrap();
    running.answer().await.unwrap()
}

/// Paths below `root` with the numbers of their lines.
fn places(root: &Path, answer: &Answer) -> Vec<(String, u64, u64)> {
    let place = |found: &Found| {
        let path = found
            .path
            .strip_prefix(root)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let line = found.line.as_ref();
        (
            path,
            line.map_or(0, |line| line.number),
            line.map_or(0, |line| line.column),
        )
    };
    answer.found.iter().map(place).collect()
}

fn names(root: &Path, answer: &Answer) -> Vec<String> {
    places(root, answer).into_iter().map(|(path, ..)| path).collect()
}

fn tree() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("a.txt", b"one\ntwo needle\nthree\nneedle four\nfive\n");
    write("src/b.rs", b"fn needle() {}\n");
    write("src/upper.rs", b"NEEDLE\n");
    write("binary", b"needle\0needle\n");
    write(".hidden", b"needle\n");
    write("ignored/c.txt", b"needle\n");
    write(".gitignore", b"ignored\n");
    fs::create_dir(root.path().join(".git")).unwrap();
    symlink("a.txt", root.path().join("link")).unwrap();
    symlink("/etc", root.path().join("away")).unwrap();
    root
}

#[tokio::test]
async fn content_is_found_with_its_place_and_what_was_passed_over_is_counted() {
    let root = tree();
    let answer = search(root.path(), content("needle")).await;
    let expected = [("a.txt", 2, 5), ("a.txt", 4, 1), ("src/b.rs", 1, 4)];
    let expected = expected.map(|(path, line, column)| (path.to_owned(), line, column));
    assert_eq!(places(root.path(), &answer), expected);
    assert_eq!(answer.summary.truncated, None);
    assert_eq!(answer.summary.stats.binary_skipped, 1);
    assert_eq!(answer.summary.stats.files, 4);
    assert_eq!(answer.summary.unreadable, 0);
}

#[tokio::test]
async fn a_request_widens_and_narrows_what_is_searched() {
    let root = tree();
    let all = Request {
        hidden: true,
        ignore_files: false,
        ignore_case: true,
        ..content("needle")
    };
    let answer = search(root.path(), all).await;
    let expected = [
        ".hidden",
        "a.txt",
        "a.txt",
        "ignored/c.txt",
        "src/b.rs",
        "src/upper.rs",
    ];
    assert_eq!(names(root.path(), &answer), expected);
    let globs = |globs: &[&str]| Request {
        globs: globs.iter().map(|glob| (*glob).to_owned()).collect(),
        ..content("needle")
    };
    assert_eq!(
        names(root.path(), &search(root.path(), globs(&["*.rs"])).await),
        ["src/b.rs"]
    );
    assert_eq!(
        names(root.path(), &search(root.path(), globs(&["!*.rs"])).await),
        ["a.txt", "a.txt"]
    );
    let literal = Request {
        literal: true,
        ..content("needle()")
    };
    assert_eq!(
        names(root.path(), &search(root.path(), literal).await),
        ["src/b.rs"]
    );
    let one = search(&root.path().join("a.txt"), content("needle")).await;
    assert_eq!(one.found.len(), 2);
}

#[tokio::test]
async fn limits_end_a_search_and_are_told() {
    let root = tree();
    let limited = Request {
        limit: 2,
        ..content("needle")
    };
    let answer = search(root.path(), limited).await;
    assert_eq!((answer.found.len(), answer.summary.truncated), (2, Some("limit")));
    let exact = Request {
        limit: 3,
        ..content("needle")
    };
    let answer = search(root.path(), exact).await;
    assert_eq!((answer.found.len(), answer.summary.truncated), (3, None));
    let late = Request {
        time_limit: Duration::ZERO,
        ..content("needle")
    };
    let answer = search(root.path(), late).await;
    assert_eq!((answer.found.len(), answer.summary.truncated), (0, Some("time")));
    let small = Request {
        max_bytes: 1,
        ..content("needle")
    };
    let answer = search(root.path(), small).await;
    assert_eq!((answer.found.len(), answer.summary.truncated), (1, Some("bytes")));
}

#[tokio::test]
async fn context_is_whole_also_at_the_limit() {
    let root = tree();
    let around = Request {
        before: 1,
        after: 2,
        limit: 1,
        ..content("needle")
    };
    let answer = search(&root.path().join("a.txt"), around).await;
    let place = answer.found[0].line.as_ref().unwrap();
    let text = |lines: &[Line]| lines.iter().map(|line| line.bytes.clone()).collect::<Vec<_>>();
    assert_eq!(text(&place.before), [b"one"]);
    assert_eq!(text(&place.after), [b"three".to_vec(), b"needle four".to_vec()]);
    assert_eq!(answer.summary.truncated, Some("limit"));
}

#[tokio::test]
async fn names_are_found_by_glob_part_and_letters() {
    let root = tree();
    let named = |kind, pattern: &str| Request {
        kind,
        ..content(pattern)
    };
    let found = search(root.path(), named(Kind::Name, "*.rs")).await;
    assert_eq!(names(root.path(), &found), ["src/b.rs", "src/upper.rs"]);
    let found = search(root.path(), named(Kind::Name, "src/u*")).await;
    assert_eq!(names(root.path(), &found), ["src/upper.rs"]);
    let part = Request {
        literal: true,
        ignore_case: true,
        ..named(Kind::Name, "UPP")
    };
    assert_eq!(
        names(root.path(), &search(root.path(), part).await),
        ["src/upper.rs"]
    );
    let best = Request {
        limit: 1,
        ..named(Kind::Fuzzy, "supr")
    };
    let found = search(root.path(), best).await;
    assert_eq!(names(root.path(), &found), ["src/upper.rs"]);
    assert!(found.found[0].score.is_some());
}

#[tokio::test]
async fn a_wrong_pattern_path_or_glob_is_named() {
    let root = tree();
    let searches = Searches::default();
    let refused =
        async |path: &Path, request: Request| searches.start(path.to_owned(), request).await.unwrap_err();
    for pattern in ["(", "", "a{1000}{1000}{1000}"] {
        let error = refused(root.path(), content(pattern)).await;
        assert!(
            matches!(error, Error::Invalid { field: "pattern", .. }),
            "{pattern}: {error}"
        );
    }
    let bad_glob = Request {
        globs: vec!["[".into()],
        ..content("x")
    };
    let error = refused(root.path(), bad_glob).await;
    assert!(matches!(error, Error::Invalid { field: "glob", .. }), "{error}");
    let error = refused(&root.path().join("nowhere"), content("x")).await;
    assert_eq!(error.code(), Code::NotFound);
    for request in [
        Request {
            limit: 0,
            ..content("x")
        },
        Request {
            before: 101,
            ..content("x")
        },
    ] {
        assert_eq!(refused(root.path(), request).await.code(), Code::Invalid);
    }
}

#[tokio::test]
async fn names_that_are_no_utf8_are_whole() {
    let root = tempfile::tempdir().unwrap();
    let name = std::ffi::OsStr::from_bytes(b"odd \xff\nname");
    fs::write(root.path().join(name), b"needle \xfe\n").unwrap();
    let answer = search(root.path(), content("needle")).await;
    assert_eq!(answer.found[0].path.file_name().unwrap(), name);
    assert_eq!(answer.found[0].line.as_ref().unwrap().text.bytes, b"needle \xfe");
}

#[tokio::test]
async fn a_search_that_nobody_reads_ends() {
    let root = tempfile::tempdir().unwrap();
    let line = "needle\n".repeat(50_000);
    for number in 0..20 {
        fs::write(root.path().join(format!("{number}")), &line).unwrap();
    }
    let searches = Searches::default();
    let many = Request {
        limit: 100_000,
        ..content("needle")
    };
    let running = searches.start(root.path().to_owned(), many).await.unwrap();
    drop(running);
    // All turns can be had only when the search has ended.
    let all = searches.turns.acquire_many(AT_ONCE as u32);
    let all = tokio::time::timeout(Duration::from_secs(20), all).await;
    drop(all.unwrap().unwrap());
}

#[tokio::test]
async fn a_line_that_is_too_long_to_be_held_is_told() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("endless"), vec![b'x'; 40 << 20]).unwrap();
    fs::write(
        root.path().join("long"),
        [&vec![b'x'; 8 << 20], "needle".as_bytes()].concat(),
    )
    .unwrap();
    let answer = search(root.path(), content("needle")).await;
    assert_eq!(names(root.path(), &answer), ["long"]);
    let unread: Vec<_> = answer
        .summary
        .unread
        .iter()
        .map(|unread| unread.path.clone())
        .collect();
    assert_eq!(unread, [Some(root.path().join("endless"))]);
}

#[tokio::test]
async fn a_search_whose_turn_does_not_come_in_its_time_is_refused() {
    let root = tree();
    let searches = Searches::default();
    let _all = searches.turns.acquire_many(AT_ONCE as u32).await.unwrap();
    let soon = Request {
        time_limit: Duration::from_millis(50),
        ..content("needle")
    };
    let refused = searches.start(root.path().to_owned(), soon).await;
    assert_eq!(refused.unwrap_err().code(), Code::Overloaded);
}
