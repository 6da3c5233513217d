//! Writes that end badly: the daemon is killed at any moment, the client goes away, the file system is full. What was
//! there stays, whole, and nothing half written stays beside it.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use boxd::wire::proto::FsWriteRequest;
use boxd::wire::proto::control_request::Op;
use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::Method;
use hyper::body::Frame;
use tokio::io::AsyncWriteExt;

use crate::harness::daemon::Builder;
use crate::harness::{Daemon, NatsServer, PATIENCE, Ways, eventually};

const SIZE: usize = 4 << 20;

fn names_in(directory: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    names
}

/// A request head for a file of `length` bytes, and `sent` bytes of it.
fn begun(ways: &Ways, length: usize, sent: usize) -> Vec<u8> {
    let head = format!(
        "PUT /v1/fs/file?path=file HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-length: {length}\r\n\r\n",
        ways.http.address,
        ways.daemon.token()
    );
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + sent, b'n');
    bytes
}

/// Sends the new content in pieces, slowly enough that a kill can meet it anywhere.
async fn put_slowly(ways: &Ways, content: Vec<u8>) {
    let pieces: Vec<Bytes> = content.chunks(128 << 10).map(Bytes::copy_from_slice).collect();
    let pieces = futures_util::stream::unfold(pieces.into_iter(), |mut pieces| async {
        let piece = pieces.next()?;
        tokio::time::sleep(Duration::from_micros(300)).await;
        Some((Ok::<_, std::convert::Infallible>(Frame::data(piece)), pieces))
    });
    let request = ways.http.request(Method::PUT, "/v1/fs/file?path=file");
    // Its answer is lost with the daemon, most of the time.
    let _ = ways
        .http
        .try_open(request.body(StreamBody::new(Box::pin(pieces))).unwrap())
        .await;
}

#[tokio::test]
async fn a_kill_at_any_moment_leaves_the_old_or_the_new_and_no_litter() {
    kill_at_any_moment(Daemon::builder(), 36).await;
}

/// Without `/proc` a file that has no name can never get one: drafts are beside the file, and the next write sweeps
/// those of the dead.
#[tokio::test]
async fn a_kill_at_any_moment_leaves_no_litter_where_drafts_have_names() {
    let left = kill_at_any_moment(Daemon::builder().namespace("mount -t tmpfs tmpfs /proc"), 12).await;
    assert!(left > 0, "no draft with a name was caught: nothing was swept");
}

/// Answers how many kills left a draft behind, for the next write to sweep.
async fn kill_at_any_moment(builder: Builder, rounds: u64) -> usize {
    let mut ways = Ways::with(builder, NatsServer::builder().max_payload(8 << 20).start()).await;
    let workspace = ways.daemon.workspace();
    let file = workspace.join("file");
    let (mut survivors, mut left) = ([0, 0], 0);
    for round in 0..rounds {
        let (old, new) = (
            vec![b'o'; SIZE + round as usize],
            vec![b'n'; SIZE - round as usize],
        );
        std::fs::write(&file, &old).unwrap();
        let moment = Duration::from_micros(fastrand::u64(..30_000));
        if round % 3 == 0 {
            let write = FsWriteRequest {
                path: "file".into(),
                content: new.clone().into(),
                ..FsWriteRequest::default()
            };
            let asked = ways.control.ask(Op::FsWrite(write));
            let _ = tokio::time::timeout(moment, asked).await;
        } else {
            let _ = tokio::time::timeout(moment, put_slowly(&ways, new.clone())).await;
        }
        ways.daemon.crash();
        let content = std::fs::read(&file).unwrap();
        assert!(
            content == old || content == new,
            "round {round}, after {moment:?}: {} bytes, neither old nor new",
            content.len()
        );
        survivors[usize::from(content == new)] += 1;
        left += usize::from(
            names_in(&workspace)
                .iter()
                .any(|name| name.to_string_lossy().starts_with(".boxd-")),
        );
        // What the client still had to send is with the broker now, and lost there: nobody listens.
        let client = ways.control.client();
        assert!(client.request("nobody.listens", Bytes::new()).await.is_err());
        ways.daemon.start_again();
        ways.follow();
        let written = ways.http.put("/v1/fs/file?path=other", "x").await;
        assert_eq!(written.status, 200, "{}", written.text());
        assert_eq!(
            names_in(&workspace),
            ["file", "other"],
            "round {round}: litter after the next write"
        );
    }
    assert!(
        survivors[0] > 0,
        "no write was caught in the middle: {survivors:?}"
    );
    left
}

#[tokio::test]
async fn a_client_that_goes_away_in_the_middle_changes_nothing() {
    let ways = Ways::start().await;
    let workspace = ways.daemon.workspace();
    std::fs::write(workspace.join("file"), "old").unwrap();
    for sent in [0, 1, 70_000, 3 << 20] {
        let mut socket = ways.http.socket().await;
        socket.write_all(&begun(&ways, SIZE, sent)).await.unwrap();
        // A reset, as from a client that was killed.
        socket.set_zero_linger().unwrap();
        drop(socket);
    }
    // Descriptors of drafts are given back: none of a file without a name is left.
    let pid = ways.daemon.pid();
    eventually("every draft to be dropped", PATIENCE, || {
        (drafts(pid) == 0).then_some(())
    });
    assert_eq!(std::fs::read(workspace.join("file")).unwrap(), b"old");
    assert_eq!(names_in(&workspace), ["file"]);
}

