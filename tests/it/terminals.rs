//! Terminals: bytes both ways over a `WebSocket`, sizes, several viewers, who may write, and what is refused.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::Digest as _;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::harness::Daemon;
use crate::harness::http::Http;
use crate::harness::viewer::{Viewer, handshake};
use crate::http_process_life::{ended, made, made_of};

/// Starts a shell line in a terminal.
async fn terminal(http: &Http, line: &str) -> String {
    let asked = json!({ "command": line, "shell": true, "tty": true });
    made_of(http, &asked).await
}

#[tokio::test]
async fn bytes_pass_both_ways_and_the_exit_comes_last() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let id = terminal(&http, "stty raw -echo; printf ready; head -c 6; exit 3").await;
    let mut viewer = Viewer::open(&http, &id, "").await;
    assert_eq!(
        viewer.ready,
        json!({ "type": "ready", "processId": id, "offset": 0 })
    );
    viewer.until_shown("ready").await;
    viewer.input(&b"\0\xff\n"[..]).await;
    viewer.say(&json!({ "type": "input", "data": "t" })).await;
    viewer
        .say(&json!({ "type": "input", "data": "_gM=", "encoding": "base64" }))
        .await;
    viewer
        .until("a refusal", |viewer| {
            viewer.told.iter().any(|said| said["code"] == "invalid_request")
        })
        .await;
    viewer.say(&json!({ "type": "someday" })).await;
    viewer
        .until("a refusal", |viewer| {
            viewer.told.iter().any(|said| said["code"] == "protocol")
        })
        .await;
    viewer.say(&json!({ "type": "close" })).await;
    assert_eq!(viewer.close().await, CloseCode::Normal);
    // Another one goes on where it likes.
    let mut viewer = Viewer::open(&http, &id, "?offset=5").await;
    viewer
        .say(&json!({ "type": "input", "data": "/gM=", "encoding": "base64" }))
        .await;
    let (exit, close) = viewer.end().await;
    assert_eq!(exit, json!({ "type": "exit", "exitCode": 3 }));
    assert_eq!(
        (viewer.bytes.as_slice(), close),
        (&b"\0\xff\nt\xfe\x03"[..], CloseCode::Normal)
    );
    // Whoever looks after the end is told everything, too.
    let mut late = Viewer::open(&http, &id, "").await;
    assert_eq!(late.end().await.0["exitCode"], 3);
    assert_eq!(late.bytes, b"ready\0\xff\nt\xfe\x03");
    let input = json!({ "data": "", "encoding": "utf8" });
    http.post(&format!("/v1/processes/{id}/input"), &input)
        .await
        .problem(409, "conflict");
}

#[tokio::test]
async fn a_storm_of_resizes_ends_at_the_last_size() {
    let daemon = Daemon::start();
    let http = daemon.http();
    // A trap runs after the last of the signals that it stands for.
    let line = "trap 'stty size' WINCH; echo ready; while :; do read x; done";
    let id = terminal(&http, line).await;
    let mut viewer = Viewer::open(&http, &id, "").await;
    viewer.until_shown("ready").await;
    for size in 1..=1000 {
        viewer.resize(size, 1001 - size).await;
    }
    viewer.resize(1000, 1).await;
    viewer.until_shown("1 1000\r\n").await;
    let resize = format!("/v1/processes/{id}/terminal/resize");
    let size = json!({ "cols": 77, "rows": 11 });
    assert_eq!(http.post(&resize, &size).await.json(), size);
    viewer.until_shown("11 77\r\n").await;
    for wrong in [
        json!({ "cols": 0, "rows": 1 }),
        json!({ "cols": 1, "rows": 1001 }),
        json!({ "cols": -1, "rows": 1 }),
        json!({ "cols": 80 }),
        json!({}),
    ] {
        http.post(&resize, &wrong).await.problem(400, "invalid_request");
    }
    viewer.resize(0, 0).await;
    viewer
        .until("a refusal", |viewer| {
            viewer.told.iter().any(|said| said["code"] == "invalid_request")
        })
        .await;
}

