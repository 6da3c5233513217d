//! Following a process: events to its end, exact resume, and followers that cost nobody anything.

use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::{Method, Response};
use serde_json::{Value, json};

use crate::harness::http::Http;
use crate::harness::{Daemon, percentile};
use crate::http_process_life::{ended, made, made_of};

/// One event.
#[derive(Debug, Clone)]
struct Event {
    name: String,
    id: Option<u64>,
    data: Value,
}

/// Reads events as they come.
struct Events {
    body: hyper::body::Incoming,
    buffer: Vec<u8>,
}

impl Events {
    async fn of(http: &Http, id: &str, query: &str) -> Self {
        Self::resumed(http, id, query, None).await
    }

    async fn resumed(http: &Http, id: &str, query: &str, last: Option<u64>) -> Self {
        let path = format!("/v1/processes/{id}/logs?follow=true{query}");
        let mut request = http.request(Method::GET, &path);
        if let Some(last) = last {
            request = request.header("last-event-id", last.to_string());
        }
        Self::new(http.open(request.body(Full::<Bytes>::default()).unwrap()).await)
    }

    fn new(response: Response<hyper::body::Incoming>) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
        Self {
            body: response.into_body(),
            buffer: Vec::new(),
        }
    }

    /// What comes next, whatever it is.
    async fn piece(&mut self) -> Bytes {
        self.body.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let end = self.buffer.windows(2).position(|pair| pair == b"\n\n");
            if let Some(end) = end {
                let text: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let text = String::from_utf8(text).unwrap();
                if text.starts_with(':') {
                    continue;
                }
                let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
                return Some(Event {
                    name: field("event: ").unwrap().to_owned(),
                    id: field("id: ").map(|id| id.parse().unwrap()),
                    data: serde_json::from_str(field("data: ").unwrap()).unwrap(),
                });
            }
            let frame = self.body.frame().await?.unwrap();
            self.buffer.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    async fn all(mut self) -> Vec<Event> {
        let mut all = Vec::new();
        while let Some(event) = self.next().await {
            all.push(event);
        }
        all
    }
}

fn data(event: &Event) -> Vec<u8> {
    BASE64.decode(event.data["data"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn a_process_that_has_ended_is_told_whole() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let id = made(&http, "echo one; exit 3").await;
    ended(&http, &id).await;
    let events = Events::of(&http, &id, "").await.all().await;
    let names: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["log", "exit"]);
    assert_eq!(data(&events[0]), b"one\n");
    let exit = &events[1];
    assert_eq!(
        (&exit.data["exitCode"], &exit.data["timedOut"]),
        (&json!(3), &json!(false))
    );
    assert_eq!(
        exit.data["channels"]["stdout"]["blake3"],
        blake3::hash(b"one\n").to_string()
    );
    assert_eq!(exit.id, exit.data["sequence"].as_u64());
    // Who saw the end and comes back, as an EventSource does by itself, is told not to.
    let path = format!("/v1/processes/{id}/logs?follow=true");
    let request = http
        .request(Method::GET, &path)
        .header("last-event-id", exit.id.unwrap());
    assert_eq!(
        http.send(request.body(Full::default()).unwrap()).await.status,
        204
    );
    let request = http.request(Method::GET, &path).header("last-event-id", "x");
    http.send(request.body(Full::default()).unwrap())
        .await
        .problem(400, "invalid_request");
}

#[tokio::test]
async fn the_token_may_stand_in_the_url_of_an_event_stream_only() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let id = made(&http, "echo one").await;
    ended(&http, &id).await;
    let (anonymous, token) = (http.anonymous(), daemon.token());
    let events = Events::of(&anonymous, &id, &format!("&access_token={token}")).await;
    assert_eq!(events.all().await.len(), 2);
    for path in [
        format!("/v1/processes/{id}/logs?access_token={token}"),
        format!("/v1/processes?access_token={token}"),
        format!("/v1/processes/{id}/logs?follow=true&access_token=wrong"),
        format!("/v1/processes/{id}/logs?follow=true"),
    ] {
        anonymous.get(&path).await.problem(401, "token_invalid");
    }
}

#[tokio::test]
async fn a_run_is_streamed_to_who_accepts_nothing_else() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let run = async |accept: &str, line: &str| {
        let request = http
            .request(Method::POST, "/v1/processes/run")
            .header(ACCEPT, accept)
            .header(CONTENT_TYPE, "application/json");
        let asked = json!({ "command": line, "shell": true, "stdin": "in\n" });
        http.open(request.body(Full::<Bytes>::from(asked.to_string())).unwrap())
            .await
    };
    let events = Events::new(run("text/event-stream", "cat; exit 2").await)
        .all()
        .await;
    let names: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["started", "log", "exit"]);
    let id = events[0].data["processId"].as_str().unwrap();
    assert_eq!(
        (data(&events[1]), &events[2].data["exitCode"]),
        (b"in\n".to_vec(), &json!(2))
    );
    let raw = http.get(&format!("/v1/processes/{id}/logs?format=raw")).await;
    assert_eq!(raw.text(), "in\n", "it is kept");
    let lines = run("application/x-ndjson", "cat").await;
    let lines = lines.into_body().collect().await.unwrap().to_bytes();
    let kinds: Vec<_> = std::str::from_utf8(&lines)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].clone())
        .collect();
    assert_eq!(kinds, ["started", "log", "exit"]);
    // Who goes away leaves it running.
    let mut events = Events::new(run("text/event-stream", "echo $$; exec sleep 1000").await);
    let id = events.next().await.unwrap().data["processId"]
        .as_str()
        .unwrap()
        .to_owned();
    events.next().await.unwrap();
    drop(events);
    let info = http.get(&format!("/v1/processes/{id}")).await.json();
    assert_eq!(info["status"], "running");
}

