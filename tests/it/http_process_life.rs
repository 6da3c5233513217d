//! Processes by their id over HTTP: made, looked at, signalled, waited for, forgotten, and what is refused.

use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};

use crate::harness::http::Http;
use crate::harness::{Daemon, processes};

/// Starts a shell line.
pub(crate) async fn made(http: &Http, line: &str) -> String {
    let asked = json!({ "command": line, "shell": true, "interactive": true });
    made_of(http, &asked).await
}

/// Starts what is asked for.
pub(crate) async fn made_of(http: &Http, asked: &Value) -> String {
    let answer = http.post("/v1/processes", asked).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// Waits for its end.
pub(crate) async fn ended(http: &Http, id: &str) -> Value {
    let info = http
        .get(&format!("/v1/processes/{id}/wait?timeoutMs=60000"))
        .await
        .json();
    assert_eq!(info["status"], "exited", "{info}");
    info
}

#[tokio::test]
async fn a_process_lives_and_is_forgotten() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let id = made(&http, "read line; echo got $line; exit 5").await;
    let path = format!("/v1/processes/{id}");
    let info = http.get(&path).await.json();
    assert_eq!(
        (&info["status"], &info["shell"]),
        (&json!("running"), &json!(true))
    );
    assert!(
        info["pid"].as_i64().unwrap() > 1 && info.get("exitCode").is_none(),
        "{info}"
    );
    let waited = http.get(&format!("{path}/wait?timeoutMs=0")).await.json();
    assert_eq!(waited["status"], "running");
    http.delete(&path).await.problem(409, "conflict");
    let input = json!({ "data": "it\n", "encoding": "utf8" });
    let written = http.post(&format!("{path}/input"), &input).await.json();
    assert_eq!(written["bytesWritten"], 3);
    let info = ended(&http, &id).await;
    assert_eq!((&info["exitCode"], &info["timedOut"]), (&json!(5), &json!(false)));
    assert_eq!(
        info["channels"]["stdout"]["blake3"],
        blake3::hash(b"got it\n").to_string()
    );
    assert!(info.get("pid").is_none(), "{info}");
    http.post(&format!("{path}/input"), &input)
        .await
        .problem(409, "conflict");
    http.post(&format!("{path}/stdin/close"), &json!({}))
        .await
        .problem(409, "conflict");
    assert_eq!(http.delete(&path).await.status, 204);
    http.get(&path).await.problem(404, "not_found");
}

#[tokio::test]
async fn standard_input_is_closed_once() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let id = made(&http, "cat; echo over; read never < /dev/null; exec sleep 1000").await;
    let close = format!("/v1/processes/{id}/stdin/close");
    assert_eq!(http.post(&close, &json!({})).await.status, 200);
    http.post(&format!("/v1/processes/{id}/input"), &json!({ "data": "eA==" }))
        .await
        .problem(409, "conflict");
    let again = http.post(&close, &json!({})).await;
    assert!([200, 409].contains(&again.status.as_u16()), "{}", again.text());
    http.post(&format!("/v1/processes/{id}/kill?waitMs=20000"), &json!({}))
        .await;
    let plain = made_of(&http, &json!({ "command": "sleep", "args": ["1000"] })).await;
    http.post(
        &format!("/v1/processes/{plain}/input"),
        &json!({ "data": "eA==" }),
    )
    .await
    .problem(409, "conflict");
}

