//! Somebody who looks at a terminal over its `WebSocket`.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message, http};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::PATIENCE;
use super::http::Http;

/// A viewer, with everything that it was sent.
pub(crate) struct Viewer {
    socket: WebSocketStream<TcpStream>,
    /// The first message.
    pub(crate) ready: Value,
    /// The bytes of all binary messages, the restore frame first where one was asked for.
    pub(crate) bytes: Vec<u8>,
    /// The text messages behind `ready`.
    pub(crate) told: Vec<Value>,
}

impl Viewer {
    /// Looks at the terminal of `id`; `query` begins with `?` or is empty.
    pub(crate) async fn open(http: &Http, id: &str, query: &str) -> Self {
        let request = handshake(http, id, query, &[]);
        Self::with(http, request).await.unwrap()
    }

    /// Looks by a path of one's own.
    pub(crate) async fn at(http: &Http, path: &str) -> Self {
        Self::with(http, handshake_at(http, path, &[])).await.unwrap()
    }

    /// Looks by a handshake of one's own; `Err` is the status of the refusal.
    pub(crate) async fn with(http: &Http, request: http::Request<()>) -> Result<Self, u16> {
        let stream = TcpStream::connect(http.address).await.unwrap();
        let socket = match client_async(request, stream).await {
            Ok((socket, _)) => socket,
            Err(tungstenite::Error::Http(response)) => return Err(response.status().as_u16()),
            Err(other) => panic!("{other}"),
        };
        let mut viewer = Self {
            socket,
            ready: Value::Null,
            bytes: Vec::new(),
            told: Vec::new(),
        };
        viewer.until("ready", |viewer| !viewer.told.is_empty()).await;
        viewer.ready = viewer.told.remove(0);
        assert_eq!(viewer.ready["type"], "ready", "{}", viewer.ready);
        Ok(viewer)
    }

    /// The number of the next byte of output, the frame not counted.
    pub(crate) fn offset(&self) -> u64 {
        let frame = self.ready["frameBytes"].as_u64().unwrap_or(0);
        self.ready["offset"].as_u64().unwrap() + self.bytes.len() as u64 - frame
    }

    /// Reads until this holds.
    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await;
            match next {
                Ok(Some(Ok(Message::Binary(bytes)))) => self.bytes.extend_from_slice(&bytes),
                Ok(Some(Ok(Message::Text(text)))) => self.told.push(serde_json::from_str(&text).unwrap()),
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {}
                other => {
                    let seen = &self.bytes[self.bytes.len().saturating_sub(500)..];
                    let seen = String::from_utf8_lossy(seen);
                    panic!(
                        "{what} does not come but {other:?}, {:?} behind {seen:?}",
                        self.told
                    );
                }
            }
        }
    }

    /// Reads until the output has this in it.
    pub(crate) async fn until_shown(&mut self, text: &str) {
        self.until(text, |viewer| {
            viewer
                .bytes
                .windows(text.len())
                .any(|window| window == text.as_bytes())
        })
        .await;
    }

    /// Reads to the end; answers the last message and the code of the close.
    pub(crate) async fn end(&mut self) -> (Value, CloseCode) {
        let last = |viewer: &Self| {
            let said = viewer.told.last();
            said.is_some_and(|said| said["type"] == "exit")
        };
        self.until("the end", last).await;
        let close = self.close().await;
        (self.told.last().unwrap().clone(), close)
    }

    /// Reads until the daemon closes, and answers why.
    pub(crate) async fn close(&mut self) -> CloseCode {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await.unwrap();
            match next {
                Some(Ok(Message::Close(Some(close)))) => return close.code,
                Some(Ok(_)) => {}
                other => panic!("no close but {other:?}"),
            }
        }
    }

    /// Types bytes.
    pub(crate) async fn input(&mut self, bytes: impl Into<Bytes>) {
        self.socket.send(Message::Binary(bytes.into())).await.unwrap();
    }

    /// Says something in JSON.
    pub(crate) async fn say(&mut self, message: &Value) {
        self.socket
            .send(Message::Text(message.to_string().into()))
            .await
            .unwrap();
    }

    /// Resizes.
    pub(crate) async fn resize(&mut self, cols: u64, rows: u64) {
        self.say(&json!({ "type": "resize", "cols": cols, "rows": rows }))
            .await;
    }
}

/// A handshake with further headers.
pub(crate) fn handshake(
    http: &Http,
    id: &str,
    query: &str,
    headers: &[(&'static str, &str)],
) -> http::Request<()> {
    handshake_at(http, &format!("/v1/processes/{id}/terminal/ws{query}"), headers)
}

fn handshake_at(http: &Http, path: &str, headers: &[(&'static str, &str)]) -> http::Request<()> {
    let url = format!("ws://{}{path}", http.address);
    let mut request = url.into_client_request().unwrap();
    if let Some(token) = &http.token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
    }
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}
