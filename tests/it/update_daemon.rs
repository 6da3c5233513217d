//! A daemon that updates itself: it becomes the new executable in the same process, tells its owners, waits for what runs,
//! and is itself again when the new one does not come up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response::Result as Outcome;
use boxd::wire::proto::{
    AgentUpdateApplyRequest, AgentUpdateStage, ErrorCode, GoingOfflineReason, agent_event,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::daemon::Builder;
use crate::harness::manager::Manager;
use crate::harness::releases::{Releases, another, install, sha256};
use crate::harness::{Connection, ControlPlane, Daemon, NatsServer, PATIENCE, eventually, write_program};

/// A daemon from a copy of the program that looks for its releases there.
pub(crate) fn updating(directory: &Path, releases: &Releases) -> (Builder, PathBuf) {
    let program = install(directory);
    let builder = Daemon::builder()
        .program(&program)
        .environment("BOXD_UPDATE_PUBLIC_KEYS", &releases.key)
        .environment("BOXD_UPDATE_BASE_URL", releases.base());
    (builder, program)
}

/// The digest of what runs as this process.
#[track_caller]
pub(crate) fn running(pid: i32) -> String {
    sha256(&fs::read(format!("/proc/{pid}/exe")).unwrap())
}

pub(crate) async fn status(daemon: &Daemon) -> Value {
    let answer = daemon.http().get("/v1/update").await;
    assert_eq!(answer.status, 200);
    answer.json()
}

/// `boxd update` as somebody at the machine of the daemon.
pub(crate) fn update(daemon: &Daemon, program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .arg("update")
        .env_clear()
        .env("HOME", daemon.directory())
        .env("BOXD_STATE_DIR", daemon.state_directory())
        .env("BOXD_CONFIG_DIR", daemon.config_directory())
        .current_dir(daemon.directory());
    command
}

/// Descriptors, nice value and OOM score of a command.
async fn what_commands_are_given(daemon: &Daemon) -> String {
    let command = "ulimit -Sn; ulimit -Hn; nice; cat /proc/self/oom_score_adj";
    let body = json!({ "command": command, "shell": true });
    let ran = daemon.http().post("/v1/processes/run", &body).await.json();
    assert_eq!(ran["exitCode"], 0, "{ran}");
    ran["stdout"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_becomes_the_new_one_and_is_who_it_was() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (builder, program) = updating(directory.path(), &releases);
    let mut daemon = builder.start();
    let (pid, token) = (daemon.pid(), daemon.token());
    let given = what_commands_are_given(&daemon).await;
    let fresh = another("the next one");
    releases.publish("99.0.0", &fresh, |_| {});
    let output = update(&daemon, &program).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}\n{}", daemon.log());
    assert!(said.contains("completed 99.0.0"), "{said}");
    daemon.ready_again();
    assert_eq!((daemon.pid(), daemon.token()), (pid, token));
    assert_eq!(running(pid), sha256(&fresh));
    let status = status(&daemon).await;
    assert_eq!(status["completed"]["version"], "99.0.0");
    assert_eq!(status["completed"]["sha256"], sha256(&fresh));
    // What the daemon made of its own limits is not what it was started with.
    assert_eq!(what_commands_are_given(&daemon).await, given);
    // The trial is over: the next start is an ordinary one.
    assert!(daemon.stop().success());
    daemon.start_again();
    assert_eq!(running(daemon.pid()), sha256(&fresh));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_manager_hears_of_a_reload_and_not_of_a_stop() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (builder, _program) = updating(directory.path(), &releases);
    let manager = Manager::abstracted();
    let mut daemon = builder.environment("NOTIFY_SOCKET", manager.name()).start();
    manager.until("READY");
    releases.publish("99.0.0", &another("the next one"), |_| {});
    assert_eq!(daemon.http().post("/v1/update", &json!({})).await.status, 202);
    // Of the rehearsal it hears nothing.
    let next = manager.next(PATIENCE).expect("a word of the update");
    assert!(next.value("RELOADING").is_some(), "{next:?}");
    let next = manager.next(PATIENCE).expect("a word of the new one");
    assert!(next.value("READY").is_some(), "{next:?}");
    daemon.ready_again();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_is_waited_for() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (builder, _program) = updating(directory.path(), &releases);
    let mut daemon = builder.start();
    let fresh = another("the next one");
    releases.publish("99.0.0", &fresh, |_| {});
    let http = daemon.http();
    let process = http
        .post("/v1/processes", &json!({ "command": "sleep", "args": ["600"] }))
        .await;
    let id = process.json()["id"].as_str().unwrap().to_owned();
    let asked = json!({ "operationId": "waits" });
    assert_eq!(http.post("/v1/update", &asked).await.status, 202);
    assert_eq!(http.post("/v1/update", &asked).await.status, 202, "said again");
    assert_eq!(
        http.post("/v1/update", &json!({})).await.status,
        409,
        "another one"
    );
    let begun = Instant::now();
    while status(&daemon).await["progress"]["stage"] != "waiting_for_idle" {
        assert!(begun.elapsed() < PATIENCE, "{}", status(&daemon).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let alive = http.get(&format!("/v1/processes/{id}")).await.json();
    assert_eq!(alive["status"], "running");
    assert_eq!(
        http.post(&format!("/v1/processes/{id}/kill"), &json!({}))
            .await
            .status,
        200
    );
    daemon.ready_again();
    assert_eq!(status(&daemon).await["completed"]["operationId"], "waits");
    assert_eq!(running(daemon.pid()), sha256(&fresh));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_cannot_serve_changes_nothing_and_the_old_one_serves_on() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (builder, program) = updating(directory.path(), &releases);
    let daemon = builder.start();
    let before = running(daemon.pid());
    releases.publish("99.0.0", b"#!/bin/sh\necho is broken >&2; exit 1\n", |_| {});
    let output = update(&daemon, &program).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(said.contains("is broken"), "{said}");
    let progress = status(&daemon).await["progress"].clone();
    assert_eq!(
        (&progress["stage"], &progress["code"]),
        (&json!("failed"), &json!("unsupported"))
    );
    assert_eq!(running(daemon.pid()), before);
    assert_eq!(sha256(&fs::read(&program).unwrap()), before);
    let ran = daemon
        .http()
        .post("/v1/processes/run", &json!({ "command": "true" }))
        .await;
    assert_eq!(ran.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_updates_over_nats_and_is_told_every_stage() {
    let (directory, releases, broker) = (tempfile::tempdir().unwrap(), Releases::new(), NatsServer::start());
    let (builder, _program) = updating(directory.path(), &releases);
    let link = Connection::to(&broker.url());
    let mut daemon = builder.connection(&link).start();
    let control = ControlPlane::connect(&link).await;
    let (mut hellos, mut events) = (control.hellos().await, control.events().await);
    let fresh = another("the next one");
    releases.publish("99.0.0", &fresh, |_| {});
    let before = running(daemon.pid());
    let asked = AgentUpdateApplyRequest {
        operation_id: "from afar".into(),
        target_version: "99.0.0".into(),
        channel: "stable".into(),
        expected_current_version: env!("CARGO_PKG_VERSION").into(),
        expected_current_sha256: before.clone(),
        release_base_url: releases.base().into(),
    };
    let wrong = AgentUpdateApplyRequest {
        expected_current_sha256: "00".repeat(32),
        ..asked.clone()
    };
    let refused = control.refused(Op::AgentUpdateApply(wrong)).await;
    assert_eq!(refused.code(), ErrorCode::Os);
    assert!(refused.message.contains("was expected"), "{refused:?}");
    let Some(Outcome::AgentUpdateApply(accepted)) = control.ask(Op::AgentUpdateApply(asked)).await.result
    else {
        panic!("not accepted")
    };
    assert!(accepted.accepted);
    assert_eq!(
        (accepted.current_sha256, accepted.target_version),
        (before, "99.0.0".to_owned())
    );
    let mut stages = Vec::new();
    loop {
        match events.next().await.event {
            Some(agent_event::Event::AgentUpdateProgress(progress)) => {
                assert_eq!(progress.operation_id, "from afar");
                stages.push(progress.stage());
            }
            Some(agent_event::Event::GoingOffline(leaving)) => {
                assert_eq!(leaving.reason(), GoingOfflineReason::Update);
                break;
            }
            _ => {}
        }
    }
    stages.dedup();
    assert_eq!(stages.last(), Some(&AgentUpdateStage::Restarting), "{stages:?}");
    // A stage that passes quickly may be passed over; none is told again.
    let order = [
        AgentUpdateStage::Accepted,
        AgentUpdateStage::Downloading,
        AgentUpdateStage::Verifying,
        AgentUpdateStage::WaitingForIdle,
        AgentUpdateStage::Applying,
        AgentUpdateStage::Restarting,
    ];
    let places: Vec<_> = stages
        .iter()
        .map(|stage| order.iter().position(|known| known == stage).unwrap())
        .collect();
    assert!(places.is_sorted() && places.len() > 2, "{stages:?}");
    daemon.ready_again();
    let hello = loop {
        let hello = hellos.next().await;
        if !hello.completed_update_operation_id.is_empty() {
            break hello;
        }
    };
    assert_eq!(hello.completed_update_operation_id, "from afar");
    assert_eq!(hello.completed_update_target_version, "99.0.0");
    assert_eq!(hello.completed_update_binary_sha256, sha256(&fresh));
}

/// Puts a new executable in place as an update does that ends before its restart.
#[track_caller]
pub(crate) fn installed_on_trial(directory: &Path, releases: &Releases) -> (PathBuf, String, String) {
    let program = install(directory);
    let before = sha256(&fs::read(&program).unwrap());
    let fresh = another("dies at every start");
    releases.publish("99.0.0", &fresh, |_| {});
    let output = Command::new(&program)
        .arg("update")
        .env_clear()
        .env("HOME", directory)
        .env("BOXD_STATE_DIR", directory.join("no-state"))
        .env("BOXD_UPDATE_PUBLIC_KEYS", &releases.key)
        .env("BOXD_UPDATE_BASE_URL", releases.base())
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    (program, before, sha256(&fresh))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_dies_before_it_serves_is_taken_back_by_a_later_start() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (program, before, fresh) = installed_on_trial(directory.path(), &releases);
    let starts = || {
        let record = fs::read(program.with_file_name(".boxd.update")).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        record["trial"]["starts"].as_u64().unwrap()
    };
    for start in 1..=3 {
        // A broker that accepts and says nothing keeps it from being ready.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("nats://{}", silent.local_addr().unwrap());
        let mut child = Command::new(&program)
            .args(["run", "--http", "127.0.0.1:0", "--nats-url", &url])
            .args(["--workspace-id", "00000000-0000-0000-0000-000000000001"])
            .args(["--agent-id", "00000000-0000-0000-0000-000000000002"])
            .arg("--state-dir")
            .arg(directory.path().join("state"))
            .env_clear()
            .env("HOME", directory.path())
            .current_dir(directory.path())
            .stderr(fs::File::create(directory.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        eventually("the start to be counted", PATIENCE, || {
            (starts() == start).then_some(())
        });
        let dialled = silent.accept();
        assert!(dialled.is_ok());
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        assert_eq!(sha256(&fs::read(&program).unwrap()), fresh);
    }
    let daemon = Daemon::builder().program(&program).start();
    assert_eq!(running(daemon.pid()), before);
    assert_eq!(sha256(&fs::read(&program).unwrap()), before);
    let status = status(&daemon).await;
    assert_eq!(status["rolledBack"]["version"], "99.0.0", "{status}");
    assert_eq!(status["completed"], Value::Null);
}

/// Starts a daemon that is not going to serve; its exit code, and what it says.
fn started_at(program: &Path, address: &str) -> (Option<i32>, String) {
    let home = program.parent().unwrap();
    let output = Command::new(program)
        .args(["run", "--http", address])
        .env_clear()
        .env("HOME", home)
        .current_dir(home)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_fails_to_start_is_taken_back_at_once() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (program, before, _fresh) = installed_on_trial(directory.path(), &releases);
    // The old one fails as well; what counts is which one it is.
    let (code, said) = started_at(&program, "nowhere");
    assert_eq!(code, Some(78), "{said}");
    assert_eq!(said.matches("nowhere").count(), 2, "each of both says it: {said}");
    assert_eq!(sha256(&fs::read(&program).unwrap()), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_taken_is_no_fault_of_the_new_one() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (program, _before, fresh) = installed_on_trial(directory.path(), &releases);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // More often than it has starts.
    for _ in 0..4 {
        let (code, said) = started_at(&program, &taken.local_addr().unwrap().to_string());
        assert!(code != Some(0) && said.contains("a listener on"), "{said}");
        assert_eq!(sha256(&fs::read(&program).unwrap()), fresh);
    }
    let daemon = Daemon::builder().program(&program).start();
    assert_eq!(running(daemon.pid()), fresh);
    assert_eq!(status(&daemon).await["completed"]["version"], "99.0.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_process_becomes_the_new_one_too() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (builder, program) = updating(directory.path(), &releases);
    let mut daemon = builder.namespace(":").start();
    let fresh = another("the next one");
    releases.publish("99.0.0", &fresh, |_| {});
    let pid = daemon.pid();
    assert_eq!(daemon.http().post("/v1/update", &json!({})).await.status, 202);
    daemon.ready_again();
    assert_eq!(daemon.pid(), pid);
    assert_eq!(running(pid), sha256(&fresh));
    assert_eq!(sha256(&fs::read(&program).unwrap()), sha256(&fresh));
    let ran = daemon
        .http()
        .post("/v1/processes/run", &json!({ "command": "true" }))
        .await;
    assert_eq!(ran.json()["exitCode"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_else_put_in_place_is_not_replaced() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (builder, program) = updating(directory.path(), &releases);
    let daemon = builder.start();
    releases.publish("99.0.0", &another("the next one"), |_| {});
    let theirs = program.with_file_name("theirs");
    write_program(&theirs, another("of a package"));
    fs::rename(&theirs, &program).unwrap();
    let output = update(&daemon, &program).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("restart the daemon first"), "{said}");
    assert_eq!(status(&daemon).await["progress"]["code"], "conflict");
    assert_eq!(
        sha256(&fs::read(&program).unwrap()),
        sha256(&another("of a package"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_main_command_is_ended_for_an_update_only_when_that_is_asked_for() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (builder, program) = updating(directory.path(), &releases);
    let builder = ["--", "sleep", "600"]
        .into_iter()
        .fold(builder, Builder::argument);
    let mut daemon = builder.start();
    let fresh = another("the next one");
    releases.publish("99.0.0", &fresh, |_| {});
    let output = update(&daemon, &program).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("end the main command"), "{said}");
    let output = update(&daemon, &program).arg("--force").output().unwrap();
    assert!(output.status.success(), "{}", daemon.log());
    daemon.ready_again();
    assert_eq!(running(daemon.pid()), sha256(&fresh));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_while_it_is_put_in_place_is_refused_or_run_and_never_ended() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (builder, _program) = updating(directory.path(), &releases);
    let mut daemon = builder.start();
    releases.publish("99.0.0", &another("the next one"), |_| {});
    assert_eq!(daemon.http().post("/v1/update", &json!({})).await.status, 202);
    let http = daemon.http();
    let asked = json!({ "command": "sleep", "args": ["0.03"] });
    let mut ran = 0;
    // Until the daemon that was asked is gone.
    while let Ok(answer) = http.try_post("/v1/processes/run", &asked).await {
        if answer.status == 200 {
            let ended = answer.json();
            assert_eq!(
                (&ended["exitCode"], &ended["timedOut"]),
                (&json!(0), &json!(false)),
                "{ended}"
            );
            ran += 1;
        } else {
            assert_eq!(answer.status, 503, "{}", answer.json());
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    assert!(ran > 0);
    daemon.ready_again();
}
