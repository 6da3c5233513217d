//! The Unix socket listener, alone and beside TCP, and health under the eyes of the machine's figures.

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use std::os::unix::fs::PermissionsExt;
use tokio::net::UnixStream;

use crate::harness::{Answer, Daemon, whole};

async fn ask(path: &std::path::Path, token: &str, target: &str) -> Answer {
    let stream = UnixStream::connect(path).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::GET)
        .uri(target)
        .header("host", "any.name.will.do")
        .header("authorization", format!("Bearer {token}"))
        .body(Full::<Bytes>::default())
        .unwrap();
    whole(sender.send_request(request).await.unwrap()).await
}

#[tokio::test]
async fn a_unix_socket_serves_the_same_routes_and_goes_away_with_the_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("boxd.sock");
    let listener = format!("unix:{}", path.display());
    let mut daemon = Daemon::builder().listen(&["127.0.0.1:0", &listener]).start();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(
        daemon.ready["http"]
            .as_array()
            .unwrap()
            .iter()
            .any(|url| *url == listener),
        "{}",
        daemon.ready
    );
    let health = ask(&path, &daemon.token(), "/v1/health").await.json();
    assert_eq!(health["instance"], daemon.instance());
    ask(&path, "wrong", "/v1/health")
        .await
        .problem(401, "token_invalid");
    assert_eq!(daemon.http().get("/v1/health").await.status, 200);
    assert!(daemon.stop().success());
    assert!(!path.exists());
}

#[tokio::test]
async fn figures_and_the_document_are_served() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let metrics = http.get("/v1/metrics").await.json();
    assert!(metrics["memTotalBytes"].as_u64().unwrap() > 0, "{metrics}");
    let text = http.get("/metrics").await;
    assert!(
        text.header("content-type").starts_with("text/plain"),
        "{:?}",
        text.headers
    );
    assert!(
        text.text().contains("\nboxd_host_memory_bytes "),
        "{}",
        text.text()
    );
    let document = http.get("/v1/openapi.json").await;
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    assert!(document.body == std::fs::read(committed).unwrap());
    let rows = http.get("/v1/capabilities").await.json();
    let names: Vec<_> = rows["capabilities"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    assert!(
        names.contains(&"fs.read") && names.contains(&"process.run"),
        "{names:?}"
    );
}

#[tokio::test]
async fn idle_connections_do_not_delay_the_stop() {
    let mut daemon = Daemon::start();
    let http = daemon.http();
    let mut kept = http.keep().await;
    let request = http
        .request(Method::GET, "/v1/health")
        .body(Full::default())
        .unwrap();
    assert_eq!(kept.send(request).await.status, 200);
    let before = std::time::Instant::now();
    assert!(daemon.stop().success());
    assert!(
        before.elapsed() < std::time::Duration::from_secs(2),
        "{:?}",
        before.elapsed()
    );
}
