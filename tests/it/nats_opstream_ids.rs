//! The ids of streamed operations: what runs once, what is refused, what is cancelled, and who may know of it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response::Result as Outcome;
use boxd::wire::proto::op_start::Op as StartOp;
use boxd::wire::proto::{
    ErrorCode, ExecRequest, GoingOfflineReason, OpAck, OpLostReason, OpStart, OpState, agent_event,
};
use nix::sys::signal::Signal;
use prost::Message;

use crate::harness::op::{self, OpClient, Said};
use crate::harness::ways::unique_seconds;
use crate::harness::{Connection, ControlPlane, Daemon, Family, NatsServer, PATIENCE, Ways, processes};

fn lines(daemon: &Daemon, file: &str) -> usize {
    let text = std::fs::read_to_string(daemon.workspace().join(file)).unwrap_or_default();
    text.lines().count()
}

fn in_unix_time(offset: i64) -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64 + offset
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_ends_the_whole_tree() {
    let ways = Ways::start().await;
    let seconds = unique_seconds();
    let line = "setsid sleep N & (setsid sleep N &); env -i sleep N & echo on; sleep N";
    let start = op::shell(&line.replace('N', &seconds));
    let (_, mut client) = OpClient::start(&ways.control, "tree", start).await;
    assert_eq!(client.next().await.seq, 1);
    crate::harness::eventually("the tree", PATIENCE, || {
        (processes::with_argument(&seconds).len() == 4).then_some(())
    });
    let state = client.cancel().await;
    assert!(
        matches!(state.state(), OpState::Running | OpState::Complete),
        "{state:?}"
    );
    let exit = client.finish().await.exit.unwrap();
    processes::assert_none(&seconds);
    assert!(
        exit.cancelled && !exit.timed_out && exit.exit_code == -1,
        "{exit:?}"
    );
    assert_eq!((exit.failure_code.as_str(), exit.totals["stdout"]), ("", 3));
    let state = client.cancel().await;
    assert_eq!(
        state.state(),
        OpState::Complete,
        "cancelled again it stays what it is"
    );
    assert_eq!(state.exit.unwrap(), exit);
}