#[tokio::test]
async fn a_follower_that_is_cut_off_a_hundred_times_has_everything_once() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let asked = json!({ "command": "seq 1 10000000", "shell": true, "retention": { "bytes": 256 << 20 } });
    let id = made_of(&http, &asked).await;
    let (mut hasher, mut bytes, mut last, mut cuts) = (blake3::Hasher::new(), 0_usize, None, 0);
    let exit = 'cut: loop {
        let mut events = Events::resumed(&http, &id, "", last).await;
        let (begin, at) = (bytes, 700_000 + 991 * cuts);
        while let Some(event) = events.next().await {
            match event.name.as_str() {
                "log" => {
                    assert!(
                        last.is_none_or(|last| event.id > Some(last)),
                        "{event:?} behind {last:?}"
                    );
                    last = event.id;
                    let piece = data(&event);
                    hasher.update(&piece);
                    bytes += piece.len();
                }
                "exit" => break 'cut event,
                _ => panic!("{event:?}"),
            }
            if cuts < 100 && bytes - begin >= at {
                cuts += 1;
                continue 'cut;
            }
        }
        panic!("the stream ended without an exit");
    };
    assert_eq!(cuts, 100);
    assert_eq!(exit.data["channels"]["stdout"]["bytes"], bytes);
    let digest = hasher.finalize().to_string();
    assert_eq!(exit.data["channels"]["stdout"]["blake3"], digest);
    let mut real = blake3::Hasher::new();
    for first in (1..=10_000_000_u64).step_by(10_000) {
        let lines: Vec<_> = (first..first + 10_000)
            .map(|number| format!("{number}\n"))
            .collect();
        real.update(lines.concat().as_bytes());
    }
    assert_eq!(digest, real.finalize().to_string());
}

/// What a stalled follower is told when it reads again is for `what_was_dropped_is_said_exactly`.
#[tokio::test]
async fn a_follower_that_does_not_read_delays_nobody() {
    const COUNT: u64 = 60;
    crate::harness::alone();
    let daemon = Daemon::start();
    let http = daemon.http();
    let line =
        "read go; for i in $(seq 1 60); do head -c 400000 /dev/zero; printf '%s\\n' $i >&2; sleep 0.02; done";
    let (mut took, mut late) = (Vec::new(), Vec::new());
    for stalled in [false, true] {
        let id = made(&http, line).await;
        let stuck = if stalled {
            Some(Events::of(&http, &id, "").await)
        } else {
            None
        };
        let followers: Vec<_> = (0..19)
            .map(|_| {
                let (http, id) = (http.clone(), id.clone());
                tokio::spawn(async move {
                    let mut events = Events::of(&http, &id, "&stream=stderr").await;
                    let mut seen = Vec::new();
                    while let Some(event) = events.next().await {
                        if event.name == "log" {
                            let written = event.data["timestampMs"].as_u64().unwrap();
                            let written = SystemTime::UNIX_EPOCH + Duration::from_millis(written);
                            seen.push(written.elapsed().unwrap_or_default());
                        }
                    }
                    seen
                })
            })
            .collect();
        let input = format!("/v1/processes/{id}/input");
        let go = json!({ "data": "go\n", "encoding": "utf8" });
        let before = Instant::now();
        http.post(&input, &go).await;
        let mut all = Vec::new();
        for follower in followers {
            let seen = follower.await.unwrap();
            assert!(seen.len() as u64 >= COUNT / 2, "{}", seen.len());
            all.extend(seen);
        }
        took.push(before.elapsed());
        late.push(percentile(&mut all, 99));
        let info = ended(&http, &id).await;
        assert_eq!(info["channels"]["stdout"]["bytes"], 400_000 * COUNT, "{info}");
        drop(stuck);
    }
    assert!(
        late[1] < late[0] + Duration::from_millis(50),
        "how late a line is, without and with a stalled one: {late:?}"
    );
    assert!(
        took[1] < took[0] + took[0] / 2,
        "how long the process takes, without and with a stalled one: {took:?}"
    );
}

#[tokio::test]
async fn one_caller_follows_so_many_and_no_more() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let id = made(&http, "exec sleep 1000").await;
    let mut all = Vec::new();
    for _ in 0..1024 {
        all.push(Events::of(&http, &id, "").await);
    }
    let path = format!("/v1/processes/{id}/logs?follow=true");
    http.get(&path).await.problem(503, "overloaded");
    drop(all);
    let freed = async {
        let free = async || {
            let request = http.request(Method::GET, &path);
            let response = http.open(request.body(Full::<Bytes>::default()).unwrap()).await;
            response.status() == 200
        };
        while !free().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), freed)
        .await
        .expect("places are given back");
}

#[tokio::test]
async fn a_quiet_process_gives_a_sign_of_life_every_fifteen_seconds() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let id = made(&http, "exec sleep 60").await;
    let mut events = Events::of(&http, &id, "").await;
    let path = format!("/v1/processes/{id}/logs?follow=true");
    let request = http
        .request(Method::GET, &path)
        .header(ACCEPT, "application/x-ndjson");
    let mut lines = http
        .open(request.body(Full::<Bytes>::default()).unwrap())
        .await
        .into_body();
    let begin = Instant::now();
    let line = async { lines.frame().await.unwrap().unwrap().into_data().unwrap() };
    let (comment, line) = tokio::join!(events.piece(), line);
    assert_eq!(&comment[..], b": ping\n\n");
    assert_eq!(&line[..], b"{\"type\":\"ping\"}\n");
    let waited = begin.elapsed();
    assert!(
        (Duration::from_secs(14)..Duration::from_secs(17)).contains(&waited),
        "{waited:?}"
    );
}
