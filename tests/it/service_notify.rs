//! The daemon under a service manager that the harness plays: what it is told and when, and what it does not hear. And its
//! log, when that goes to the journal.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::harness::daemon::Builder;
use crate::harness::manager::Manager;
use crate::harness::{Connection, Daemon, PATIENCE, eventually, processes, ways};

/// Longer than the time between signs of life of any watchdog here.
const A_WHILE: Duration = Duration::from_secs(2);

fn under(manager: &Manager) -> Builder {
    Daemon::builder().environment("NOTIFY_SOCKET", manager.name())
}

fn watched(manager: &Manager, microseconds: &str) -> Builder {
    under(manager).environment("WATCHDOG_USEC", microseconds)
}

/// A place for the socket, and the manager there.
fn manager() -> (tempfile::TempDir, Manager) {
    let directory = tempfile::tempdir().unwrap();
    let manager = Manager::at(&directory.path().join("notify"));
    (directory, manager)
}

/// What the ready file and the first HTTP listener say right now.
fn served(ready: &Path) -> (Value, String) {
    let ready: Value = serde_json::from_slice(&std::fs::read(ready).unwrap()).unwrap();
    let address = ready["http"][0]
        .as_str()
        .unwrap()
        .strip_prefix("http://")
        .unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET /v1/health HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (ready, answer)
}