#[tokio::test]
async fn nonsense_is_a_typed_error() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let id = made(&http, "exec sleep 1000").await;
    for wrong in [
        "proc_999",
        "proc_",
        "proc_-1",
        "proc_99999999999999999999",
        "1",
        "%FF",
        "a%2Fb",
    ] {
        for (method, rest) in [
            (Method::GET, ""),
            (Method::DELETE, ""),
            (Method::GET, "/logs"),
            (Method::GET, "/wait"),
            (Method::POST, "/stop"),
            (Method::POST, "/kill"),
            (Method::POST, "/stdin/close"),
        ] {
            let path = format!("/v1/processes/{wrong}{rest}");
            let request = http.request(method, &path).body(http_body_util::Full::default());
            http.send(request.unwrap()).await.problem(404, "not_found");
        }
    }
    let post = |rest: &str| format!("/v1/processes/{id}/{rest}");
    for query in [
        "stop?waitMs=-1",
        "stop?killAfterMs=x",
        "kill?waitMs=1.5",
        "kill?waitMs=1&waitMs=2",
    ] {
        http.post(&post(query), &json!({}))
            .await
            .problem(400, "invalid_request");
    }
    http.get(&post("wait?timeoutMs=-5"))
        .await
        .problem(422, "invalid_request");
    for signal in [
        json!({}),
        json!({ "signal": "NOPE" }),
        json!({ "signal": 0 }),
        json!({ "signal": 65 }),
        json!({ "signal": -9 }),
        json!({ "signal": [] }),
        json!({ "signal": "TERM", "scope": "everyone" }),
        json!({ "signal": "TERM", "extra": 1 }),
    ] {
        http.post(&post("signal"), &signal)
            .await
            .problem(422, "invalid_request");
    }
    for asked in [
        json!({ "command": "true", "retention": { "bytes": 0 } }),
        json!({ "command": "true", "retention": { "policy": "never" } }),
        json!({ "command": "true", "timeoutMs": -1 }),
        json!({ "command": "true", "labels": { "a": 1 } }),
        json!({ "command": "true", "limits": { "memoryMax": 0 } }),
        json!({ "command": "true", "cols": 80 }),
        json!({ "command": "true", "tty": true, "cols": 0 }),
        json!({ "command": "true", "user": "" }),
    ] {
        http.post("/v1/processes", &asked)
            .await
            .problem(400, "invalid_request");
    }
    let nobody = json!({ "command": "true", "user": "nobody at all" });
    let problem = http
        .post("/v1/processes", &nobody)
        .await
        .problem(404, "not_found");
    assert!(
        problem["detail"].as_str().unwrap().contains("nobody at all"),
        "{problem}"
    );
    let asked = json!({ "command": "true", "someday": 1 });
    assert_eq!(http.post("/v1/processes", &asked).await.status, 200);
}

#[tokio::test]
async fn a_signal_reaches_the_tree_or_the_leader() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let id = made(
        &http,
        "trap 'echo usr1; exit 7' USR1; echo ready; while :; do read line; done",
    )
    .await;
    http.until_logged(&id, "ready\n").await;
    let asked = json!({ "signal": "usr1", "scope": "leader" });
    let said = http
        .post(&format!("/v1/processes/{id}/signal"), &asked)
        .await
        .json();
    assert_eq!(said["signalled"].as_array().unwrap().len(), 1, "{said}");
    let close = format!("/v1/processes/{id}/stdin/close");
    http.post(&close, &json!({})).await;
    let info = ended(&http, &id).await;
    assert_eq!(info["exitCode"], 7, "{info}");
}

#[tokio::test]
async fn after_a_stop_nothing_of_the_tree_is_left() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let line =
        "trap '' TERM; (setsid sh -c 'trap \"\" TERM; sleep 1000 & sleep 1000' &) ; echo ready; sleep 1000";
    let id = made(&http, line).await;
    http.until_logged(&id, "ready\n").await;
    let before = Instant::now();
    let stop = format!("/v1/processes/{id}/stop?waitMs=30000&killAfterMs=200");
    let said = http.post(&stop, &json!({})).await.json();
    assert_eq!(
        (&said["status"], &said["signal"]),
        (&json!("exited"), &json!("SIGKILL")),
        "{said}"
    );
    assert!(
        said.get("survivors").is_none() && said["tree"].is_string(),
        "{said}"
    );
    assert!(before.elapsed() > Duration::from_millis(200));
    assert_eq!(
        processes::with_environment(daemon.mark()),
        [daemon.pid()],
        "only the daemon is left"
    );
}

#[tokio::test]
async fn a_stop_without_escalation_leaves_the_stubborn_alive() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let id = made(
        &http,
        "trap '' TERM; echo ready; while :; do read line || sleep 1; done",
    )
    .await;
    http.until_logged(&id, "ready\n").await;
    let said = http
        .post(&format!("/v1/processes/{id}/stop?waitMs=100"), &json!({}))
        .await
        .json();
    assert_eq!(said["status"], "running", "{said}");
    let said = http
        .post(&format!("/v1/processes/{id}/kill?waitMs=20000"), &json!({}))
        .await
        .json();
    assert_eq!(said["status"], "exited", "{said}");
}

