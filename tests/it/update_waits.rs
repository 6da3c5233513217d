//! What an update waits for, and who does not wait.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fs_faults::drafts;
use crate::harness::releases::{Releases, another, sha256};
use crate::harness::{Daemon, PATIENCE, eventually};
use crate::update_daemon::{running, status, update, updating};

/// Waits until the update is that far.
async fn until_stage(daemon: &Daemon, stage: &str) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let progress = status(daemon).await["progress"].clone();
        if progress["stage"] == stage {
            return progress;
        }
        assert!(tokio::time::Instant::now() < deadline, "{progress}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Asks for an update and waits until nothing but what is under way is in its way; it stays so.
async fn waits(daemon: &Daemon) {
    assert_eq!(daemon.http().post("/v1/update", &json!({})).await.status, 202);
    until_stage(daemon, "waiting_for_idle").await;
    // Three of its looks.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(status(daemon).await["progress"]["stage"], "waiting_for_idle");
}

/// A daemon with a newer release, and the digest of that.
fn outdated(directory: &Path, releases: &Releases) -> (Daemon, String) {
    let (builder, _program) = updating(directory, releases);
    let fresh = another("the next one");
    releases.publish("99.0.0", &fresh, |_| {});
    (builder.start(), sha256(&fresh))
}

/// A request for a file, with what comes behind its head.
fn request(daemon: &Daemon, line: &str, rest: &str) -> Vec<u8> {
    let (host, token) = (daemon.http().address, daemon.token());
    format!("{line} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n{rest}").into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_comes_in_is_waited_for() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (mut daemon, fresh) = outdated(directory.path(), &releases);
    let mut socket = daemon.http().socket().await;
    let begun = request(
        &daemon,
        "PUT /v1/fs/file?path=in",
        "content-length: 10\r\n\r\nfirst",
    );
    socket.write_all(&begun).await.unwrap();
    let pid = daemon.pid();
    eventually("the write to begin", PATIENCE, || (drafts(pid) > 0).then_some(()));
    waits(&daemon).await;
    socket.write_all(b" last").await.unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    daemon.ready_again();
    assert_eq!(running(daemon.pid()), fresh);
    assert_eq!(
        daemon.http().get("/v1/fs/file?path=in").await.text(),
        "first last"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_goes_out_is_waited_for() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (mut daemon, fresh) = outdated(directory.path(), &releases);
    let file = fs::File::create(daemon.workspace().join("out")).unwrap();
    file.set_len(64 << 20).unwrap();
    let mut socket = daemon.http().socket().await;
    socket
        .write_all(&request(
            &daemon,
            "GET /v1/fs/file?path=out",
            "connection: close\r\n\r\n",
        ))
        .await
        .unwrap();
    let mut first = [0; 12];
    socket.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    waits(&daemon).await;
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() > 64 << 20, "{} bytes came", rest.len());
    daemon.ready_again();
    assert_eq!(running(daemon.pid()), fresh);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_between_two_of_its_pieces_is_waited_for() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (mut daemon, fresh) = outdated(directory.path(), &releases);
    let piece =
        |seq, offset, last| format!("/v1/fs/file?path=whole&upload=u&seq={seq}&offset={offset}&last={last}");
    let http = daemon.http();
    assert_eq!(http.put(&piece(1, 0, false), "first").await.status, 200);
    waits(&daemon).await;
    assert_eq!(http.put(&piece(2, 5, true), " last").await.status, 200);
    daemon.ready_again();
    assert_eq!(running(daemon.pid()), fresh);
    assert_eq!(
        daemon.http().get("/v1/fs/file?path=whole").await.text(),
        "first last"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_forces_does_not_wait_behind_who_waits() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (mut daemon, fresh) = outdated(directory.path(), &releases);
    let sleeper = json!({ "command": "sleep", "args": ["600"] });
    assert_eq!(daemon.http().post("/v1/processes", &sleeper).await.status, 200);
    let program = directory.path().join("boxd");
    let waiting = update(&daemon, &program)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until_stage(&daemon, "waiting_for_idle").await;
    let output = update(&daemon, &program).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("is under way"),
        "{said}"
    );
    let output = update(&daemon, &program).arg("--force").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{}", daemon.log());
    assert!(daemon.log().contains("gave way"), "{}", daemon.log());
    daemon.ready_again();
    assert_eq!(running(daemon.pid()), fresh);
    // Who watched the other one does so for a minute, in which it could still be heard of.
    let waiting = tokio::task::spawn_blocking(|| waiting.wait_with_output().unwrap());
    let output = tokio::time::timeout(Duration::from_secs(90), waiting).await;
    let output = output.expect("it watches for ever").unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("does not know it"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_waits_goes_on_when_it_is_forced() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (mut daemon, fresh) = outdated(directory.path(), &releases);
    let http = daemon.http();
    let sleeper = json!({ "command": "sleep", "args": ["600"] });
    assert_eq!(http.post("/v1/processes", &sleeper).await.status, 200);
    let asked = json!({ "operationId": "it" });
    assert_eq!(http.post("/v1/update", &asked).await.status, 202);
    until_stage(&daemon, "waiting_for_idle").await;
    let forced = json!({ "operationId": "it", "force": true });
    assert_eq!(http.post("/v1/update", &forced).await.status, 202);
    daemon.ready_again();
    assert_eq!(running(daemon.pid()), fresh);
    assert_eq!(status(&daemon).await["completed"]["operationId"], "it");
}
