//! The op stream over connections that break: every byte once, in order, whoever went away in between.

use std::time::{Duration, Instant};

use boxd::wire::proto::{Hello, OpState};
use bytes::Bytes;

use crate::harness::control::Feed;
use crate::harness::op::{self, OpClient, Said};
use crate::harness::{Connection, ControlPlane, Daemon, NatsServer, PATIENCE, Proxy};
use crate::nats_links::until_reachable;

/// How often the connection is cut while one command runs.
const CUTS: u64 = 100;

/// The digest and size of what `seq 1 10000000` prints.
fn numbers() -> (blake3::Hash, u64) {
    let printed = std::process::Command::new("seq")
        .args(["1", "10000000"])
        .output()
        .unwrap();
    (blake3::hash(&printed.stdout), printed.stdout.len() as u64)
}

/// A daemon behind a proxy, and a control plane that is not.
async fn behind_a_proxy() -> (NatsServer, Proxy, Daemon, ControlPlane, Feed<Hello>) {
    let broker = NatsServer::start();
    let proxy = Proxy::to(&broker);
    let mut link = Connection::to(&broker.url());
    let control = ControlPlane::connect(&link).await;
    let mut hellos = control.hellos().await;
    link.urls = vec![proxy.url()];
    let daemon = Daemon::builder().connection(&link).start();
    hellos.next().await;
    (broker, proxy, daemon, control, hellos)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_cuts_lose_and_double_nothing() {
    let (_broker, proxy, _daemon, control, mut hellos) = behind_a_proxy().await;
    let (digest, total) = numbers();
    let start = op::shell("exec seq 1 10000000");
    let (_, mut client) = OpClient::start(&control, "cut", start).await;
    let (mut said, mut cuts, mut received) = (Said::default(), 0, 0);
    let mut hasher = blake3::Hasher::new();
    while said.exit.is_none() {
        let frame = client.next().await;
        said.take(frame);
        hasher.update(&said.stdout);
        received += said.stdout.len() as u64;
        said.stdout.clear();
        client.ack(client.seen, 0, said.exit.is_some()).await;
        if cuts < CUTS && received > total / (CUTS + 1) * (cuts + 1) {
            cuts += 1;
            // A link that was just lost comes back within three seconds, one whose credential ran out at once.
            if cuts % 10 == 0 {
                proxy.cut();
            } else {
                proxy.cut_as_expired();
            }
            hellos.next().await;
            let state = client.attach(client.seen, 0).await;
            assert!(
                matches!(state.state(), OpState::Running | OpState::Complete),
                "{state:?}"
            );
        }
    }
    assert_eq!(cuts, CUTS);
    let exit = said.exit.unwrap();
    assert_eq!((exit.exit_code, exit.totals["stdout"]), (0, total));
    assert_eq!(hasher.finalize(), digest);
    assert_eq!(exit.digests["stdout"], digest.to_hex().as_str());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_after_the_broker_was_killed_is_the_same_bytes() {
    let mut broker = NatsServer::start();
    let (daemon, link) = Daemon::linked(&broker);
    let control = ControlPlane::connect(&link).await;
    let line =
        "seq 1 100000; seq 1 50000 >&2; touch half; while [ ! -e go ]; do sleep 0.02; done; seq 1 70000";
    let (_, mut client) = OpClient::start(&control, "replayed", op::shell(line)).await;
    client.raw = Some(Vec::new());
    let mut said = Said::default();
    while said.stdout.len() + said.stderr.len() < 588_895 + 288_894 {
        said.take(client.next().await);
    }
    let (seen, first) = (client.seen, client.raw.take().unwrap());
    broker.kill();
    std::fs::write(daemon.workspace().join("go"), "").unwrap();
    broker.restart();
    until_reachable(&control, true, PATIENCE).await;
    let mut client = OpClient::listen(&control, "replayed", 1).await;
    client.raw = Some(Vec::new());
    client.attach(0, 0).await;
    let again = client.finish().await;
    let raw = client.raw.take().unwrap();
    assert_eq!(
        raw[..seen as usize],
        first[..],
        "the frames before are the same bytes"
    );
    assert!(again.stdout.starts_with(&said.stdout) && again.stderr == said.stderr);
    let exit = again.exit.unwrap();
    assert_eq!(
        exit.digests["stdout"],
        blake3::hash(&again.stdout).to_hex().as_str()
    );
    assert_eq!(
        exit.digests["stderr"],
        blake3::hash(&again.stderr).to_hex().as_str()
    );
}

#[tokio::test]
async fn it_can_be_attached_to_after_the_exit_until_the_final_acknowledgement() {
    let broker = NatsServer::start();
    let (_daemon, link) = Daemon::linked(&broker);
    let control = ControlPlane::connect(&link).await;
    let (_, mut client) = OpClient::start(&control, "over", op::shell("echo out; echo err >&2")).await;
    client.raw = Some(Vec::new());
    while client.query().await.state() != OpState::Complete {}
    let mut rounds: Vec<Vec<Bytes>> = Vec::new();
    for round in 0..3 {
        if round > 0 {
            let state = client.attach(0, 0).await;
            assert_eq!((state.state(), state.exit.is_some()), (OpState::Complete, true));
        }
        let mut said = Said::default();
        while said.exit.is_none() {
            said.take(client.next().await);
        }
        assert_eq!(
            (&said.stdout[..], &said.stderr[..]),
            (&b"out\n"[..], &b"err\n"[..])
        );
        rounds.push(client.raw.replace(Vec::new()).unwrap());
    }
    assert!(rounds[0] == rounds[1] && rounds[1] == rounds[2]);
    // An attach that starts in the middle gets the rest.
    let last = client.seen;
    client.attach(last - 1, 0).await;
    assert_eq!(client.next().await.seq, last);
    client.ack(last, 0, true).await;
    assert!(client.quiet_for(Duration::from_millis(300)).await);
    // Freed: whatever is asked for now, the state is the answer and nothing is sent.
    let state = client.attach(0, 0).await;
    assert_eq!(state.state(), OpState::Complete);
    assert!(client.quiet_for(Duration::from_millis(300)).await);
}

#[tokio::test]
async fn old_generations_change_nothing_and_the_same_one_is_said_twice_for_nothing() {
    let broker = NatsServer::start();
    let (daemon, link) = Daemon::linked(&broker);
    let control = ControlPlane::connect(&link).await;
    let line = "echo one; while [ ! -e go ]; do sleep 0.02; done; echo two";
    let (_, mut client) = OpClient::start(&control, "generations", op::shell(line)).await;
    client.next().await;
    for generation in [0, 1] {
        client.generation = generation;
        assert_eq!(client.query().await.state(), OpState::Running);
        client.attach_again(0, 0).await.unwrap();
        client.seen = 0;
        assert!(
            client.quiet_for(Duration::from_millis(200)).await,
            "generation {generation}"
        );
        client.seen = 1;
    }
    client.generation = 6;
    client.attach(0, 0).await;
    assert_eq!((client.generation, client.next().await.seq), (7, 1));
    // The acknowledgement of a generation that is over frees nothing: the next one still gets everything.
    client.generation = 1;
    client.ack(1, 0, false).await;
    client.generation = 3;
    client.attach(0, 0).await;
    assert!(
        client.quiet_for(Duration::from_millis(200)).await,
        "4 is lower than 7"
    );
    client.generation = 7;
    client.attach(0, 0).await;
    std::fs::write(daemon.workspace().join("go"), "").unwrap();
    assert_eq!(client.finish().await.stdout, b"one\ntwo\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_comes_back_for_is_ended_once_no_more_of_it_can_be_kept() {
    // A state directory on a small file system, a quarter of which may be used.
    let script = "mkdir -p \"$WORKSPACE/../state\"; \
                  mount -t tmpfs -o size=64m,mode=700 none \"$WORKSPACE/../state\"";
    let broker = NatsServer::start();
    let proxy = Proxy::to(&broker);
    let mut link = Connection::to(&broker.url());
    let control = ControlPlane::connect(&link).await;
    let mut hellos = control.hellos().await;
    link.urls = vec![proxy.url()];
    let _daemon = Daemon::builder()
        .connection(&link)
        .config("[op]\nabandon = \"2s\"\n")
        .namespace(script)
        .start();
    hellos.next().await;
    let (_, mut client) = OpClient::start(&control, "left", op::shell("exec yes")).await;
    client.next().await;
    proxy.cut();
    hellos.next().await;
    let begin = Instant::now();
    let exit = loop {
        if let Some(exit) = client.query().await.exit {
            break exit;
        }
        assert!(begin.elapsed() < PATIENCE, "it goes on for ever");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(exit.failure_code, "OP_OVERFLOW", "{exit:?}");
    let retained: u64 = exit.failure_detail["retained_bytes"].parse().unwrap();
    assert!(retained > 1 << 20, "{exit:?}");
    assert!(!exit.timed_out && exit.exit_code == -1, "{exit:?}");
    // What is kept can still be had, by whoever comes late.
    client.attach(client.seen, 64 << 20).await;
    let rest = client.finish().await;
    assert_eq!(rest.exit.unwrap().failure_code, "OP_OVERFLOW");
    assert!(rest.stdout.len() as u64 >= retained / 2, "{}", rest.stdout.len());
}
