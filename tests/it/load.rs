//! Ping, health and heartbeats while the machine is on its knees.

use std::time::{Duration, Instant};

use boxd::wire::proto::PingRequest;
use boxd::wire::proto::agent_event::Event;
use boxd::wire::proto::control_request::Op;

use crate::harness::{Request, WAYS, Way, Ways, percentile};

#[tokio::test]
async fn ping_and_health_answer_while_256_commands_run() {
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
    assert!(pings.len() > 20, "{} pings in three seconds", pings.len());
    assert!(
        ping < Duration::from_millis(400),
        "p99 of {} pings: {ping:?}",
        pings.len()
    );
    assert!(
        health < Duration::from_millis(400),
        "p99 of {} healths: {health:?}",
        healths.len()
    );
}

#[tokio::test]
async fn heartbeats_keep_their_pace_while_a_command_runs() {
    let ways = Ways::start().await;
    let mut events = ways.control.events().await;
    let busy =
        Request::shell("timeout 12 sh -c 'while :; do :; done'; true").timeout(Duration::from_secs(15));
    let control = ways.control.clone();
    let running = tokio::spawn(async move { control.ask(busy.op()).await });
    let mut last: Option<(Instant, u64)> = None;
    while last.is_none_or(|(_, seq)| seq < 3) {
        let Some(Event::Heartbeat(beat)) = events.next().await.event else {
            continue;
        };
        if let Some((at, seq)) = last {
            assert_eq!(beat.seq, seq + 1);
            let gap = at.elapsed();
            assert!(
                gap > Duration::from_secs(4) && gap < Duration::from_secs(7),
                "{gap:?}"
            );
        }
        last = Some((Instant::now(), beat.seq));
    }
    running.abort();
}

#[tokio::test]
async fn a_reader_that_never_reads_holds_up_nobody() {
    let ways = Ways::start().await;
    let workspace = ways.daemon.workspace();
    nix::unistd::mkfifo(&workspace.join("silent"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    // A fifo nobody writes to, and a device without an end.
    let fifo = ways.http.get("/v1/fs/file?path=silent").await;
    fifo.problem(400, "wrong_kind");
    for way in WAYS {
        assert_eq!(
            ways.run(way, &Request::argv(&["echo", "on"])).await.text(),
            "on\n"
        );
    }
    let zero = ways
        .http
        .request(hyper::Method::GET, "/v1/fs/file?path=/dev/zero");
    let answer = ways
        .http
        .open(
            zero.body(http_body_util::Full::<bytes::Bytes>::default())
                .unwrap(),
        )
        .await;
    if answer.status().is_success() {
        // It streams: taken in pieces, it must not be gathered first.
        drop(answer);
    } else {
        assert_eq!(answer.status(), 400);
    }
    assert_eq!(
        ways.run(Way::Nats, &Request::argv(&["echo", "on"])).await.text(),
        "on\n"
    );
}