#[test]
fn ready_is_said_when_every_door_is_open_and_every_link_was_tried() {
    let (_directory, manager) = manager();
    let link = Connection::to("nats://127.0.0.1:1");
    let builder = under(&manager).connection(&link);
    let mut heard = None;
    let daemon = builder.start_in(|directory| {
        let ready = directory.join("ready/ready.json");
        // Heard while the daemon starts, so that what READY promises is looked at when it is said.
        heard = Some(std::thread::spawn(move || {
            let told = manager.until("READY");
            (told, served(&ready), manager)
        }));
    });
    let (told, (ready, answer), manager) = heard.unwrap().join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(ready["links"][0]["state"], "waiting", "{ready}");
    let status = told.value("STATUS").unwrap();
    assert!(status.starts_with(ready["http"][0].as_str().unwrap()), "{status}");
    assert!(status.contains("0 of 1 links connected"), "{status}");
    assert!(
        manager.next(Duration::from_millis(300)).is_none(),
        "no watchdog was asked for"
    );
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_announced_with_the_time_that_it_may_take_and_is_no_hang() {
    let manager = Manager::abstracted();
    let builder = watched(&manager, "400000").config("[shutdown]\ngrace = \"100s\"\n");
    let mut daemon = builder.start();
    manager.until("READY");
    let seconds = ways::unique_seconds();
    let http = daemon.http();
    let command = json!({ "command": "sleep", "args": [seconds] });
    let running = tokio::spawn(async move { http.run(&command).await });
    processes::wait_until_there(&seconds, PATIENCE);
    daemon.signal(Signal::SIGTERM);
    let stopping = manager.until("STOPPING");
    let longest: u64 = stopping.value("EXTEND_TIMEOUT_USEC").unwrap().parse().unwrap();
    assert!(longest > 100_000_000, "{stopping:?}");
    // It waits for the command, and lives.
    for _ in 0..3 {
        manager.until("WATCHDOG");
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(PATIENCE).code(), Some(0), "{}", daemon.log());
    drop(running.await);
    processes::assert_none(&seconds);
}

#[test]
fn signs_of_life_come_in_time_and_only_from_a_daemon_that_runs() {
    let (_directory, manager) = manager();
    // Signs come twice as often, so that a machine that is busy with other tests may be late by half of it.
    let interval = Duration::from_secs(2);
    let daemon = watched(&manager, "2000000")
        // The shell becomes the daemon.
        .prelude("export WATCHDOG_PID=$$")
        .start();
    manager.until("READY");
    for _ in 0..3 {
        let begin = Instant::now();
        manager.until("WATCHDOG");
        assert!(begin.elapsed() < interval, "{:?}", begin.elapsed());
    }
    daemon.signal(Signal::SIGSTOP);
    eventually("the daemon to stand still", PATIENCE, || {
        processes::status_field(daemon.pid(), "State")?
            .starts_with('T')
            .then_some(())
    });
    manager.drain();
    assert!(manager.next(A_WHILE).is_none());
    daemon.signal(Signal::SIGCONT);
    let told = manager.until("WATCHDOG");
    assert!(
        told.value("STATUS")
            .is_some_and(|status| status.contains("links")),
        "{told:?}"
    );
}

#[test]
fn a_watchdog_that_is_meant_for_another_process_is_left_alone() {
    let (_directory, manager) = manager();
    let builder = watched(&manager, "200000").environment("WATCHDOG_PID", "1");
    let _daemon = builder.start();
    manager.until("READY");
    assert!(manager.next(A_WHILE).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_child_hears_of_the_manager() {
    let (_directory, manager) = manager();
    let builder = watched(&manager, "60000000")
        .environment("LISTEN_FDS", "0")
        .environment("KEPT", "yes");
    let builder = [
        "--",
        "sh",
        "-c",
        "echo \"[$(env | tr '\\n' ' ')]\"; exec sleep 1000",
    ]
    .into_iter()
    .fold(builder, Builder::argument);
    let daemon = builder.start();
    manager.until("READY");
    let ran = daemon.http().run(&json!({ "command": "env" })).await;
    let of_main = eventually("the main command", PATIENCE, || {
        daemon
            .log()
            .lines()
            .find(|line| line.starts_with('['))
            .map(str::to_owned)
    });
    for environment in [ran.text(), of_main] {
        assert!(environment.contains("KEPT=yes"), "{environment}");
        for name in ["NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_"] {
            assert!(!environment.contains(name), "{environment}");
        }
    }
}

#[tokio::test]
async fn a_manager_that_does_not_listen_is_a_warning_and_one_that_comes_later_is_heard() {
    for name in ["vsock:2:1234", "/no/such/socket"] {
        let mut daemon = Daemon::builder().environment("NOTIFY_SOCKET", name).start();
        let ran = daemon.http().run(&json!({ "command": "true" })).await;
        assert_eq!(ran.json()["exitCode"], 0, "{}", ran.text());
        let log = daemon.log();
        let warned = |line: &&str| line.contains("WARN") && line.contains("the service manager");
        assert!(log.lines().any(|line| warned(&line)), "{log}");
        assert_eq!(daemon.stop().code(), Some(0));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let first = Manager::at(&path);
    let _daemon = watched(&first, "400000").start();
    first.until("READY");
    drop(first);
    std::fs::remove_file(&path).unwrap();
    Manager::at(&path).until("WATCHDOG");
}

#[test]
fn a_hangup_reads_the_connection_files_and_says_when_it_has() {
    let (_directory, manager) = manager();
    let daemon = watched(&manager, "400000").start();
    manager.until("READY");
    Connection::to("nats://127.0.0.1:1").write(&daemon.config_directory());
    let before = monotonic();
    daemon.signal(Signal::SIGHUP);
    let reloading = manager.until("RELOADING");
    let said: u128 = reloading.value("MONOTONIC_USEC").unwrap().parse().unwrap();
    assert!((before..=monotonic()).contains(&said), "{said}");
    manager.until("READY");
    let told = manager.until("WATCHDOG");
    assert!(told.value("STATUS").unwrap().contains("of 1 links"), "{told:?}");
}

fn monotonic() -> u128 {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_micros()
}

/// The daemon believes that what its standard error goes to is the journal.
const JOURNAL: &str = "export JOURNAL_STREAM=\"$(stat -L -c %d:%i /proc/self/fd/2)\"";

fn log_of(builder: Builder) -> Vec<String> {
    let mut daemon = builder.start();
    assert_eq!(daemon.stop().code(), Some(0));
    let log = daemon.log();
    let lines: Vec<_> = log.lines().map(str::to_owned).collect();
    assert!(lines.len() > 3, "{log}");
    lines
}

#[test]
fn lines_for_the_journal_have_a_priority_and_no_time() {
    let broken = || Daemon::builder().environment("NOTIFY_SOCKET", "/no/such/socket");
    let lines = log_of(broken().prelude(JOURNAL));
    for line in &lines {
        let (priority, text) = line.strip_prefix('<').unwrap().split_once('>').unwrap();
        let level = text.split_ascii_whitespace().next().unwrap();
        let expected = match level {
            "WARN" => "4",
            "INFO" => "6",
            "DEBUG" => "7",
            other => panic!("{other} in {line}"),
        };
        assert_eq!(priority, expected, "{line}");
    }
    assert!(lines.iter().any(|line| line.starts_with("<4>")), "{lines:?}");

    let lines = log_of(
        Daemon::builder()
            .prelude(JOURNAL)
            .argument("--log-format")
            .argument("json"),
    );
    for line in &lines {
        let (_, text) = line.strip_prefix('<').unwrap().split_once('>').unwrap();
        let object: Value = serde_json::from_str(text).unwrap();
        assert!(
            object["message"].is_string() && object["timestamp"].is_null(),
            "{line}"
        );
    }

    // Led elsewhere since: an ordinary log.
    let lines = log_of(Daemon::builder().environment("JOURNAL_STREAM", "8:1"));
    for line in &lines {
        let object: Value = serde_json::from_str(line).unwrap();
        assert!(object["timestamp"].is_string(), "{line}");
    }
}
