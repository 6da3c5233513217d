//! The code that ran before an update, on guard until the new one serves: it takes back what hangs or dies, and leaves alone
//! what was told to stop.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::daemon::BOXD;
use crate::harness::manager::Manager;
use crate::harness::releases::{Releases, another, sha256};
use crate::harness::{Connection, NatsServer, PATIENCE, eventually, processes, require, write_program};
use crate::update_daemon::{running, status, update, updating};

/// What is remembered beside an executable; null while it is not there.
pub(crate) fn remembered(program: &Path) -> Value {
    let record = fs::read(program.with_file_name(".boxd.update")).unwrap_or_default();
    serde_json::from_slice(&record).unwrap_or_default()
}

/// An executable that passes its proofs and does something else as the daemon.
fn unlike_its_proofs(as_daemon: &str) -> Vec<u8> {
    format!("#!/bin/sh\ncase $1 in run) {as_daemon} ;; esac\nexec '{BOXD}' \"$@\"\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_hangs_or_dies_before_its_first_line_is_taken_back_by_the_code_before() {
    for (as_daemon, why) in [
        ("exec sleep 600", "did not serve within 1s"),
        ("echo gone >&2; exit 3", "ended before it served"),
    ] {
        let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
        let (builder, program) = updating(directory.path(), &releases);
        let mut daemon = builder.environment("BOXD_UPDATE_TRIAL_TIMEOUT", "1s").start();
        let before = running(daemon.pid());
        releases.publish("99.0.0", &unlike_its_proofs(as_daemon), |_| {});
        assert_eq!(daemon.http().post("/v1/update", &json!({})).await.status, 202);
        // Nobody else restarts it here, so that the guard becomes the daemon.
        daemon.ready_again();
        assert!(!daemon.wait(PATIENCE).success());
        let pid = i32::try_from(daemon.ready["pid"].as_i64().unwrap()).unwrap();
        assert_ne!(pid, daemon.pid());
        assert_eq!(running(pid), before);
        assert_eq!(sha256(&fs::read(&program).unwrap()), before);
        assert!(daemon.log().contains(why), "{}", daemon.log());
        let status = status(&daemon).await;
        assert_eq!(status["rolledBack"]["version"], "99.0.0", "{status}");
        let ran = daemon
            .http()
            .post("/v1/processes/run", &json!({ "command": "cat", "stdin": "" }))
            .await;
        assert_eq!(ran.json()["exitCode"], 0);
        // It is not taken again.
        let output = update(&daemon, &program).output().unwrap();
        assert!(output.status.success());
        assert_eq!(running(pid), before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_service_manager_restarts_it_the_guard_only_puts_the_one_before_in_place() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (builder, program) = updating(directory.path(), &releases);
    let manager = Manager::abstracted();
    let mut daemon = builder.environment("NOTIFY_SOCKET", manager.name()).start();
    let before = running(daemon.pid());
    releases.publish("99.0.0", &unlike_its_proofs("exit 3"), |_| {});
    assert_eq!(daemon.http().post("/v1/update", &json!({})).await.status, 202);
    assert_eq!(daemon.wait(PATIENCE).code(), Some(3));
    let guard = program.with_file_name("boxd.previous");
    processes::wait_until_gone(guard.to_str().unwrap(), PATIENCE);
    assert_eq!(sha256(&fs::read(&program).unwrap()), before);
    daemon.start_again();
    assert_eq!(running(daemon.pid()), before);
    assert_eq!(status(&daemon).await["rolledBack"]["version"], "99.0.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_ends_when_the_new_one_serves() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (builder, program) = updating(directory.path(), &releases);
    let mut daemon = builder.start();
    releases.publish("99.0.0", &another("the next one"), |_| {});
    assert_eq!(daemon.http().post("/v1/update", &json!({})).await.status, 202);
    daemon.ready_again();
    let guard = program.with_file_name("boxd.previous");
    processes::wait_until_gone(guard.to_str().unwrap(), PATIENCE);
    assert!(daemon.ended().is_none());
    eventually("the guard to be reaped", PATIENCE, || {
        processes::children(daemon.pid()).is_empty().then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_guard_is_killed_with_it_the_manager_has_the_code_before_take_it_back() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (builder, program) = updating(directory.path(), &releases);
    let manager = Manager::abstracted();
    let mut daemon = builder.environment("NOTIFY_SOCKET", manager.name()).start();
    let before = running(daemon.pid());
    let previous = program.with_file_name("boxd.previous");
    releases.publish("99.0.0", &unlike_its_proofs("exec sleep 600"), |_| {});
    assert_eq!(daemon.http().post("/v1/update", &json!({})).await.status, 202);
    let guard = processes::wait_until_there(previous.to_str().unwrap(), PATIENCE);
    eventually("the new one to be guarded", PATIENCE, || {
        (remembered(&program)["trial"]["is_guarded"] == true).then_some(())
    });
    // As `WatchdogSec=` and `KillMode=mixed` end a unit.
    kill(Pid::from_raw(guard), Signal::SIGKILL).unwrap();
    kill(Pid::from_raw(daemon.pid()), Signal::SIGKILL).unwrap();
    assert!(!daemon.wait(PATIENCE).success());
    assert_ne!(sha256(&fs::read(&program).unwrap()), before);
    // As `ExecStopPost=` does.
    let after_stop = Command::new(&previous)
        .args(["guard", "--after-stop"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&after_stop.stderr).into_owned();
    assert!(
        after_stop.status.success() && said.contains("99.0.0 did not come up"),
        "{said}"
    );
    daemon.start_again();
    assert_eq!(running(daemon.pid()), before);
    assert_eq!(status(&daemon).await["rolledBack"]["version"], "99.0.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_told_to_stop_before_it_listens_stops_and_is_not_taken_back() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (builder, program) = updating(directory.path(), &releases);
    let mut broker = NatsServer::start();
    let link = Connection::to(&broker.url());
    let mut daemon = builder.connection(&link).start();
    let fresh = another("the next one");
    releases.publish("99.0.0", &fresh, |_| {});
    // One that says nothing keeps the new one from being ready.
    broker.signal(Signal::SIGSTOP);
    assert_eq!(daemon.http().post("/v1/update", &json!({})).await.status, 202);
    let pid = daemon.pid();
    let runs = || fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino();
    let old = runs();
    // Busily: what follows the change is over in milliseconds.
    while runs() == old {
        std::hint::spin_loop();
    }
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    assert_eq!(daemon.wait(PATIENCE).code(), Some(0), "{}", daemon.log());
    processes::wait_until_gone(
        program.with_file_name("boxd.previous").to_str().unwrap(),
        PATIENCE,
    );
    assert_eq!(sha256(&fs::read(&program).unwrap()), sha256(&fresh));
    let trial = remembered(&program)["trial"].clone();
    assert_eq!(
        (&trial["update"]["version"], &trial["is_guarded"]),
        (&json!("99.0.0"), &json!(false)),
        "it is still on trial, and nobody's guard: {trial}"
    );
    broker.signal(Signal::SIGCONT);
    daemon.start_again();
    assert_eq!(running(daemon.pid()), sha256(&fresh));
    assert_eq!(status(&daemon).await["completed"]["version"], "99.0.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_hangs_while_it_holds_the_record_is_taken_back() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (builder, program) = updating(directory.path(), &releases);
    let mut daemon = builder.environment("BOXD_UPDATE_TRIAL_TIMEOUT", "1s").start();
    let before = running(daemon.pid());
    let hangs = "exec 9>>\"${0%/*}/.boxd.update.turn\"; flock 9; exec sleep 600";
    releases.publish("99.0.0", &unlike_its_proofs(hangs), |_| {});
    assert_eq!(daemon.http().post("/v1/update", &json!({})).await.status, 202);
    daemon.ready_again();
    assert!(!daemon.wait(PATIENCE).success());
    assert_eq!(sha256(&fs::read(&program).unwrap()), before);
    assert_eq!(status(&daemon).await["rolledBack"]["version"], "99.0.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_start_that_is_refused_does_not_send_the_guard_away() {
    // Of a root who may look into every process, and of one who may not look into a daemon, as nobody else may.
    let drop = r#"exec setpriv --bounding-set=-sys_ptrace --inh-caps=-sys_ptrace "$0" "$@""#;
    for prelude in [r#"exec "$0" "$@""#, drop] {
        a_second_start_is_refused(prelude).await;
    }
}

async fn a_second_start_is_refused(prelude: &str) {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (builder, program) = updating(directory.path(), &releases);
    let builder = builder.prelude(prelude);
    let mut broker = NatsServer::start();
    let link = Connection::to(&broker.url());
    let mut daemon = builder
        .connection(&link)
        .environment("BOXD_UPDATE_TRIAL_TIMEOUT", "10s")
        .start();
    let before = running(daemon.pid());
    releases.publish("99.0.0", &another("the next one"), |_| {});
    broker.signal(Signal::SIGSTOP);
    assert_eq!(daemon.http().post("/v1/update", &json!({})).await.status, 202);
    eventually("the start to be counted", PATIENCE, || {
        (remembered(&program)["trial"]["starts"] == 1).then_some(())
    });
    // It holds its state directory and will never serve.
    let pid = Pid::from_raw(daemon.pid());
    kill(pid, Signal::SIGSTOP).unwrap();
    for _ in 0..2 {
        // One that is not refused would serve for ever.
        let second = Command::new(require("timeout"))
            .args(["10", "sh", "-c", prelude])
            .arg(&program)
            .args(["run", "--http", "127.0.0.1:0", "--state-dir"])
            .arg(daemon.state_directory())
            .env_clear()
            .env("HOME", daemon.directory())
            .current_dir(daemon.directory())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&second.stderr).into_owned();
        assert_eq!(second.status.code(), Some(75), "{said}");
    }
    let trial = remembered(&program)["trial"].clone();
    assert_eq!(
        (&trial["starts"], &trial["is_guarded"]),
        (&json!(1), &json!(true)),
        "{trial}"
    );
    broker.signal(Signal::SIGCONT);
    daemon.ready_again();
    assert!(!daemon.wait(PATIENCE).success());
    assert_eq!(sha256(&fs::read(&program).unwrap()), before);
    assert_eq!(status(&daemon).await["rolledBack"]["version"], "99.0.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_puts_in_place_during_a_trial_is_not_taken_back() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (builder, program) = updating(directory.path(), &releases);
    let mut daemon = builder.environment("BOXD_UPDATE_TRIAL_TIMEOUT", "2s").start();
    let previous = program.with_file_name("boxd.previous");
    releases.publish("99.0.0", &unlike_its_proofs("exec sleep 600"), |_| {});
    assert_eq!(daemon.http().post("/v1/update", &json!({})).await.status, 202);
    processes::wait_until_there(previous.to_str().unwrap(), PATIENCE);
    eventually("the new one to be guarded", PATIENCE, || {
        (remembered(&program)["trial"]["is_guarded"] == true).then_some(())
    });
    let theirs = program.with_file_name("theirs");
    write_program(&theirs, another("of a package"));
    fs::rename(&theirs, &program).unwrap();
    processes::wait_until_gone(previous.to_str().unwrap(), PATIENCE);
    assert_eq!(
        sha256(&fs::read(&program).unwrap()),
        sha256(&another("of a package"))
    );
    kill(Pid::from_raw(daemon.pid()), Signal::SIGKILL).unwrap();
    daemon.wait(PATIENCE);
    daemon.start_again();
    assert_eq!(status(&daemon).await["completed"], Value::Null);
}
