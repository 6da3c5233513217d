//! Many processes, one after the other and all at once: nothing is left behind, no exit code is lost or mistaken for
//! another's.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use hyper::Method;
use hyper::header::CONTENT_TYPE;
use nix::sys::stat::Mode;
use serde_json::{Value, json};

use crate::harness::http::{Http, Kept};
use crate::harness::{Answer, Daemon, PATIENCE, eventually, percentile, processes};
use crate::http_process_life::{ended, made, made_of};

/// Requests under way at once.
const AT_ONCE: usize = 16;

/// A POST over a connection that is kept.
async fn post(http: &Http, kept: &mut Kept, path: &str, body: &Value) -> Answer {
    let request = http
        .request(Method::POST, path)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::from(body.to_string()));
    kept.send(request.unwrap()).await
}

/// Another request without a body.
async fn bare(http: &Http, kept: &mut Kept, method: Method, path: &str) -> Answer {
    let request = http.request(method, path).body(Full::<Bytes>::default());
    kept.send(request.unwrap()).await
}

/// Does `work(index)` for every index of the range, so many at a time, each worker with a connection of its own.
async fn for_each<F>(http: &Http, range: std::ops::Range<usize>, work: impl Fn(Kept, usize) -> F)
where
    F: Future<Output = Kept>,
{
    let next = Arc::new(AtomicUsize::new(range.start));
    let workers = (0..AT_ONCE).map(|_| async {
        let mut kept = http.keep().await;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= range.end {
                return;
            }
            kept = work(kept, index).await;
        }
    });
    join_all(workers).await;
}

fn zombies_of(parent: i32) -> Vec<i32> {
    let is_zombie =
        |pid: &i32| processes::status_field(*pid, "State").is_some_and(|state| state.starts_with('Z'));
    processes::children(parent)
        .into_iter()
        .filter(is_zombie)
        .collect()
}

#[track_caller]
fn no_zombie_is_left(daemon: &Daemon) {
    eventually("the end of every zombie", Duration::from_secs(2), || {
        zombies_of(daemon.pid()).is_empty().then_some(())
    });
}

