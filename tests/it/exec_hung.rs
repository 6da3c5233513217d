//! A file system that hangs (a dead server) holds up only those who touch it: every other command is started, ended and
//! answered, and time limits are kept.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt;

use crate::harness::daemon::Builder;
use crate::harness::{
    Daemon, Http, HungFileSystem, NatsServer, PATIENCE, Request, WAYS, Way, Ways, eventually, processes,
    ways, write_program,
};

/// A daemon with mounts of its own.
fn builder() -> Builder {
    Daemon::builder().namespace("true")
}

/// Asks for a command in a task of its own.
fn ask(http: &Http, request: &Request) -> tokio::task::JoinHandle<serde_json::Value> {
    let (http, body) = (http.clone(), request.json());
    tokio::spawn(async move { http.run(&body).await.json() })
}

/// Its answer, which must come.
async fn in_time(asked: tokio::task::JoinHandle<serde_json::Value>) -> serde_json::Value {
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    answer.expect("an answer").unwrap()
}

/// Asks for the attributes of a file there and waits for no answer.
async fn ask_and_hang(http: &Http, path: &str) -> tokio::net::TcpStream {
    get_and_hang(http, &format!("/v1/fs/stat?path={path}")).await
}

async fn get_and_hang(http: &Http, target: &str) -> tokio::net::TcpStream {
    let mut socket = http.socket().await;
    let (host, token) = (http.address, http.token.clone().unwrap());
    let request = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_or_directory_that_hangs_is_given_up_in_time_and_holds_up_nobody() {
    let ways = Ways::with(builder(), NatsServer::start()).await;
    let hung = HungFileSystem::mount(&ways.daemon);
    let limit = Duration::from_secs(2);
    // It ends while births hang.
    let beside = ask(&ways.http, &Request::shell("sleep 0.5; exit 6"));
    let births: Vec<_> = (0..6)
        .map(|index| {
            let program = hung.path(&format!("program-{index}"));
            let request = if index % 2 == 0 {
                Request::argv(&[&program])
            } else {
                Request::argv(&["true"]).cwd(&program)
            };
            ask(&ways.http, &request.timeout(limit))
        })
        .collect();
    hung.wait_for_lookups(4);
    for way in WAYS {
        // Its orphans end, too, and are reaped.
        let request = Request::shell("(sleep 0.1 &); exit 3").timeout(Duration::from_secs(20));
        assert_eq!(ways.run(way, &request).await.code, 3, "{way:?}");
        assert_eq!(ways.http.get("/v1/health").await.status, 200);
    }
    assert_eq!(in_time(beside).await["exitCode"], 6);
    for birth in births {
        let answer = in_time(birth).await;
        assert_eq!(answer["code"], "timeout", "{answer}");
        assert!(
            answer["detail"]
                .as_str()
                .unwrap()
                .contains("the start of the program"),
            "{answer}"
        );
    }
}

/// The kernel tells the end of a child to the thread that gave birth to it first of all: that thread may be asked for a
/// file afterwards and hang.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_command_is_noticed_while_requests_for_files_hang() {
    let ways = Ways::with(builder(), NatsServer::start()).await;
    let hung = HungFileSystem::mount(&ways.daemon);
    let gate = ways.daemon.workspace().join("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let seconds = ways::unique_seconds();
    let sleep = Request::argv(&["sleep", &seconds]);
    let late = ask(&ways.http, &sleep.timeout(Duration::from_secs(2)));
    let early = ask(&ways.http, &Request::shell("read x < gate; exit 5"));
    processes::wait_until_there(&seconds, PATIENCE);
    let mut stuck = Vec::new();
    for index in 0..8 {
        stuck.push(ask_and_hang(&ways.http, &hung.path(&format!("file-{index}"))).await);
    }
    hung.wait_for_lookups(8);
    tokio::fs::write(&gate, "go\n").await.unwrap();
    assert_eq!(in_time(early).await["exitCode"], 5);
    assert_eq!(in_time(late).await["timedOut"], true);
    processes::assert_none(&seconds);
}

/// Who closes a copy of its descriptor hangs as well, so no newborn may have one.
#[tokio::test(flavor = "multi_thread")]
async fn commands_start_while_a_file_that_is_open_hangs() {
    let ways = Ways::with(builder(), NatsServer::start()).await;
    let hung = HungFileSystem::mount(&ways.daemon);
    let file = hung.path(HungFileSystem::FILE);
    let _reader = get_and_hang(&ways.http, &format!("/v1/fs/file?path={file}")).await;
    hung.wait_for_reads(1);
    let seconds = ways::unique_seconds();
    for way in WAYS {
        for line in ["exit 3", &format!("sleep {seconds} & exit 3")] {
            let request = Request::shell(line).timeout(Duration::from_secs(5));
            assert_eq!(ways.run(way, &request).await.code, 3, "{way:?} {line}");
        }
    }
    assert_eq!(hung.flushes(), 0);
}

/// More requests than the daemon has threads for.
#[tokio::test(flavor = "multi_thread")]
async fn threads_are_left_to_commands_when_hundreds_of_requests_hang() {
    let ways = Ways::with(builder(), NatsServer::start()).await;
    let hung = HungFileSystem::mount(&ways.daemon);
    let mut stuck = Vec::new();
    for index in 0..600 {
        stuck.push(ask_and_hang(&ways.http, &hung.path(&format!("file-{index}"))).await);
    }
    hung.wait_for_lookups(200);
    for round in 0..20 {
        let request = Request::shell("exit 3").timeout(Duration::from_secs(5));
        assert_eq!(ways.run(Way::Nats, &request).await.code, 3, "{round}");
    }
    let seconds = ways::unique_seconds();
    let line = format!("setsid sleep {seconds} & sleep {seconds}");
    let request = Request::shell(&line).timeout(Duration::from_secs(1));
    assert!(ways.run(Way::Nats, &request).await.timed_out);
    processes::assert_none(&seconds);
}

/// Told that nothing was started, a caller may ask again: then it must not have run before.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_not_run_when_the_file_system_recovers() {
    for in_it in ["program", "directory"] {
        let ways = Ways::with(builder(), NatsServer::start()).await;
        let hung = HungFileSystem::mount(&ways.daemon);
        let workspace = ways.daemon.workspace();
        let (script, runs) = (workspace.join("script"), workspace.join("runs"));
        write_program(&script, format!("#!/bin/sh\necho run >> {}\n", runs.display()));
        let request = |index: usize| match (in_it, hung.path(&format!("{in_it}-{index}"))) {
            ("program", path) => Request::argv(&[&path]),
            (_, path) => Request::argv(&["./script"]).cwd(&path),
        };
        // Many, so that one of them would be fast enough to run before anybody stops it.
        let asked = (0..30).map(|index| ask(&ways.http, &request(index).timeout(Duration::from_secs(3))));
        let asked: Vec<_> = asked.collect();
        hung.wait_for_lookups(12);
        for answer in asked {
            assert_eq!(in_time(answer).await["code"], "timeout", "{in_it}");
        }
        hung.recover(if in_it == "program" { &script } else { &workspace });
        let again = ask(&ways.http, &request(0).timeout(PATIENCE));
        let answer = in_time(again).await;
        assert_eq!(answer["exitCode"], 0, "{in_it}: {answer}");
        eventually("the end of all children", PATIENCE, || {
            processes::children(ways.daemon.pid()).is_empty().then_some(())
        });
        assert_eq!(std::fs::read_to_string(runs).unwrap(), "run\n", "{in_it}");
    }
}

