//! Uploads in pieces that are cut at every piece: by a client that goes away in the middle of it, and by a daemon that is
//! killed. What was there stays, and the whole comes out right in the end.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::harness::op::OpClient;
use crate::harness::{Daemon, Http, Ways};
use crate::nats_opstream_files::{chunks, exit, names, random, send, write};

const PIECES: usize = 4;
const PIECE: usize = 200_000;

/// Where a piece of the upload `id` of `file` goes.
fn address(id: &str, index: usize) -> String {
    let (seq, offset, last) = (index + 1, index * PIECE, index + 1 == PIECES);
    format!("/v1/fs/file?path=file&upload={id}&seq={seq}&offset={offset}&last={last}")
}

fn piece(content: &[u8], index: usize) -> Vec<u8> {
    content[index * PIECE..(index + 1) * PIECE].to_vec()
}

async fn put(http: &Http, id: &str, content: &[u8], index: usize) -> Value {
    let answer = http.put(&address(id, index), piece(content, index)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Sends half of a piece; the connection is to be cut.
async fn half(daemon: &Daemon, http: &Http, id: &str, content: &[u8], index: usize) -> tokio::net::TcpStream {
    let mut socket = http.socket().await;
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-length: {PIECE}\r\n\r\n",
        address(id, index),
        http.address,
        daemon.token()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket
        .write_all(&piece(content, index)[..PIECE / 2])
        .await
        .unwrap();
    socket
}

/// The digest of what an answer says is there now.
fn committed(answer: &Value) -> Option<&str> {
    answer["committed"]["blake3"].as_str()
}

#[tokio::test]
async fn a_client_that_is_cut_off_in_every_piece_goes_on_where_it_was() {
    let daemon = Daemon::start();
    let (http, workspace) = (daemon.http(), daemon.workspace());
    std::fs::write(workspace.join("file"), "old").unwrap();
    let content = random(PIECES * PIECE, 11);
    for index in 0..PIECES {
        let socket = half(&daemon, &http, "cut", &content, index).await;
        // A reset, as from a client that was killed.
        socket.set_zero_linger().unwrap();
        drop(socket);
        assert_eq!(std::fs::read(workspace.join("file")).unwrap(), b"old");
        assert_eq!(names(&workspace), ["file"]);
        let answer = put(&http, "cut", &content, index).await;
        let digest = blake3::hash(&content).to_string();
        let whole = (index + 1 == PIECES).then_some(digest.as_str());
        assert_eq!(committed(&answer), whole, "{answer}");
    }
    assert!(std::fs::read(workspace.join("file")).unwrap() == content);
    assert_eq!(names(&workspace), ["file"]);
}

/// What a killed daemon had of an upload is gone with it. Its pieces may all be sent again under the same name, and those
/// that come first are not taken for the whole.
#[tokio::test]
async fn a_daemon_killed_in_every_piece_keeps_what_was_and_takes_the_upload_again() {
    let mut daemon = Daemon::start();
    let workspace = daemon.workspace();
    for cut in 0..PIECES {
        std::fs::write(workspace.join("file"), "old").unwrap();
        let id = format!("killed{cut}");
        let content = random(PIECES * PIECE, 20 + cut as u64);
        let http = daemon.http();
        for index in 0..cut {
            put(&http, &id, &content, index).await;
        }
        let half_sent = half(&daemon, &http, &id, &content, cut).await;
        daemon.crash();
        drop(half_sent);
        assert_eq!(std::fs::read(workspace.join("file")).unwrap(), b"old", "{cut}");
        assert_eq!(names(&workspace), ["file"], "{cut}");

        daemon.start_again();
        let http = daemon.http();
        // The client does not know that the daemon is another one.
        for index in cut.max(1)..PIECES {
            let answer = put(&http, &id, &content, index).await;
            assert_eq!(committed(&answer), None, "{answer}");
        }
        assert_eq!(std::fs::read(workspace.join("file")).unwrap(), b"old", "{cut}");
        let mut last = json!(null);
        for index in 0..PIECES {
            last = put(&http, &id, &content, index).await;
        }
        let digest = blake3::hash(&content).to_string();
        assert_eq!(committed(&last), Some(digest.as_str()), "{cut}: {last}");
        assert!(std::fs::read(workspace.join("file")).unwrap() == content);
        assert_eq!(names(&workspace), ["file"], "{cut}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_killed_at_every_chunk_of_the_wire_keeps_what_was() {
    let mut ways = Ways::start().await;
    let workspace = ways.daemon.workspace();
    for cut in 0..=3 {
        std::fs::write(workspace.join("file"), "old").unwrap();
        let content = random(PIECES * PIECE, 30 + cut as u64);
        let lost = format!("lost-{cut}");
        let base = blake3::hash(b"old").to_hex();
        let start = write("file", base.as_str());
        let (_, client) = OpClient::start(&ways.control, &lost, start).await;
        for chunk in chunks(&lost, &content, PIECE).into_iter().take(cut) {
            send(&ways.control, chunk).await.unwrap();
        }
        ways.daemon.crash();
        assert_eq!(std::fs::read(workspace.join("file")).unwrap(), b"old", "{cut}");
        assert_eq!(names(&workspace), ["file"], "{cut}");

        ways.daemon.start_again();
        ways.follow();
        assert_eq!(
            client.query().await.state(),
            boxd::wire::proto::OpState::Lost,
            "{cut}"
        );
        let again = format!("again-{cut}");
        let start = write("file", base.as_str());
        let (_, mut client) = OpClient::start(&ways.control, &again, start).await;
        for chunk in chunks(&again, &content, PIECE) {
            send(&ways.control, chunk).await.unwrap();
        }
        let end = exit(&mut client).await;
        assert_eq!(end.digests["content"], blake3::hash(&content).to_hex().as_str());
        assert!(std::fs::read(workspace.join("file")).unwrap() == content);
        assert_eq!(names(&workspace), ["file"], "{cut}");
    }
}
