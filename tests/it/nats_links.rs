//! Links over NATS: how they come up, stay up, come back, and what each end learns of the other.

use std::time::{Duration, Instant};

use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response::Result as Outcome;
use boxd::wire::proto::{ErrorCode, Heartbeat, PingRequest, agent_event};
use futures_util::StreamExt;
use prost::Message;

use crate::harness::{Connection, ControlPlane, Daemon, Family, NatsServer, PATIENCE, eventually};
use crate::nats_requests::{failed, ran, shell};

pub(crate) fn link_state(daemon: &Daemon) -> &str {
    daemon.ready["links"][0]["state"].as_str().unwrap()
}

/// One ping without the patience of a request: `None` when nobody answers now.
pub(crate) async fn ping_once(plane: &ControlPlane) -> Option<()> {
    let request = boxd::wire::proto::ControlRequest {
        op: Some(Op::Ping(PingRequest::default())),
        ..Default::default()
    };
    let asked = plane
        .client()
        .request(plane.subject("rpc"), request.encode_to_vec().into());
    tokio::time::timeout(Duration::from_millis(500), asked)
        .await
        .ok()?
        .ok()
        .map(|_| ())
}

/// How long it takes until a ping is answered, or until none is any more.
pub(crate) async fn until_reachable(plane: &ControlPlane, wanted: bool, limit: Duration) -> Duration {
    let begin = Instant::now();
    while ping_once(plane).await.is_some() != wanted {
        assert!(
            begin.elapsed() < limit,
            "the link did not become reachable={wanted} within {limit:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    begin.elapsed()
}

fn heartbeat(event: boxd::wire::proto::AgentEvent) -> Heartbeat {
    match event.event {
        Some(agent_event::Event::Heartbeat(heartbeat)) => heartbeat,
        other => panic!("not a heartbeat: {other:?}"),
    }
}

#[tokio::test]
async fn hello_and_heartbeats_go_out_on_both_families() {
    let broker = NatsServer::start();
    let link = Connection::to(&broker.url());
    let plane = ControlPlane::connect(&link).await;
    let (mut hellos, mut events) = (plane.hellos().await, plane.events().await);
    let everything = format!("{}.>", plane.subject("connection"));
    let mut instance = plane.client().subscribe(everything).await.unwrap();
    plane.client().flush().await.unwrap();
    let daemon = Daemon::builder().connection(&link).start();
    assert_eq!(link_state(&daemon), "connected");

    let hello = hellos.next().await;
    assert_eq!(
        (&hello.agent_id, &hello.workspace_id),
        (&link.agent_id, &link.workspace_id)
    );
    assert_eq!(hello.agent_version, env!("CARGO_PKG_VERSION"));
    assert_eq!(hello.workspace_root, daemon.workspace().to_str().unwrap());
    assert_eq!(hello.update_channel, "stable");
    assert!(hello.capabilities.unwrap().consented_whole_machine);
    assert!(!hello.machine_name.is_empty());

    let first = heartbeat(events.next().await);
    assert_eq!(first.seq, 1);
    assert!(first.metrics.unwrap().mem_total_bytes > 0 && first.capacity.unwrap().nproc > 0);
    assert!(!first.draining && first.admission.is_some());
    let second = heartbeat(events.next_within(Duration::from_secs(7)).await);
    assert_eq!(second.seq, 2);

    // The other family carried the same, under the instance that the ready file names.
    let mut seqs = Vec::new();
    while seqs.len() < 2 {
        let message = tokio::time::timeout(PATIENCE, instance.next())
            .await
            .unwrap()
            .unwrap();
        assert!(
            message.subject.contains(&daemon.instance()),
            "{}",
            message.subject
        );
        if message.subject.ends_with(".events") {
            let event: boxd::wire::proto::AgentEvent = prost::Message::decode(message.payload).unwrap();
            seqs.push(heartbeat(event).seq);
        }
    }
    assert_eq!(seqs, [1, 2]);

    // The digest is the one of the program that runs.
    let digest = std::process::Command::new("sha256sum")
        .arg(crate::harness::daemon::BOXD)
        .output()
        .unwrap();
    let digest = String::from_utf8(digest.stdout).unwrap()[..64].to_owned();
    let said = if hello.binary_sha256.is_empty() {
        hellos.next().await.binary_sha256
    } else {
        hello.binary_sha256
    };
    assert_eq!(said, digest);
}

#[tokio::test]
async fn a_broker_that_is_down_at_the_start_is_found_later() {
    let mut broker = NatsServer::start();
    broker.kill();
    let (daemon, link) = Daemon::linked(&broker);
    assert_eq!(link_state(&daemon), "waiting");
    broker.restart();
    let plane = ControlPlane::connect(&link).await;
    until_reachable(&plane, true, Duration::from_secs(6)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_survives_the_broker_and_the_link_is_back_within_three_seconds() {
    let mut broker = NatsServer::start();
    let (daemon, link) = Daemon::linked(&broker);
    let plane = ControlPlane::connect(&link).await;
    let command = Op::Exec(shell(
        "echo ran >> count; while [ ! -e go ]; do sleep 0.02; done; cat count",
    ));
    let asked = tokio::spawn(plane.ask_as("survivor", 0, command.clone()));
    let count = daemon.workspace().join("count");
    eventually("the command to run", PATIENCE, || count.exists().then_some(()));
    broker.kill();
    broker.restart();
    let took = until_reachable(&plane, true, Duration::from_secs(6)).await;
    assert!(took < Duration::from_millis(3300), "back after {took:?}");
    std::fs::write(daemon.workspace().join("go"), "").unwrap();
    // The answer comes over the new connection to the inbox that the client restored, and to a repeat.
    let first = ran(asked.await.unwrap());
    assert_eq!((first.exit_code, &first.stdout[..]), (0, &b"ran\n"[..]));
    assert_eq!(ran(plane.ask_as("survivor", 0, command).await), first);
    assert_eq!(std::fs::read_to_string(count).unwrap(), "ran\n");
}

#[tokio::test]
async fn a_wrong_bearer_is_tried_for_ever_and_can_be_corrected_in_place() {
    let broker = NatsServer::builder().token("right").start();
    let mut link = Connection::to(&broker.url());
    link.bearer = "wrong-bearer-of-a-test".into();
    let daemon = Daemon::builder().connection(&link).start();
    assert_eq!(link_state(&daemon), "refused");
    let log = daemon.log();
    assert!(
        log.contains("ERROR") && log.contains("valid bearer"),
        "no error with a fix"
    );
    assert!(!log.contains("wrong-bearer"), "the bearer is in the log");
    link.bearer = "right".into();
    let plane = ControlPlane::connect(&link).await;
    let mut hellos = plane.hellos().await;
    link.write(&daemon.config_directory());
    hellos.next_within(Duration::from_secs(3)).await;
}

#[tokio::test]
async fn an_empty_bearer_never_dials() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut link = Connection::to(&format!("nats://{}", listener.local_addr().unwrap()));
    link.bearer = String::new();
    let daemon = Daemon::builder().connection(&link).start();
    assert_eq!(link_state(&daemon), "unusable");
    let dialled = tokio::time::timeout(Duration::from_secs(3), listener.accept()).await;
    assert!(dialled.is_err(), "someone dialled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bearer_rotated_in_the_file_is_used_while_requests_run() {
    let mut broker = NatsServer::builder().token("first").start();
    let mut link = Connection::to(&broker.url());
    link.bearer = "first".into();
    let daemon = Daemon::builder().connection(&link).start();
    let plane = ControlPlane::connect(&link).await;
    let command = Op::Exec(shell(
        "touch begun; while [ ! -e go ]; do sleep 0.02; done; echo done",
    ));
    let asked = tokio::spawn(plane.ask_as("rotated", 0, command.clone()));
    let begun = daemon.workspace().join("begun");
    eventually("the command to run", PATIENCE, || begun.exists().then_some(()));

    link.bearer = "second".into();
    link.write(&daemon.config_directory());
    // A connection that stands is not touched by a new file, only by the broker that no longer takes the old token.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!(ping_once(&plane).await.is_some());
    broker.reload("authorization { token: \"second\" }");
    let plane = ControlPlane::connect_with(async_nats::ConnectOptions::with_token("second".into()), &link);
    let plane = tokio::time::timeout(PATIENCE, plane).await.unwrap();
    until_reachable(&plane, true, Duration::from_secs(5)).await;
    std::fs::write(daemon.workspace().join("go"), "").unwrap();
    let begin = Instant::now();
    let done = loop {
        let response = plane.ask_as("rotated", 0, command.clone()).await;
        if response.error.is_none() {
            break ran(response);
        }
        assert!(begin.elapsed() < PATIENCE, "{response:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(&done.stdout[..], b"done\n");
    asked.abort();
}

#[tokio::test]
async fn links_to_two_brokers_live_side_by_side_and_come_and_go() {
    let (one, other) = (NatsServer::start(), NatsServer::start());
    let (first, second) = (Connection::to(&one.url()), Connection::to(&other.url()));
    let daemon = Daemon::builder().connection(&first).connection(&second).start();
    assert_eq!(daemon.ready["links"].as_array().unwrap().len(), 2);
    let planes = [
        ControlPlane::connect(&first).await,
        ControlPlane::connect(&second).await,
    ];
    for plane in &planes {
        assert!(ping_once(plane).await.is_some());
    }
    // Rooms are shared, request ids are not.
    ran(planes[0]
        .ask_as("same", 0, Op::Exec(shell("echo x >> both")))
        .await);
    ran(planes[1]
        .ask_as("same", 0, Op::Exec(shell("echo x >> both")))
        .await);
    assert_eq!(
        std::fs::read_to_string(daemon.workspace().join("both")).unwrap(),
        "x\nx\n"
    );

    let mut events = planes[1].events().await;
    second.remove(&daemon.config_directory());
    let took = until_reachable(&planes[1], false, Duration::from_secs(3)).await;
    assert!(took < Duration::from_secs(2), "removed after {took:?}");
    loop {
        if let Some(agent_event::Event::GoingOffline(_)) = events.next().await.event {
            break;
        }
    }
    let third = Connection::to(&other.url());
    let plane = ControlPlane::connect(&third).await;
    let mut hellos = plane.hellos().await;
    third.write(&daemon.config_directory());
    hellos.next_within(Duration::from_secs(2)).await;
    assert!(
        ping_once(&planes[0]).await.is_some(),
        "the other link was disturbed"
    );
}

#[tokio::test]
async fn a_family_that_the_account_forbids_is_a_warning_and_no_loop() {
    let users = r#"authorization { users: [
        { user: admin, password: admin }
        { user: box, password: box, permissions: {
            publish: { deny: ["agent.*.*.connection.>"] }
            subscribe: { deny: ["agent.*.*.connection.>", "_INBOX.>"] } } } ] }"#;
    let broker = NatsServer::builder().settings(users).start();
    let link = Connection::to(&broker.url());
    let options = async_nats::ConnectOptions::with_user_and_password("admin".into(), "admin".into());
    let plane = ControlPlane::connect_with(options, &link).await;
    let mut hellos = plane.hellos().await;
    let daemon = Daemon::builder()
        .argument("--nats-url")
        .argument(broker.url().replace("nats://", "nats://box:box@"))
        .argument("--workspace-id")
        .argument(link.workspace_id.as_str())
        .argument("--agent-id")
        .argument(link.agent_id.as_str())
        .start();
    assert_eq!(link_state(&daemon), "connected");
    hellos.next().await;
    assert!(ping_once(&plane).await.is_some());
    eventually("a warning that names the subject", PATIENCE, || {
        let log = daemon.log();
        let instance = format!("connection.{}.rpc", daemon.instance());
        (log.contains("WARN") && log.contains(&instance)).then_some(())
    });
    let mut events = plane.events().await;
    let seq = heartbeat(events.next_within(Duration::from_secs(7)).await).seq;
    let next = heartbeat(events.next_within(Duration::from_secs(7)).await).seq;
    assert_eq!(next, seq + 1, "the link was made again");
    assert_eq!(daemon.log().matches("link connected").count(), 1);
    let family = plane.speaking(Family::Instance(daemon.instance()));
    assert!(ping_once(&family).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn going_offline_is_said_while_a_command_runs_and_the_tree_is_gone() {
    let broker = NatsServer::start();
    let (mut daemon, link) = Daemon::linked(&broker);
    let plane = ControlPlane::connect(&link).await;
    let mut events = plane.events().await;
    let asked = tokio::spawn(plane.ask(Op::Exec(shell("touch begun; sleep 98761"))));
    let begun = daemon.workspace().join("begun");
    eventually("the command to run", PATIENCE, || begun.exists().then_some(()));
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    let said = loop {
        if let Some(agent_event::Event::GoingOffline(said)) = events.next().await.event {
            break said;
        }
    };
    assert_eq!(said.reason(), boxd::wire::proto::GoingOfflineReason::UserStop);
    let refused = failed(
        plane.ask(Op::Exec(shell("touch late"))).await,
        ErrorCode::Draining,
    );
    assert!(refused.retryable && !daemon.workspace().join("late").exists());
    assert!(
        ping_once(&plane).await.is_some(),
        "a stopping daemon still answers pings"
    );
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    let status = daemon.wait(PATIENCE);
    assert!(status.success(), "{status}");
    crate::harness::processes::wait_until_gone("98761", Duration::from_secs(5));
    let response = asked.await.unwrap();
    let Some(Outcome::Exec(exec)) = response.result else {
        panic!("{response:?}")
    };
    assert_eq!(exec.exit_code, -1);
}

#[tokio::test]
async fn a_broker_that_is_there_and_says_nothing_is_given_up_and_found_again() {
    let mut broker = NatsServer::start();
    let (daemon, link) = Daemon::linked(&broker);
    broker.signal(nix::sys::signal::Signal::SIGSTOP);
    let begin = Instant::now();
    eventually("the link to be given up", Duration::from_secs(25), || {
        daemon.log().contains("link lost").then_some(())
    });
    assert!(
        begin.elapsed() > Duration::from_secs(5),
        "one silent moment is not the end"
    );
    broker.signal(nix::sys::signal::Signal::SIGCONT);
    let plane = ControlPlane::connect(&link).await;
    until_reachable(&plane, true, Duration::from_secs(12)).await;
    // Nothing of the lost generation is left behind.
    let sockets = || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
            .unwrap()
            .flatten();
        let inodes = fds
            .filter_map(|fd| std::fs::read_link(fd.path()).ok())
            .collect::<Vec<_>>();
        let port = format!(
            ":{:04X} 01",
            broker.url().rsplit(':').next().unwrap().parse::<u16>().unwrap()
        );
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let ours = |line: &&str| {
            let inode = line.split_whitespace().nth(9).unwrap_or_default();
            inodes
                .iter()
                .any(|link| link.to_string_lossy() == format!("socket:[{inode}]"))
        };
        table
            .lines()
            .filter(|line| line.contains(&port))
            .filter(ours)
            .count()
    };
    eventually("two connections to be left", Duration::from_secs(10), || {
        (sockets() == 2).then_some(())
    });
}

#[tokio::test]
async fn an_idle_daemon_stops_within_its_bar_and_says_so() {
    let broker = NatsServer::start();
    let (mut daemon, link) = Daemon::linked(&broker);
    let plane = ControlPlane::connect(&link).await;
    let instance = plane.speaking(Family::Instance(daemon.instance()));
    let feeds = [plane.events().await, instance.events().await];
    let begin = Instant::now();
    assert!(daemon.stop().success());
    let took = begin.elapsed();
    // The bar is 50 ms for the release build on a quiet machine.
    assert!(took < Duration::from_millis(500), "{took:?}");
    for mut events in feeds {
        loop {
            if let Some(agent_event::Event::GoingOffline(_)) = events.next().await.event {
                break;
            }
        }
    }
}