/// All that may be born at once, and more.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_limit_covers_the_wait_for_leave_to_start() {
    let ways = Ways::with(builder(), NatsServer::start()).await;
    let hung = HungFileSystem::mount(&ways.daemon);
    let raised = serde_json::json!({ "maxConcurrentProcesses": 1000 });
    assert_eq!(ways.http.post("/v1/processes/config", &raised).await.status, 200);
    let _births: Vec<_> = (0..120)
        .map(|index| {
            ask(
                &ways.http,
                &Request::argv(&[&hung.path(&format!("program-{index}"))]),
            )
        })
        .collect();
    hung.wait_for_lookups(66);
    let limited = ask(
        &ways.http,
        &Request::argv(&["true"]).timeout(Duration::from_secs(1)),
    );
    let answer = tokio::time::timeout(Duration::from_secs(5), limited).await;
    let answer = answer.expect("the limit is kept").unwrap();
    assert_eq!(answer["code"], "timeout", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_no_birth_that_hangs() {
    let mut ways = Ways::with(builder(), NatsServer::start()).await;
    let hung = HungFileSystem::mount(&ways.daemon);
    let _birth = ask(&ways.http, &Request::argv(&[&hung.path("program")]));
    hung.wait_for_lookups(1);
    let began = Instant::now();
    ways.daemon.signal(Signal::SIGTERM);
    ways.daemon.signal(Signal::SIGTERM);
    eventually("the daemon has done what it can", PATIENCE, || {
        ways.daemon.log().contains("flush links").then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // The kernel lets it go when the file system does.
    drop(hung);
    ways.daemon.wait(PATIENCE);
}
