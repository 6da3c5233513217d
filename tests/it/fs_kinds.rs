//! Files that are none, or that are huge: devices, fifos, directories, ten sparse gibibytes. Every answer comes soon and
//! costs little memory, and the daemon answers pings meanwhile.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{Duration, Instant};

use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response::Result as Outcome;
use boxd::wire::proto::{AgentError, ErrorCode, FsReadRequest, FsWriteRequest, PingRequest};
use http_body_util::Full;
use hyper::Method;
use hyper::header::RANGE;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::harness::{ControlPlane, PATIENCE, Ways, eventually, processes};

/// An answer that needs no work takes at most this long, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(5);
const GIB: u64 = 1 << 30;

/// What is at the other end of `future`, which must answer soon.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future)
        .await
        .unwrap_or_else(|_| panic!("{what} took longer than {SOON:?}"))
}

async fn ping(plane: &ControlPlane) -> Duration {
    let begin = Instant::now();
    let answer = soon("ping", plane.ask(Op::Ping(PingRequest { nonce: 7 }))).await;
    assert!(matches!(answer.result, Some(Outcome::Ping(_))), "{answer:?}");
    begin.elapsed()
}

async fn refused_read(plane: &ControlPlane, path: &str) -> AgentError {
    let read = FsReadRequest {
        path: path.into(),
        ..FsReadRequest::default()
    };
    let answer = soon(path, plane.ask(Op::FsRead(read))).await;
    answer.error.unwrap_or_else(|| panic!("{path} was read"))
}

