//! Commands over HTTP: the contract's answer, our additions, limits, and what a lost connection does not end.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::harness::Daemon;

#[tokio::test]
async fn a_command_answers_the_contract_and_more() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let script = "cat; echo err >&2; pwd; echo $A; exit 3";
    let asked =
        json!({ "command": "sh", "args": ["-c", script], "cwd": "/", "env": { "A": "b" }, "stdin": "in\n" });
    let answer = http.run(&asked).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let run = answer.json();
    assert_eq!((&run["exitCode"], &run["timedOut"]), (&json!(3), &json!(false)));
    assert_eq!(
        (&run["stdout"], &run["stderr"]),
        (&json!("in\n/\nb\n"), &json!("err\n"))
    );
    assert_eq!(
        (&run["stdoutTruncated"], &run["stderrTruncated"]),
        (&json!(false), &json!(false))
    );
    assert!(run["durationMs"].is_u64() && run["cpuMs"].is_u64(), "{run}");
    // Left out where the peak of the daemon itself hides that of a small command.
    assert!(
        run.get("peakRssBytes").is_none_or(|peak| peak.as_u64() > Some(0)),
        "{run}"
    );
    assert_eq!(
        (&run["lingering"], &run["timeoutMs"]),
        (&json!([]), &json!(30_000))
    );
    assert!(run["processId"].as_str().unwrap().starts_with("proc_"), "{run}");
    assert_eq!(run["stdoutBlake3"], blake3::hash(b"in\n/\nb\n").to_string());

    let run = http
        .run(&json!({ "command": "echo $((1+1))", "shell": true }))
        .await
        .json();
    assert_eq!(run["stdout"], "2\n");
    let run = http
        .run(&json!({ "command": "printf '\\377\\001'", "shell": true, "encoding": "base64" }))
        .await
        .json();
    assert_eq!(
        (&run["stdout"], &run["encoding"]),
        (&json!("/wE="), &json!("base64"))
    );
    let run = http
        .run(&json!({ "command": "sh", "args": ["-c", "kill -9 $$"] }))
        .await
        .json();
    assert_eq!(
        (&run["exitCode"], &run["signal"], &run["signalNumber"]),
        (&json!(null), &json!("SIGKILL"), &json!(9))
    );
    assert!(
        http.run(&json!({ "command": "true" }))
            .await
            .text()
            .contains("\"exitCode\":0")
    );
}

#[tokio::test]
async fn what_cannot_start_is_blamed_right() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let problem = http
        .run(&json!({ "command": "no-such-program" }))
        .await
        .problem(404, "not_found");
    assert!(
        problem["detail"].as_str().unwrap().contains("no-such-program"),
        "{problem}"
    );
    let problem = http
        .run(&json!({ "command": "true", "cwd": "/no/such" }))
        .await
        .problem(404, "not_found");
    assert!(
        problem["detail"].as_str().unwrap().contains("/no/such"),
        "{problem}"
    );
    http.run(&json!({ "command": "/etc/passwd" }))
        .await
        .problem(403, "permission_denied");
}

