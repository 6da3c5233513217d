//! Files over the op stream: read as frames on the content channel, written as chunks in any order.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response::Result as Outcome;
use boxd::wire::proto::op_start::Op as StartOp;
use boxd::wire::proto::{AgentError, ErrorCode, FsWriteBegin, OpExit, OpStart, OpState, WriteChunk};
use bytes::Bytes;

use crate::harness::op::{self, OpClient, Said};
use crate::harness::{Connection, ControlPlane, Daemon, NatsServer, PATIENCE, Ways};
use crate::nats_links::until_reachable;

const CHUNK: usize = 512 << 10;

pub(crate) fn random(size: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(size).collect()
}

pub(crate) fn write(path: &str, base: &str) -> OpStart {
    OpStart {
        op: Some(StartOp::FsWrite(FsWriteBegin {
            path: path.to_owned(),
            expected_base_digest: base.to_owned(),
            ..FsWriteBegin::default()
        })),
        ..OpStart::default()
    }
}

pub(crate) fn chunks(id: &str, content: &[u8], size: usize) -> Vec<WriteChunk> {
    let pieces: Vec<_> = content.chunks(size).collect();
    let chunk = |(index, piece): (usize, &&[u8])| WriteChunk {
        op_id: id.to_owned(),
        seq: index as u64 + 1,
        bytes: Bytes::copy_from_slice(piece),
        last: index + 1 == pieces.len(),
        offset: (index * size) as u64,
    };
    pieces.iter().enumerate().map(chunk).collect()
}

pub(crate) async fn send(control: &ControlPlane, chunk: WriteChunk) -> Result<(), AgentError> {
    let seq = chunk.seq;
    let answer = control.ask(Op::WriteChunk(chunk)).await;
    match (answer.result, answer.error) {
        (Some(Outcome::WriteChunk(ack)), None) => {
            assert_eq!(ack.seq, seq);
            Ok(())
        }
        (None, Some(error)) => Err(error),
        other => panic!("{other:?}"),
    }
}

/// The exit of an upload, which is its only frame but for signs of life.
pub(crate) async fn exit(client: &mut OpClient) -> OpExit {
    let said = client.finish().await;
    assert!(said.content.is_empty() && said.stdout.is_empty());
    said.exit.unwrap()
}

