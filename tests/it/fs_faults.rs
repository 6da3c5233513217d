//! Files at the worst moment: a full file system, a kill in the middle of a write.

use std::time::Duration;

use boxd::wire::proto::FsWriteRequest;
use boxd::wire::proto::control_request::Op;
use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::Method;
use hyper::body::Frame;

use crate::harness::{Daemon, NatsServer, Ways};

#[tokio::test]
async fn a_full_file_system_keeps_the_old_content() {
    let mount = "mkdir \"$WORKSPACE/small\"; mount -t tmpfs -o size=1m,mode=755 tmpfs \"$WORKSPACE/small\"";
    let ways = Ways::with(
        Daemon::builder().namespace(mount),
        NatsServer::builder().max_payload(8 << 20).start(),
    )
    .await;
    let path = "/v1/fs/file?path=small/file";
    let old = vec![b'o'; 300 << 10];
    assert_eq!(ways.http.put(path, old.clone()).await.status, 200);

    let problem = ways
        .http
        .put(path, vec![b'n'; 2 << 20])
        .await
        .problem(507, "storage_full");
    assert!(
        problem["detail"].as_str().unwrap().contains("small/file"),
        "{problem}"
    );
    assert_eq!(ways.http.get(path).await.body, old, "over HTTP");

    let write = FsWriteRequest {
        path: "small/file".into(),
        content: vec![b'n'; 2 << 20].into(),
        ..FsWriteRequest::default()
    };
    let error = ways
        .control
        .ask(Op::FsWrite(write))
        .await
        .error
        .expect("a refusal");
    assert_eq!(
        (error.code().as_str_name(), error.detail["errno"].as_str()),
        ("ERROR_CODE_OS", "28"),
        "{error:?}"
    );
    assert_eq!(ways.http.get(path).await.body, old, "over NATS");

    let entries = ways.http.get("/v1/fs/entries?path=small").await.json();
    assert_eq!(
        entries.as_array().unwrap().len(),
        1,
        "no draft is left: {entries}"
    );
    assert_eq!(
        ways.http.put(path, vec![b'n'; 600 << 10]).await.status,
        200,
        "the space is free again"
    );
}

#[tokio::test]
async fn a_kill_during_a_write_leaves_the_old_or_the_new() {
    let mut ways = Ways::start().await;
    let file = ways.daemon.workspace().join("file");
    let (old, new) = (vec![b'o'; 4 << 20], vec![b'n'; 4 << 20]);
    let (mut olds, mut news) = (0, 0);
    for round in 0..12_u64 {
        std::fs::write(&file, &old).unwrap();
        let request = ways.http.request(Method::PUT, "/v1/fs/file?path=file");
        let chunks: Vec<Bytes> = new.chunks(64 << 10).map(Bytes::copy_from_slice).collect();
        let (sent, mut half_way) = tokio::sync::watch::channel(0_usize);
        let body = futures_util::stream::iter(chunks.into_iter().enumerate()).map_frames(sent);
        let http = ways.http.clone();
        let put =
            tokio::spawn(async move { http.try_open(request.body(StreamBody::new(body)).unwrap()).await });
        // Each round is killed at another point of the body; the last ones around its end.
        let target = (round as usize * 6).min(63);
        let _ = half_way.wait_for(|sent| *sent >= target).await;
        if round > 9 {
            let _ = tokio::time::timeout(Duration::from_millis(20), put).await;
        }
        ways.daemon.crash();
        let content = std::fs::read(&file).unwrap();
        assert!(
            content == old || content == new,
            "round {round}: {} bytes, neither old nor new",
            content.len()
        );
        if content == old {
            olds += 1;
        } else {
            news += 1;
        }
        let names: Vec<_> = std::fs::read_dir(ways.daemon.workspace())
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert_eq!(
            names,
            ["file"],
            "round {round}: nothing half written stays behind"
        );
        ways.daemon.start_again();
        ways.follow();
    }
    assert!(
        olds > 0,
        "no write was caught in the middle: {olds} old, {news} new"
    );
}

/// Makes body frames of chunks and tells how many were taken.
trait MapFrames: futures_util::Stream<Item = (usize, Bytes)> + Sized {
    fn map_frames(
        self,
        sent: tokio::sync::watch::Sender<usize>,
    ) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, std::convert::Infallible>> {
        futures_util::StreamExt::map(self, move |(index, chunk)| {
            sent.send_replace(index);
            Ok(Frame::data(chunk))
        })
    }
}

impl<S: futures_util::Stream<Item = (usize, Bytes)>> MapFrames for S {}
