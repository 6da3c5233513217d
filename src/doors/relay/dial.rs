//! Dialing a relay: TCP, TLS where the URL says so, the `WebSocket` handshake, and the first message of a producer.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message as Packet;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::Endpoint;
use crate::error::Error;
use crate::web::Stream;
use crate::wire::proto::{StreamChannel, StreamOpen, StreamOpenAck, StreamRole};
use crate::wire::relay::Message;

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Bytes of one message.
const MESSAGE: usize = 16 << 20;

/// A connection to the relay.
pub(super) type Socket = WebSocketStream<Box<dyn Stream>>;

/// Attaches as the producer of a channel; answers the first sequence that the relay will send.
///
/// # Errors
///
/// [`Error::Forbidden`] when the relay refuses, with its reason; else why it cannot be reached.
pub(super) async fn attach(
    endpoint: &Endpoint,
    channel: &StreamChannel,
    resume: u64,
) -> Result<(Socket, u64), Error> {
    let attaching = async {
        let mut socket = connect(endpoint, channel).await?;
        let open = Message::Open(StreamOpen {
            channel: Some(channel.clone()),
            token: endpoint.token.expose().clone(),
            role: StreamRole::Agent.into(),
            resume_from_seq: resume,
        });
        let sent = socket.send(Packet::Binary(open.encode())).await;
        sent.map_err(|error| unreachable(endpoint, &error))?;
        let ack = acknowledged(endpoint, &mut socket).await?;
        match (ack.accepted, ack.error) {
            (true, _) => Ok((socket, ack.resume_from_seq)),
            (false, error) => Err(Error::Forbidden {
                reason: format!(
                    "the relay refuses the channel: {}",
                    error.map_or_else(|| "without a reason".into(), |error| error.message)
                ),
            }),
        }
    };
    let attached = tokio::time::timeout(LIMIT, attaching).await;
    attached.unwrap_or(Err(Error::Timeout {
        what: "the relay",
        after: LIMIT,
    }))
}

async fn acknowledged(endpoint: &Endpoint, socket: &mut Socket) -> Result<StreamOpenAck, Error> {
    loop {
        match socket.next().await {
            Some(Ok(Packet::Binary(bytes))) => {
                return match Message::decode(bytes)? {
                    Message::OpenAck(ack) => Ok(ack),
                    other => Err(Error::Protocol {
                        reason: format!("the relay answers StreamOpen with {}", other.name()),
                    }),
                };
            }
            Some(Ok(Packet::Close(_))) | None => {
                return Err(unreachable(endpoint, &"it closed the connection"));
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(unreachable(endpoint, &error)),
        }
    }
}

async fn connect(endpoint: &Endpoint, channel: &StreamChannel) -> Result<Socket, Error> {
    let invalid = |reason: String| Error::Invalid {
        field: "relay_url",
        reason,
    };
    let url = address(&endpoint.url, channel);
    let uri: Uri = url
        .parse()
        .map_err(|error| invalid(format!("is no URL: {error}")))?;
    let host = uri.host().ok_or_else(|| invalid("names no host".into()))?;
    let (is_tls, usual) = match uri.scheme_str() {
        Some("ws") => (false, 80),
        Some("wss") => (true, 443),
        other => {
            return Err(invalid(format!(
                "begins with {other:?}, ws:// and wss:// are dialed"
            )));
        }
    };
    if !is_tls && !endpoint.allow_plaintext && !crate::web::is_this_machine(host) {
        return Err(invalid(format!(
            "{} would send the token unencrypted; use wss://, or set nats.allow_plaintext",
            endpoint.url
        )));
    }
    let port = uri.port_u16().unwrap_or(usual);
    let stream = crate::web::dial(host, port, is_tls)
        .await
        .map_err(|error| unreachable(endpoint, &error))?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE))
        .max_frame_size(Some(MESSAGE));
    let socket = client_async_with_config(uri, stream, Some(config)).await;
    socket
        .map(|(socket, _)| socket)
        .map_err(|error| unreachable(endpoint, &error))
}

/// The URL of a channel. The token is not in it.
fn address(url: &str, channel: &StreamChannel) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("ws", &channel.workspace_id)
        .append_pair("agent", &channel.agent_id)
        .append_pair("port", &channel.port.to_string())
        .append_pair("channel", &channel.channel_id)
        .finish();
    format!("{url}{separator}{query}")
}

fn unreachable(endpoint: &Endpoint, error: &dyn std::fmt::Display) -> Error {
    Error::Unavailable {
        what: "the relay".into(),
        reason: format!("{}: {error}", endpoint.url),
    }
}
