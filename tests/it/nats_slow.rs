//! A slow, stalled or broken way to the broker: nothing is given up that still moves, nothing is lost that was not sent.

use std::time::{Duration, Instant};

use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::{ControlRequest, FsReadRequest, PingRequest, agent_event};
use futures_util::StreamExt;
use futures_util::future::join_all;
use prost::Message;

use crate::harness::{Connection, ControlPlane, Daemon, NatsServer, PATIENCE, Proxy, eventually};
use crate::nats_requests::shell;

/// A daemon behind a proxy, and a control plane that is not.
async fn behind_a_proxy(broker: &NatsServer) -> (Daemon, Proxy, ControlPlane) {
    let proxy = Proxy::to(broker);
    let mut link = Connection::to(&proxy.url());
    let daemon = Daemon::builder().connection(&link).start();
    link.urls = vec![broker.url()];
    let plane = ControlPlane::connect(&link).await;
    (daemon, proxy, plane)
}

/// Asks for the whole file and answers how many bytes its reply has.
async fn read(plane: ControlPlane, path: &'static str) -> usize {
    let read = FsReadRequest {
        path: path.into(),
        ..FsReadRequest::default()
    };
    let request = ControlRequest {
        op: Some(Op::FsRead(read)),
        ..ControlRequest::default()
    };
    let request = async_nats::Request::new()
        .payload(request.encode_to_vec().into())
        .timeout(Some(Duration::from_secs(60)));
    let reply = plane.client().send_request(plane.subject("rpc"), request).await;
    reply.expect("a reply").payload.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_way_to_the_broker_is_used_and_not_given_up() {
    let broker = NatsServer::start();
    let (daemon, proxy, plane) = behind_a_proxy(&broker).await;
    std::fs::write(daemon.workspace().join("large"), vec![7; 1_000_000]).unwrap();
    std::fs::write(daemon.workspace().join("small"), vec![7; 60_000]).unwrap();
    let mut events = plane.events().await;
    // Two megabits per second: about twenty seconds for what is asked for on each of the two connections.
    proxy.pace(250_000);
    let wanted = std::iter::repeat_n("large", 5).chain(std::iter::repeat_n("small", 85));
    let reads: Vec<_> = wanted.map(|path| read(plane.clone(), path)).collect();
    let all = tokio::spawn(join_all(reads));
    let mut last = Instant::now();
    while !all.is_finished() {
        let begin = Instant::now();
        assert_eq!(plane.ask(Op::Ping(PingRequest::default())).await.error, None);
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "a ping took {:?}",
            begin.elapsed()
        );
        match tokio::time::timeout(Duration::from_millis(500), events.next()).await {
            Ok(event) if matches!(event.event, Some(agent_event::Event::Heartbeat(_))) => {
                last = Instant::now();
            }
            Ok(event) => panic!("{event:?}"),
            Err(_) => assert!(
                last.elapsed() < Duration::from_secs(9),
                "no heartbeat for {:?}",
                last.elapsed()
            ),
        }
    }
    let sizes = all.await.unwrap();
    assert!(
        sizes.len() == 90 && sizes.iter().all(|size| *size > 60_000),
        "{sizes:?}"
    );
    assert_eq!(
        daemon.log().matches("link connected").count(),
        1,
        "the link was given up"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_that_still_wait_when_a_connection_is_lost_go_over_the_next() {
    let broker = NatsServer::start();
    let (daemon, proxy, plane) = behind_a_proxy(&broker).await;
    std::fs::write(daemon.workspace().join("small"), vec![7; 60_000]).unwrap();
    let inbox = plane.client().new_inbox();
    let mut replies = plane.client().subscribe(inbox.clone()).await.unwrap();
    proxy.pace(0);
    for _ in 0..100 {
        let read = FsReadRequest {
            path: "small".into(),
            ..FsReadRequest::default()
        };
        let request = ControlRequest {
            op: Some(Op::FsRead(read)),
            ..ControlRequest::default()
        };
        let payload = request.encode_to_vec().into();
        let sent = plane
            .client()
            .publish_with_reply(plane.subject("rpc"), inbox.clone(), payload);
        sent.await.unwrap();
    }
    // All were performed: replies can only wait.
    let performed = r#"boxd_operations_total{door="nats",op="fs.read",outcome="ok"} 100"#;
    let begin = Instant::now();
    while !daemon.http().get("/metrics").await.text().contains(performed) {
        assert!(begin.elapsed() < PATIENCE, "not every file was read");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    proxy.cut();
    proxy.pace(u64::MAX);
    let mut arrived = 0;
    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_secs(4), replies.next()).await {
        arrived += 1;
    }
    // What the sockets had taken is lost with them; six megabytes are more than that.
    assert!(arrived >= 60, "{arrived} of 100 arrived");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_nobody_can_get_any_more_does_not_hold_up_the_stop() {
    for removed in [true, false] {
        let mut broker = NatsServer::start();
        let (mut daemon, link) = Daemon::linked(&broker);
        let plane = ControlPlane::connect(&link).await;
        let command = Op::Exec(shell(
            "touch begun; while [ ! -e go ]; do sleep 0.02; done; touch done",
        ));
        let asked = tokio::spawn(plane.ask(command));
        let file = |name: &str| daemon.workspace().join(name);
        let begun = file("begun");
        eventually("the command to run", PATIENCE, || begun.exists().then_some(()));
        let gone = if removed {
            link.remove(&daemon.config_directory());
            "link removed"
        } else {
            broker.kill();
            "link lost"
        };
        eventually(gone, PATIENCE, || daemon.log().contains(gone).then_some(()));
        std::fs::write(file("go"), "").unwrap();
        let done = file("done");
        eventually("the command to end", PATIENCE, || done.exists().then_some(()));
        let begin = Instant::now();
        assert!(daemon.stop().success());
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(2), "removed={removed}: {took:?}");
        asked.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_that_cannot_be_sent_yet_does_not_fill_the_memory() {
    let broker = NatsServer::start();
    let (daemon, proxy, plane) = behind_a_proxy(&broker).await;
    std::fs::write(daemon.workspace().join("large"), vec![7; 1_000_000]).unwrap();
    proxy.pace(0);
    let reads: Vec<_> = (0..250).map(|_| read(plane.clone(), "large")).collect();
    let all = tokio::spawn(join_all(reads));
    let opened =
        |count: u32| format!(r#"boxd_operations_total{{door="nats",op="fs.read",outcome="ok"}} {count}"#);
    let begin = Instant::now();
    while !daemon.http().get("/metrics").await.text().contains(&opened(250)) {
        assert!(begin.elapsed() < PATIENCE, "not every file was opened");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak: u64 = peak.unwrap().trim().trim_end_matches(" kB").parse().unwrap();
    proxy.pace(u64::MAX);
    let sizes = all.await.unwrap();
    assert!(sizes.iter().all(|size| *size > 1_000_000), "{sizes:?}");
    assert!(peak < 160 << 10, "{peak} KiB for replies that cannot be sent");
}