#[tokio::test]
async fn what_was_cancelled_before_it_was_seen_does_not_run() {
    let ways = Ways::start().await;
    let state = op::cancel(&ways.control, "unseen").await;
    assert_eq!(state.state(), OpState::Complete);
    let started = op::start(&ways.control, "unseen", op::shell("echo x >> ran"))
        .await
        .unwrap();
    assert!(!started.accepted);
    let state = started.status.unwrap();
    assert_eq!(state.state(), OpState::Complete);
    let exit = state.exit.unwrap();
    assert!(exit.cancelled && exit.exit_code == -1, "{exit:?}");
    assert_eq!(lines(&ways.daemon, "ran"), 0);
    assert!(
        op::start(&ways.control, "seen", op::shell("true"))
            .await
            .unwrap()
            .accepted
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_id_is_one_process_however_often_and_at_once() {
    let ways = Ways::start().await;
    let line = "echo x >> ran; while [ ! -e go ]; do sleep 0.02; done; echo done";
    let mut client = OpClient::listen(&ways.control, "same", 1).await;
    let starts = (0..10).map(|_| op::start(&ways.control, "same", op::shell(line)));
    for started in futures_util::future::join_all(starts).await {
        let started = started.unwrap();
        assert!(started.accepted);
        assert_eq!(started.status.unwrap().state(), OpState::Running);
    }
    assert_eq!(lines(&ways.daemon, "ran"), 1);
    std::fs::write(ways.daemon.workspace().join("go"), "").unwrap();
    assert_eq!(client.finish().await.stdout, b"done\n");
    let again = op::start(&ways.control, "same", op::shell(line)).await.unwrap();
    assert!(again.accepted);
    let state = again.status.unwrap();
    assert_eq!(
        (state.state(), state.exit.unwrap().exit_code),
        (OpState::Complete, 0)
    );
    assert_eq!(lines(&ways.daemon, "ran"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_it_is_lost_and_not_run_again() {
    let mut ways = Ways::start().await;
    let seconds = unique_seconds();
    let line = format!("echo x >> ran; sleep {seconds}; true");
    op::start(&ways.control, "crashed", op::shell(&line))
        .await
        .unwrap();
    processes::wait_until_there(&seconds, PATIENCE);
    let (_, mut client) = OpClient::start(&ways.control, "finished", op::shell("echo y >> ran")).await;
    client.finish().await;
    ways.daemon.crash();
    ways.daemon.start_again();
    for (id, line) in [("crashed", line.as_str()), ("finished", "echo y >> ran")] {
        for _ in 0..2 {
            let started = op::start(&ways.control, id, op::shell(line)).await.unwrap();
            assert!(started.accepted, "{id}");
            let state = started.status.unwrap();
            assert_eq!(state.state(), OpState::Lost, "{id}");
            assert_eq!(state.lost_reason(), OpLostReason::AgentRestarted, "{id}");
        }
        assert_eq!(op::query(&ways.control, id).await.state(), OpState::Lost, "{id}");
    }
    assert_eq!(lines(&ways.daemon, "ran"), 2);
    let mut client = OpClient::listen(&ways.control, "crashed", 1).await;
    let state = client.attach(0, 0).await;
    assert_eq!(
        (state.state(), state.lost_reason()),
        (OpState::Lost, OpLostReason::AgentRestarted)
    );
    let mut client = OpClient::listen(&ways.control, "never-seen", 1).await;
    let state = client.attach(0, 0).await;
    assert_eq!(
        (state.state(), state.lost_reason()),
        (OpState::Lost, OpLostReason::AgentRestarted)
    );
    assert_eq!(state.next_seq, 1);
}

#[tokio::test]
async fn an_id_is_for_one_thing() {
    let ways = Ways::start().await;
    std::fs::write(ways.daemon.workspace().join("file"), "content").unwrap();
    let exec = |line: &str| {
        Op::Exec(ExecRequest {
            command: ["sh", "-c", line].map(str::to_owned).to_vec(),
            ..ExecRequest::default()
        })
    };
    let ran = ways.control.ask_as("unary", 0, exec("echo x >> ran")).await;
    assert!(ran.error.is_none());
    let (_, mut client) = OpClient::start(&ways.control, "streamed", op::shell("echo x >> ran")).await;
    client.finish().await;
    let (_, mut client) = OpClient::start(&ways.control, "read", op::read("file", 0, 0)).await;
    client.finish().await;
    assert_eq!(lines(&ways.daemon, "ran"), 2);
    for start in [op::shell("echo x >> ran"), op::read("file", 0, 0)] {
        let refused = op::start(&ways.control, "unary", start).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Os, "{refused:?}");
    }
    for id in ["streamed", "read"] {
        let refused = ways.control.ask_as(id, 0, exec("echo x >> ran")).await;
        assert_eq!(refused.error.expect("a refusal").code(), ErrorCode::Os, "{id}");
    }
    assert_eq!(lines(&ways.daemon, "ran"), 2);
}

#[tokio::test]
async fn deadlines_are_kept_also_those_that_have_passed() {
    let ways = Ways::start().await;
    let past = OpStart {
        deadline_ms: in_unix_time(-1000),
        ..op::shell("echo x >> ran")
    };
    let (started, mut client) = OpClient::start(&ways.control, "past", past).await;
    assert!(started.accepted);
    let said = client.finish().await;
    let exit = said.exit.unwrap();
    assert!(
        exit.timed_out && exit.exit_code == -1 && !exit.cancelled,
        "{exit:?}"
    );
    assert_eq!(
        (
            lines(&ways.daemon, "ran"),
            exit.totals["stdout"],
            exit.totals["stderr"]
        ),
        (0, 0, 0)
    );
    assert_eq!(exit.digests["stdout"], blake3::hash(b"").to_hex().as_str());
    std::fs::write(ways.daemon.workspace().join("file"), "content").unwrap();
    for (id, deadline_ms) in [("past-read", in_unix_time(-1000)), ("before-1970", -5)] {
        let past = OpStart {
            deadline_ms,
            ..op::read("file", 0, 0)
        };
        let (_, mut client) = OpClient::start(&ways.control, id, past).await;
        let said = client.finish().await;
        assert!(said.exit.unwrap().timed_out && said.content.is_empty(), "{id}");
    }

    let seconds = unique_seconds();
    let soon = OpStart {
        deadline_ms: in_unix_time(300),
        ..op::shell(&format!("echo begun; setsid sleep {seconds} & sleep {seconds}"))
    };
    let begin = Instant::now();
    let (_, mut client) = OpClient::start(&ways.control, "soon", soon).await;
    let said = client.finish().await;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    processes::assert_none(&seconds);
    let exit = said.exit.unwrap();
    assert!(
        exit.timed_out && exit.exit_code == -1 && !exit.cancelled,
        "{exit:?}"
    );
    assert_eq!(said.stdout, b"begun\n");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_answer_and_its_id_is_free_again() {
    let ways = Ways::start().await;
    let start = |words: &[&str]| OpStart {
        op: Some(StartOp::Exec(ExecRequest {
            command: words.iter().map(|word| (*word).to_owned()).collect(),
            ..ExecRequest::default()
        })),
        ..OpStart::default()
    };
    for _ in 0..2 {
        let refused = op::start(&ways.control, "absent", start(&["no-such-program", "x"])).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::NotFound);
        assert!(refused.message.contains("no-such-program"), "{}", refused.message);
    }
    let refused = op::start(&ways.control, "absent", start(&[])).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.detail["errno"].as_str()),
        (ErrorCode::Os, "22")
    );
    let (started, mut client) = OpClient::start(&ways.control, "absent", start(&["echo", "there"])).await;
    assert!(started.accepted);
    assert_eq!(client.finish().await.stdout, b"there\n");
    let refused = op::start(&ways.control, "missing", op::read("nowhere", 0, 0))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), ErrorCode::NotFound);
    assert!(refused.message.contains("nowhere"), "{}", refused.message);
}