/// What is in the workspace, unfinished files included.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_comes_whole_or_in_ranges_on_the_content_channel() {
    let ways = Ways::start().await;
    let content = random(200 << 20, 1);
    std::fs::write(ways.daemon.workspace().join("large"), &content).unwrap();
    let (_, mut client) = OpClient::start(&ways.control, "large", op::read("large", 0, 0)).await;
    let said = client.finish().await;
    assert!(said.content == content && said.stdout.is_empty());
    let exit = said.exit.unwrap();
    assert_eq!(
        (exit.exit_code, exit.totals["content"]),
        (0, content.len() as u64)
    );
    assert_eq!(exit.digests["content"], blake3::hash(&content).to_hex().as_str());
    for (id, offset, length, range) in [
        ("middle", 1000, 300_000, 1000..301_000),
        ("tail", content.len() - 77, 0, content.len() - 77..content.len()),
        ("behind", content.len() + 1, 0, 0..0),
    ] {
        let start = op::read("large", offset as u64, length);
        let (_, mut client) = OpClient::start(&ways.control, id, start).await;
        let said = client.finish().await;
        let exit = said.exit.unwrap();
        assert!(said.content == content[range.clone()], "{id}");
        assert_eq!(
            exit.digests["content"],
            blake3::hash(&content[range]).to_hex().as_str()
        );
    }
    let refused = op::start(&ways.control, "none", op::read("none", 0, 0))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), ErrorCode::NotFound);
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_read_is_a_failure() {
    let ways = Ways::start().await;
    let path = ways.daemon.workspace().join("shrinking");
    std::fs::write(&path, random(64 << 20, 2)).unwrap();
    let start = OpStart {
        window_bytes: 1 << 20,
        ..op::read("shrinking", 0, 0)
    };
    let (_, mut client) = OpClient::start(&ways.control, "shrinking", start).await;
    let mut said = Said::default();
    said.take(client.next().await);
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(2 << 20)
        .unwrap();
    client.ack(client.seen, 0, false).await;
    while said.exit.is_none() {
        said.take(client.next().await);
        client.ack(client.seen, 0, false).await;
    }
    let exit = said.exit.unwrap();
    assert_eq!(
        (exit.exit_code, exit.failure_code.as_str()),
        (-1, "OP_PIPE_IO"),
        "{exit:?}"
    );
    assert!(exit.failure_detail["io_error"].contains("shrinking"), "{exit:?}");
    assert!(!exit.cancelled && exit.totals["content"] == said.content.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_in_any_order_and_twice_become_the_file() {
    let ways = Ways::start().await;
    let content = random(8 << 20, 3);
    let path = ways.daemon.workspace().join("upload");
    let (started, mut client) = OpClient::start(&ways.control, "upload", write("upload", "absent")).await;
    assert_eq!(started.status.unwrap().state(), OpState::Running);
    let mut all = chunks("upload", &content, CHUNK);
    fastrand::Rng::with_seed(4).shuffle(&mut all);
    let last = all.pop().unwrap();
    for chunk in all {
        // The same seq with other bytes is the same chunk: the first one wins.
        let mut other = chunk.clone();
        other.bytes = vec![0; chunk.bytes.len()].into();
        send(&ways.control, chunk).await.unwrap();
        send(&ways.control, other).await.unwrap();
        assert!(!path.exists());
    }
    assert_eq!(client.query().await.state(), OpState::Running);
    let (once, again) = tokio::join!(
        send(&ways.control, last.clone()),
        send(&ways.control, last.clone())
    );
    once.and(again).unwrap();
    let exit = exit(&mut client).await;
    assert_eq!((exit.exit_code, exit.failure_code.as_str()), (0, ""), "{exit:?}");
    assert_eq!(exit.digests["content"], blake3::hash(&content).to_hex().as_str());
    assert_eq!(exit.totals["content"], content.len() as u64);
    assert!(std::fs::read(&path).unwrap() == content);
    // A late repeat is acknowledged, a start under the same id is the same upload.
    send(&ways.control, last).await.unwrap();
    let again = op::start(&ways.control, "upload", write("upload", ""))
        .await
        .unwrap();
    assert_eq!(again.status.unwrap().state(), OpState::Complete);
    assert_eq!(names(&ways.daemon.workspace()), ["upload"]);
}

#[tokio::test]
async fn what_cannot_be_taken_is_said_and_changes_nothing() {
    let ways = Ways::start().await;
    let (_, mut client) = OpClient::start(&ways.control, "upload", write("file", "")).await;
    let chunk = |seq: u64, size: usize, last: bool| WriteChunk {
        op_id: "upload".into(),
        seq,
        bytes: vec![b'x'; size].into(),
        last,
        offset: 0,
    };
    let refused = send(&ways.control, chunk(1, CHUNK + 1, true)).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::PayloadTooLarge, "{refused:?}");
    let refused = send(&ways.control, chunk(0, 1, false)).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.detail["errno"].as_str()),
        (ErrorCode::Os, "22")
    );
    let stranger = WriteChunk {
        op_id: "unknown".into(),
        ..chunk(1, 1, true)
    };
    let refused = send(&ways.control, stranger).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::NotFound);
    send(&ways.control, chunk(1, 1, true)).await.unwrap();
    assert_eq!(exit(&mut client).await.totals["content"], 1);
    let refused = send(&ways.control, chunk(2, 1, true)).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Os, "it is over");
    assert_eq!(std::fs::read(ways.daemon.workspace().join("file")).unwrap(), b"x");

    op::start(&ways.control, "command", op::shell("true"))
        .await
        .unwrap();
    let command = WriteChunk {
        op_id: "command".into(),
        ..chunk(1, 1, true)
    };
    assert_eq!(
        send(&ways.control, command).await.unwrap_err().code(),
        ErrorCode::Os
    );
    let refused = op::start(&ways.control, "bad", write("file", "no digest"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Os);
    assert!(refused.message.contains("expected_base_digest"), "{refused:?}");
}

