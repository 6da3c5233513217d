//! Exit is exit: when a command is over, what happens to its background children, and what a stop leaves behind.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::ways::unique_seconds;
use crate::harness::{Request, WAYS, Way, Ways, eventually, processes};

#[tokio::test]
async fn a_background_child_neither_delays_the_answer_nor_dies() {
    crate::harness::alone();
    let ways = Ways::start().await;
    for way in WAYS {
        let seconds = unique_seconds();
        let request = Request::shell(&format!("sleep {seconds} & echo done"));
        // A crowded machine may hold up any one of them.
        let (mut attempts, mut fastest) = (0, Duration::MAX);
        while fastest >= Duration::from_millis(50) && attempts < 20 {
            let (ran, took) = ways.timed(way, &request).await;
            assert_eq!((ran.text().as_str(), ran.code), ("done\n", 0));
            (attempts, fastest) = (attempts + 1, fastest.min(took));
        }
        assert!(fastest < Duration::from_millis(50), "{way:?}: {fastest:?}");
        assert_eq!(
            processes::with_argument(&seconds).len(),
            attempts,
            "{way:?}: the children live on"
        );
    }
}

#[tokio::test]
async fn lingering_children_are_named() {
    let ways = Ways::start().await;
    let seconds = unique_seconds();
    let answer = ways
        .http
        .run(&Request::shell(&format!("sleep {seconds} & echo done")).json())
        .await
        .json();
    let lingering: Vec<i64> = answer["lingering"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pid| pid.as_i64().unwrap())
        .collect();
    let living: Vec<i64> = processes::with_argument(&seconds)
        .into_iter()
        .map(i64::from)
        .collect();
    assert_eq!(lingering, living);
    assert_eq!(living.len(), 1);
}

#[tokio::test]
async fn the_tail_of_a_pipeline_is_kept() {
    let ways = Ways::start().await;
    for way in WAYS {
        // The leader is gone before cat has written what the leader gave it.
        let ran = ways
            .run(
                way,
                &Request::argv(&["bash", "-c", "seq 1 2000 | tee >(cat >&2) >/dev/null"]),
            )
            .await;
        assert_eq!(ran.stderr.split(|byte| *byte == b'\n').count(), 2001, "{way:?}");
    }
}

#[tokio::test]
async fn a_time_limit_kills_the_whole_tree() {
    let ways = Ways::start().await;
    for way in WAYS {
        let seconds = unique_seconds();
        let line = format!(
            "echo early; setsid sleep {seconds} & (setsid sh -c 'sleep {seconds} & sleep {seconds}' &) ; sleep {seconds}"
        );
        let request = Request::shell(&line).timeout(Duration::from_millis(400));
        let (ran, took) = ways.timed(way, &request).await;
        assert!(ran.timed_out && ran.code == -1, "{way:?}: {ran:?}");
        assert_eq!(ran.text(), "early\n", "{way:?}: what came before is kept");
        assert!(took < Duration::from_secs(5), "{way:?}: {took:?}");
        processes::assert_none(&seconds);
    }
}

#[tokio::test]
async fn a_time_limit_also_reaches_children_that_ignore_signals() {
    let ways = Ways::start().await;
    for way in WAYS {
        let seconds = unique_seconds();
        let line = format!("trap '' TERM INT HUP; sleep {seconds} & wait; sleep {seconds}");
        let request = Request::shell(&line).timeout(Duration::from_millis(200));
        assert!(ways.run(way, &request).await.timed_out);
        processes::assert_none(&seconds);
    }
}

#[tokio::test]
async fn a_child_that_writes_for_ever_is_drained_and_bounded() {
    let ways = Ways::start().await;
    let word = format!("y{}", fastrand::u64(..));
    for way in WAYS {
        let request = Request::shell(&format!("yes {word} & echo done"));
        let begin = Instant::now();
        let answer = ways.try_run(way, &request).await;
        let took = begin.elapsed();
        match (way, answer) {
            // What it wrote until the leader's end may be more than a reply holds; that is then said.
            (Way::Nats, Err(refusal)) => assert_eq!(refusal.told().0, "ERROR_CODE_PAYLOAD_TOO_LARGE"),
            (_, answer) => assert_eq!(answer.unwrap().code, 0),
        }
        assert!(took < Duration::from_secs(5), "{way:?}: {took:?}");
        let pid = processes::wait_until_there(&word, Duration::from_secs(5));
        let written = || -> u64 {
            let text = std::fs::read_to_string(processes::of(pid, "io")).unwrap_or_default();
            text.lines()
                .find_map(|line| line.strip_prefix("wchar: ")?.parse().ok())
                .unwrap_or(0)
        };
        let begin = written();
        eventually(
            "yes goes on writing after the answer",
            Duration::from_secs(20),
            || (written() > begin + (256 << 20)).then_some(()),
        );
        let (_, peak) = processes::resident(ways.daemon.pid());
        assert!(peak < 96 << 20, "{way:?}: the daemon used {} MiB", peak >> 20);
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
}

#[tokio::test]
async fn signals_and_codes_are_told_apart() {
    let ways = Ways::start().await;
    for way in WAYS {
        for code in [0, 1, 127, 255] {
            assert_eq!(
                ways.run(way, &Request::shell(&format!("exit {code}"))).await.code,
                code,
                "{way:?}"
            );
        }
        let ran = ways.run(way, &Request::shell("kill -SEGV $$")).await;
        assert_eq!((ran.code, ran.timed_out), (-1, false), "{way:?}");
    }
    let answer = ways
        .http
        .run(&Request::shell("kill -SEGV $$").json())
        .await
        .json();
    assert_eq!(
        (answer["exitCode"].clone(), answer["signal"].clone()),
        (serde_json::Value::Null, "SIGSEGV".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_the_daemon_takes_every_tree_with_it_and_says_goodbye() {
    use boxd::wire::proto::GoingOfflineReason;
    use boxd::wire::proto::agent_event::Event;

    let mut ways = Ways::start().await;
    let seconds = unique_seconds();
    let mut events = ways.control.events().await;
    ways.run(
        WAYS[1],
        &Request::shell(&format!("setsid sleep {seconds} & echo")),
    )
    .await;
    let control = ways.control.clone();
    let line = format!("trap '' TERM; sleep {seconds} & sleep {seconds}; sleep {seconds}");
    let running = tokio::spawn(async move { control.ask(Request::shell(&line).op()).await });
    eventually("three sleeps", Duration::from_secs(5), || {
        (processes::with_argument(&seconds).len() == 3).then_some(())
    });

    ways.daemon.signal(Signal::SIGTERM);
    let offline = loop {
        if let Some(Event::GoingOffline(offline)) = events.next().await.event {
            break offline;
        }
    };
    assert_eq!(offline.reason(), GoingOfflineReason::UserStop);
    let status = ways.daemon.wait(Duration::from_secs(20));
    assert_eq!(status.code(), Some(0));
    processes::assert_none(&seconds);
    running.abort();
}
