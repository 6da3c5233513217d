//! What goes wrong around a link: silent brokers, connection files that cannot be read or say the same twice, accounts
//! that forbid too much.

use std::sync::mpsc;
use std::time::Duration;

use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::{PingRequest, agent_event};
use prost::Message;

use crate::harness::{Connection, ControlPlane, Daemon, NatsServer, PATIENCE, eventually};
use crate::nats_links::{link_state, ping_once, until_reachable};
use crate::nats_requests::{ran, shell};

/// Starts a daemon and disturbs it with signals that mean nothing to it until it is ready.
fn start_disturbed(link: &Connection) -> Daemon {
    let (tell, told) = mpsc::channel::<std::path::PathBuf>();
    let (starting, ready) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let lock = told.recv().unwrap().join("state/boxd.lock");
            while ready.recv_timeout(Duration::from_millis(100)) == Err(mpsc::RecvTimeoutError::Timeout) {
                let pid = std::fs::read_to_string(&lock).ok();
                if let Some(pid) = pid.and_then(|text| text.trim().parse().ok()) {
                    let pid = nix::unistd::Pid::from_raw(pid);
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGWINCH);
                }
            }
        });
        let daemon = Daemon::builder()
            .connection(link)
            .start_in(|directory| tell.send(directory.to_path_buf()).unwrap());
        drop(starting);
        daemon
    })
}

#[test]
fn a_broker_that_says_nothing_does_not_keep_the_daemon_from_starting() {
    // Accepted by the kernel, answered by nobody: the attempt ends by its own limit, longer than some looks at the files.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let link = Connection::to(&format!("nats://{}", silent.local_addr().unwrap()));
    std::thread::scope(|scope| {
        // Whether one hangs would be a matter of which thread does what: several, and several events.
        let start = || assert_eq!(link_state(&start_disturbed(&link)), "waiting");
        for started in [(); 4].map(|()| scope.spawn(start)) {
            started.join().unwrap();
        }
    });
}

