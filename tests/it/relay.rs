//! `boxd relay`, spoken to by both ends: nothing is lost or doubled in silence, and nobody gets where it may not.

use std::time::{Duration, Instant};

use boxd::wire::proto::{ErrorCode, StreamClose, StreamCloseReason};
use boxd::wire::relay::Message;
use boxd::wire::relay_token::{Mode, ViewerClaims};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use crate::harness::processes;
use crate::harness::relay::{Dial, Relay, producer_token, unix_time, viewer_claims, viewer_token};

fn text((seq, data): (u64, bytes::Bytes)) -> (u64, String) {
    (seq, String::from_utf8(data.into()).unwrap())
}

#[tokio::test]
async fn bytes_pass_both_ways_whoever_comes_first_and_the_end_is_told() {
    let relay = Relay::start();
    let mut viewer = Dial::viewer("c").attach(&relay).await.unwrap();
    viewer.send(0, "typed early").await;
    let mut producer = Dial::producer("c").attach(&relay).await.unwrap();
    assert_eq!(text(producer.frame().await), (0, "typed early".into()));
    producer.send(0, "out").await;
    assert_eq!(text(viewer.frame().await), (0, "out".into()));
    let exit = StreamClose {
        channel_id: "c".into(),
        reason: StreamCloseReason::ProcessExit.into(),
        message: String::new(),
    };
    producer.send(1, "last").await;
    producer.say(&Message::Close(exit)).await;
    assert_eq!(text(viewer.frame().await), (1, "last".into()));
    assert_eq!(viewer.close().await, StreamCloseReason::ProcessExit);
    // Whoever is late gets all of it, too; the one channel that is live need not be named.
    let mut late = Dial::viewer("c");
    late.query = "ws=w&agent=a&port=7681".into();
    late.open.channel = None;
    let mut late = late.attach(&relay).await.unwrap();
    assert_eq!(text(late.frame().await), (0, "out".into()));
    assert_eq!(text(late.frame().await), (1, "last".into()));
    assert_eq!(late.close().await, StreamCloseReason::ProcessExit);
    assert_eq!(relay.page("/healthz").await, "ok\n");
    let metrics = relay.page("/metrics").await;
    assert!(
        metrics.contains("boxd_relay_attached_total{side=\"viewer\"} 2"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_token_opens_what_it_is_for_and_nothing_else() {
    let relay = Relay::start();
    let claims = viewer_claims;
    let viewer = |claims: ViewerClaims| Dial::as_viewer("c", &claims);
    let with_token = |mut dial: Dial, token: String| {
        dial.open.token = token;
        dial
    };
    let mut forged = viewer_token(&claims());
    forged.pop();
    let mut elsewhere = Dial::producer("c");
    elsewhere.query = elsewhere.query.replace("agent=a", "agent=b");
    elsewhere.open.channel.as_mut().unwrap().agent_id = "b".into();
    let mut other_channel = Dial::viewer("c");
    other_channel.query = other_channel.query.replace("channel=c", "channel=d");
    let mut not_one = Dial::viewer("c");
    not_one.query = "ws=w&agent=a&port=7681".into();
    let refused = [
        (
            "expired",
            viewer(ViewerClaims {
                exp: unix_time(-2),
                ..claims()
            }),
        ),
        ("forged", with_token(Dial::viewer("c"), forged)),
        (
            "wrong port",
            viewer(ViewerClaims {
                port: 6080,
                ..claims()
            }),
        ),
        (
            "another workspace",
            viewer(ViewerClaims {
                workspace_id: "x".into(),
                ..claims()
            }),
        ),
        (
            "another agent",
            viewer(ViewerClaims {
                agent_id: Some("b".into()),
                ..claims()
            }),
        ),
        ("the machine elsewhere", elsewhere),
        (
            "a producer as viewer",
            with_token(Dial::viewer("c"), producer_token()),
        ),
        (
            "re-prefixed",
            with_token(
                Dial::producer("c"),
                viewer_token(&ViewerClaims {
                    agent_id: Some("a".into()),
                    ..claims()
                })
                .replacen("ogs_", "ogr_", 1),
            ),
        ),
        ("no token", with_token(Dial::viewer("c"), String::new())),
        ("query and message disagree", other_channel),
        ("no channel is live", not_one),
    ];
    for (what, dial) in refused {
        let Err(error) = dial.attach(&relay).await else {
            panic!("{what}: let in");
        };
        assert_eq!(
            (error.code(), error.retryable),
            (ErrorCode::Stream, false),
            "{what}: {error:?}"
        );
        assert!(!error.message.contains("ogs_"), "{what}: {error:?}");
    }
    let metrics = relay.page("/metrics").await;
    assert!(metrics.contains("boxd_relay_refused_total"), "{metrics}");
    for query in ["", "ws=w&agent=a&port=80&channel=c", "ws=w&port=7681"] {
        let page = relay.page(&format!("/stream?{query}")).await;
        assert!(page.contains("query") || page.contains("port"), "{page}");
    }
}

#[tokio::test]
async fn a_newer_viewer_replaces_the_older_one_and_an_older_lease_is_fenced() {
    let relay = Relay::start();
    let lease = |lease_epoch| {
        Dial::as_viewer(
            "c",
            &ViewerClaims {
                lease_epoch,
                ..viewer_claims()
            },
        )
    };
    let mut producer = Dial::producer("c").attach(&relay).await.unwrap();
    producer.send(0, "one").await;
    let mut first = lease(5).attach(&relay).await.unwrap();
    assert_eq!(first.frame().await.0, 0);
    first.send(0, "from the first").await;
    assert_eq!(text(producer.frame().await), (0, "from the first".into()));
    let mut second = lease(5).attach(&relay).await.unwrap();
    assert_eq!(first.close().await, StreamCloseReason::Fenced);
    let stale = lease(4).attach(&relay).await.map(|_| ()).unwrap_err();
    assert!(stale.message.contains('5'), "{stale:?}");
    assert_eq!(second.frame().await.0, 0, "it stays");
    // Its numbers begin anew, the machine sees one sequence.
    second.send(0, "from the second").await;
    assert_eq!(text(producer.frame().await), (1, "from the second".into()));
    let mut newer = Dial::producer("c").resume(2).attach(&relay).await.unwrap();
    assert_eq!(producer.close().await, StreamCloseReason::Fenced);
    second.send(1, "to the newer").await;
    assert_eq!(text(newer.frame().await), (2, "to the newer".into()));
}

#[tokio::test]
async fn who_may_only_look_types_nothing() {
    let relay = Relay::start();
    let looks = ViewerClaims {
        mode: Mode::View,
        ..viewer_claims()
    };
    let mut producer = Dial::producer("c").attach(&relay).await.unwrap();
    let mut viewer = Dial::as_viewer("c", &looks).attach(&relay).await.unwrap();
    viewer.send(0, "rm -rf").await;
    producer.send(0, "seen").await;
    assert_eq!(text(viewer.frame().await), (0, "seen".into()));
    assert!(producer.quiet_for(Duration::from_millis(300)).await);
    let metrics = relay.page("/metrics").await;
    assert!(metrics.contains("boxd_relay_view_only_total 1"), "{metrics}");
}

#[tokio::test]
async fn a_flood_is_closed_and_says_why() {
    let relay = Relay::with(&["--rate", "100000", "--burst", "200000"]);
    let mut producer = Dial::producer("c").attach(&relay).await.unwrap();
    let mut viewer = Dial::viewer("c").attach(&relay).await.unwrap();
    let mut seq = 0;
    while seq < 100 && producer.send(seq, vec![b'x'; 8192]).await {
        seq += 1;
    }
    assert_eq!(producer.close().await, StreamCloseReason::RateLimited);
    // What came before is not lost.
    for expected in 0..20 {
        assert_eq!(viewer.frame().await.0, expected);
    }
}

#[tokio::test]
async fn what_was_lost_with_a_relay_is_said() {
    let mut relay = Relay::start();
    let mut producer = Dial::producer("c").attach(&relay).await.unwrap();
    let mut viewer = Dial::viewer("c").attach(&relay).await.unwrap();
    for seq in 0..5 {
        producer.send(seq, "kept").await;
    }
    for seq in 0..3 {
        assert_eq!(viewer.frame().await.0, seq);
    }
    relay.restart();
    assert!(producer.closed().await);
    // The send sequence goes on; 3 and 4 are gone with the ring.
    let mut producer = Dial::producer("c").attach(&relay).await.unwrap();
    producer.send(5, "after").await;
    let mut viewer = Dial::viewer("c").resume(3).attach(&relay).await.unwrap();
    let first = viewer.first;
    let frame = text(viewer.frame().await);
    assert_eq!(frame, (5, "after".into()));
    assert!(first == 3 || first == 5, "asked for 3, told {first}, sent 5");
    // A ring that is kept: both ends come back and nothing is missing.
    drop((producer, viewer));
    let mut producer = Dial::producer("c").attach(&relay).await.unwrap();
    producer.send(6, "six").await;
    let mut viewer = Dial::viewer("c").resume(5).attach(&relay).await.unwrap();
    assert_eq!(viewer.first, 5);
    assert_eq!(text(viewer.frame().await), (5, "after".into()));
    assert_eq!(text(viewer.frame().await), (6, "six".into()));
}

#[tokio::test]
async fn half_open_peers_and_nonsense_are_closed() {
    let relay = Relay::start();
    let begin = Instant::now();
    let mut silent = Dial::viewer("c").connect(&relay).await;
    // Messages that are no message.
    let mut producer = Dial::producer("c").attach(&relay).await.unwrap();
    producer.say(&Message::Open(Dial::producer("c").open)).await;
    assert_eq!(producer.close().await, StreamCloseReason::TransportError);
    while let Some(Ok(packet)) = silent.next().await {
        if packet.is_close() {
            break;
        }
    }
    let waited = begin.elapsed();
    assert!(
        (Duration::from_secs(9)..Duration::from_secs(15)).contains(&waited),
        "{waited:?}"
    );
}

#[tokio::test]
async fn who_answers_nothing_any_more_is_given_up() {
    let relay = Relay::start();
    // Nobody reads its socket, so nobody answers a ping.
    let _half_open = Dial::producer("c").attach(&relay).await.unwrap();
    let begin = Instant::now();
    let live = async || {
        relay
            .page("/metrics")
            .await
            .contains(r#"boxd_relay_channels{state="attached"} 1"#)
    };
    assert!(live().await);
    while live().await {
        assert!(begin.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(begin.elapsed() > Duration::from_secs(30), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn who_has_shown_no_token_takes_no_memory() {
    const MESSAGE: usize = 15 << 20;
    let relay = Relay::start();
    let begin_a_message = async || {
        let mut socket = Dial::viewer("c").connect(&relay).await;
        // A masked binary frame that says its length, and comes as far as it is read.
        let mut bytes = vec![0; 14 + MESSAGE - 1];
        bytes[..2].copy_from_slice(&[0x82, 0xff]);
        bytes[2..10].copy_from_slice(&(MESSAGE as u64).to_be_bytes());
        let sending = socket.get_mut().write_all(&bytes);
        let all = tokio::time::timeout(Duration::from_secs(2), sending).await;
        (all.is_ok(), socket)
    };
    let begun = futures_util::future::join_all((0..20).map(|_| begin_a_message())).await;
    let (_, peak) = processes::resident(relay.pid().as_raw());
    assert!(begun.iter().all(|(all, _)| !all), "it takes whatever comes");
    assert!(peak < 64 << 20, "{peak} bytes");
    // And those who have one are let in.
    let mut viewer = Dial::viewer("c").attach(&relay).await.unwrap();
    let mut producer = Dial::producer("c").attach(&relay).await.unwrap();
    producer.send(0, vec![b'x'; 1 << 20]).await;
    assert_eq!(viewer.frame().await.1.len(), 1 << 20);
}

#[tokio::test]
async fn fifty_channels_at_once_do_not_mix() {
    let relay = Relay::start();
    let one = async |channel: usize| {
        let name = format!("c{channel}");
        let mut producer = Dial::producer(&name).attach(&relay).await.unwrap();
        let mut viewer = Dial::viewer(&name).attach(&relay).await.unwrap();
        for seq in 0..100 {
            let (out, back) = (format!("{name} out {seq}"), format!("{name} back {seq}"));
            producer.send(seq, out.clone()).await;
            viewer.send(seq, back.clone()).await;
            assert_eq!(text(viewer.frame().await), (seq, out));
            assert_eq!(text(producer.frame().await), (seq, back));
        }
    };
    futures_util::future::join_all((0..50).map(one)).await;
}

#[tokio::test]
async fn a_viewer_that_does_not_read_slows_the_machine_down_and_loses_nothing() {
    let relay = Relay::with(&["--ring-bytes", "65536"]);
    let mut producer = Dial::producer("c").attach(&relay).await.unwrap();
    let mut viewer = Dial::viewer("c").attach(&relay).await.unwrap();
    let total = 4000;
    let sending = async {
        for seq in 0..total {
            assert!(producer.send(seq, vec![b'x'; 8000]).await);
        }
    };
    let reading = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        for seq in 0..total {
            let (got, data) = viewer.frame().await;
            assert_eq!((got, data.len()), (seq, 8000));
        }
    };
    tokio::join!(sending, reading);
}
