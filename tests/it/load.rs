//! Ping, health and everybody else while the machine is on its knees, or peers are stuck.

use std::time::{Duration, Instant};

use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::{FsReadRequest, PingRequest};
use tokio::io::AsyncWriteExt;

use crate::harness::{Request, WAYS, Ways, eventually, percentile, processes};

#[tokio::test]
async fn ping_and_health_answer_while_256_commands_run() {
    crate::harness::alone();
    let ways = Ways::start().await;
    let file = ways.daemon.workspace().join("gate");
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Each burns some time, then waits for the gate to be opened.
    let line = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; read x < gate; exit 7";
    let running: Vec<_> = (0..256)
        .map(|_| {
            let control = ways.control.clone();
            tokio::spawn(async move { control.ask(Request::shell(line).op()).await })
        })
        .collect();
    let (mut pings, mut healths) = (Vec::new(), Vec::new());
    let mut health = ways.http.keep().await;
    crate::harness::ahead(ways.broker.pid());
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        let one = Instant::now();
        ways.control.ask(Op::Ping(PingRequest { nonce: 1 })).await;
        pings.push(one.elapsed());
        let one = Instant::now();
        let request = ways.http.anonymous().request(hyper::Method::GET, "/v1/health");
        assert_eq!(
            health
                .send(request.body(http_body_util::Full::default()).unwrap())
                .await
                .status,
            200
        );
        healths.push(one.elapsed());
    }
    // A writer that stays open lets every reader through, the late ones too.
    let gate = tokio::task::spawn_blocking(move || {
        let mut gate = std::fs::File::options()
            .read(true)
            .write(true)
            .open(file)
            .unwrap();
        for _ in 0..256 {
            std::io::Write::write_all(&mut gate, b"go\n").unwrap();
        }
        gate
    });
    let _gate = gate.await.unwrap();
    for (index, task) in running.into_iter().enumerate() {
        let response = task.await.unwrap();
        match response.result {
            Some(boxd::wire::proto::control_response::Result::Exec(exec)) => {
                assert_eq!(exec.exit_code, 7, "{index}");
            }
            other => panic!("{index}: {other:?} {:?}", response.error),
        }
    }
    let (ping, health) = (percentile(&mut pings, 99), percentile(&mut healths, 99));
    assert!(pings.len() > 100, "{} pings in three seconds", pings.len());
    assert!(
        ping < Duration::from_millis(200),
        "p99 of {} pings: {ping:?}",
        pings.len()
    );
    assert!(
        health < Duration::from_millis(200),
        "p99 of {} healths: {health:?}",
        healths.len()
    );
}

#[tokio::test]
async fn stuck_readers_and_writers_hold_up_nobody() {
    crate::harness::alone();
    let ways = Ways::start().await;
    let workspace = ways.daemon.workspace();
    std::fs::File::create(workspace.join("large"))
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    let token = ways.http.token.clone().unwrap();
    let mut stuck = Vec::new();
    for index in 0..12 {
        let (mut reader, mut writer) = (ways.http.socket().await, ways.http.socket().await);
        let host = ways.http.address;
        let head = format!("HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n");
        reader
            .write_all(format!("GET /v1/fs/file?path=large {head}\r\n").as_bytes())
            .await
            .unwrap();
        let put = format!("PUT /v1/fs/file?path=half-{index} {head}Content-Length: 1000000\r\n\r\n");
        writer.write_all(put.as_bytes()).await.unwrap();
        writer.write_all(&[b'x'; 5000]).await.unwrap();
        // The answer has begun, so the daemon is in the middle of both.
        reader.peek(&mut [0]).await.unwrap();
        stuck.push((reader, writer));
    }
    let mut took = Vec::new();
    for round in 0..60 {
        let begin = Instant::now();
        ways.control.ask(Op::Ping(PingRequest { nonce: 1 })).await;
        assert_eq!(ways.http.get("/v1/health").await.status, 200);
        assert_eq!(
            ways.run(WAYS[round % 2], &Request::argv(&["echo", "on"]))
                .await
                .text(),
            "on\n"
        );
        assert_eq!(ways.http.put("/v1/fs/file?path=other", "x").await.status, 200);
        took.push(begin.elapsed());
    }
    let late = percentile(&mut took, 90);
    assert!(late < Duration::from_millis(400), "four requests took {late:?}");
    let (_, peak) = processes::resident(ways.daemon.pid());
    assert!(peak < 96 << 20, "the daemon used {} MiB", peak >> 20);
    drop(stuck);
    eventually("the end of every half upload", Duration::from_secs(5), || {
        let names = std::fs::read_dir(&workspace)
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name());
        (names.filter(|name| name != "large" && name != "other").count() == 0).then_some(())
    });
}

#[tokio::test]
async fn files_without_an_end_or_a_writer_are_refused_at_once() {
    let ways = Ways::start().await;
    let silent = ways.daemon.workspace().join("silent");
    nix::unistd::mkfifo(&silent, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in ["silent", "/dev/zero"] {
        let begin = Instant::now();
        ways.http
            .get(&format!("/v1/fs/file?path={path}"))
            .await
            .problem(400, "wrong_kind");
        let read = FsReadRequest {
            path: path.into(),
            ..FsReadRequest::default()
        };
        let error = ways.control.refused(Op::FsRead(read)).await;
        assert_eq!(error.code().as_str_name(), "ERROR_CODE_OS", "{error:?}");
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "{path}: {:?}",
            begin.elapsed()
        );
    }
}
