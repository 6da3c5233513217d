//! How far the end of a tree reaches without a cgroup: children that cleared their environment and left their session,
//! and a process that forks and ends faster than `/proc` can be read.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::ways::unique_seconds;
use crate::harness::{Daemon, PATIENCE, Request, WAYS, Way, Ways, eventually, processes, require};

#[tokio::test]
async fn a_time_limit_reaches_children_without_a_marker_while_they_have_a_parent_or_the_output() {
    let ways = Ways::start().await;
    for way in WAYS {
        for line in [
            "env -i setsid sleep N >/dev/null 2>&1 & sleep N",
            // Its leader is left when it is killed.
            "env -i setsid sh -c 'env -i setsid sleep N & sleep N' >/dev/null 2>&1 & sleep N",
            // Nobody is its parent any more.
            "(env -i setsid sleep N &); sleep N",
            // Another session of the tree.
            "setsid sh -c '(env -i sleep N >/dev/null 2>&1 &); sleep N' & sleep N",
        ] {
            let seconds = unique_seconds();
            let request = Request::shell(&line.replace('N', &seconds)).timeout(Duration::from_millis(500));
            assert!(ways.run(way, &request).await.timed_out, "{line}");
            let left = processes::with_argument(&seconds);
            assert!(left.is_empty(), "{way:?}: {line}: {left:?}");
        }
    }
}

#[tokio::test]
async fn children_of_other_commands_do_not_die_of_a_time_limit() {
    let ways = Ways::start().await;
    let (kept, seconds) = (unique_seconds(), unique_seconds());
    let quiet =
        format!("(env -i setsid sleep {kept} >/dev/null 2>&1 &); (env -i setsid sleep {kept} &); echo on");
    assert_eq!(ways.run(Way::Nats, &Request::shell(&quiet)).await.text(), "on\n");
    let limited = Request::shell(&format!("(env -i setsid sleep {seconds} &); sleep {seconds}"));
    let limited = limited.timeout(Duration::from_millis(500));
    assert!(ways.run(Way::Nats, &limited).await.timed_out);
    processes::assert_none(&seconds);
    assert_eq!(processes::with_argument(&kept).len(), 2, "they live on");
}

#[tokio::test]
async fn a_stop_reaches_every_orphan_whatever_it_gave_up() {
    let mut ways = Ways::start().await;
    let seconds = unique_seconds();
    for (way, line) in WAYS.into_iter().zip([
        "env -i setsid sleep N >/dev/null 2>&1 & echo on",
        "(env -i setsid sh -c 'env -i sleep N & exec sleep N' >/dev/null 2>&1 &); echo on",
    ]) {
        let ran = ways.run(way, &Request::shell(&line.replace('N', &seconds))).await;
        assert_eq!(ran.text(), "on\n");
    }
    eventually("all three", PATIENCE, || {
        (processes::with_argument(&seconds).len() == 3).then_some(())
    });
    assert_eq!(ways.daemon.stop().code(), Some(0), "{}", ways.daemon.log());
    processes::assert_none(&seconds);
}

#[tokio::test]
async fn what_a_script_started_before_it_became_the_daemon_is_left_alone() {
    let seconds = unique_seconds();
    let mut daemon = Daemon::builder().prelude(&format!("sleep {seconds} &")).start();
    let ran = daemon.http().run(&Request::argv(&["true"]).json()).await;
    assert_eq!(ran.json()["exitCode"], 0);
    assert_eq!(daemon.stop().code(), Some(0));
    assert_eq!(processes::with_argument(&seconds).len(), 1);
}

/// Forks, leaves its session and ends, again and again: only the newest one is alive. Each writes its number to a
/// file and pauses for so many microseconds. It stops when the file is removed, and after a while anyway.
const HOPPER: &str = r"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
int main(int count, char **words) {
    if (count < 3) return 2;
    int file = open(words[1], O_WRONLY);
    long number = 0, pause = atol(words[2]);
    time_t begin = time(0);
    struct stat found;
    while (fstat(file, &found) == 0 && found.st_nlink > 0 && time(0) - begin < 30) {
        pid_t child = fork();
        if (child > 0) _exit(0);
        if (child == 0) setsid();
        number++;
        pwrite(file, &number, sizeof number, 0);
        if (pause) usleep(pause);
    }
}
";

fn hopper(directory: &Path) -> PathBuf {
    let (source, program) = (directory.join("hopper.c"), directory.join("hopper"));
    std::fs::write(&source, HOPPER).unwrap();
    let mut compile = Command::new(require("cc"));
    let compiled = compile.arg("-O1").arg("-o").arg(&program).arg(&source).status();
    assert!(compiled.unwrap().success());
    program
}

#[tokio::test]
async fn a_process_that_forks_and_ends_all_the_time_is_caught() {
    let ways = Ways::start().await;
    let program = hopper(ways.daemon.directory());
    for (way, pause) in WAYS.into_iter().cycle().zip(["0", "200", "0"]) {
        let file = ways.daemon.workspace().join(unique_seconds());
        std::fs::write(&file, "").unwrap();
        let line = format!("{} {} {pause} & sleep 30", program.display(), file.display());
        let request = Request::shell(&line).timeout(Duration::from_millis(400));
        assert!(ways.run(way, &request).await.timed_out);
        let hops = || std::fs::read(&file).unwrap();
        let before = hops();
        assert!(!before.is_empty(), "it has hopped");
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(hops(), before, "it hops on, with a pause of {pause} microseconds");
        std::fs::remove_file(&file).unwrap();
    }
}