/// `SOON` is what bounds them; memory is compared before and after.
#[tokio::test]
async fn what_is_no_file_is_refused_by_its_kind_at_once() {
    let ways = Ways::start().await;
    let workspace = ways.daemon.workspace();
    mkfifo(&workspace.join("fifo"), Mode::S_IRWXU).unwrap();
    std::fs::create_dir(workspace.join("directory")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(workspace.join("socket")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", workspace.join("link to zero")).unwrap();
    let (_, before) = processes::resident(ways.daemon.pid());

    for (path, kind) in [
        ("/dev/zero", "device"),
        ("/dev/tty", "device"),
        ("link to zero", "device"),
        ("fifo", "fifo"),
        ("directory", "directory"),
        ("socket", "socket"),
    ] {
        let error = refused_read(&ways.control, path).await;
        assert_eq!(error.code(), ErrorCode::Os, "{path}: {error:?}");
        assert!(
            error.message.contains(kind),
            "{path} over NATS: {}",
            error.message
        );
        assert!(
            error.detail.contains_key("errno") && error.detail["context"].contains("read"),
            "{error:?}"
        );
        let target = format!("/v1/fs/file?path={}", path.replace(' ', "%20"));
        let problem = soon(path, ways.http.get(&target))
            .await
            .problem(400, "wrong_kind");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains(kind) && detail.contains(path.trim_start_matches('/')),
            "{path} over HTTP: {detail}"
        );
    }
    ping(&ways.control).await;
    let (_, after) = processes::resident(ways.daemon.pid());
    assert!(
        after - before < 16 << 20,
        "{before} bytes resident at most before, {after} after"
    );
}

#[tokio::test]
async fn writing_where_no_file_can_be_is_refused_and_devices_take_what_they_are_given() {
    let ways = Ways::start().await;
    let workspace = ways.daemon.workspace();
    mkfifo(&workspace.join("fifo"), Mode::S_IRWXU).unwrap();
    std::fs::create_dir(workspace.join("directory")).unwrap();
    for (path, status, code) in [("fifo", 409, "conflict"), ("directory", 400, "wrong_kind")] {
        let write = FsWriteRequest {
            path: path.into(),
            content: b"x".as_slice().into(),
            ..FsWriteRequest::default()
        };
        let answer = soon(path, ways.control.ask(Op::FsWrite(write))).await;
        let error = answer.error.unwrap_or_else(|| panic!("{path} was written"));
        assert!(error.message.contains(path), "{}", error.message);
        soon(path, ways.http.put(&format!("/v1/fs/file?path={path}"), "x"))
            .await
            .problem(status, code);
    }
    assert!(
        std::fs::metadata(workspace.join("fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    assert!(workspace.join("directory").is_dir());

    let null = ways
        .http
        .put("/v1/fs/file?path=/dev/null", vec![0; 1 << 20])
        .await;
    assert_eq!(null.status, 200, "{}", null.text());
    assert_eq!(
        (
            null.json()["atomic"].as_bool(),
            null.json()["bytesWritten"].as_u64()
        ),
        (Some(false), Some(1 << 20))
    );
    assert!(
        std::fs::metadata("/dev/null")
            .unwrap()
            .file_type()
            .is_char_device()
    );
    ways.http
        .put("/v1/fs/file?path=/dev/full", "x")
        .await
        .problem(507, "storage_full");
}

/// A reader that opened the fifo and takes nothing: the write waits without holding a thread, and the rest goes on.
#[tokio::test(flavor = "multi_thread")]
async fn fifos_whose_readers_stand_still_hold_up_nobody() {
    const WRITERS: usize = 600;
    let ways = Ways::start().await;
    let fifo = ways.daemon.workspace().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let reader = nix::fcntl::open(
        &fifo,
        nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_NONBLOCK,
        Mode::empty(),
    )
    .unwrap();
    // More of them than the blocking pool has threads.
    let mut hung = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let plane = ways.control.clone();
        hung.spawn(async move {
            let write = FsWriteRequest {
                path: "fifo".into(),
                content: vec![b'x'; 128 << 10].into(),
                ..FsWriteRequest::default()
            };
            plane.ask(Op::FsWrite(write)).await
        });
    }
    let pid = ways.daemon.pid();
    eventually("every write to be under way", PATIENCE, || {
        (opened(pid, &fifo) == WRITERS).then_some(())
    });
    assert!(ping(&ways.control).await < SOON);
    assert_eq!(
        soon("a file", ways.http.put("/v1/fs/file?path=file", "x"))
            .await
            .status,
        200
    );
    assert_eq!(
        soon("a file", ways.http.get("/v1/fs/file?path=file")).await.body,
        "x"
    );

    // Whoever reads sets them free, one after the other.
    drop(reader);
    while let Some(answer) = hung.join_next().await {
        let error = answer.unwrap().error.expect("nobody reads any more");
        assert!(error.message.contains("fifo"), "{error:?}");
    }
}

/// How often a process has `file` open.
fn opened(pid: i32, file: &Path) -> usize {
    let descriptors = std::fs::read_dir(processes::of(pid, "fd")).unwrap();
    descriptors
        .flatten()
        .filter(|descriptor| std::fs::read_link(descriptor.path()).is_ok_and(|target| target == file))
        .count()
}

fn sparse(path: &Path, marks: &[(u64, &[u8])]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(10 * GIB).unwrap();
    for (offset, bytes) in marks {
        file.write_all_at(bytes, *offset).unwrap();
    }
}

#[tokio::test]
async fn a_range_of_ten_sparse_gibibytes_costs_little() {
    let ways = Ways::start().await;
    sparse(
        &ways.daemon.workspace().join("huge"),
        &[(7 * GIB, b"here"), (10 * GIB - 4, b"last")],
    );
    let (_, before) = processes::resident(ways.daemon.pid());

    for (offset, length, expected) in [
        (7 * GIB, 4, "here"),
        (10 * GIB - 4, 0, "last"),
        (10 * GIB, 9, ""),
        (u64::MAX, 0, ""),
    ] {
        let read = FsReadRequest {
            path: "huge".into(),
            offset,
            length,
        };
        let answer = soon("a range", ways.control.ask(Op::FsRead(read))).await;
        let Some(Outcome::FsRead(read)) = answer.result else {
            panic!("{answer:?}")
        };
        assert_eq!(
            (read.content.as_ref(), read.total_size),
            (expected.as_bytes(), 10 * GIB),
            "from {offset}"
        );
    }
    let error = refused_read(&ways.control, "huge").await;
    assert_eq!(error.code(), ErrorCode::PayloadTooLarge, "{error:?}");
    assert!(!error.retryable);

    for (range, status, expected) in [
        (format!("bytes={}-{}", 7 * GIB, 7 * GIB + 3), 206, "here"),
        ("bytes=-4".to_owned(), 206, "last"),
        (format!("bytes={}-", 10 * GIB - 4), 206, "last"),
    ] {
        let request = ways
            .http
            .request(Method::GET, "/v1/fs/file?path=huge")
            .header(RANGE, &range);
        let answer = soon(&range, ways.http.send(request.body(Full::default()).unwrap())).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text().as_str()),
            (status, expected),
            "{range}"
        );
    }
    let request = ways
        .http
        .request(Method::GET, "/v1/fs/file?path=huge")
        .header(RANGE, format!("bytes={}-", 10 * GIB));
    soon("outside", ways.http.send(request.body(Full::default()).unwrap()))
        .await
        .problem(416, "range");

    let (_, after) = processes::resident(ways.daemon.pid());
    assert!(
        after - before < 8 << 20,
        "{before} bytes resident at most before, {after} after"
    );
}

/// Half a gibibyte through the door; the daemon holds a few buffers of it.
#[tokio::test]
async fn a_long_body_is_streamed_out_and_in_without_being_held() {
    use http_body_util::BodyExt;
    const LENGTH: u64 = GIB / 2;
    let ways = Ways::start().await;
    sparse(&ways.daemon.workspace().join("huge"), &[]);
    let (_, before) = processes::resident(ways.daemon.pid());

    let request = ways
        .http
        .request(Method::GET, "/v1/fs/file?path=huge")
        .header(RANGE, format!("bytes=0-{}", LENGTH - 1));
    let response = ways
        .http
        .open(
            request
                .body(http_body_util::Empty::<bytes::Bytes>::new())
                .unwrap(),
        )
        .await;
    assert_eq!(response.status(), 206);
    let mut body = response.into_body();
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        received += frame.unwrap().data_ref().map_or(0, |bytes| bytes.len() as u64);
    }
    assert_eq!(received, LENGTH);

    let piece = bytes::Bytes::from(vec![b'x'; 1 << 20]);
    let pieces = futures_util::stream::iter(
        (0..LENGTH >> 20)
            .map(move |_| Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(piece.clone()))),
    );
    let request = ways.http.request(Method::PUT, "/v1/fs/file?path=copy");
    let answer = ways
        .http
        .open(request.body(http_body_util::StreamBody::new(pieces)).unwrap())
        .await;
    let answer = crate::harness::whole(answer).await;
    assert_eq!(answer.json()["bytesWritten"], LENGTH, "{}", answer.text());

    let (_, after) = processes::resident(ways.daemon.pid());
    assert!(
        after - before < 48 << 20,
        "{before} bytes resident at most before, {after} after"
    );
}
