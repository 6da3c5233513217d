//! What is left when output has no room any more, and what is left of a process that has ended.

use boxd::wire::proto::ErrorCode;
use boxd::wire::proto::control_request::Op;
use serde_json::{Value, json};

use crate::harness::http::Http;
use crate::harness::{Daemon, PATIENCE, Ways, eventually, op, processes};
use crate::http_process_life::{ended, made_of};

fn descriptors(daemon: &Daemon) -> usize {
    std::fs::read_dir(processes::of(daemon.pid(), "fd"))
        .unwrap()
        .count()
}

#[tokio::test]
async fn records_of_ended_processes_hold_no_descriptors() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let run = async |tty: bool| {
        let id = made_of(&http, &json!({ "command": "true", "tty": tty })).await;
        ended(&http, &id).await;
    };
    for tty in [false, true] {
        run(tty).await;
    }
    let before = descriptors(&daemon);
    for _ in 0..100 {
        for tty in [false, true] {
            run(tty).await;
        }
    }
    eventually("as many descriptors as before", PATIENCE, || {
        (descriptors(&daemon) <= before + 4).then_some(())
    });
    let known = http.get("/v1/processes").await.json();
    assert_eq!(known["processes"].as_array().unwrap().len(), 202);
}

/// Runs a line that prints 588,895 bytes at most, and answers how it ended and how much was kept.
async fn bounded(http: &Http, more: &Value) -> (Value, u64) {
    let mut asked = json!({ "command": "seq 1 100000; sleep 1000", "shell": true });
    asked
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let id = made_of(http, &asked).await;
    let info = ended(http, &id).await;
    let kept = http.get(&format!("/v1/processes/{id}/logs?format=raw")).await;
    (info, kept.text().len() as u64)
}

/// A bound is kept but for what one read may take.
const ONE_READ: u64 = 128 << 10;

#[tokio::test]
async fn of_two_bounds_on_output_the_lower_one_counts() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let fail = |bytes: u64| json!({ "bytes": bytes, "policy": "fail" });
    for asked in [
        json!({ "retention": fail(10_000), "limits": { "outputMax": 100_000_000 } }),
        json!({ "retention": fail(100_000_000), "limits": { "outputMax": 10_000 } }),
        json!({ "limits": { "outputMax": 10_000 } }),
    ] {
        let (info, kept) = bounded(&http, &asked).await;
        assert_eq!(info["limit"], "output", "{asked}: {info}");
        assert!(kept <= 10_000 + ONE_READ, "{asked}: {kept} bytes are kept");
    }
}

#[tokio::test]
async fn a_command_is_ended_when_what_may_not_be_dropped_fits_nowhere() {
    let small = "mkdir -p ../state/spool; mount -t tmpfs -o size=4m none ../state/spool";
    let daemon = Daemon::builder().namespace(small).start();
    let http = daemon.http();
    let asked = json!({ "command": "head -c 2000000000 /dev/zero; sleep 1000", "shell": true,
                        "retention": { "bytes": 4_000_000_000_u64, "policy": "fail" } });
    let id = made_of(&http, &asked).await;
    let info = ended(&http, &id).await;
    assert_eq!(
        (&info["limit"], &info["signal"]),
        (&json!("output"), &json!("SIGKILL")),
        "{info}"
    );
}

#[tokio::test]
async fn a_run_that_leaves_somebody_can_be_asked_for_and_stopped() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let line = "(read x < gate; echo late; sleep 1000) & echo started";
    let gate = daemon.workspace().join("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let ran = http.run(&json!({ "command": line, "shell": true })).await.json();
    let left = ran["lingering"][0].as_i64().unwrap() as i32;
    let id = ran["processId"].as_str().unwrap();
    tokio::task::spawn_blocking(|| std::fs::write(gate, "go\n"))
        .await
        .unwrap()
        .unwrap();
    let logs = format!("/v1/processes/{id}/logs?stream=after_exit&format=raw");
    let late = async {
        while http.get(&logs).await.text() != "late\n" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, late).await.unwrap();
    let killed = http.post(&format!("/v1/processes/{id}/kill"), &json!({})).await;
    assert_eq!(killed.status, 200, "{}", killed.text());
    eventually("the end of who was left", PATIENCE, || {
        (!processes::of(left, "").exists()).then_some(())
    });
}

#[tokio::test]
async fn bytes_that_are_no_text_stand_beside_it() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let asked = json!({ "command": "printf '\\377ab'; printf '\\303\\244' >&2", "shell": true });
    let ran = http.run(&asked).await.json();
    assert_eq!(
        (&ran["stdout"], &ran["stdoutB64"], &ran["stderr"]),
        (&json!("\u{fffd}ab"), &json!("/2Fi"), &json!("\u{e4}")),
        "{ran}"
    );
    assert!(ran.get("stderrB64").is_none(), "{ran}");
}

#[tokio::test]
async fn an_op_id_that_no_subject_can_hold_is_refused_and_disturbs_nobody() {
    let ways = Ways::start().await;
    for length in [513, 4090] {
        let id = "x".repeat(length);
        let start = Op::OpStart(op::shell("echo on"));
        let response = ways.control.ask_as(&id, 0, start).await;
        let error = response.error.expect("a refusal");
        assert_eq!(error.code(), ErrorCode::Protocol, "{error:?}");
    }
    let id = "x".repeat(512);
    let (_, mut client) = op::OpClient::start(&ways.control, &id, op::shell("echo on")).await;
    assert_eq!(client.finish().await.stdout, b"on\n");
}
