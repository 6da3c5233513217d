//! Much input and much output: whole where it fits, typed and bounded where it does not.

use crate::harness::{Daemon, NatsServer, Request, WAYS, Way, Ways, processes};

#[tokio::test]
async fn ten_megabytes_go_in_and_come_out() {
    let ways = Ways::with(
        Daemon::builder(),
        NatsServer::builder().max_payload(64 << 20).start(),
    )
    .await;
    let raised = serde_json::json!({ "maxOutputBytes": 32 << 20 });
    assert_eq!(ways.http.post("/v1/processes/config", &raised).await.status, 200);
    let mut random = fastrand::Rng::with_seed(7);
    let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(10 << 20).collect();
    for way in WAYS {
        let ran = ways.run(way, &Request::argv(&["cat"]).stdin(bytes.clone())).await;
        assert!(
            ran.stdout == bytes,
            "{way:?}: {} bytes came back",
            ran.stdout.len()
        );
        let both = Request::shell("tee /dev/stderr").stdin(&bytes[..5 << 20]);
        let ran = ways.run(way, &both).await;
        assert!(
            ran.stdout == bytes[..5 << 20] && ran.stderr == bytes[..5 << 20],
            "{way:?}: on both channels"
        );
    }
}

#[tokio::test]
async fn a_command_that_reads_nothing_still_ends() {
    let ways = Ways::with(
        Daemon::builder(),
        NatsServer::builder().max_payload(8 << 20).start(),
    )
    .await;
    for way in WAYS {
        let ran = ways
            .run(way, &Request::argv(&["true"]).stdin(vec![0; 2 << 20]))
            .await;
        assert_eq!(ran.code, 0, "{way:?}");
        let ran = ways.run(way, &Request::shell("head -c 3")).await;
        assert_eq!(
            (ran.code, ran.stdout.len()),
            (0, 0),
            "{way:?}: no input is the end of input"
        );
    }
}

#[tokio::test]
async fn a_gibibyte_of_output_is_counted_in_bounded_memory() {
    let ways = Ways::start().await;
    let request = Request::shell("head -c 1G /dev/zero");

    let (code, words) = ways.refused(Way::Nats, &request).await;
    assert_eq!(code, "ERROR_CODE_PAYLOAD_TOO_LARGE", "{words}");

    let answer = ways.http.run(&request.json()).await.json();
    assert_eq!(answer["stdoutTruncated"], true);
    assert_eq!(answer["stdoutBytes"], 1_u64 << 30);
    assert_eq!(answer["exitCode"], 0);
    let zeros = blake3_of_zeros(1 << 30);
    assert_eq!(
        answer["stdoutBlake3"], zeros,
        "the digest covers what was dropped"
    );

    let (_, peak) = processes::resident(ways.daemon.pid());
    assert!(peak < 128 << 20, "the daemon used {} MiB", peak >> 20);
}

fn blake3_of_zeros(bytes: usize) -> String {
    let block = vec![0_u8; 1 << 20];
    let mut hasher = blake3::Hasher::new();
    for _ in 0..bytes / block.len() {
        hasher.update(&block);
    }
    hasher.finalize().to_hex().to_string()
}
