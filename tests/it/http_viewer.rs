//! Viewers of a terminal over a `WebSocket`, and whether they are there.

use std::time::Duration;

use futures_util::StreamExt;
use hyper::Method;
use serde_json::json;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use crate::harness::Daemon;
use crate::http_process_life::made_of;

#[tokio::test]
async fn who_watches_a_program_that_never_rests_is_asked_whether_it_is_there() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let line = "while :; do echo on and on; sleep 0.2; done";
    let id = made_of(&http, &json!({ "command": line, "shell": true, "tty": true })).await;
    let request = http
        .request(
            Method::GET,
            &format!("ws://{}/v1/processes/{id}/terminal/ws", http.address),
        )
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", generate_key());
    let (mut socket, _) = client_async(request.body(()).unwrap(), http.socket().await)
        .await
        .unwrap();
    let mut shown = 0;
    let asked = async {
        loop {
            match socket.next().await.unwrap().unwrap() {
                Message::Ping(_) => return,
                Message::Binary(_) => shown += 1,
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(25), asked)
        .await
        .expect("it is asked, or it would be given up for its silence");
    assert!(shown > 10, "output came {shown} times");
}