#[tokio::test]
async fn ids_that_are_no_token_and_starts_of_nothing_are_protocol_errors() {
    let ways = Ways::start().await;
    for id in ["", "a.b", "a b", "*", ">", "a\u{7}"] {
        let refused = op::start(&ways.control, id, op::shell("echo x >> ran"))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Protocol, "{id:?}");
    }
    let refused = op::start(&ways.control, "empty", OpStart::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Protocol);
    assert_eq!(lines(&ways.daemon, "ran"), 0);
    assert!(
        op::start(&ways.control, "empty", op::shell("true"))
            .await
            .unwrap()
            .accepted
    );
}

#[tokio::test]
async fn frames_go_to_the_family_that_the_start_came_on() {
    let ways = Ways::start().await;
    let instance = ways.control.speaking(Family::Instance(ways.daemon.instance()));
    for (on, other) in [(&ways.control, &instance), (&instance, &ways.control)] {
        let id = uuid::Uuid::new_v4().to_string();
        let mut elsewhere = OpClient::listen(other, &id, 1).await;
        let (_, mut client) = OpClient::start(on, &id, op::shell("echo here")).await;
        assert_eq!(client.finish().await.stdout, b"here\n");
        // Attached to over the other family, it still speaks where it was started.
        assert_eq!(elsewhere.query().await.state(), OpState::Complete);
        assert!(elsewhere.quiet_for(Duration::from_millis(100)).await);
    }
}

