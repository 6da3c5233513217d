//! Terminals over a relay: opened over NATS, seen and typed into by whoever the relay lets in, over links that break.

use std::fmt::Write as _;
use std::time::Duration;

use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response::Result as Outcome;
use boxd::wire::proto::{
    ErrorCode, PtyCloseRequest, PtyOpenRequest, PtyOpenResponse, PtyResizeRequest, PtyWriteRequest,
    StreamChannel, StreamClose, StreamCloseReason,
};
use boxd::wire::relay::Message;

use crate::harness::certificates::certificates;
use crate::harness::relay::{Dial, End, Relay, token_of, token_until, unix_time};
use crate::harness::ways::unique_seconds;
use crate::harness::{Connection, ControlPlane, Daemon, NatsServer, PATIENCE, Proxy, eventually, processes};

/// A daemon whose relay is this URL.
async fn behind(url: &str) -> (NatsServer, Daemon, ControlPlane) {
    let broker = NatsServer::start();
    let mut link = Connection::to(&broker.url());
    link.relay = (url.to_owned(), token_of(&link.workspace_id, &link.agent_id));
    let daemon = Daemon::builder().connection(&link).start();
    let control = ControlPlane::connect(&link).await;
    (broker, daemon, control)
}

fn shell(line: &str) -> PtyOpenRequest {
    PtyOpenRequest {
        command: ["sh", "-c", line].map(str::to_owned).to_vec(),
        ..PtyOpenRequest::default()
    }
}

async fn open(control: &ControlPlane, request: PtyOpenRequest) -> (String, StreamChannel) {
    let answer = control.ask(Op::PtyOpen(request)).await;
    match answer.result {
        Some(Outcome::PtyOpen(PtyOpenResponse { pty_id, channel })) => (pty_id, channel.unwrap()),
        other => panic!("{other:?} {:?}", answer.error),
    }
}