/// How many files without a name the process has open below its workspace.
pub(crate) fn drafts(pid: i32) -> usize {
    let descriptors = std::fs::read_dir(crate::harness::processes::of(pid, "fd")).unwrap();
    let targets = descriptors
        .flatten()
        .filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok());
    targets
        .filter(|target| target.to_string_lossy().contains("/workspace/"))
        .count()
}

/// A client that sends half a body and then nothing: the daemon stops all the same, and the file is as it was.
#[tokio::test]
async fn a_write_that_stalls_does_not_hold_up_the_stop() {
    let builder = Daemon::builder().config("[shutdown]\ngrace = \"200ms\"\n");
    let mut ways = Ways::with(builder, NatsServer::start()).await;
    let workspace = ways.daemon.workspace();
    std::fs::write(workspace.join("file"), "old").unwrap();
    let mut socket = ways.http.socket().await;
    socket.write_all(&begun(&ways, SIZE, 1 << 20)).await.unwrap();
    let pid = ways.daemon.pid();
    eventually("the write to begin", PATIENCE, || (drafts(pid) > 0).then_some(()));
    assert_eq!(ways.daemon.stop().code(), Some(0));
    assert_eq!(std::fs::read(workspace.join("file")).unwrap(), b"old");
    assert_eq!(names_in(&workspace), ["file"]);
}

#[tokio::test]
async fn a_full_file_system_is_told_with_what_is_free_and_appends_are_undone() {
    let mount = "mkdir \"$WORKSPACE/small\"; mount -t tmpfs -o size=1m,mode=755 tmpfs \"$WORKSPACE/small\"";
    let broker = NatsServer::builder().max_payload(8 << 20).start();
    let ways = Ways::with(Daemon::builder().namespace(mount), broker).await;
    let (path, old) = ("/v1/fs/file?path=small/file", vec![b'o'; 300 << 10]);
    assert_eq!(ways.http.put(path, old.clone()).await.status, 200);
    let free = (700 << 10)..=(1 << 20);

    for append in ["", "&append=true"] {
        let problem = ways
            .http
            .put(&format!("{path}{append}"), vec![b'n'; 2 << 20])
            .await;
        let problem = problem.problem(507, "storage_full");
        let told = problem["details"]["freeBytes"]
            .as_u64()
            .unwrap_or_else(|| panic!("free bytes in {problem}"));
        assert!(
            free.contains(&told),
            "{append}: {told} bytes free once the draft is gone: {problem}"
        );
        assert_eq!(ways.http.get(path).await.body, old, "HTTP {append}");
        let write = FsWriteRequest {
            path: "small/file".into(),
            content: vec![b'n'; 2 << 20].into(),
            append: !append.is_empty(),
            ..FsWriteRequest::default()
        };
        let error = ways.control.refused(Op::FsWrite(write)).await;
        assert_eq!(
            (error.code().as_str_name(), error.detail["errno"].as_str()),
            ("ERROR_CODE_OS", "28"),
            "{error:?}"
        );
        let told: u64 = error.detail["free_bytes"].parse().unwrap();
        assert!(free.contains(&told), "{append}: {told} bytes free: {error:?}");
        assert_eq!(ways.http.get(path).await.body, old, "NATS {append}");
        let entries = ways.http.get("/v1/fs/entries?path=small").await.json();
        assert_eq!(entries.as_array().unwrap().len(), 1, "a draft is left: {entries}");
    }
    let new = ways
        .http
        .put("/v1/fs/file?path=small/new&append=true", vec![b'n'; 2 << 20])
        .await;
    new.problem(507, "storage_full");
    ways.http
        .get("/v1/fs/stat?path=small/new")
        .await
        .problem(404, "not_found");
    assert_eq!(
        ways.http.put(path, vec![b'n'; 600 << 10]).await.status,
        200,
        "the space is free again"
    );
}

/// A file with two names is written in place, so what is there would be lost if the room were not made sure of first.
#[tokio::test]
async fn a_write_in_place_that_does_not_fit_keeps_what_was() {
    let mount = "mkdir \"$WORKSPACE/small\"; mount -t tmpfs -o size=1m,mode=755 tmpfs \"$WORKSPACE/small\"; \
                 head -c 307200 /dev/zero | tr '\\0' o > \"$WORKSPACE/small/file\"; \
                 ln \"$WORKSPACE/small/file\" \"$WORKSPACE/small/other\"";
    let daemon = Daemon::builder().namespace(mount).start();
    let http = daemon.http();
    // Room for a draft of that size or for the file to grow, but not for both.
    let new = vec![b'n'; 600 << 10];
    let refused = http.put("/v1/fs/file?path=small/file", new).await;
    refused.problem(507, "storage_full");
    for name in ["file", "other"] {
        let kept = http.get(&format!("/v1/fs/file?path=small/{name}")).await;
        assert!(
            kept.body.len() == 300 << 10 && kept.body.iter().all(|byte| *byte == b'o'),
            "{name}"
        );
    }
    let fits = http
        .put("/v1/fs/file?path=small/file", vec![b'n'; 310 << 10])
        .await;
    assert_eq!(
        fits.status,
        200,
        "what was reserved is given back: {}",
        fits.text()
    );
    assert_eq!(fits.json()["atomic"], false);
}