#[tokio::test]
async fn limits_apply_and_say_so() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let run = http
        .run(&json!({ "command": "sleep", "args": ["60"], "timeoutMs": 100 }))
        .await
        .json();
    assert_eq!((&run["timedOut"], &run["exitCode"]), (&json!(true), &json!(null)));

    let script = json!({ "command": "seq 1 100000", "shell": true, "maxOutputBytes": 1000 });
    let run = http.run(&script).await.json();
    let text = run["stdout"].as_str().unwrap();
    assert_eq!(run["stdoutTruncated"], true);
    assert!(
        text.starts_with("1\n2\n") && text.ends_with("\n100000\n"),
        "{text}"
    );
    assert!(text.contains("bytes left out here"), "{text}");
    let omitted = run["stdoutOmittedBytes"].as_u64().unwrap();
    assert_eq!(run["stdoutBytes"].as_u64().unwrap(), omitted + 1000);
    // The answer says where the rest is, and there it is.
    let path = text
        .split_once("; GET ")
        .and_then(|(_, rest)| rest.split_once(" reads"))
        .unwrap()
        .0;
    let all: Vec<_> = (1..=100_000).map(|number| format!("{number}\n")).collect();
    assert_eq!(http.get(path).await.text(), all.concat());
    let whole = http.run(&json!({ "command": "true" })).await.json();
    let whole = format!("/v1/processes/{}", whole["processId"].as_str().unwrap());
    http.get(&whole).await.problem(404, "not_found");
    // What was moved out of memory meanwhile comes back too.
    http.post("/v1/processes/config", &json!({ "maxOutputBytes": 16_000_000 }))
        .await;
    let script = json!({ "command": "head -c 15000000 /dev/zero", "shell": true, "encoding": "base64" });
    let run = http.run(&script).await.json();
    assert_eq!(run["stdoutTruncated"], false, "{}", run["stdoutOmittedBytes"]);
    assert_eq!(run["stdout"].as_str().unwrap().len(), 20_000_000);

    let changed = http
        .post(
            "/v1/processes/config",
            &json!({ "maxRunTimeoutMs": 200, "maxConcurrentProcesses": 1 }),
        )
        .await;
    let config = changed.json();
    assert_eq!(
        (&config["maxRunTimeoutMs"], &config["defaultRunTimeoutMs"]),
        (&json!(200), &json!(200))
    );
    assert_eq!(http.get("/v1/processes/config").await.json(), config);
    let run = http
        .run(&json!({ "command": "sleep", "args": ["60"], "timeoutMs": 99_999 }))
        .await
        .json();
    assert_eq!((&run["timedOut"], &run["timeoutMs"]), (&json!(true), &json!(200)));

    http.post("/v1/processes/config", &json!({ "maxRunTimeoutMs": 60_000 }))
        .await;
    let (started, fifo) = (daemon.workspace().join("started"), daemon.workspace().join("go"));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let slow = json!({ "command": ": > started; read line < go; echo $line", "shell": true });
    let slow = tokio::spawn({
        let http = http.clone();
        async move { http.run(&slow).await.json() }
    });
    until(|| started.exists()).await;
    http.run(&json!({ "command": "true" }))
        .await
        .problem(409, "conflict");
    tokio::task::spawn_blocking(move || std::fs::write(fifo, "went\n").unwrap())
        .await
        .unwrap();
    assert_eq!(slow.await.unwrap()["stdout"], "went\n");
}

#[tokio::test]
async fn a_background_child_does_not_delay_the_answer() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let before = Instant::now();
    let run = http
        .run(&json!({ "command": "sleep 300 & echo done", "shell": true }))
        .await
        .json();
    assert_eq!(run["stdout"], "done\n");
    assert!(
        before.elapsed() < Duration::from_secs(5),
        "{:?}",
        before.elapsed()
    );
    assert_eq!(run["lingering"].as_array().unwrap().len(), 1, "{run}");
}

#[tokio::test]
async fn ten_megabytes_pass_both_ways() {
    let daemon = Daemon::start();
    let http = daemon.http();
    http.post("/v1/processes/config", &json!({ "maxOutputBytes": 20_000_000 }))
        .await;
    let text = "0123456789abcde\n".repeat(10_000_000 / 16);
    let run = http.run(&json!({ "command": "cat", "stdin": text })).await.json();
    assert_eq!(run["stdoutTruncated"], false);
    assert!(run["stdout"] == text.as_str());
}

#[tokio::test]
async fn the_same_key_runs_once() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let asked = json!({ "command": "echo x >> ran; echo done", "shell": true, "idempotencyKey": "k1" });
    let first = http.run(&asked).await.json();
    let second = http.run(&asked).await.json();
    assert_eq!(first["processId"], second["processId"]);
    assert_eq!(std::fs::read(daemon.workspace().join("ran")).unwrap(), b"x\n");
    let other = json!({ "command": "echo other", "shell": true, "idempotencyKey": "k1" });
    http.run(&other).await.problem(409, "conflict");
}

#[tokio::test]
async fn a_command_outlives_the_connection_that_asked_for_it() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let (fifo, done) = (daemon.workspace().join("go"), daemon.workspace().join("done"));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let body =
        json!({ "command": ": > started; read line < go; echo $line > done", "shell": true }).to_string();
    let request = format!(
        "POST /v1/processes/run HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        daemon.token(),
        body.len()
    );
    let mut socket = http.socket().await;
    socket.write_all(request.as_bytes()).await.unwrap();
    let started = daemon.workspace().join("started");
    until(|| started.exists()).await;
    drop(socket);
    assert_eq!(http.get("/v1/health").await.status, 200);
    tokio::task::spawn_blocking(move || std::fs::write(fifo, "went\n").unwrap())
        .await
        .unwrap();
    until(|| std::fs::read(&done).is_ok_and(|content| content == b"went\n")).await;
}

/// Waits for a file-system event that nothing else reports.
async fn until(condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached)
        .await
        .expect("the condition comes true");
}
