//! Watches where the kernel gives little: what is told equals what is there all the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Method;
use hyper::body::Incoming;
use hyper::header::ACCEPT;
use serde_json::Value;

use crate::harness::daemon::BOXD;
use crate::harness::{Daemon, PATIENCE, require, write_program};

/// Reads the events of a watch, and knows what they lead to.
struct Watcher {
    body: Incoming,
    rest: Vec<u8>,
    known: BTreeSet<PathBuf>,
    reasons: Vec<String>,
}

impl Watcher {
    async fn start(daemon: &Daemon) -> Self {
        let http = daemon.http();
        let request = http
            .request(Method::GET, "/v1/fs/watch")
            .header(ACCEPT, "application/x-ndjson");
        let response = http.open(request.body(Full::<Bytes>::default()).unwrap()).await;
        assert_eq!(response.status(), 200);
        let mut watcher = Self {
            body: response.into_body(),
            rest: Vec::new(),
            known: BTreeSet::new(),
            reasons: Vec::new(),
        };
        let ready = watcher.next().await;
        assert!(ready.iter().any(|event| event["type"] == "ready"), "{ready:?}");
        watcher
    }

    async fn next(&mut self) -> Vec<Value> {
        let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await;
        let frame = frame
            .expect("the watch is silent")
            .expect("the watch ends")
            .unwrap();
        self.rest.extend_from_slice(frame.data_ref().unwrap());
        let end = self
            .rest
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let whole: Vec<u8> = self.rest.drain(..end).collect();
        let lines = whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    /// Applies events until they lead to what is there.
    async fn until_known(&mut self, root: &Path) {
        while self.known != there(root) {
            for event in self.next().await {
                let path = event["path"].as_str().map(PathBuf::from);
                match (event["type"].as_str().unwrap(), path) {
                    ("created", Some(path)) => assert!(self.known.insert(path), "{event}"),
                    ("removed", Some(path)) => assert!(self.known.remove(&path), "{event}"),
                    ("modified", Some(path)) => assert!(self.known.contains(&path), "{event}"),
                    ("overflow", _) => self.reasons.push(event["reason"].as_str().unwrap().to_owned()),
                    ("ready" | "rescanned" | "ping", _) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

fn there(root: &Path) -> BTreeSet<PathBuf> {
    let mut there = BTreeSet::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                waiting.push(entry.path());
            }
            there.insert(entry.path());
        }
    }
    there
}

/// A program that becomes the daemon where the kernel allows a hundred watches: a user namespace has limits of its own.
fn with_few_watches(directory: &Path) -> PathBuf {
    require("unshare");
    let script = format!(
        "#!/bin/sh\nexec unshare --user --map-root-user sh -c \
         'echo 100 >/proc/sys/user/max_inotify_watches && exec \"$0\" \"$@\"' {BOXD} \"$@\"\n"
    );
    let program = directory.join("boxd");
    write_program(&program, script);
    program
}

#[tokio::test]
async fn with_a_hundred_watches_everything_is_told_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::builder()
        .program(&with_few_watches(directory.path()))
        .start();
    let root = daemon.workspace().canonicalize().unwrap();
    let mut watcher = Watcher::start(&daemon).await;
    for number in 0..500 {
        let below = root.join(format!("d{}/e{number}", number % 7));
        std::fs::create_dir_all(&below).unwrap();
        for file in 0..100 {
            std::fs::File::create(below.join(format!("f{file}"))).unwrap();
        }
    }
    watcher.until_known(&root).await;
    let says_so = |reason: &String| reason.contains("max_user_watches");
    assert!(watcher.reasons.iter().any(says_so), "{:?}", watcher.reasons);
    for name in ["d0/e0/late", "d3/e493/late"] {
        std::fs::write(root.join(name), "x").unwrap();
        watcher.until_known(&root).await;
    }
    std::fs::remove_dir_all(root.join("d3")).unwrap();
    watcher.until_known(&root).await;
}