#[tokio::test]
async fn five_megabytes_are_pasted_whole() {
    const PASTE: usize = 5 << 20;
    let daemon = Daemon::start();
    let http = daemon.http();
    let id = terminal(
        &http,
        &format!("stty raw -echo; printf ready; head -c {PASTE} | sha256sum"),
    )
    .await;
    let mut viewer = Viewer::open(&http, &id, "").await;
    viewer.until_shown("ready").await;
    let paste: Vec<u8> = (0..PASTE as u64)
        .map(|index| ((index * index) >> 7) as u8)
        .collect();
    viewer.input(paste.clone()).await;
    viewer.end().await;
    let digest = format!("{:x}", sha2::Sha256::digest(&paste));
    let said = String::from_utf8(viewer.bytes).unwrap();
    assert!(said.contains(&digest), "{said}");
}

#[tokio::test]
async fn of_several_viewers_the_holder_of_the_lock_types() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let id = terminal(
        &http,
        "stty -echo; echo ready; while read x; do echo got $x; done",
    )
    .await;
    let mut one = Viewer::open(&http, &id, "?viewer=one").await;
    let mut two = Viewer::open(&http, &id, "?viewer=two").await;
    for viewer in [&mut one, &mut two] {
        viewer.until_shown("ready").await;
    }
    two.input("a\n").await;
    for viewer in [&mut one, &mut two] {
        viewer.until_shown("got a").await;
    }
    let path = |what: &str| format!("/v1/processes/{id}/terminal/{what}");
    let holder = |name: &str| json!({ "holder": name });
    assert_eq!(http.post(&path("lock"), &holder("one")).await.status, 204);
    http.post(&path("lock"), &holder("two"))
        .await
        .problem(409, "conflict");
    http.post(&path("unlock"), &holder("two"))
        .await
        .problem(409, "conflict");
    let input = json!({ "data": "b\n", "encoding": "utf8" });
    http.post(&format!("/v1/processes/{id}/input"), &input)
        .await
        .problem(409, "conflict");
    one.input("c\n").await;
    one.until_shown("got c").await;
    two.input("d\n").await;
    two.until("a refusal", |viewer| {
        viewer.told.iter().any(|said| said["code"] == "conflict")
    })
    .await;
    let steal = json!({ "holder": "three", "steal": true });
    assert_eq!(http.post(&path("lock"), &steal).await.status, 204);
    assert_eq!(http.post(&path("unlock"), &holder("three")).await.status, 204);
    one.input("e\n").await;
    one.until_shown("got e").await;
    two.until_shown("got e").await;
    assert!(!String::from_utf8_lossy(&one.bytes).contains("got d"));
}

#[tokio::test]
async fn a_scope_has_one_live_terminal() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let asked = json!({ "command": "cat", "tty": true, "scopeId": "build" });
    let first = made_of(&http, &asked).await;
    assert_eq!(made_of(&http, &asked).await, first);
    let other = json!({ "command": "cat", "tty": true, "scopeId": "test" });
    assert_ne!(made_of(&http, &other).await, first);
    let kill = format!("/v1/processes/{first}/kill?waitMs=20000");
    assert_eq!(http.post(&kill, &json!({})).await.json()["status"], "exited");
    assert_ne!(made_of(&http, &asked).await, first);
}

#[tokio::test]
async fn a_viewer_that_does_not_read_is_told_what_it_missed_and_delays_nobody() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let line = "stty raw -echo; read x; seq 1 2000000; printf end";
    let retention = json!({ "policy": "drop_oldest", "bytes": 1 << 20 });
    let asked = json!({ "command": line, "shell": true, "tty": true, "retention": retention });
    let id = made_of(&http, &asked).await;
    let mut stopped = Viewer::open(&http, &id, "").await;
    let input = json!({ "data": "\n", "encoding": "utf8" });
    http.post(&format!("/v1/processes/{id}/input"), &input).await;
    assert_eq!(ended(&http, &id).await["exitCode"], 0);
    let snapshot = http
        .get(&format!("/v1/processes/{id}/terminal/snapshot"))
        .await
        .json();
    let lines = snapshot["lines"].to_string();
    assert!(lines.contains("2000000"), "{lines}");
    stopped
        .until("a gap", |viewer| {
            viewer.told.iter().any(|said| said["type"] == "gap")
        })
        .await;
    stopped.until_shown("end").await;
}

