//! Commands where something has run out: descriptors, room on the disk of the state directory, luck of many starts.

use std::time::Duration;

use futures_util::future::join_all;

use crate::harness::ways::unique_seconds;
use crate::harness::{Daemon, NatsServer, Request, Way, Ways, eventually, processes};

#[tokio::test(flavor = "multi_thread")]
async fn time_limits_are_kept_when_no_descriptor_is_left() {
    let daemon = Daemon::builder().prelude("ulimit -n 100").start();
    let http = daemon.http();
    let open = || std::fs::read_dir(processes::of(daemon.pid(), "fd")).map_or(0, Iterator::count);
    let at_rest = open();
    let seconds = unique_seconds();
    let commands = (0..12).map(|_| {
        let line = format!("sleep {seconds} & sleep {seconds}; true");
        let (http, request) = (
            http.clone(),
            Request::shell(&line).timeout(Duration::from_secs(5)),
        );
        tokio::spawn(async move { http.run(&request.json()).await.json() })
    });
    let commands: Vec<_> = commands.collect();
    eventually("all commands", Duration::from_secs(20), || {
        (processes::with_argument(&seconds).len() == 24).then_some(())
    });
    let mut idle = Vec::new();
    for _ in 0..60 {
        idle.push(http.socket().await);
    }
    eventually("all descriptors to be taken", Duration::from_secs(5), || {
        (open() >= 100).then_some(())
    });
    let answers = tokio::time::timeout(Duration::from_secs(20), join_all(commands)).await;
    for answer in answers.expect("every command is answered") {
        assert_eq!(answer.unwrap()["timedOut"], true);
    }
    drop(idle);
    processes::wait_until_gone(&seconds, Duration::from_secs(10));
    // Until it has heard that they are gone, idle connections count.
    eventually("descriptors to be free again", Duration::from_secs(10), || {
        (open() <= at_rest + 8).then_some(())
    });
    let ran = http.run(&Request::shell("exit 3").json()).await;
    assert_eq!(ran.json()["exitCode"], 3, "{}", ran.text());
}

/// Requests have ids, ids are written down before anything starts, and the owner of a full disk needs commands to
/// clean it up.
#[tokio::test(flavor = "multi_thread")]
async fn commands_run_while_the_disk_of_the_state_directory_is_full() {
    let small = "mkdir ../state/journal; mount -t tmpfs -o size=4m none ../state/journal";
    let mut ways = Ways::with(Daemon::builder().namespace(small), NatsServer::start()).await;
    let fill = Request::shell("cat /dev/zero > ../state/journal/fill; stat -f -c %a ../state/journal");
    assert_eq!(ways.run(Way::Http, &fill).await.text(), "0\n", "the disk is full");
    // Each has an id of its own: 9600 bytes of journal.
    for round in 0..300 {
        assert_eq!(
            ways.run(Way::Nats, &Request::argv(&["true"])).await.code,
            0,
            "{round}"
        );
    }
    let kept = Request::shell("echo again").id("kept");
    assert_eq!(ways.run(Way::Nats, &kept).await.text(), "again\n");
    assert_eq!(
        ways.run(Way::Http, &Request::argv(&["rm", "../state/journal/fill"]))
            .await
            .code,
        0
    );
    assert_eq!(ways.daemon.stop().code(), Some(0));
}

/// A zombie of a failed start must not hide that of a command that ends meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn commands_that_end_beside_failed_starts_are_answered() {
    let ways = Ways::start().await;
    let missing = Request::argv(&["/no/such/program"]);
    let request = Request::argv(&["true"]).timeout(Duration::from_secs(30));
    for round in 0..300 {
        let failing = join_all((0..=round % 4).map(|_| ways.refused(Way::Http, &missing)));
        let both = async { tokio::join!(ways.run(Way::Http, &request), failing) };
        let answered = tokio::time::timeout(Duration::from_secs(5), both).await;
        let (ran, refused) = answered.unwrap_or_else(|_| panic!("round {round}: not answered"));
        assert_eq!(ran.code, 0, "round {round}");
        assert!(
            refused.iter().all(|(code, _)| code == "not_found"),
            "round {round}: {refused:?}"
        );
    }
}
