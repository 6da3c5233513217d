//! The Unix socket listener, alone and beside TCP, and health under the eyes of the machine's figures.

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
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

/// A user who owns nothing.
const NOBODY: u32 = 65534;

/// The mode of a socket can be opened by mistake; who is behind a connection still counts.
#[test]
fn a_user_that_is_not_listed_gets_nothing_through_an_open_socket() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "only root can ask as another user"
    );
    let directory = tempfile::tempdir().unwrap();
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(directory.path(), 0o755);
    let path = directory.path().join("boxd.sock");
    let listener = format!("unix:{}", path.display());
    let ask = || {
        let script = "const socket = require('net').connect(process.argv[1]);\
                      socket.on('data', (data) => process.stdout.write(data));\
                      socket.on('error', () => {});\
                      socket.write('GET /v1/health HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n');";
        let answer = std::process::Command::new(crate::harness::require("node"))
            .args(["-e", script])
            .arg(&path)
            .current_dir("/")
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .unwrap();
        assert!(
            answer.status.success(),
            "{}",
            String::from_utf8_lossy(&answer.stderr)
        );
        String::from_utf8_lossy(&answer.stdout).into_owned()
    };
    for (config, expected) in [
        (String::new(), ""),
        (format!("[http]\nunix_users = [{NOBODY}]\n"), "HTTP/1.1 200 OK"),
    ] {
        let daemon = Daemon::builder().listen(&[&listener]).config(&config).start();
        open(&path, 0o666);
        assert!(daemon.ready["pid"].is_number());
        let answer = ask();
        assert_eq!(answer.lines().next().unwrap_or_default(), expected, "{config}");
    }
}
