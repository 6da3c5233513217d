//! The harness itself: a broker keeps its port over a restart, and a missing tool is named.

use crate::harness::{NatsServer, require};

#[tokio::test]
async fn a_broker_comes_back_on_its_port() {
    let mut broker = NatsServer::builder().token("secret").max_payload(2 << 20).start();
    let url = broker.url();
    let connect = || async_nats::ConnectOptions::with_token("secret".into()).connect(url.as_str());
    let client = connect().await.unwrap();
    assert_eq!(client.server_info().max_payload, 2 << 20);
    broker.restart();
    assert_eq!(broker.url(), url);
    connect().await.unwrap();
    assert!(
        async_nats::connect(url.as_str()).await.is_err(),
        "the token is asked for"
    );
    broker.kill();
    assert!(connect().await.is_err());
}

#[test]
#[should_panic(expected = "no-such-program-anywhere")]
fn a_missing_tool_fails_by_name() {
    require("no-such-program-anywhere");
}