#[tokio::test]
async fn the_same_key_makes_one_process() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let asked = json!({ "command": "echo x >> ran; exec sleep 1000", "shell": true, "idempotencyKey": "k" });
    let all = (0..10).map(|_| http.post("/v1/processes", &asked));
    let answers = futures_util::future::join_all(all).await;
    let mut ids = std::collections::BTreeSet::new();
    for answer in &answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
        ids.insert(answer.json()["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
    let again = made_of(&http, &asked).await;
    assert!(ids.contains(&again));
    let other = json!({ "command": "true", "idempotencyKey": "k" });
    http.post("/v1/processes", &other).await.problem(409, "conflict");
    let path = format!("/v1/processes/{again}/kill?waitMs=20000");
    http.post(&path, &json!({})).await;
    assert_eq!(std::fs::read(daemon.workspace().join("ran")).unwrap(), b"x\n");
}

#[tokio::test]
async fn the_same_key_of_what_cannot_be_made_is_refused_to_each() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let asked = json!({ "command": "/no/such/program", "idempotencyKey": "k" });
    let all = (0..10).map(|_| http.post("/v1/processes", &asked));
    for answer in futures_util::future::join_all(all).await {
        assert!(answer.status.is_client_error(), "{}", answer.text());
        assert!(answer.text().contains("/no/such/program"), "{}", answer.text());
    }
    made_of(&http, &json!({ "command": "true", "idempotencyKey": "k" })).await;
}

#[tokio::test]
async fn who_writes_on_after_the_record_is_gone_lives_on() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let (fifo, wrote) = (daemon.workspace().join("go"), daemon.workspace().join("wrote"));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let line = "(read x < go; head -c 1000000 /dev/zero && echo $x > wrote; read x < go) & echo left";
    let id = made(&http, line).await;
    let info = ended(&http, &id).await;
    assert_eq!(info["lingering"].as_array().unwrap().len(), 1, "{info}");
    assert_eq!(http.delete(&format!("/v1/processes/{id}")).await.status, 204);
    tokio::task::spawn_blocking(move || std::fs::write(fifo, "went\n").unwrap())
        .await
        .unwrap();
    let reached = async {
        while std::fs::read(&wrote).map_or(true, |text| text != b"went\n") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached)
        .await
        .expect("it neither blocks nor dies of SIGPIPE");
}

#[tokio::test]
async fn what_is_written_after_the_end_has_a_log_of_its_own() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let fifo = daemon.workspace().join("go");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let id = made(&http, "(read x < go; echo $x) & echo left").await;
    ended(&http, &id).await;
    tokio::task::spawn_blocking(move || std::fs::write(fifo, "late\n").unwrap())
        .await
        .unwrap();
    let logs = format!("/v1/processes/{id}/logs?format=raw");
    let late = async {
        while http.get(&format!("{logs}&stream=after_exit")).await.text() != "late\n" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), late).await.unwrap();
    assert_eq!(http.get(&logs).await.text(), "left\n");
    assert_eq!(
        http.get(&format!("/v1/processes/{id}")).await.json()["afterExitBytes"],
        5
    );
    http.get(&format!("/v1/processes/{id}/logs?stream=after_exit&follow=true"))
        .await
        .problem(400, "invalid_request");
}

#[tokio::test]
async fn more_output_than_may_be_ends_the_process_by_its_limit() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let asked = json!({ "command": "yes; sleep 1000", "shell": true,
                        "retention": { "bytes": 100_000, "policy": "fail" } });
    let id = made_of(&http, &asked).await;
    let info = ended(&http, &id).await;
    assert_eq!(
        (&info["limit"], &info["signal"]),
        (&json!("output"), &json!("SIGKILL")),
        "{info}"
    );
}

#[tokio::test]
async fn several_commands_run_in_one_request() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let echo = |text: &str| json!({ "command": "echo", "args": [text] });
    let runs: Vec<_> = (0..20).map(|number| echo(&number.to_string())).collect();
    let answer = http
        .post("/v1/processes/batch", &json!({ "runs": runs, "parallel": 5 }))
        .await;
    let results = answer.json()["results"].clone();
    for (number, result) in results.as_array().unwrap().iter().enumerate() {
        assert_eq!(result["stdout"], format!("{number}\n"), "{result}");
    }
    let runs = json!([echo("a"), { "command": "false" }, echo("b")]);
    let answer = http
        .post(
            "/v1/processes/batch",
            &json!({ "runs": runs, "parallel": 1, "stopOnFailure": true }),
        )
        .await;
    let results = answer.json()["results"].clone();
    assert_eq!(results[1]["exitCode"], 1);
    assert_eq!(results[2], json!({ "skipped": true }));
    for wrong in [
        json!({}),
        json!({ "runs": [] }),
        json!({ "runs": [{}] }),
        json!({ "runs": [], "x": 1 }),
    ] {
        http.post("/v1/processes/batch", &wrong)
            .await
            .problem(422, "invalid_request");
    }
}