#[test]
fn a_daemon_that_still_tries_its_links_stops_when_it_is_told_to() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let link = Connection::to(&format!("nats://{}", silent.local_addr().unwrap()));
    let (tell, told) = mpsc::channel::<std::path::PathBuf>();
    let stopper = std::thread::spawn(move || {
        let state = told.recv().unwrap().join("state");
        let (dialled, _) = silent.accept().unwrap();
        let pid = std::fs::read_to_string(state.join("boxd.lock")).unwrap();
        let pid = nix::unistd::Pid::from_raw(pid.trim().parse().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        // Nobody hangs up.
        (std::time::Instant::now(), silent, dialled)
    });
    let (code, said) = Daemon::builder()
        .connection(&link)
        .refused_in(|directory| tell.send(directory.to_path_buf()).unwrap());
    let (told, _silent, _dialled) = stopper.join().unwrap();
    let took = told.elapsed();
    assert_eq!(code, 0, "{said}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test]
async fn links_stay_while_the_daemon_has_no_descriptor_to_look_at_their_files() {
    let broker = NatsServer::start();
    let (daemon, link) = Daemon::linked(&broker);
    let plane = ControlPlane::connect(&link).await;
    let limit = |descriptors: &str| {
        let pid = daemon.pid().to_string();
        let nofile = format!("--nofile={descriptors}:");
        let set = std::process::Command::new(crate::harness::require("prlimit"))
            .args(["--pid", &pid, &nofile])
            .status();
        assert!(set.unwrap().success());
    };
    limit("4");
    eventually("a line that says so", PATIENCE, || {
        daemon
            .log()
            .contains("connection files cannot be looked at")
            .then_some(())
    });
    assert!(ping_once(&plane).await.is_some(), "the link was removed");
    limit("1024");
    let mut events = plane.events().await;
    link.remove(&daemon.config_directory());
    loop {
        let event = events.next().await.event;
        if let Some(agent_event::Event::GoingOffline(_)) = event {
            break;
        }
    }
}

#[tokio::test]
async fn two_connections_to_one_agent_at_one_broker_are_one_link() {
    let broker = NatsServer::start();
    let link = Connection::to(&broker.url());
    let mut alike = link.clone();
    alike.id = format!("{}-alike", link.id);
    let mut renamed = link.clone();
    renamed.id = format!("{}-renamed", link.id);
    renamed.urls = vec![broker.url().replace("127.0.0.1", "localhost")];
    let daemon = Daemon::builder()
        .connection(&link)
        .connection(&alike)
        .connection(&renamed)
        .start();
    let plane = ControlPlane::connect(&link).await;
    ran(plane.ask(Op::Exec(shell("echo x >> count"))).await);
    let log = daemon.log();
    let line = |words: &str| {
        log.lines()
            .find(|line| line.contains(words))
            .unwrap_or_default()
            .to_owned()
    };
    let ignored = line("two connections describe one link");
    assert!(
        ignored.contains(&alike.id) && ignored.contains("WARN"),
        "{ignored}"
    );
    assert!(line("serves it at the same broker").contains("ERROR"), "{log}");
    // One of them alone answers: a second run would have been done by now, or in the same moment.
    ran(plane.ask(Op::Exec(shell("sleep 0.3"))).await);
    let count = std::fs::read_to_string(daemon.workspace().join("count")).unwrap();
    assert_eq!(count, "x\n", "the command ran twice");
    // What was refused takes over when the other is gone.
    alike.remove(&daemon.config_directory());
    link.remove(&daemon.config_directory());
    until_reachable(&plane, true, Duration::from_secs(6)).await;
    ran(plane.ask(Op::Exec(shell("true"))).await);
}

#[tokio::test]
async fn a_consent_that_is_taken_back_is_told_by_another_hello() {
    let broker = NatsServer::start();
    let (daemon, mut link) = Daemon::linked(&broker);
    let plane = ControlPlane::connect(&link).await;
    let mut hellos = plane.hellos().await;
    link.whole_machine = false;
    link.write(&daemon.config_directory());
    loop {
        // The one with the digest may still be on its way.
        let hello = hellos.next_within(Duration::from_secs(8)).await;
        if !hello.capabilities.unwrap().consented_whole_machine {
            break;
        }
    }
    assert_eq!(daemon.log().matches("link connected").count(), 1);
}

#[tokio::test]
async fn an_account_that_forbids_replies_is_said_once() {
    let users = r#"authorization { users: [
        { user: admin, password: admin }
        { user: deaf, password: deaf, permissions: { subscribe: { deny: ["agent.>"] } } }
        { user: mute, password: mute, permissions: { publish: { deny: ["_INBOX.>"] } } } ] }"#;
    let broker = NatsServer::builder().settings(users).start();
    let link = Connection::to(&broker.url());
    let options = async_nats::ConnectOptions::with_user_and_password("admin".into(), "admin".into());
    let plane = ControlPlane::connect_with(options, &link).await;
    let start = |user: &str| {
        let url = broker.url().replace("nats://", &format!("nats://{user}:{user}@"));
        Daemon::builder()
            .argument("--nats-url")
            .argument(url)
            .argument("--workspace-id")
            .argument(link.workspace_id.as_str())
            .argument("--agent-id")
            .argument(link.agent_id.as_str())
            .start()
    };
    let mut mute = start("mute");
    let request = boxd::wire::proto::ControlRequest {
        op: Some(Op::Ping(PingRequest::default())),
        ..Default::default()
    };
    for _ in 0..50 {
        let (inbox, payload) = (plane.client().new_inbox(), request.encode_to_vec());
        let sent = plane
            .client()
            .publish_with_reply(plane.subject("rpc"), inbox, payload.into());
        sent.await.unwrap();
    }
    plane.client().flush().await.unwrap();
    eventually("a line that says so", PATIENCE, || {
        mute.log().contains("may not publish replies").then_some(())
    });
    // It flushes before it ends: the refusals of all others have come back by then.
    assert_eq!(mute.stop().code(), Some(0));
    assert_eq!(mute.log().matches("_INBOX.").count(), 1, "a line for each reply");
    drop(mute);
    let deaf = start("deaf");
    eventually("a line that says that no request can arrive", PATIENCE, || {
        deaf.log().contains("no request can arrive").then_some(())
    });
}

#[tokio::test]
async fn a_connection_file_that_names_another_broker_moves_the_link() {
    let (one, other) = (NatsServer::start(), NatsServer::start());
    let (daemon, mut link) = Daemon::linked(&one);
    let before = ControlPlane::connect(&link).await;
    assert!(ping_once(&before).await.is_some());
    link.urls = vec![other.url()];
    link.write(&daemon.config_directory());
    let after = ControlPlane::connect(&link).await;
    let took = until_reachable(&after, true, Duration::from_secs(4)).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    until_reachable(&before, false, Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_machines_with_one_identity_both_say_so() {
    const SAID: &str = "another boxd answers as this agent";
    let broker = NatsServer::start();
    let link = Connection::to(&broker.url());
    let mut first = Daemon::builder().connection(&link).start();
    assert!(first.stop().success());
    // The same one again is no other one.
    first.start_again();
    let control = ControlPlane::connect(&link).await;
    ping_once(&control).await;
    assert_eq!(first.log().matches(SAID).count(), 0, "{}", first.log());
    let second = Daemon::builder().connection(&link).start();
    for daemon in [&first, &second] {
        eventually("it to notice the other one", PATIENCE, || {
            daemon.log().contains(SAID).then_some(())
        });
    }
    let (ones, others) = (first.instance(), second.instance());
    assert!(first.log().contains(&others) && second.log().contains(&ones));
    assert_eq!(first.log().matches(SAID).count(), 1);
}
