//! `boxd run -- COMMAND`: the daemon as the entry point of an image, beside the image's own main command.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::harness::{Daemon, PATIENCE, daemon::Builder, eventually, processes, ways};

/// Tells of every signal it gets; TERM ends it with code 7.
const TALKER: &str = "trap 'echo got hangup' HUP; trap 'echo got user1' USR1; trap 'echo got term; exit 7' TERM; \
                      echo main runs; sleep \"$0\" & while :; do wait; done";

/// A daemon with `script` as its main command; `$0` of the script is a number of seconds that nobody else sleeps.
fn with_main(builder: Builder, script: &str, exit_with_main: bool) -> (Daemon, String) {
    let seconds = ways::unique_seconds();
    let builder = if exit_with_main {
        builder.argument("--exit-with-main")
    } else {
        builder
    };
    let builder = ["--", "sh", "-c", script, &seconds]
        .into_iter()
        .fold(builder, Builder::argument);
    (builder.start(), seconds)
}

fn until_said(daemon: &Daemon, line: &str) {
    eventually(line, PATIENCE, || {
        daemon.log().lines().any(|said| said == line).then_some(())
    });
}

fn signals_pass_through(builder: Builder) {
    let (mut daemon, seconds) = with_main(builder, TALKER, true);
    until_said(&daemon, "main runs");
    for (signal, line) in [(Signal::SIGHUP, "got hangup"), (Signal::SIGUSR1, "got user1")] {
        daemon.signal(signal);
        until_said(&daemon, line);
    }
    assert_eq!(daemon.stop().code(), Some(7), "{}", daemon.log());
    until_said(&daemon, "got term");
    processes::assert_none(&seconds);
}

#[test]
fn its_output_and_its_signals_pass_through_and_its_code_is_ours() {
    signals_pass_through(Daemon::builder());
}

#[test]
fn as_first_process_too() {
    signals_pass_through(Daemon::builder().namespace(""));
}

#[test]
fn its_end_by_a_signal_is_128_and_the_number() {
    for builder in [Daemon::builder(), Daemon::builder().namespace("")] {
        let (mut daemon, _) = with_main(builder, "exec sleep \"$0\"", true);
        let is_sleep =
            |child: &i32| std::fs::read(processes::of(*child, "comm")).is_ok_and(|name| name == b"sleep\n");
        let main = eventually("the shell to become sleep", PATIENCE, || {
            processes::children(daemon.pid()).into_iter().find(is_sleep)
        });
        kill(Pid::from_raw(main), Signal::SIGKILL).unwrap();
        assert_eq!(daemon.wait(PATIENCE).code(), Some(128 + 9), "{}", daemon.log());
    }
}

#[tokio::test]
async fn without_the_flag_the_daemon_outlives_it() {
    let (mut daemon, _) = with_main(Daemon::builder(), "echo short; exit 3", false);
    eventually("the end of the main command", PATIENCE, || {
        daemon.log().contains("main command ended").then_some(())
    });
    let ran = daemon.http().run(&json!({ "command": "true" })).await;
    assert_eq!(ran.json()["exitCode"], 0, "{}", ran.text());
    assert_eq!(daemon.stop().code(), Some(0));
}

#[tokio::test]
async fn what_it_leaves_behind_is_reaped_and_its_own_end_is_known() {
    for builder in [Daemon::builder(), Daemon::builder().namespace("")] {
        // Orphans whose parents are gone by the time they end, and codes that must not be taken by the reaper.
        let script = "i=0; while [ $i -lt 20 ]; do (true & exec true) & i=$((i+1)); done; mkfifo go; echo orphans; \
                      read line <go; sleep \"$0\" & setsid sleep \"$0\" & exit 5";
        let (mut daemon, seconds) = with_main(builder, script, true);
        until_said(&daemon, "orphans");
        let http = daemon.http();
        for code in 0..20 {
            let ran = http
                .run(&json!({ "command": "sh", "args": ["-c", format!("(true &); exit {code}")] }))
                .await;
            assert_eq!(ran.json()["exitCode"], code, "{}", ran.text());
        }
        let pid = daemon.pid();
        eventually("no zombie of the daemon", Duration::from_secs(2), || {
            let zombies = processes::children(pid).into_iter();
            let state = |child| processes::status_field(child, "State").unwrap_or_default();
            (zombies.filter(|child| state(*child).starts_with('Z')).count() == 0).then_some(())
        });
        std::fs::write(daemon.workspace().join("go"), "go\n").unwrap();
        assert_eq!(daemon.wait(PATIENCE).code(), Some(5), "{}", daemon.log());
        processes::assert_none(&seconds);
    }
}

#[test]
fn a_main_command_that_cannot_start_is_told() {
    let builder = ["--", "/no/such/program"]
        .into_iter()
        .fold(Daemon::builder(), Builder::argument);
    let (code, said) = builder.refused_in(|_| {});
    assert_eq!(code, 73, "{said}");
    assert!(said.contains("/no/such/program"), "{said}");
}

/// A main command that ignores TERM has the grace period, then it is killed with all its children.
#[test]
fn one_that_does_not_listen_is_killed() {
    let builder = Daemon::builder().config("[shutdown]\ngrace = \"100ms\"\n[exec]\nkill_grace = \"100ms\"\n");
    let script = "trap '' TERM; echo deaf; setsid sleep \"$0\" & while :; do sleep \"$0\"; done";
    let (mut daemon, seconds) = with_main(builder, script, true);
    until_said(&daemon, "deaf");
    let status = daemon.stop();
    assert_eq!(status.code(), Some(128 + 9), "{}", daemon.log());
    processes::assert_none(&seconds);
}