/// Reads frames in order from the `next` one until `until` was seen; answers all bytes.
async fn read(viewer: &mut End, next: &mut u64, until: &str) -> Vec<u8> {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(until) {
        let (seq, data) = viewer.frame().await;
        assert_eq!(seq, *next, "behind {} bytes", seen.len());
        *next += 1;
        assert!(data.len() <= 8192, "{} bytes in one frame", data.len());
        seen.extend_from_slice(&data);
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_is_opened_seen_typed_into_resized_and_closed() {
    let relay = Relay::start();
    let (_broker, _daemon, control) = behind(&relay.url()).await;
    let request = PtyOpenRequest {
        cols: 100,
        rows: 30,
        env: [("GREETING".to_owned(), "hello".to_owned())].into(),
        ..shell("echo $GREETING $TERM; stty size; while read line; do stty size; echo got $line; done")
    };
    let (id, channel) = open(&control, request).await;
    assert_eq!(channel.port, 7681);
    let mut viewer = Dial::at(&channel).attach(&relay).await.unwrap();
    let mut next = 0;
    let seen = read(&mut viewer, &mut next, "30 100").await;
    assert!(String::from_utf8_lossy(&seen).contains("hello xterm-256color"));
    let resize = PtyResizeRequest {
        pty_id: id.clone(),
        cols: 90,
        rows: 20,
    };
    let answer = control.ask(Op::PtyResize(resize)).await;
    assert!(matches!(answer.result, Some(Outcome::PtyResize(_))), "{answer:?}");
    viewer.send(0, "typed\n").await;
    let seen = read(&mut viewer, &mut next, "got typed").await;
    assert!(String::from_utf8_lossy(&seen).contains("20 90"));
    let write = PtyWriteRequest {
        pty_id: id.clone(),
        data: "by rpc\n".into(),
    };
    let answer = control.ask(Op::PtyWrite(write)).await;
    assert!(
        matches!(&answer.result, Some(Outcome::PtyWrite(written)) if written.bytes_written == 7),
        "{answer:?}"
    );
    read(&mut viewer, &mut next, "got by rpc").await;
    let close = Op::PtyClose(PtyCloseRequest { pty_id: id });
    let answer = control.ask(close.clone()).await;
    assert!(
        matches!(&answer.result, Some(Outcome::PtyClose(closed)) if closed.exit_code == -1),
        "{answer:?}"
    );
    assert_eq!(viewer.close().await, StreamCloseReason::ProcessExit);
    // Closed twice is closed.
    let answer = control.ask(close).await;
    assert!(matches!(&answer.result, Some(Outcome::PtyClose(_))), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_comes_last_and_its_code_can_be_asked_for() {
    let relay = Relay::start();
    let (_broker, _daemon, control) = behind(&relay.url()).await;
    let (id, channel) = open(&control, shell("echo bye; exit 7")).await;
    let mut viewer = Dial::at(&channel).attach(&relay).await.unwrap();
    read(&mut viewer, &mut 0, "bye\r\n").await;
    assert_eq!(viewer.close().await, StreamCloseReason::ProcessExit);
    let answer = control.ask(Op::PtyClose(PtyCloseRequest { pty_id: id })).await;
    assert!(
        matches!(&answer.result, Some(Outcome::PtyClose(closed)) if closed.exit_code == 7),
        "{answer:?}"
    );
    for op in [
        Op::PtyClose(PtyCloseRequest {
            pty_id: "proc_99999".into(),
        }),
        Op::PtyWrite(PtyWriteRequest {
            pty_id: "nonsense".into(),
            data: "x".into(),
        }),
        Op::PtyResize(PtyResizeRequest {
            pty_id: String::new(),
            cols: 80,
            rows: 24,
        }),
    ] {
        assert_eq!(control.refused(op).await.code(), ErrorCode::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_of_either_link_lose_and_double_nothing() {
    let relay = Relay::start();
    let proxy = Proxy::before(([127, 0, 0, 1], relay.port).into());
    let (_broker, _daemon, control) = behind(&format!("ws://{}/stream", proxy.address())).await;
    let (_, channel) = open(&control, shell("stty -echo raw; read go; seq 1 200000; sleep 60")).await;
    let dial = Dial::at(&channel);
    let mut viewer = dial.attach(&relay).await.unwrap();
    viewer.send(0, "\n").await;
    let expected = (1..=200_000).fold(String::new(), |all, number| all + &number.to_string() + "\n");
    let (mut seen, mut next, mut cuts) = (Vec::new(), 0, 0);
    while seen.len() < expected.len() {
        let (seq, data) = viewer.frame().await;
        assert_eq!(seq, next, "behind {} bytes and {cuts} cuts", seen.len());
        next += 1;
        seen.extend_from_slice(&data);
        if cuts < 10 && seen.len() > expected.len() / 11 * (cuts + 1) {
            cuts += 1;
            if cuts % 2 == 0 {
                proxy.cut();
            } else {
                viewer = dial.clone().resume(next).attach(&relay).await.unwrap();
                assert_eq!(viewer.first, next);
            }
        }
    }
    assert_eq!(cuts, 10);
    assert!(seen == expected.as_bytes(), "the bytes differ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_killed_is_found_again_and_the_terminal_lives() {
    let mut relay = Relay::start();
    let (_broker, _daemon, control) = behind(&relay.url()).await;
    let (id, channel) = open(
        &control,
        shell("stty -echo; while read line; do echo got $line; done"),
    )
    .await;
    let dial = Dial::at(&channel);
    let mut viewer = dial.attach(&relay).await.unwrap();
    viewer.send(0, "one\n").await;
    let mut next = 0;
    read(&mut viewer, &mut next, "got one").await;
    relay.kill();
    // Written while there is no relay: it comes when there is one again.
    let write = |data: &'static str| {
        Op::PtyWrite(PtyWriteRequest {
            pty_id: id.clone(),
            data: data.into(),
        })
    };
    assert_eq!(control.ask(write("two\n")).await.error, None);
    relay.restart();
    let mut viewer = dial.clone().resume(next).attach(&relay).await.unwrap();
    assert_eq!(viewer.first, next, "nothing is lost");
    read(&mut viewer, &mut next, "got two").await;
    // The numbers of this viewer go on.
    viewer.send(1, "three\n").await;
    read(&mut viewer, &mut next, "got three").await;
}

/// All that is said until that was: what a relay had is lost with it, which only the first number tells.
async fn said_until(viewer: &mut End, until: &str) -> String {
    let mut seen = Vec::new();
    loop {
        // It may begin in the frame before.
        let before = seen.len().saturating_sub(until.len());
        seen.extend_from_slice(&viewer.frame().await.1);
        let mut places = seen[before..].windows(until.len());
        if places.any(|place| place == until.as_bytes()) {
            return String::from_utf8_lossy(&seen).into_owned();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_that_no_relay_could_take_is_drawn_anew_and_what_follows_is_said_once() {
    let mut relay = Relay::start();
    let (_broker, daemon, control) = behind(&relay.url()).await;
    let line = "stty -echo; read go; head -c 90000000 /dev/zero | tr '\\0' x; echo; echo the end; : >done; while read line; do echo got $line; done";
    let (_, channel) = open(&control, shell(line)).await;
    let dial = Dial::at(&channel);
    let mut viewer = dial.attach(&relay).await.unwrap();
    viewer.send(0, "go\n").await;
    let mut next = 0;
    read(&mut viewer, &mut next, "xxx").await;
    relay.kill();
    eventually("the end of the output", PATIENCE, || {
        daemon.workspace().join("done").exists().then_some(())
    });
    relay.restart();
    let mut viewer = dial.resume(next).attach(&relay).await.unwrap();
    let mut seen = said_until(&mut viewer, "the end").await;
    viewer.send(1, "it\n").await;
    seen.push_str(&said_until(&mut viewer, "got it").await);
    assert!(daemon.log().contains("output was lost before a relay took it"));
    assert_eq!(seen.matches("the end").count(), 1, "{} bytes", seen.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_that_could_not_be_opened_leaves_no_channel() {
    let mut relay = Relay::start();
    let (_broker, mut daemon, control) = behind(&relay.url()).await;
    let scoped = || PtyOpenRequest {
        scope_id: "scope".into(),
        ..shell("cat")
    };
    relay.kill();
    // Several at once, which fail together.
    let asked = (0..4).map(|_| control.refused(Op::PtyOpen(scoped())));
    for error in futures_util::future::join_all(asked).await {
        assert_eq!(
            (error.code(), error.retryable),
            (ErrorCode::Stream, true),
            "{error:?}"
        );
    }
    relay.restart();
    let asked = (0..4).map(|_| open(&control, scoped()));
    let opened = futures_util::future::join_all(asked).await;
    assert!(opened.iter().all(|same| *same == opened[0]), "{opened:?}");
    let metrics = relay.page("/metrics").await;
    assert!(
        metrics.contains(r#"boxd_relay_channels{state="attached"} 1"#),
        "{metrics}"
    );
    assert!(daemon.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scope_is_one_channel_and_only_its_owner_ends_a_terminal() {
    let relay = Relay::start();
    let (_broker, _daemon, control) = behind(&relay.url()).await;
    let shared = |seconds: &str| PtyOpenRequest {
        scope_id: "shared".into(),
        ..shell(&format!("echo up; exec sleep {seconds}"))
    };
    let seconds = unique_seconds();
    let (first, second) = tokio::join!(open(&control, shared(&seconds)), open(&control, shared(&seconds)));
    assert_eq!(first, second);
    let close = |channel: &StreamChannel| {
        Message::Close(StreamClose {
            channel_id: channel.channel_id.clone(),
            reason: StreamCloseReason::Normal.into(),
            message: String::new(),
        })
    };
    let mut viewer = Dial::at(&first.1).attach(&relay).await.unwrap();
    read(&mut viewer, &mut 0, "up").await;
    viewer.say(&close(&first.1)).await;
    assert!(viewer.quiet_for(Duration::from_millis(500)).await);
    processes::wait_until_there(&seconds, PATIENCE);

    let own = unique_seconds();
    let (_, channel) = open(&control, shell(&format!("echo up; exec sleep {own}"))).await;
    let mut viewer = Dial::at(&channel).attach(&relay).await.unwrap();
    read(&mut viewer, &mut 0, "up").await;
    viewer.say(&close(&channel)).await;
    assert_eq!(viewer.close().await, StreamCloseReason::ProcessExit);
    processes::wait_until_gone(&own, PATIENCE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_relay_that_lets_it_in_nothing_is_opened() {
    let broker = NatsServer::start();
    let (_daemon, link) = Daemon::linked(&broker);
    let control = ControlPlane::connect(&link).await;
    let error = control.refused(Op::PtyOpen(shell("true"))).await;
    assert_eq!(error.code(), ErrorCode::Unsupported, "{error:?}");

    let seconds = unique_seconds();
    let line = format!("exec sleep {seconds}");
    // Nobody listens there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (_broker, _daemon, control) = behind(&format!("ws://{nobody}/stream")).await;
    let error = control.refused(Op::PtyOpen(shell(&line))).await;
    assert_eq!(
        (error.code(), error.retryable),
        (ErrorCode::Stream, true),
        "{error:?}"
    );
    processes::wait_until_gone(&seconds, PATIENCE);

    // A relay that knows another secret.
    let relay = Relay::start();
    let broker = NatsServer::start();
    let mut link = Connection::to(&broker.url());
    link.relay = (relay.url(), token_of("another", &link.agent_id));
    let _daemon = Daemon::builder().connection(&link).start();
    let control = ControlPlane::connect(&link).await;
    let error = control.refused(Op::PtyOpen(shell(&line))).await;
    assert_eq!(
        (error.code(), error.retryable),
        (ErrorCode::Stream, false),
        "{error:?}"
    );
    assert!(error.message.contains("workspace"), "{error:?}");
    processes::wait_until_gone(&seconds, PATIENCE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_behind_tls_is_dialed_by_those_who_trust_it() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let file = |name: &str| directory.path().join(name).display().to_string();
    let relay = Relay::with(&["--tls-cert", &file("cert.pem"), "--tls-key", &file("key.pem")]);
    let broker = NatsServer::start();
    let mut link = Connection::to(&broker.url());
    let url = relay.url().replace("ws://", "wss://");
    link.relay = (url, token_of(&link.workspace_id, &link.agent_id));
    let trusting = Daemon::builder()
        .environment("SSL_CERT_FILE", file("ca.pem"))
        .connection(&link);
    let _trusting = trusting.start();
    let control = ControlPlane::connect(&link).await;
    // It answers once the relay has let the machine in.
    open(&control, shell("exec sleep 600")).await;

    link.agent_id = uuid::Uuid::new_v4().to_string();
    link.relay.1 = token_of(&link.workspace_id, &link.agent_id);
    let _strict = Daemon::builder().connection(&link).start();
    let control = ControlPlane::connect(&link).await;
    let refused = control.refused(Op::PtyOpen(shell("exec sleep 600"))).await;
    assert!(refused.message.contains("certificate"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_typed_while_nobody_reads_survives_every_cut() {
    const FRAMES: u64 = 3000;
    let relay = Relay::start();
    let proxy = Proxy::before(([127, 0, 0, 1], relay.port).into());
    let (_broker, daemon, control) = behind(&format!("ws://{}/stream", proxy.address())).await;
    let line = format!(
        "stty raw -echo; printf ready; until [ -e go ]; do sleep 0.02; done; head -c {} | cksum",
        FRAMES * 20
    );
    let (_, channel) = open(&control, shell(&line)).await;
    let mut viewer = Dial::at(&channel).attach(&relay).await.unwrap();
    let mut next = 0;
    read(&mut viewer, &mut next, "ready").await;
    let mut all = Vec::new();
    for seq in 0..FRAMES {
        let data = format!("{seq:019}\n");
        all.extend_from_slice(data.as_bytes());
        assert!(viewer.send(seq, data).await);
        if seq % 700 == 699 {
            proxy.cut();
        }
    }
    std::fs::write(daemon.workspace().join("typed"), &all).unwrap();
    let sum = std::process::Command::new("cksum")
        .stdin(std::fs::File::open(daemon.workspace().join("typed")).unwrap())
        .output()
        .unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    std::fs::write(daemon.workspace().join("go"), "").unwrap();
    read(&mut viewer, &mut next, sum.trim()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn viewers_are_told_when_the_daemon_stops() {
    let relay = Relay::start();
    let (_broker, mut daemon, control) = behind(&relay.url()).await;
    let (_, channel) = open(
        &control,
        shell("trap 'echo last words; exit' TERM; echo up; while :; do sleep 0.02; done"),
    )
    .await;
    let mut viewer = Dial::at(&channel).attach(&relay).await.unwrap();
    let mut next = 0;
    read(&mut viewer, &mut next, "up").await;
    let stopped = tokio::task::spawn_blocking(move || daemon.stop());
    read(&mut viewer, &mut next, "last words").await;
    assert_eq!(viewer.close().await, StreamCloseReason::ProcessExit);
    assert!(stopped.await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_outlives_the_token_that_it_was_opened_with() {
    let mut relay = Relay::start();
    let broker = NatsServer::start();
    let mut link = Connection::to(&broker.url());
    let expires = unix_time(3);
    link.relay = (
        relay.url(),
        token_until(&link.workspace_id, &link.agent_id, expires),
    );
    let daemon = Daemon::builder().connection(&link).start();
    let control = ControlPlane::connect(&link).await;
    let scoped = || PtyOpenRequest {
        scope_id: "scope".into(),
        ..shell("while read line; do echo got $line; done")
    };
    let (id, channel) = open(&control, scoped()).await;
    while unix_time(0) <= expires {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    relay.restart();
    // As `boxd connect --force` does.
    link.relay.1 = token_of(&link.workspace_id, &link.agent_id);
    link.write(&daemon.config_directory());
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let again = loop {
        match control.ask(Op::PtyOpen(scoped())).await.result {
            Some(Outcome::PtyOpen(opened)) => break opened,
            _ => assert!(tokio::time::Instant::now() < deadline, "it is refused for ever"),
        }
    };
    assert_eq!((again.pty_id, again.channel.unwrap()), (id, channel.clone()));
    let mut viewer = Dial::at(&channel).attach(&relay).await.unwrap();
    viewer.send(0, "hello\n").await;
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("got hello") {
        seen.extend_from_slice(&viewer.frame().await.1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_typed_into_a_program_that_does_not_read_does_not_stop_what_it_says() {
    let relay = Relay::start();
    let (_broker, _daemon, control) = behind(&relay.url()).await;
    let (_, channel) = open(
        &control,
        shell(
            "stty raw -echo; echo ready; while :; do head -c 50000 /dev/zero | tr '\\0' x; sleep .02; done",
        ),
    )
    .await;
    let mut viewer = Dial::at(&channel).attach(&relay).await.unwrap();
    let mut next = 0;
    read(&mut viewer, &mut next, "ready").await;
    for seq in 0..1500 {
        viewer.send(seq, vec![b'y'; 64]).await;
    }
    let mut bytes = 0;
    while bytes < 4 << 20 {
        bytes += viewer.frame().await.1.len();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_takes_less_gets_everything_all_the_same() {
    // It cuts the producer off again and again, until that has found a pace: mostly while a batch is on its way.
    let relay = Relay::with(&["--rate", "524288", "--burst", "524288"]);
    let (_broker, daemon, control) = behind(&relay.url()).await;
    let (_, channel) = open(
        &control,
        shell("stty -opost -echo; seq 1 200000; echo the end; sleep 60"),
    )
    .await;
    let mut viewer = Dial::at(&channel).attach(&relay).await.unwrap();
    let seen = read(&mut viewer, &mut 0, "the end\n").await;
    assert!(daemon.log().contains("RATE_LIMITED"), "it was never cut off");
    let mut said = String::new();
    for line in 1..=200_000 {
        writeln!(said, "{line}").unwrap();
    }
    let wrong = seen
        .iter()
        .zip(said.as_bytes())
        .position(|(seen, said)| seen != said);
    assert_eq!((wrong, seen.len()), (None, said.len() + "the end\n".len()));
}
