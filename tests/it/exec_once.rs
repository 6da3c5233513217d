//! A retry never runs a command twice: repeats during, after, and after the daemon was killed.

use std::time::Duration;

use crate::harness::ways::unique_seconds;
use crate::harness::{Request, WAYS, Way, Ways, processes};

fn lines(ways: &Ways, file: &str) -> usize {
    let text = std::fs::read_to_string(ways.daemon.workspace().join(file)).unwrap_or_default();
    text.lines().count()
}

/// Asks for a command in a task of its own, whose answer nobody needs.
fn ask(ways: &Ways, way: Way, request: &Request) -> tokio::task::JoinHandle<()> {
    let (control, http, request) = (ways.control.clone(), ways.http.clone(), request.clone());
    tokio::spawn(async move {
        match way {
            Way::Nats => {
                let id = request.id.clone().expect("an id");
                drop(control.ask_as(&id, 0, request.op()).await);
            }
            Way::Http => drop(http.run(&request.json()).await),
        }
    })
}

#[tokio::test]
async fn a_repeat_gets_the_stored_answer() {
    let ways = Ways::start().await;
    for way in WAYS {
        let file = format!("{way:?}");
        let request =
            Request::shell(&format!("echo x >> {file}; date +%s%N; echo err >&2; exit 4")).id("one");
        let first = ways.run(way, &request).await;
        assert_eq!(ways.run(way, &request).await, first, "{way:?}");
        assert_eq!(lines(&ways, &file), 1, "{way:?}");
        assert_eq!(ways.run(way, &request.clone().id("another")).await.code, 4);
        assert_eq!(lines(&ways, &file), 2, "{way:?}: another id is another request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_while_it_runs_is_told_so() {
    let ways = Ways::start().await;
    for way in WAYS {
        let (file, seconds) = (format!("{way:?}"), unique_seconds());
        let request = Request::shell(&format!("echo x >> {file}; sleep {seconds}; true")).id("busy");
        let first = ask(&ways, way, &request);
        processes::wait_until_there(&seconds, Duration::from_secs(10));
        let (code, _) = ways.refused(way, &request).await;
        first.abort();
        assert_eq!(
            code,
            if way == Way::Nats {
                "ERROR_CODE_DRAINING"
            } else {
                "duplicate_in_flight"
            }
        );
        assert_eq!(lines(&ways, &file), 1, "{way:?}");
    }
}

#[tokio::test]
async fn the_same_key_for_something_else_is_a_conflict() {
    let ways = Ways::start().await;
    ways.run(Way::Http, &Request::argv(&["true"]).id("key")).await;
    let (code, _) = ways
        .refused(Way::Http, &Request::argv(&["false"]).id("key"))
        .await;
    assert_eq!(code, "conflict");
    assert_eq!(
        ways.run(Way::Nats, &Request::argv(&["false"]).id("key"))
            .await
            .code,
        1,
        "keys belong to who asks"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_the_outcome_is_lost_and_nothing_runs_again() {
    for way in WAYS {
        let mut ways = Ways::start().await;
        let (file, seconds) = (format!("{way:?}"), unique_seconds());
        let request = Request::shell(&format!("echo x >> {file}; sleep {seconds}; true")).id("crashed");
        let finished = Request::shell(&format!("echo y >> {file}.done")).id("finished");
        ways.run(way, &finished).await;
        let asked = ask(&ways, way, &request);
        processes::wait_until_there(&seconds, Duration::from_secs(10));
        asked.abort();
        ways.daemon.crash();
        assert_eq!(
            processes::with_argument(&seconds).len(),
            1,
            "{way:?}: a crash leaves the child behind"
        );
        ways.daemon.start_again();
        ways.follow();
        for request in [&request, &finished] {
            let (code, words) = ways.refused(way, request).await;
            assert!(
                ["ERROR_CODE_OS", "lost"].contains(&code.as_str()),
                "{way:?}: {code} {words}"
            );
            assert!(words.contains("not run again"), "{way:?}: {words}");
        }
        assert_eq!(lines(&ways, &file), 1, "{way:?}");
        assert_eq!(lines(&ways, &format!("{file}.done")), 1, "{way:?}");
        processes::wait_until_gone(&seconds, Duration::from_secs(5));
    }
}
