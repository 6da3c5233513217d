//! The `WebSocket` handshake (RFC 6455), and the way from a request to a socket.
//!
//! A handler answers 101 with an [`Upgrade`] in it; when hyper has written that and lets go of the connection, whoever
//! serves connections hands the stream over. Messages are the affair of the handler.

use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::error::Problem;

/// The subprotocol that is selected where it is offered.
const PROTOCOL: &str = "boxd.v1";
/// Bytes of one message from a client.
const MESSAGE: usize = 16 << 20;

/// Any stream that a connection is made of.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A socket after the handshake.
pub(super) type Socket = WebSocketStream<Box<dyn Stream>>;

type Serve = Box<dyn FnOnce(Socket) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// What becomes of the connection once the answer is written.
#[derive(Clone)]
pub(super) struct Upgrade(Arc<Mutex<Option<Serve>>>);

impl std::fmt::Debug for Upgrade {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Upgrade")
    }
}

impl Upgrade {
    /// Serves the socket to its end; `read` is what came behind the handshake already.
    pub(super) async fn serve(self, stream: Box<dyn Stream>, read: Bytes) {
        let Some(serve) = self.0.lock().take() else { return };
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE))
            .max_frame_size(Some(MESSAGE));
        let socket =
            WebSocketStream::from_partially_read(stream, read.into(), Role::Server, Some(config)).await;
        serve(socket).await;
    }
}

/// Answers the handshake in these headers; `serve` gets the socket afterwards.
pub(super) fn accept<F, Served>(headers: &HeaderMap, serve: F) -> Result<Response, Problem>
where
    F: FnOnce(Socket) -> Served + Send + 'static,
    Served: Future<Output = ()> + Send + 'static,
{
    let key = check(headers)?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let accepted = HeaderValue::from_str(&derive_accept_key(key))
        .map_err(|_| Problem::bad_request("the key of the handshake cannot be answered"))?;
    answer.insert(SEC_WEBSOCKET_ACCEPT, accepted);
    if offers(headers, &SEC_WEBSOCKET_PROTOCOL, PROTOCOL) {
        answer.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    let serve: Serve = Box::new(move |socket| Box::pin(serve(socket)));
    response
        .extensions_mut()
        .insert(Upgrade(Arc::new(Mutex::new(Some(serve)))));
    Ok(response)
}

/// The key of a handshake that is one.
fn check(headers: &HeaderMap) -> Result<&[u8], Problem> {
    let wrong = |what: &str| Problem::bad_request(format!("not a WebSocket handshake: {what}"));
    if !offers(headers, &UPGRADE, "websocket") || !offers(headers, &CONNECTION, "upgrade") {
        return Err(wrong(
            "it needs \"Connection: upgrade\" and \"Upgrade: websocket\"",
        ));
    }
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return Err(wrong("Sec-WebSocket-Version must be 13"));
    }
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    match STANDARD.decode(key) {
        Ok(bytes) if bytes.len() == 16 => Ok(key),
        _ => Err(wrong("Sec-WebSocket-Key must be 16 bytes in base64")),
    }
}

/// Whether a list of tokens in this header has `token`, in any case.
pub(super) fn offers(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|offered| offered.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake(changes: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let whole = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        for (name, value) in whole.iter().chain(changes) {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_answer_is_that_of_the_standard() {
        let response = accept(&handshake(&[]), |_| async {}).unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(
            response.headers()[SEC_WEBSOCKET_ACCEPT],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert!(!response.headers().contains_key(SEC_WEBSOCKET_PROTOCOL));
        let offered = handshake(&[("sec-websocket-protocol", "bearer.abc, boxd.v1")]);
        let response = accept(&offered, |_| async {}).unwrap();
        assert_eq!(response.headers()[SEC_WEBSOCKET_PROTOCOL], PROTOCOL);
    }

    #[test]
    fn what_is_no_handshake_is_refused() {
        for wrong in [
            ("connection", "close"),
            ("upgrade", "h2c"),
            ("sec-websocket-version", "8"),
            ("sec-websocket-key", "short"),
        ] {
            assert!(accept(&handshake(&[wrong]), |_| async {}).is_err(), "{wrong:?}");
        }
    }
}