#[tokio::test]
async fn two_links_know_nothing_of_each_other() {
    let broker = NatsServer::start();
    let (one, other) = (Connection::to(&broker.url()), Connection::to(&broker.url()));
    let daemon = Daemon::builder().connection(&one).connection(&other).start();
    let (first, second) = (
        ControlPlane::connect(&one).await,
        ControlPlane::connect(&other).await,
    );
    let start = OpStart {
        window_bytes: 1,
        ..op::shell("echo one; while [ ! -e go ]; do sleep 0.02; done; echo two")
    };
    let (_, mut client) = OpClient::start(&first, "shared", start).await;
    client.next().await;
    assert_eq!(op::query(&second, "shared").await.state(), OpState::Lost);
    let mut stranger = OpClient::listen(&second, "shared", 1).await;
    assert_eq!(stranger.attach(0, 0).await.state(), OpState::Lost);
    let ack = OpAck {
        op_id: "shared".into(),
        acked_seq: 1,
        credit_bytes: 1 << 20,
        r#final: false,
        attach_generation: 1,
    };
    second
        .client()
        .publish(second.subject("ack"), ack.encode_to_vec().into())
        .await
        .unwrap();
    assert_eq!(
        op::cancel(&second, "shared").await.state(),
        OpState::Complete,
        "a tombstone there"
    );
    std::fs::write(daemon.workspace().join("go"), "").unwrap();
    assert!(
        client.quiet_for(Duration::from_millis(300)).await,
        "its window is used up"
    );
    client.ack(1, 0, false).await;
    let said = client.finish().await;
    assert_eq!(said.stdout, b"two\n");
    assert_eq!(said.exit.unwrap().exit_code, 0, "nobody else cancelled it");
    // The same id is somebody else's op there.
    let (mine, mut client) = OpClient::start(&second, "own", op::shell("echo mine")).await;
    assert!(mine.accepted);
    assert_eq!(client.finish().await.stdout, b"mine\n");
    let (theirs, mut client) = OpClient::start(&first, "own", op::shell("echo theirs")).await;
    assert!(theirs.accepted);
    assert_eq!(client.finish().await.stdout, b"theirs\n");
}

