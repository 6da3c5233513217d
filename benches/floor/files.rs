//! Rows of trees: searching, listing and watching them, and the status of a repository. The floors are the programs that
//! people run for that: `rg`, `find`, `git`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http_body_util::BodyExt;
use serde_json::json;

use crate::guest::{Daemon, Lab};
use crate::http::Caller;
use crate::table::{Bar, Row, Table, Unit, interleave};

const ROUNDS: usize = 9;
/// Files of the tree that is searched, and of the repository.
const SEARCHED: usize = 20_000;
const TRACKED: usize = 5_000;
/// Entries of the tree that is listed.
const LISTED: usize = 100_000;

/// Measures all rows of trees.
///
/// # Errors
/// A program is missing, the daemon answered with an error, or an answer is wrong.
pub(crate) async fn rows(lab: &Lab, daemon: &Daemon, table: &mut Table) -> Result<()> {
    let root = PathBuf::from(lab.memory_path()?).join("trees");
    let mut caller = Caller::connect(daemon.port, &daemon.token).await?;
    searches(&root, &mut caller, table).await?;
    listings(&root, &mut caller, table).await?;
    statuses(&root, &mut caller, table).await?;
    watches(&root, daemon, table).await?;
    std::fs::remove_dir_all(&root).context("cannot remove the trees")
}

/// So many files with lines of text, a hundred in each directory.
fn grow(root: &Path, files: usize, lines: usize) -> Result<()> {
    for directory in 0..files.div_ceil(100) {
        let path = root.join(format!("d{}/e{directory}", directory % 10));
        std::fs::create_dir_all(&path)?;
        for file in 0..100.min(files - directory * 100) {
            let mut text = String::new();
            for line in 0..lines {
                writeln!(text, "let value_{line} = compute({directory}, {file}, {line});")?;
            }
            std::fs::write(path.join(format!("f{file}.rs")), text)?;
        }
    }
    Ok(())
}

/// How long a program takes, milliseconds; what it prints is read.
fn run(command: &mut Command) -> Result<f64> {
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{} is needed", command.get_program().display()))?;
    ensure!(output.status.code().is_some_and(|code| code <= 1), "{command:?}");
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

async fn searches(root: &Path, caller: &mut Caller, table: &mut Table) -> Result<()> {
    let tree = root.join("searched");
    grow(&tree, SEARCHED, 80)?;
    for (what, pattern) in [
        ("search 20,000 files, no match", "no_such_thing_[0-9]+"),
        ("search 20,000 files, 200 matches", r"compute\(\d+, 7, 79\)"),
    ] {
        let body = json!({ "path": tree, "pattern": pattern });
        let rounds = interleave(
            ROUNDS,
            async || {
                run(Command::new("rg")
                    .args(["--line-number", "--column", pattern])
                    .arg(&tree))
            },
            async || {
                let start = Instant::now();
                caller.post("/v1/fs/search", &body).await?;
                Ok(start.elapsed().as_secs_f64() * 1e3)
            },
        )
        .await?;
        table.add(Row::of(what, &rounds, Unit::Milliseconds, Bar::UpTo(1.3)));
    }
    Ok(())
}

async fn listings(root: &Path, caller: &mut Caller, table: &mut Table) -> Result<()> {
    let tree = root.join("listed");
    grow(&tree, LISTED, 0)?;
    let body = json!({ "path": tree, "recursive": true, "limit": 200_000 });
    let rounds = interleave(
        ROUNDS / 2,
        async || {
            run(Command::new("find")
                .arg(&tree)
                .args(["-printf", "%p %y %s %T@ %m %U %G %l\\n"]))
        },
        async || {
            let start = Instant::now();
            let answer = caller.post_bytes("/v1/ops/fs.list", &body).await?;
            let took = start.elapsed().as_secs_f64() * 1e3;
            // What `find` says is not read either while its time is taken.
            let answer: serde_json::Value = serde_json::from_slice(&answer)?;
            let entries = answer["entries"].as_array().map_or(0, Vec::len);
            ensure!(entries > LISTED, "{entries} entries");
            Ok(took)
        },
    )
    .await?;
    table.add(Row::of(
        "list 100,000 files with their facts",
        &rounds,
        Unit::Milliseconds,
        Bar::UpTo(1.5),
    ));
    Ok(())
}

async fn statuses(root: &Path, caller: &mut Caller, table: &mut Table) -> Result<()> {
    let tree = root.join("repository");
    grow(&tree, TRACKED, 20)?;
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(&tree).args(words);
        command
    };
    run(&mut git(&["init", "--quiet"]))?;
    run(&mut git(&["add", "."]))?;
    run(&mut git(&[
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@example.com",
        "commit",
        "--quiet",
        "-m",
        "all",
    ]))?;
    std::fs::write(tree.join("d0/e0/f0.rs"), "changed")?;
    let path = format!("/v1/git/status?path={}", tree.display());
    let rounds = interleave(
        ROUNDS,
        async || run(&mut git(&["status", "--porcelain=v2", "-z"])),
        async || {
            let start = Instant::now();
            let body = caller.get(&path).await?.collect().await?.to_bytes();
            let answer: serde_json::Value = serde_json::from_slice(&body)?;
            ensure!(
                answer["entries"]
                    .as_array()
                    .is_some_and(|entries| entries.len() == 1),
                "{answer}"
            );
            Ok(start.elapsed().as_secs_f64() * 1e3)
        },
    )
    .await?;
    table.add(Row::of(
        "git status, 5,000 files",
        &rounds,
        Unit::Milliseconds,
        Bar::UpTo(1.05),
    ));
    Ok(())
}

/// From a file that is written to its event.
async fn watches(root: &Path, daemon: &Daemon, table: &mut Table) -> Result<()> {
    let tree = root.join("watched");
    grow(&tree, 1000, 1)?;
    let mut caller = Caller::connect(daemon.port, &daemon.token).await?;
    let path = format!("/v1/fs/watch?path={}", tree.display());
    let mut events = caller.get(&path).await?;
    let mut next = async || -> Result<()> {
        events.frame().await.context("the watch ended")??;
        Ok(())
    };
    next().await?;
    let mut times = Vec::new();
    for number in 0..100 {
        let start = Instant::now();
        std::fs::write(tree.join(format!("d0/e0/new{number}")), "x")?;
        next().await?;
        times.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    times.sort();
    let milliseconds = |at: usize| times[at].as_secs_f64() * 1e3;
    table.add(Row::absolute(
        "watch event, p95",
        milliseconds(95),
        Unit::Milliseconds,
        50.0,
    ));
    Ok(())
}
