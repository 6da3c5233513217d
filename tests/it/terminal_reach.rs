//! The ways to a terminal besides the routes of its process: `/v1/terminals`, and extensions over NATS. And who gets the
//! one terminal that a scope has.

use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response::Result as Outcome;
use boxd::wire::proto::{Extension, OpStart};
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use hyper::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::harness::op::{OpClient, Said};
use crate::harness::viewer::Viewer;
use crate::harness::{Daemon, Ways};
use crate::http_process_life::{ended, made, made_of};

#[tokio::test]
async fn terminals_are_made_listed_and_used_by_their_own_name() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let plain = made(&http, "sleep 1000").await;
    let line = json!({ "command": "stty raw -echo; printf ready; head -c 2; exit 3", "shell": true });
    let made = http.post("/v1/terminals", &line).await.json();
    assert_eq!(made["tty"], true, "{made}");
    let id = made["id"].as_str().unwrap();
    let listed = http.get("/v1/terminals").await.json();
    let ids: Vec<_> = listed["processes"].as_array().unwrap().iter().collect();
    assert_eq!((ids.len(), &ids[0]["id"]), (1, &json!(id)), "{listed}");
    let at = |action: &str| format!("/v1/terminals/{id}{action}");
    let size = json!({ "cols": 91, "rows": 17 });
    assert_eq!(http.post(&at("/resize"), &size).await.json(), size);
    let mut viewer = Viewer::at(&http, &at("/ws")).await;
    viewer.until_shown("ready").await;
    let shown = http.get(&at("/snapshot")).await.json();
    assert_eq!(
        (&shown["cols"], &shown["rows"]),
        (&json!(91), &json!(17)),
        "{shown}"
    );
    let holder = json!({ "holder": "nobody" });
    assert_eq!(http.post(&at("/lock"), &holder).await.status, 204);
    assert_eq!(http.post(&at("/unlock"), &holder).await.status, 204);
    viewer.input("ab").await;
    assert_eq!(viewer.end().await.0["exitCode"], 3);
    assert_eq!(http.get(&at("/wait")).await.json()["exitCode"], 3);
    let logs = http.get(&at("/logs?stream=pty")).await.json();
    assert_eq!(logs["stream"], "pty", "{logs}");
    assert_eq!(http.delete(&at("")).await.status, 204);
    http.get(&at("")).await.problem(404, "not_found");
    // What has no terminal shows none by this name either.
    let snapshot = format!("/v1/terminals/{plain}/snapshot");
    http.get(&snapshot).await.problem(409, "conflict");
}

#[tokio::test]
async fn all_who_ask_for_a_scope_at_once_get_its_one_terminal() {
    let daemon = Daemon::start();
    let http = daemon.http();
    for round in 0..20 {
        let asked = json!({ "command": "cat", "tty": true, "scopeId": format!("scope {round}") });
        let ids = join_all((0..8).map(|_| made_of(&http, &asked))).await;
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }
    // Who fails to open it leaves the right to the next one.
    let missing = json!({ "command": "no such program", "tty": true, "scopeId": "new" });
    let works = json!({ "command": "cat", "tty": true, "scopeId": "new" });
    http.post("/v1/processes", &missing)
        .await
        .problem(404, "not_found");
    made_of(&http, &works).await;
}

#[tokio::test]
async fn who_goes_away_while_a_terminal_is_opened_leaves_it_whole() {
    let daemon = Daemon::start();
    let http = daemon.http();
    for round in 0..30 {
        let asked = json!({ "command": "cat", "tty": true, "scopeId": format!("scope {round}") });
        let (host, token, body) = (http.address, http.token.as_deref().unwrap(), asked.to_string());
        let request = format!(
            "POST /v1/processes HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut gone = http.socket().await;
        gone.write_all(request.as_bytes()).await.unwrap();
        drop(gone);
        let id = made_of(&http, &asked).await;
        let snapshot = format!("/v1/processes/{id}/terminal/snapshot");
        assert_eq!(http.get(&snapshot).await.status, 200);
    }
    let listed = http.get("/v1/terminals").await.json();
    assert_eq!(listed["processes"].as_array().unwrap().len(), 30, "{listed}");
}

#[tokio::test]
async fn extensions_over_nats_are_a_terminal() {
    let ways = Ways::start().await;
    let ext = |op: &str, payload: Value| Extension {
        op: op.into(),
        payload: payload.to_string().into(),
    };
    let ask = async |op: &str, payload: Value| -> Value {
        let response = ways.control.ask(Op::Ext(ext(op, payload))).await;
        let Some(Outcome::Ext(answer)) = response.result else {
            panic!("{op}: {response:?}")
        };
        serde_json::from_slice(&answer.payload).unwrap()
    };
    let line = "stty raw -echo; printf ready; head -c 3; stty size; exit 5";
    let made = ask(
        "process.create",
        json!({ "command": line, "shell": true, "tty": true }),
    )
    .await;
    let id = made["id"].clone();
    ask("process.resize", json!({ "id": id, "cols": 77, "rows": 33 })).await;
    let start = OpStart {
        ext: Some(ext("process.follow", json!({ "id": id }))),
        ..OpStart::default()
    };
    let (started, mut follower) = OpClient::start(&ways.control, "follow", start).await;
    assert!(started.accepted, "{started:?}");
    let mut said = Said::default();
    while !output(&said.content).0.contains("ready") {
        said.take(follower.next().await);
        follower.ack(follower.seen, 0, false).await;
    }
    ask(
        "process.input",
        json!({ "id": id, "data": "YWIK", "encoding": "base64" }),
    )
    .await;
    said.content.extend(follower.finish().await.content);
    let (text, exit) = output(&said.content);
    assert_eq!(text, "readyab\n33 77\n");
    assert_eq!(exit.unwrap()["exitCode"], 5);
}

#[tokio::test]
async fn who_follows_its_log_keeps_a_terminal() {
    let daemon = Daemon::builder()
        .config("[pty]\ndetach_timeout = \"1s\"\n")
        .start();
    let http = daemon.http();
    let asked = json!({ "command": "sleep 1000", "shell": true, "tty": true });
    let followed = made_of(&http, &asked).await;
    let path = format!("/v1/processes/{followed}/logs?follow=true&stream=pty");
    let follower = http
        .open(
            http.request(Method::GET, &path)
                .body(Full::<Bytes>::default())
                .unwrap(),
        )
        .await;
    // Made later and due earlier.
    let alone = made_of(&http, &asked).await;
    assert_eq!(ended(&http, &alone).await["cancelled"], true);
    let info = http.get(&format!("/v1/processes/{followed}")).await.json();
    assert_eq!(info["status"], "running", "{info}");
    drop(follower);
    ended(&http, &followed).await;
}

/// What the events of a follower say: output as text, and the end.
fn output(events: &[u8]) -> (String, Option<Value>) {
    use base64::Engine as _;
    let (mut text, mut exit) = (Vec::new(), None);
    for line in events.split_inclusive(|byte| *byte == b'\n') {
        let event: Value = serde_json::from_slice(line).unwrap();
        match event["data"].as_str() {
            Some(data) => text.extend(base64::engine::general_purpose::STANDARD.decode(data).unwrap()),
            None => exit = Some(event),
        }
    }
    (String::from_utf8(text).unwrap(), exit)
}
