//! A root without `/proc`: commands run and end, and a time limit reaches the leader and its group.

use std::time::Duration;

use crate::harness::ways::unique_seconds;
use crate::harness::{Daemon, NatsServer, Request, WAYS, Ways, processes};

#[tokio::test]
async fn without_proc_commands_run_and_time_limits_are_kept() {
    let builder = Daemon::builder().namespace("mount -t tmpfs none /proc");
    let mut ways = Ways::with(builder, NatsServer::start()).await;
    for way in WAYS {
        assert_eq!(ways.run(way, &Request::shell("echo on; exit 3")).await.code, 3);
        let seconds = unique_seconds();
        let line = format!("sleep {seconds} & sleep {seconds}; sleep {seconds}");
        let request = Request::shell(&line).timeout(Duration::from_millis(500));
        let (ran, took) = ways.timed(way, &request).await;
        assert!(ran.timed_out, "{way:?}: {ran:?}");
        assert!(took < Duration::from_secs(3), "{way:?}: {took:?}");
        processes::wait_until_gone(&seconds, Duration::from_secs(5));
    }
    assert!(
        ways.daemon.log().contains("may not be gone"),
        "what could not be seen is said: {}",
        ways.daemon.log()
    );
    assert_eq!(ways.daemon.stop().code(), Some(0));
}
