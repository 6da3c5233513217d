//! Files that grow, shrink or go away while they are read or searched: what is answered is what was there, or says that
//! it is not whole.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Method;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::harness::{Daemon, Http, PATIENCE, processes};
use crate::nats_opstream_files::random;

/// Far more than connections hold.
const SIZE: usize = 48 << 20;

/// An answer that has begun and waits for its reader.
async fn begun(http: &Http, path: &str) -> Incoming {
    let request = http.request(Method::GET, path);
    let response = http.open(request.body(Full::<Bytes>::default()).unwrap()).await;
    assert_eq!(response.status(), 200);
    response.into_body()
}

/// What comes of an answer that is cut.
async fn cut(mut body: Incoming) -> Vec<u8> {
    let mut came = Vec::new();
    loop {
        match body.frame().await {
            Some(Ok(frame)) => came.extend_from_slice(frame.data_ref().unwrap()),
            Some(Err(_)) => return came,
            None => panic!("half of it was taken for the whole"),
        }
    }
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_answered_as_it_was_or_cut() {
    let daemon = Daemon::start();
    let (http, workspace) = (daemon.http(), daemon.workspace());
    let content = random(SIZE, 41);
    let names = ["grows", "goes", "shrinks"];
    for name in names {
        std::fs::write(workspace.join(name), &content).unwrap();
    }
    let mut bodies = Vec::new();
    for name in names {
        bodies.push(begun(&http, &format!("/v1/fs/file?path={name}")).await);
    }
    let change = |name: &str| File::options().append(true).open(workspace.join(name)).unwrap();
    change("grows").write_all(b"and more").unwrap();
    std::fs::remove_file(workspace.join("goes")).unwrap();
    change("shrinks").set_len(SIZE as u64 / 4 * 3).unwrap();
    let [grows, goes, shrinks] = <[Incoming; 3]>::try_from(bodies).unwrap();
    for (name, body) in [("grows", grows), ("goes", goes)] {
        let whole = body.collect().await.unwrap().to_bytes();
        assert!(whole == content, "{name}: {} bytes", whole.len());
    }
    let came = cut(shrinks).await;
    assert!(came.len() < SIZE && content.starts_with(&came), "{}", came.len());
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_packed_is_packed_as_it_was_or_cuts_the_archive() {
    let daemon = Daemon::start();
    let (http, workspace) = (daemon.http(), daemon.workspace());
    let content = random(SIZE, 42);
    for (name, length) in [("grows", SIZE + 8), ("goes", 0), ("shrinks", SIZE / 4 * 3)] {
        let path = workspace.join(name).join("file");
        std::fs::create_dir(workspace.join(name)).unwrap();
        std::fs::write(&path, &content).unwrap();
        let mut body = begun(&http, &format!("/v1/fs/download-batch?path={name}&format=tar")).await;
        // The first piece has some of the file.
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        match length {
            0 => std::fs::remove_file(&path).unwrap(),
            length => {
                let file = File::options().write(true).open(&path).unwrap();
                file.set_len(length as u64).unwrap();
            }
        }
        if name == "shrinks" {
            let came = cut(body).await;
            assert!(came.len() < SIZE, "{}", came.len());
            continue;
        }
        let rest = body.collect().await.unwrap().to_bytes();
        let archive = [first, rest].concat();
        let packed = &archive[512..512 + SIZE];
        assert!(packed == content, "{name}");
        assert!(archive.len() < SIZE + 20_000, "{name}: {}", archive.len());
    }
}

/// Changes files in a directory until it is dropped.
struct Changer(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Changer {
    fn start(directory: std::path::PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let lines = "a needle in a line\n".repeat(5_000);
        let thread = std::thread::spawn(move || {
            for number in (0..4).cycle() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let path = directory.join(format!("changing {number}"));
                std::fs::write(&path, &lines).unwrap();
                let mut file = File::options().append(true).open(&path).unwrap();
                file.write_all(lines.as_bytes()).unwrap();
                file.set_len(10).unwrap();
                std::fs::remove_file(&path).unwrap();
            }
        });
        Self(stop, Some(thread))
    }
}

impl Drop for Changer {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().unwrap().join();
    }
}

#[tokio::test]
async fn a_search_goes_through_files_that_grow_shrink_and_go() {
    let daemon = Daemon::start();
    let (http, workspace) = (daemon.http(), daemon.workspace());
    std::fs::write(workspace.join("stays"), "a needle in a line\n").unwrap();
    let _changer = Changer::start(workspace);
    let body = json!({ "pattern": "needle", "limit": 100_000 });
    for _ in 0..40 {
        let answer = http.post("/v1/fs/search", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = answer.json();
        let found = answer["matches"].as_array().unwrap();
        let stays = |one: &&Value| one["path"].as_str().unwrap().ends_with("stays");
        assert_eq!(found.iter().filter(stays).count(), 1);
        // A line that is just being written may end early.
        let is_part = |one: &Value| "a needle in a line".starts_with(one["text"].as_str().unwrap());
        assert!(found.iter().all(is_part), "{answer}");
    }
}

/// The engine never goes back, but a large pattern upon a long line takes long all the same: the limit holds.
#[tokio::test]
async fn a_pattern_that_explodes_ends_at_its_time() {
    let mut daemon = Daemon::start();
    let (http, workspace) = (daemon.http(), daemon.workspace());
    let mut random = fastrand::Rng::with_seed(7);
    let bits = std::iter::repeat_with(|| b'0' + random.u8(..2));
    let line: Vec<u8> = bits.take(4 << 20).collect();
    std::fs::write(workspace.join("line"), line).unwrap();
    let search = async |pattern: &str, limit: Duration| {
        let began = Instant::now();
        let body = json!({ "pattern": pattern, "timeoutMs": limit.as_millis() as u64 });
        let answer = http.post("/v1/fs/search", &body).await;
        let took = began.elapsed();
        assert_eq!(answer.status, 200, "{pattern}: {}", answer.text());
        assert!(took < limit + PATIENCE, "{pattern}: {took:?}");
        let answer = answer.json();
        assert_eq!(answer["matches"], json!([]), "{pattern}");
        answer["truncatedBy"].clone()
    };
    // Exponential for engines that go back.
    for pattern in ["(a+)+$", "(0|1|[01])*2", "((0*)*)*2", "(0|00)+2"] {
        assert_eq!(search(pattern, PATIENCE).await, Value::Null, "{pattern}");
    }
    // As many states as it has digits, for each byte: it would take minutes.
    assert_eq!(search("[01]*1[01]{20000}2", Duration::from_secs(1)).await, "time");
    // Others are searched meanwhile.
    assert_eq!(search("2", PATIENCE).await, Value::Null);
    let (_, peak) = processes::resident(daemon.pid());
    assert!(peak < 256 << 20, "{peak} bytes");
    // What still runs does not hold up the stop.
    assert_eq!(daemon.stop().code(), Some(0));
}