#[tokio::test]
async fn an_upload_over_something_else_than_expected_is_refused_at_the_start_and_at_the_end() {
    let ways = Ways::start().await;
    let path = ways.daemon.workspace().join("file");
    std::fs::write(&path, "base").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o751)).unwrap();
    let stale = libc::ESTALE.to_string();
    for base in ["absent", blake3::hash(b"other").to_hex().as_str()] {
        let refused = op::start(&ways.control, "refused", write("file", base))
            .await
            .unwrap_err();
        assert_eq!(
            (refused.code(), &refused.detail["errno"]),
            (ErrorCode::Os, &stale)
        );
    }
    let base = blake3::hash(b"base").to_hex();
    let mut clients = Vec::new();
    for id in ["one", "two", "three"] {
        let start = write("file", base.as_str());
        clients.push(OpClient::start(&ways.control, id, start).await.1);
    }
    let ends = clients.iter_mut().map(async |client| {
        let text = client.id.clone();
        for chunk in chunks(&text, text.as_bytes(), 1) {
            send(&ways.control, chunk).await.unwrap();
        }
        (text, exit(client).await)
    });
    let ends = futures_util::future::join_all(ends).await;
    let (won, lost): (Vec<_>, Vec<_>) = ends.into_iter().partition(|(_, exit)| exit.exit_code == 0);
    assert_eq!((won.len(), lost.len()), (1, 2), "{won:?} {lost:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), won[0].0);
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o751);
    for (_, exit) in lost {
        assert_eq!(
            (exit.failure_code.as_str(), &exit.failure_detail["errno"]),
            ("OS", &stale)
        );
    }
    assert_eq!(names(&ways.daemon.workspace()), ["file"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_does_not_end_leaves_nothing() {
    let mut ways = Ways::start().await;
    let workspace = ways.daemon.workspace();
    std::fs::write(workspace.join("file"), "old").unwrap();
    let content = random(64 << 10, 5);
    // The last chunk is missing, then it is cancelled.
    let (_, mut client) = OpClient::start(&ways.control, "cancelled", write("file", "")).await;
    let mut all = chunks("cancelled", &content, 4096);
    let last = all.pop().unwrap();
    for chunk in all {
        send(&ways.control, chunk).await.unwrap();
    }
    assert_eq!(client.query().await.state(), OpState::Running);
    client.cancel().await;
    let end = exit(&mut client).await;
    assert!(end.cancelled && end.exit_code == -1, "{end:?}");
    assert_eq!(send(&ways.control, last).await.unwrap_err().code(), ErrorCode::Os);
    assert_eq!(names(&workspace), ["file"]);
    // The daemon is killed, and another time stopped.
    let mut clients = Vec::new();
    for id in ["killed", "stopped"] {
        let (_, client) = OpClient::start(&ways.control, id, write("file", "")).await;
        send(&ways.control, chunks(id, &content, 4096).remove(0))
            .await
            .unwrap();
        clients.push(client);
        if id == "killed" {
            ways.daemon.crash();
            ways.daemon.start_again();
        }
    }
    let state = clients[0].query().await;
    assert_eq!(state.state(), OpState::Lost);
    let (status, end) = tokio::join!(async { ways.daemon.stop() }, exit(&mut clients[1]));
    assert!(status.success() && end.cancelled, "{end:?}");
    assert_eq!(names(&workspace), ["file"]);
    assert_eq!(std::fs::read_to_string(workspace.join("file")).unwrap(), "old");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_survives_a_broker_that_goes_away_at_every_chunk() {
    let mut broker = NatsServer::start();
    let link = Connection::to(&broker.url());
    let control = ControlPlane::connect(&link).await;
    let mut hellos = control.hellos().await;
    let daemon = Daemon::builder().connection(&link).start();
    hellos.next().await;
    let content = random(100_000, 6);
    let (_, mut client) = OpClient::start(&control, "cut", write("file", "absent")).await;
    for chunk in chunks("cut", &content, 25_000) {
        // Sent once without waiting for the answer, which the broker takes with it.
        let lost = tokio::spawn(control.ask(Op::WriteChunk(chunk.clone())));
        broker.kill();
        broker.restart();
        until_reachable(&control, true, PATIENCE).await;
        lost.abort();
        send(&control, chunk).await.unwrap();
    }
    client.attach(0, 0).await;
    let end = exit(&mut client).await;
    assert_eq!(end.digests["content"], blake3::hash(&content).to_hex().as_str());
    assert!(std::fs::read(daemon.workspace().join("file")).unwrap() == content);
}

#[tokio::test]
async fn a_link_without_consent_uploads_into_the_workspace_only() {
    let broker = NatsServer::start();
    let mut link = Connection::to(&broker.url());
    link.whole_machine = false;
    let daemon = Daemon::builder().connection(&link).start();
    let control = ControlPlane::connect(&link).await;
    let outside = daemon.directory().join("outside");
    let refused = op::start(&control, "outside", write(outside.to_str().unwrap(), ""))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), ErrorCode::ConsentRequired, "{refused:?}");
    let (_, mut client) = OpClient::start(&control, "inside", write("inside", "")).await;
    send(&control, chunks("inside", b"content", 7).remove(0))
        .await
        .unwrap();
    assert_eq!(exit(&mut client).await.exit_code, 0);
    assert!(daemon.workspace().join("inside").exists() && !outside.exists());
}
