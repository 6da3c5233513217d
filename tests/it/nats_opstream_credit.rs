//! Credit on the op stream: what a client that does not take more does to the command, and how little is enough to go on.

use std::time::Duration;

use boxd::wire::proto::{ErrorCode, OpStart, op_frame};

use crate::harness::op::{self, OpClient, Said};
use crate::harness::{Connection, ControlPlane, Daemon, NatsServer, PATIENCE, Ways, eventually, processes};

const MIB: u64 = 1 << 20;

fn with_window(window_bytes: u64, line: &str) -> OpStart {
    OpStart {
        window_bytes,
        ..op::shell(line)
    }
}

fn payload(frame: &boxd::wire::proto::OpFrame) -> u64 {
    match &frame.body {
        Some(op_frame::Body::Data(data)) => data.bytes.len() as u64,
        _ => 0,
    }
}

/// The bytes that a process has written so far, and the time it has run, in the kernel's books.
fn books(pid: i32) -> (String, String) {
    let io = std::fs::read_to_string(processes::of(pid, "io")).unwrap();
    let written = io
        .lines()
        .find(|line| line.starts_with("wchar"))
        .unwrap()
        .to_owned();
    let stat = std::fs::read_to_string(processes::of(pid, "stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    (written, format!("{} {}", fields[11], fields[12]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_only_grows_its_credit_gets_to_the_end_of_more_than_is_kept() {
    // A state directory on a small file system: 64 MiB of it, of which a quarter may be used.
    let script = "mkdir -p \"$WORKSPACE/../state\"; \
                  mount -t tmpfs -o size=64m,mode=700 none \"$WORKSPACE/../state\"";
    let broker = NatsServer::start();
    let link = Connection::to(&broker.url());
    let _daemon = Daemon::builder().connection(&link).namespace(script).start();
    let control = ControlPlane::connect(&link).await;
    let total = 300 * MIB;
    let line = format!("exec head -c {total} /dev/zero");
    let (_, mut client) = OpClient::start(&control, "growing", with_window(MIB, &line)).await;
    let (mut received, mut hasher) = (0, blake3::Hasher::new());
    let exit = loop {
        let frame = client.next().await;
        received += payload(&frame);
        match frame.body.unwrap() {
            op_frame::Body::Data(data) => drop(hasher.update(&data.bytes)),
            op_frame::Body::Progress(_) => panic!("it stands still after {received} bytes"),
            op_frame::Body::Exit(exit) => break exit,
        }
        client.ack(0, MIB + received, false).await;
    };
    assert_eq!((received, exit.exit_code), (total, 0));
    assert_eq!(exit.digests["stdout"], hasher.finalize().to_hex().as_str());
    let lost = client.try_attach(0, 0).await.unwrap_err();
    assert_eq!(lost.code(), ErrorCode::Os);
    assert_eq!(lost.detail["reason"], "result_evicted", "{lost:?}");
    // What is still there can be had.
    let last = client.query().await.next_seq - 1;
    client.attach(last - 1, 0).await;
    assert_eq!(client.next().await.seq, last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_frame_holds_more_than_is_configured() {
    let broker = NatsServer::start();
    let link = Connection::to(&broker.url());
    let config = "[op]\nframe_bytes = 1024\n";
    let _daemon = Daemon::builder().connection(&link).config(config).start();
    let control = ControlPlane::connect(&link).await;
    let start = with_window(MIB, "exec head -c 100000 /dev/zero");
    let (_, mut client) = OpClient::start(&control, "small", start).await;
    let mut received = 0;
    loop {
        let frame = client.next().await;
        if let Some(op_frame::Body::Exit(_)) = frame.body {
            break;
        }
        assert!(payload(&frame) <= 1024, "{} bytes in one frame", payload(&frame));
        received += payload(&frame);
    }
    assert_eq!(received, 100_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_acknowledging_blocks_the_command_until_credit_comes() {
    let ways = Ways::start().await;
    let seconds = crate::harness::ways::unique_seconds();
    let line = format!("exec -a {seconds} seq 1 3000000");
    let start = OpStart {
        op: with_window(0, "").op.map(|_| {
            boxd::wire::proto::op_start::Op::Exec(boxd::wire::proto::ExecRequest {
                command: ["bash", "-c", &line].map(str::to_owned).to_vec(),
                ..Default::default()
            })
        }),
        window_bytes: MIB,
        ..OpStart::default()
    };
    let (_, mut client) = OpClient::start(&ways.control, "blocked", start).await;
    let mut said = Said::default();
    while let Some(frame) = client.next_within(Duration::from_secs(1)).await {
        said.take(frame);
    }
    let used = said.stdout.len() as u64;
    assert!(used <= MIB && used > MIB - (128 << 10), "{used} of the window");
    let pid = processes::wait_until_there(&seconds, PATIENCE);
    let mut before = books(pid);
    let stopped = || {
        std::thread::sleep(Duration::from_millis(250));
        let now = books(pid);
        (std::mem::replace(&mut before, now.clone()) == now).then_some(())
    };
    eventually("the command to be blocked", PATIENCE, stopped);
    let waits = std::fs::read_to_string(processes::of(pid, "wchan")).unwrap_or_default();
    assert!(
        waits.contains("pipe") || waits == "0" || waits.is_empty(),
        "{waits}"
    );
    let before = books(pid);
    // An acknowledgement of nothing with no credit changes nothing.
    client.ack(0, 0, false).await;
    assert!(
        client.quiet_for(Duration::from_secs(1)).await,
        "beyond the window"
    );
    assert_eq!(books(pid), before, "the command ran on");
    client.ack(client.seen, 0, false).await;
    let rest = client.finish().await;
    said.stdout.extend_from_slice(&rest.stdout);
    let exit = rest.exit.unwrap();
    assert_eq!(said.stdout.len(), 22_888_896);
    assert_eq!(
        exit.digests["stdout"],
        blake3::hash(&said.stdout).to_hex().as_str()
    );
}

#[tokio::test]
async fn a_client_that_acknowledges_half_a_window_at_once_gets_everything() {
    const WINDOW: u64 = 64 << 10;
    let ways = Ways::start().await;
    // Read at once at the exit, while it runs, and after the kernel's buffer was full; what goes first differs.
    let lines = [
        "exec head -c 65536 /dev/zero",
        "head -c 30000 /dev/zero; exec head -c 65536 /dev/zero",
        "head -c 30000 /dev/zero; sleep 0.1; exec head -c 300000 /dev/zero",
        "head -c 5000 /dev/zero; sleep 0.1; exec head -c 3000000 /dev/zero",
    ];
    for (index, line) in lines.into_iter().enumerate() {
        let id = format!("batches-{index}");
        let (_, mut client) = OpClient::start(&ways.control, &id, with_window(WINDOW, line)).await;
        let (mut said, mut unanswered) = (Said::default(), 0);
        while said.exit.is_none() {
            let frame = client.next().await;
            unanswered += payload(&frame);
            said.take(frame);
            assert_eq!(
                said.progress, 0,
                "{line:?} stands still with {unanswered} in flight"
            );
            assert!(unanswered <= WINDOW, "{unanswered} in flight");
            if unanswered >= WINDOW / 2 {
                client.ack(client.seen, 0, false).await;
                unanswered = 0;
            }
        }
        let exit = said.exit.unwrap();
        assert_eq!(exit.totals["stdout"], said.stdout.len() as u64, "{line:?}");
    }
}

#[tokio::test]
async fn credit_0_leaves_the_window_and_a_window_smaller_than_a_frame_is_enough() {
    let ways = Ways::start().await;
    let (_, mut client) = OpClient::start(&ways.control, "small", with_window(1, "exec seq 1 200000")).await;
    let mut said = Said::default();
    while said.exit.is_none() {
        said.take(client.next().await);
        if said.exit.is_none() {
            // One frame is in flight, which is all that fits; the exit costs nothing.
            client.ack(client.seen, 0, false).await;
        }
    }
    assert_eq!(said.stdout.len(), 1_288_895);
    let exit = said.exit.unwrap();
    assert_eq!(
        exit.digests["stdout"],
        blake3::hash(&said.stdout).to_hex().as_str()
    );
    // Unacknowledged it stays at one frame, however often nothing is said.
    let (_, mut client) =
        OpClient::start(&ways.control, "smaller", with_window(1, "exec seq 1 200000")).await;
    client.next().await;
    for _ in 0..5 {
        client.ack(0, 0, false).await;
    }
    assert!(client.quiet_for(Duration::from_millis(500)).await);
    // Growing credit without ever acknowledging is enough too.
    let mut window = 1;
    loop {
        window += 64 << 10;
        client.ack(0, window, false).await;
        if let Some(frame) = client.next_within(Duration::from_millis(20)).await
            && matches!(frame.body, Some(op_frame::Body::Exit(_)))
        {
            break;
        }
    }
}

#[tokio::test]
async fn no_more_than_the_window_is_sent_unacknowledged_and_a_replay_keeps_to_it_too() {
    let ways = Ways::start().await;
    // It writes once its output is read as credit lets it.
    let line = "while [ ! -e go ]; do sleep 0.02; done; exec head -c 1000000 /dev/zero";
    let (_, mut client) = OpClient::start(&ways.control, "exact", with_window(300_000, line)).await;
    std::fs::write(ways.daemon.workspace().join("go"), "").unwrap();
    assert_eq!(
        sent(&mut client).await,
        300_000,
        "the pipe is read in pieces that fit"
    );
    for window in [1, 300_000] {
        let id = format!("absolute-{window}");
        let (_, mut client) = OpClient::start(&ways.control, &id, with_window(window, line)).await;
        // One frame always goes.
        let limit = window.max(128 << 10);
        let live = sent(&mut client).await;
        client.attach(0, window).await;
        for received in [live, sent(&mut client).await] {
            assert!(received > 0 && received <= limit, "{received} of {window}");
        }
    }
}

/// Payload that comes until nothing more comes.
async fn sent(client: &mut OpClient) -> u64 {
    let mut received = 0;
    while let Some(frame) = client.next_within(Duration::from_secs(1)).await {
        received += payload(&frame);
    }
    received
}

#[tokio::test]
async fn a_window_that_is_not_given_is_four_mebibytes() {
    let ways = Ways::start().await;
    let (_, mut client) = OpClient::start(&ways.control, "window", op::shell("exec seq 1 3000000")).await;
    let received = sent(&mut client).await;
    assert!(
        received <= 4 * MIB && received > 4 * MIB - (128 << 10),
        "{received} of the window"
    );
    client.cancel().await;
    client.ack(client.seen, 64 * MIB, false).await;
    let mut said = Said::default();
    while said.exit.is_none() {
        said.take(client.next().await);
    }
    let exit = said.exit.unwrap();
    assert!(exit.cancelled && exit.exit_code == -1);
    assert_eq!(exit.totals["stdout"], received + said.stdout.len() as u64);
}
