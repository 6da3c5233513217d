//! The daemon as init: the first process of a container, or the subreaper of its own trees. No zombie stays, no exit
//! code is stolen.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::ways::unique_seconds;
use crate::harness::{Daemon, NatsServer, PATIENCE, Request, WAYS, Way, Ways, eventually, processes};

fn zombies_of(parent: i32) -> Vec<i32> {
    let is_zombie =
        |pid: &i32| processes::status_field(*pid, "State").is_some_and(|state| state.starts_with('Z'));
    processes::children(parent)
        .into_iter()
        .filter(is_zombie)
        .collect()
}

#[tokio::test]
async fn as_first_process_it_reaps_orphans_and_keeps_every_exit_code() {
    let ways = Ways::with(Daemon::builder().namespace("true"), NatsServer::start()).await;
    let ran = ways.run(Way::Nats, &Request::shell("ps -o ppid= -p $$")).await;
    assert_eq!(
        ran.text().trim(),
        "1",
        "the daemon is the first process of its namespace"
    );
    orphans_and_codes(&ways).await;
}

#[tokio::test]
async fn as_subreaper_it_reaps_orphans_and_keeps_every_exit_code() {
    let ways = Ways::start().await;
    let seconds = unique_seconds();
    ways.run(Way::Nats, &Request::shell(&format!("(setsid sleep {seconds} &)")))
        .await;
    let orphan = processes::wait_until_there(&seconds, PATIENCE);
    let parent = processes::status_field(orphan, "PPid").unwrap();
    assert_eq!(
        parent,
        ways.daemon.pid().to_string(),
        "orphans of a tree come to the daemon"
    );
    orphans_and_codes(&ways).await;
}

#[tokio::test]
async fn ends_are_known_where_whoever_started_the_daemon_ignores_them() {
    let ways = Ways::with(Daemon::builder().prelude("trap '' CHLD"), NatsServer::start()).await;
    for way in WAYS {
        // One ends within its first milliseconds, one later; what they start has ends again, too.
        for line in ["exit 3", "sleep 0.1; (exit 3)"] {
            assert_eq!(
                ways.run(way, &Request::shell(line)).await.code,
                3,
                "{way:?} {line}"
            );
        }
    }
    orphans_and_codes(&ways).await;
}

/// Many short orphans beside many commands with codes of their own.
async fn orphans_and_codes(ways: &Ways) {
    let requests = (0..120).map(|index| async move {
        let code = index % 100;
        let line = format!("for i in 1 2 3; do (sleep 0.0$i &) ; done; exit {code}");
        let ran = ways.run(WAYS[index % 2], &Request::shell(&line)).await;
        assert_eq!(ran.code as usize, code);
    });
    // In lots, so that the limit of processes made over HTTP is not met.
    let mut requests: Vec<_> = requests.collect();
    while !requests.is_empty() {
        let lot = requests.split_off(requests.len().saturating_sub(30));
        futures_util::future::join_all(lot).await;
    }
    let daemon = ways.daemon.pid();
    eventually("no zombie is left", Duration::from_secs(1), || {
        zombies_of(daemon).is_empty().then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn as_first_process_it_stops_the_tree_in_order() {
    // Time enough to act on the signal, also where many want the processor.
    let daemon = Daemon::builder()
        .namespace("true")
        .config("[exec]\nkill_grace = \"10s\"");
    let mut ways = Ways::with(daemon, NatsServer::start()).await;
    let (seconds, file) = (unique_seconds(), ways.daemon.workspace().join("asked-to-stop"));
    let polite = format!(
        "trap 'echo > {}; exit 0' TERM; echo up; sleep {seconds} & wait",
        file.display()
    );
    let http = ways.http.clone();
    let running = tokio::spawn(async move { http.run(&Request::shell(&polite).json()).await });
    processes::wait_until_there(&seconds, PATIENCE);
    ways.daemon.signal(Signal::SIGTERM);
    let status = ways.daemon.wait(PATIENCE);
    assert_eq!(status.code(), Some(0));
    assert!(file.exists(), "a tree is asked before it is killed");
    processes::assert_none(&seconds);
    running.abort();
}
