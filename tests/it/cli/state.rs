//! The state directory as the daemon uses it.

use std::os::unix::fs::PermissionsExt;

use super::{boxd, complaint, run};
use crate::harness::Daemon;

#[test]
fn a_second_daemon_exits_75_and_names_the_first() {
    let daemon = Daemon::start();
    let output = run(&daemon.state_directory(), &["run", "--http", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(75), "{}", complaint(&output));
    let pid = format!("pid {}", daemon.pid());
    assert!(complaint(&output).contains(&pid), "{pid}: {}", complaint(&output));
}

#[test]
fn the_token_is_private_and_survives_a_restart() {
    let mut daemon = Daemon::start();
    let token = daemon.token();
    let path = daemon.state_directory().join("token");
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(daemon.stop().success());
    assert!(
        !daemon.state_directory().join("ready.json").exists(),
        "the ready file outlived the daemon"
    );
    daemon.start_again();
    assert_eq!(daemon.token(), token);
    assert!(!daemon.log().contains(&token), "the token is in the log");
}

#[test]
fn a_token_that_others_can_read_is_said() {
    let daemon = Daemon::builder().start_in(|directory| {
        let path = directory.join("state").join("token");
        std::fs::write(&path, "shared-token").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    });
    assert!(
        daemon.log().contains("other users can read the token file"),
        "{}",
        daemon.log()
    );
}

#[test]
fn a_crash_leaves_nothing_that_keeps_the_next_one_from_starting() {
    let mut daemon = Daemon::start();
    daemon.crash();
    assert!(daemon.state_directory().join("ready.json").exists());
    daemon.start_again();
    assert!(run(&daemon.state_directory(), &["call", "ping"]).status.success());
}

#[test]
fn it_runs_without_home_and_without_a_writable_state_directory() {
    let daemon = Daemon::builder()
        .namespace("unset HOME; mount -t tmpfs -o ro none \"$WORKSPACE/../state\"")
        .environment("BOXD_TOKEN", "given")
        .start();
    assert!(daemon.log().contains("no state directory"), "{}", daemon.log());
    assert!(daemon.ready["tokenFile"].is_null());
    let url = format!("http://{}", daemon.address());
    let elsewhere = tempfile::tempdir().unwrap();
    let output = boxd(elsewhere.path())
        .args(["call", "--url", &url, "exec", "--", "true"])
        .env("BOXD_TOKEN", "given")
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", complaint(&output));
}

#[test]
fn a_newer_layout_is_refused() {
    let state = tempfile::tempdir().unwrap();
    std::fs::write(state.path().join("version"), "99\n").unwrap();
    let output = run(state.path(), &["run", "--http", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(78), "{}", complaint(&output));
    assert!(complaint(&output).contains("layout"), "{}", complaint(&output));
}