#[tokio::test]
async fn hello_says_that_ops_are_streamed_and_heartbeats_how_many() {
    let broker = NatsServer::start();
    let link = Connection::to(&broker.url());
    let control = ControlPlane::connect(&link).await;
    let (mut hellos, mut events) = (control.hellos().await, control.events().await);
    let daemon = Daemon::builder().connection(&link).start();
    assert!(hellos.next().await.capabilities.unwrap().op_stream);
    let mut clients = Vec::new();
    for id in ["a", "b", "c"] {
        let line = "while [ ! -e go ]; do sleep 0.02; done";
        clients.push(OpClient::start(&control, id, op::shell(line)).await.1);
    }
    let mut live = Vec::new();
    while live.len() < 2 {
        if let Some(agent_event::Event::Heartbeat(heartbeat)) =
            events.next_within(Duration::from_secs(7)).await.event
        {
            let ops = heartbeat.admission.unwrap().live_ops;
            assert!(u64::from(heartbeat.active_sessions) >= ops);
            if heartbeat.seq > 1 {
                live.push(ops);
                std::fs::write(daemon.workspace().join("go"), "").unwrap();
                for client in &mut clients {
                    if ops > 0 {
                        client.finish().await;
                    }
                }
            }
        }
    }
    assert_eq!(live, [3, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_says_going_offline_and_how_every_op_ended() {
    let mut ways = Ways::start().await;
    let mut events = ways.control.events().await;
    let seconds = unique_seconds();
    let line = format!("echo begun; setsid sleep {seconds} & sleep {seconds}");
    let mut clients = Vec::new();
    for id in ["a", "b", "c"] {
        let (_, mut client) = OpClient::start(&ways.control, id, op::shell(&line)).await;
        client.next().await;
        clients.push(client);
    }
    let begin = Instant::now();
    ways.daemon.signal(Signal::SIGTERM);
    loop {
        if let Some(agent_event::Event::GoingOffline(said)) = events.next().await.event {
            assert_eq!(said.reason(), GoingOfflineReason::UserStop);
            break;
        }
    }
    for client in &mut clients {
        let mut said = Said::default();
        while said.exit.is_none() {
            said.take(client.next().await);
        }
        let exit = said.exit.unwrap();
        assert!(exit.cancelled && exit.exit_code == -1, "{exit:?}");
        assert_eq!(exit.totals["stdout"], 6);
    }
    let status = ways.daemon.wait(PATIENCE);
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    processes::assert_none(&seconds);
}

#[tokio::test]
async fn a_quiet_op_gives_a_sign_of_life_every_five_seconds() {
    let ways = Ways::start().await;
    let (_, mut client) = OpClient::start(&ways.control, "quiet", op::shell("echo on; sleep 6.5")).await;
    let mut said = Said::default();
    said.take(client.next().await);
    let begin = Instant::now();
    // A client that talks does not keep it from saying so.
    while said.progress == 0 {
        client.ack(client.seen, 0, false).await;
        if let Some(frame) = client.next_within(Duration::from_millis(400)).await {
            said.take(frame);
        }
        assert!(begin.elapsed() < Duration::from_secs(7));
    }
    assert!(begin.elapsed() > Duration::from_secs(4), "{:?}", begin.elapsed());
    let rest = client.finish().await;
    assert_eq!((rest.progress, rest.exit.unwrap().exit_code), (0, 0));
    assert_eq!(client.seen, 3);
}

#[tokio::test]
async fn output_comes_in_the_order_it_was_written_as_the_bytes_it_is() {
    let ways = Ways::start().await;
    let line = "for i in 1 2 3 4 5; do echo out$i; sleep 0.05; echo err$i >&2; sleep 0.05; done";
    let (_, mut client) = OpClient::start(&ways.control, "order", op::shell(line)).await;
    let (mut said, mut order) = (Said::default(), String::new());
    while said.exit.is_none() {
        let before = (said.stdout.len(), said.stderr.len());
        let frame = client.next().await;
        assert_eq!(frame.seq, client.seen);
        said.take(frame);
        order.push_str(&String::from_utf8_lossy(&said.stdout[before.0..]));
        order.push_str(&String::from_utf8_lossy(&said.stderr[before.1..]));
    }
    let expected = [1, 2, 3, 4, 5].map(|i| format!("out{i}\nerr{i}\n"));
    assert_eq!(order, expected.concat());

    let bytes = r"\000\377\001\303"; // The first byte of an é, whose second comes later.
    let line = format!("printf '{bytes}'; sleep 0.1; printf '\\251\\000'");
    let (_, mut client) = OpClient::start(&ways.control, "binary", op::shell(&line)).await;
    let said = client.finish().await;
    assert_eq!(said.stdout, b"\x00\xff\x01\xc3\xa9\x00");
    assert_eq!(
        said.exit.unwrap().digests["stdout"],
        blake3::hash(&said.stdout).to_hex().as_str()
    );

    let (_, mut client) = OpClient::start(&ways.control, "nothing", op::shell("exit 7")).await;
    let exit = client.finish().await.exit.unwrap();
    assert_eq!(
        (client.seen, exit.exit_code),
        (1, 7),
        "the exit is the only frame"
    );
    for channel in ["stdout", "stderr"] {
        assert_eq!(exit.totals[channel], 0);
        assert_eq!(exit.digests[channel], blake3::hash(b"").to_hex().as_str());
    }
    assert!(
        client.quiet_for(Duration::from_millis(200)).await,
        "nothing comes after the exit"
    );
}

#[tokio::test]
async fn a_stranger_to_the_protocol_gets_the_state_of_a_unary_command_too() {
    let ways = Ways::start().await;
    let ask = Op::Exec(ExecRequest {
        command: ["sh", "-c", "kill -9 $$"].map(str::to_owned).to_vec(),
        ..ExecRequest::default()
    });
    let answer = ways.control.ask_as("unary", 0, ask).await;
    assert!(matches!(answer.result, Some(Outcome::Exec(_))), "{answer:?}");
    let state = op::query(&ways.control, "unary").await;
    let exit = state.exit.unwrap();
    assert_eq!((exit.exit_code, exit.failure_code.as_str()), (-1, ""));
    assert_eq!(exit.failure_detail["signal_name"], "SIGKILL");
}