#[tokio::test]
async fn the_program_is_answered_only_while_nobody_looks() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let line = "stty raw -echo; printf '\\033[5n'; head -c 4 | od -An -c; head -c 1; printf '\\033[5n'; head -c 1 | od -An -c";
    let id = terminal(&http, line).await;
    let snapshot = format!("/v1/processes/{id}/terminal/snapshot");
    let answered = async {
        while !http.get(&snapshot).await.text().contains("033   [   0   n") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::harness::PATIENCE, answered)
        .await
        .unwrap();
    let mut viewer = Viewer::open(&http, &id, "?restore=true").await;
    viewer.input("x").await;
    viewer.until_shown("\u{1b}[5n").await;
    viewer.input("y").await;
    viewer.end().await;
    assert!(String::from_utf8_lossy(&viewer.bytes).ends_with("   y\n"));
}

#[tokio::test]
async fn who_may_look_is_checked_before_the_handshake() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let id = terminal(&http, "exec cat").await;
    let try_with = async |http: &Http, id: &str, query: &str, headers: &[(&'static str, &str)]| {
        let request = handshake(http, id, query, headers);
        Viewer::with(http, request).await.map(|viewer| viewer.ready)
    };
    let anonymous = http.anonymous();
    let token = daemon.token();
    let subprotocol = format!("boxd.v1, bearer.{}", URL_SAFE_NO_PAD.encode(&token));
    assert!(
        try_with(&anonymous, &id, &format!("?access_token={token}"), &[])
            .await
            .is_ok()
    );
    let headers = [("sec-websocket-protocol", subprotocol.as_str())];
    assert!(try_with(&anonymous, &id, "", &headers).await.is_ok());
    assert_eq!(try_with(&anonymous, &id, "", &[]).await, Err(401));
    assert_eq!(
        try_with(&anonymous, &id, "?access_token=wrong", &[]).await,
        Err(401)
    );
    let foreign = [("origin", "https://elsewhere.example")];
    assert_eq!(try_with(&http, &id, "", &foreign).await, Err(403));
    assert_eq!(try_with(&http, "proc_999999", "", &[]).await, Err(404));
    assert_eq!(try_with(&http, "nonsense", "", &[]).await, Err(404));
    assert_eq!(
        try_with(&http, &id, "?offset=5000000", &[]).await,
        Err(400),
        "nobody wrote that much yet"
    );
    let pipes = made(&http, "exec cat").await;
    assert_eq!(try_with(&http, &pipes, "", &[]).await, Err(409));
    for what in ["resize", "lock"] {
        let asked = json!({ "cols": 1, "rows": 1 });
        let asked = if what == "lock" {
            json!({ "holder": "a" })
        } else {
            asked
        };
        let answer = http
            .post(&format!("/v1/processes/{pipes}/terminal/{what}"), &asked)
            .await;
        assert!(
            answer.status == 409 || answer.status == 404,
            "{what}: {}",
            answer.text()
        );
    }
    http.get(&format!("/v1/processes/{pipes}/terminal/snapshot"))
        .await
        .problem(409, "conflict");
    let plain = http.get(&format!("/v1/processes/{id}/terminal/ws")).await;
    assert!(plain.status == 400 || plain.status == 426, "{}", plain.text());
}

#[tokio::test]
async fn a_snapshot_has_what_is_shown_and_pages_of_what_scrolled_away() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let id = terminal(&http, "seq 1 100; printf '\\033[1;31mred\\033[0m'; exit 0").await;
    ended(&http, &id).await;
    let path = format!("/v1/processes/{id}/terminal/snapshot?cells=true&historyFrom=10&historyLines=3");
    let snapshot = http.get(&path).await.json();
    let lines: Vec<String> = serde_json::from_value(snapshot["lines"].clone()).unwrap();
    assert_eq!(
        (lines.len(), lines[22].as_str(), lines[23].as_str()),
        (24, "100", "red")
    );
    let of = |value: &Value| {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        of(&snapshot["history"]["lines"]),
        ["\"11\"", "\"12\"", "\"13\""],
        "{}",
        snapshot["history"]
    );
    let red = &snapshot["cells"][23][0];
    assert!(red["text"] == "red" && red["foreground"] == "1", "{red}");
    assert_eq!(
        (&snapshot["cursor"], &snapshot["exact"]),
        (&json!([23, 3]), &json!(true))
    );
}
