//! Repositories of a size that is felt: a hundred thousand files.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::git_repositories::{codes, status};
use crate::harness::{Daemon, processes};
use crate::parity_git::FIXED;

/// A commit of a hundred thousand files of two contents, as `git fast-import` reads it.
fn commit() -> String {
    let mut stream = String::new();
    for (mark, content) in [(1, "a\n"), (2, "another\n")] {
        let size = content.len();
        write!(stream, "blob\nmark :{mark}\ndata {size}\n{content}").unwrap();
    }
    stream.push_str("commit refs/heads/main\ncommitter A <a@example.com> 1767225600 +0000\ndata 5\nfirst\n");
    for number in 0..100_000 {
        let (mark, at) = (1 + number % 2, number / 100);
        writeln!(stream, "M 100644 :{mark} d{}/e{at}/f{number}", at % 10).unwrap();
    }
    stream
}

/// The files are in memory: what is measured here is not the disk.
#[tokio::test]
async fn a_status_of_a_hundred_thousand_files_is_right() {
    let made = r#"mount -t tmpfs tmpfs "$WORKSPACE"
git init --quiet --initial-branch=main "$WORKSPACE/repo"
cd "$WORKSPACE/repo"
git fast-import --quiet <../../stream
git reset --quiet --hard
cd ..
"#;
    let mut builder = Daemon::builder().namespace(made);
    for (name, value) in FIXED {
        builder = builder.environment(name, value);
    }
    let daemon = builder.start_in(|directory| std::fs::write(directory.join("stream"), commit()).unwrap());
    let http = daemon.http();
    let began = Instant::now();
    let clean = status(&http, "path=repo").await;
    let took = began.elapsed();
    println!("the status of 100,000 files took {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!((codes(&clean), &clean["clean"]), (Vec::new(), &true.into()));

    let change = "echo changed >d1/e1/f100; rm d2/e2/f200; echo x >d3/e3/new; chmod 755 d9/e999/f99999; \
                  git mv d4/e4/f400 d4/e4/moved; git rm --quiet --cached d5/e5/f500";
    let ran = http
        .run(&serde_json::json!({ "command": change, "shell": true, "cwd": "repo" }))
        .await
        .json();
    assert_eq!(ran["exitCode"], 0, "{ran}");
    let found = status(&http, "path=repo").await;
    let expected = [
        ("d1/e1/f100", ".M"),
        ("d2/e2/f200", ".D"),
        ("d3/e3/new", "??"),
        ("d4/e4/moved", "R."),
        // It is gone from the index and lies there all the same.
        ("d5/e5/f500", "D?"),
        ("d9/e999/f99999", ".M"),
    ];
    assert_eq!(
        codes(&found),
        expected.map(|(path, code)| (path.to_owned(), code.to_owned()))
    );
    let (_, peak) = processes::resident(daemon.pid());
    assert!(peak < 512 << 20, "{peak} bytes");
}