fn descriptors(daemon: &Daemon) -> usize {
    std::fs::read_dir(processes::of(daemon.pid(), "fd"))
        .unwrap()
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_short_processes_leave_nothing_behind() {
    crate::harness::alone();
    let daemon = Daemon::start();
    let http = daemon.http();
    let run = |mut kept, index: usize| {
        let http = http.clone();
        async move {
            let code = (index % 251).to_string();
            let asked = json!({ "command": "/bin/sh", "args": ["-c", format!("exit {code}")] });
            let answer = post(&http, &mut kept, "/v1/processes/run", &asked).await;
            assert_eq!(answer.json()["exitCode"], index % 251, "{}", answer.text());
            kept
        }
    };
    for_each(&http, 0..200, run).await;
    // The connections of this client are let go of first.
    let before = eventually("a count that stays", PATIENCE, || {
        let count = descriptors(&daemon);
        std::thread::sleep(Duration::from_millis(100));
        (descriptors(&daemon) == count).then_some(count)
    });
    let begin = Instant::now();
    for_each(&http, 0..2_000, run).await;
    let (early, _) = processes::resident(daemon.pid());
    for_each(&http, 2_000..10_000, run).await;
    let (late, _) = processes::resident(daemon.pid());
    eprintln!(
        "10000 processes in {:?}; resident {} KiB after 2000 of them, {} KiB in the end",
        begin.elapsed(),
        early >> 10,
        late >> 10
    );
    no_zombie_is_left(&daemon);
    eventually("the descriptors to be as many as before", PATIENCE, || {
        (descriptors(&daemon) <= before).then_some(())
    });
    assert_eq!(processes::children(daemon.pid()), [0; 0], "no child is left");
    assert!(
        late < early + (8 << 20),
        "resident memory grew from {} to {} KiB",
        early >> 10,
        late >> 10
    );
}

/// As many as one caller may have by their ids, and the rest in requests that wait for their end.
const MADE: usize = 4_000;
const RUN: usize = 1_000;
/// Of those that are let go at once: fewer than are remembered after their end.
const LOT: usize = 1_000;

async fn codes_of_five_thousand(daemon: &Daemon) {
    let http = daemon.http();
    let patch = json!({ "maxConcurrentProcesses": 6_000 });
    assert_eq!(http.post("/v1/processes/config", &patch).await.status, 200);
    let gates: Vec<_> = (0..(MADE + RUN).div_ceil(LOT))
        .map(|lot| daemon.workspace().join(format!("gate-{lot}")))
        .collect();
    for gate in &gates {
        nix::unistd::mkfifo(gate, Mode::S_IRWXU).unwrap();
    }
    // Opening the gate waits for whoever opens it for writing.
    let asked = |index: usize| {
        let line = format!(": < gate-{}; exit {}", index / LOT, index % 251);
        json!({ "command": "/bin/sh", "args": ["-c", line], "timeoutMs": 300_000 })
    };
    let begin = Instant::now();
    let ids: Arc<Vec<_>> = Arc::new((0..MADE).map(|_| std::sync::OnceLock::<String>::new()).collect());
    for_each(&http, 0..MADE, |mut kept, index| {
        let (http, ids) = (http.clone(), Arc::clone(&ids));
        async move {
            let answer = post(&http, &mut kept, "/v1/processes", &asked(index)).await;
            assert_eq!(answer.status, 200, "{index}: {}", answer.text());
            let id = answer.json()["id"].as_str().unwrap().to_owned();
            ids[index].set(id).unwrap();
            kept
        }
    })
    .await;
    let mut runs = Vec::new();
    for index in MADE..MADE + RUN {
        let (http, asked) = (http.clone(), asked(index));
        runs.push(tokio::spawn(async move { http.run(&asked).await }));
        if index % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    eventually("all of them to be there", Duration::from_secs(60), || {
        let failed = runs.iter().filter(|run| run.is_finished()).count();
        assert_eq!(failed, 0, "they wait for the gate");
        (processes::children(daemon.pid()).len() == MADE + RUN).then_some(())
    });
    let alive = begin.elapsed();
    let mut open = Vec::new();
    for (lot, gate) in gates.iter().enumerate() {
        open.push(File::options().read(true).write(true).open(gate).unwrap());
        let of_this = lot * LOT..((lot + 1) * LOT).min(MADE);
        for_each(&http, of_this, |mut kept, index| {
            let (http, ids) = (http.clone(), Arc::clone(&ids));
            async move {
                let id = ids[index].get().unwrap();
                let wait = format!("/v1/processes/{id}/wait?timeoutMs=60000");
                let info = bare(&http, &mut kept, Method::GET, &wait).await.json();
                assert_eq!(info["exitCode"], index % 251, "{index}: {info}");
                kept
            }
        })
        .await;
    }
    for (index, run) in (MADE..).zip(runs) {
        let answer = run.await.unwrap();
        assert_eq!(
            answer.json()["exitCode"],
            index % 251,
            "{index}: {}",
            answer.text()
        );
    }
    eprintln!(
        "5000 at once: all alive after {alive:?}, all told after {:?}",
        begin.elapsed()
    );
    no_zombie_is_left(daemon);
    assert_eq!(processes::children(daemon.pid()), [0; 0], "no child is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_at_once_each_end_with_their_own_code() {
    crate::harness::alone();
    codes_of_five_thousand(&Daemon::start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_at_once_each_end_with_their_own_code_below_a_first_process() {
    crate::harness::alone();
    codes_of_five_thousand(&Daemon::builder().namespace("true").start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_orphans_do_not_take_the_code_of_who_is_waited_for() {
    crate::harness::alone();
    for builder in [Daemon::builder(), Daemon::builder().namespace("true")] {
        let daemon = builder.start();
        let http = daemon.http();
        let gate = daemon.workspace().join("gate");
        nix::unistd::mkfifo(&gate, Mode::S_IRWXU).unwrap();
        let slow = made(&http, ": < gate; exit 42").await;
        let waiting = {
            let (http, slow) = (http.clone(), slow.clone());
            tokio::spawn(async move { ended(&http, &slow).await })
        };
        // Four at a time make 250 each that lose their parent at once and end a little later.
        let line = "i=0; while [ $i -lt 250 ]; do (sleep 0.0$((i % 10)) &); i=$((i+1)); done; exit 9";
        let asked = json!({ "command": line, "shell": true });
        let makers = join_all((0..4).map(|_| made_of(&http, &asked))).await;
        for maker in &makers {
            assert_eq!(ended(&http, maker).await["exitCode"], 9);
        }
        assert!(!waiting.is_finished(), "it was not told of another's end");
        let opened = File::options().read(true).write(true).open(&gate).unwrap();
        let info = waiting.await.unwrap();
        assert_eq!(info["exitCode"], 42, "{info}");
        drop(opened);
        no_zombie_is_left(&daemon);
        eventually("the end of every orphan", PATIENCE, || {
            processes::children(daemon.pid()).is_empty().then_some(())
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_one_process_does_not_cost_a_look_at_a_thousand_others() {
    crate::harness::alone();
    let daemon = Daemon::start();
    let http = daemon.http();
    let many = json!({ "maxConcurrentProcesses": 1_100 });
    assert_eq!(http.post("/v1/processes/config", &many).await.status, 200);
    let make = |mut kept, _| {
        let http = http.clone();
        async move {
            let sleep = json!({ "command": "sleep", "args": ["1000"] });
            let answer = post(&http, &mut kept, "/v1/processes", &sleep).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            kept
        }
    };
    for_each(&http, 0..1_000, make).await;
    let mut took = Vec::new();
    for _ in 0..40 {
        let id = made(&http, "sleep 1000 & sleep 1000").await;
        let begin = Instant::now();
        let killed = http
            .post(&format!("/v1/processes/{id}/kill?waitMs=5000"), &json!({}))
            .await;
        took.push(begin.elapsed());
        assert_eq!(killed.json()["status"], "exited", "{}", killed.text());
    }
    let median = percentile(&mut took, 50);
    assert!(median < Duration::from_millis(80), "a kill took {median:?}");
}
