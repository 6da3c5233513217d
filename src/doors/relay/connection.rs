//! One connection of the relay: the handshake of a stream, then what it sends goes into its channel and what is in the channel
//! for it goes out, both at once, so that neither end can block the other.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Packet;

use super::admit::{Query, Role, admit};
use super::channel::{Next, Side, Taken};
use super::direction::Frame;
use super::gate::Opener;
use super::hub::{Hub, Shared};
use super::server::Limits;
use crate::error::Error;
use crate::wire::proto::{
    AgentError, ErrorCode, StreamClose, StreamCloseReason, StreamFrame, StreamOpen, StreamOpenAck,
};
use crate::wire::relay::Message;

/// How long the first message may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often the peer is asked whether it is there; it is given up when it said nothing for three times that.
const PING: Duration = Duration::from_secs(15);
/// How long the peer may leave a message unread.
const STALL: Duration = Duration::from_secs(30);
/// Messages that are handed to the socket before it is flushed.
const BATCH: usize = 64;

type Sink<S> = SplitSink<WebSocketStream<S>, Packet>;

/// Why a connection ends.
enum Gone {
    /// The peer went, or is not there.
    Peer,
    /// Told it.
    Closed(StreamCloseReason, String),
    /// The other end closed the channel, and it was told.
    Told,
}

/// One that is attached.
struct Attachment {
    hub: Arc<Hub>,
    shared: Arc<Shared>,
    side: Side,
    id: u64,
    channel: String,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.shared.detach(self.side, self.id, Instant::now());
    }
}

/// Serves a socket to its end.
pub(super) async fn serve<S>(
    hub: Arc<Hub>,
    query: Query,
    limits: Limits,
    socket: WebSocketStream<S>,
    gate: Opener,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let (mut sink, mut stream) = socket.split();
    let Ok(waiting) = hub.waiting.try_acquire() else {
        let error = Error::Overloaded {
            what: "the number of connections that are not attached yet",
            reason: "dial again in a moment".into(),
        };
        return refuse(&hub, &mut sink, &error).await;
    };
    let attachment = match handshake(&hub, &query, &limits, &mut sink, &mut stream).await {
        Ok(attachment) => attachment,
        Err(None) => return,
        Err(Some(error)) => return refuse(&hub, &mut sink, &error).await,
    };
    drop(waiting);
    gate.open();
    let gone = tokio::select! {
        gone = attachment.receive(&mut stream, &limits) => gone,
        gone = attachment.send(&mut sink) => gone,
    };
    match gone {
        Gone::Peer => {}
        Gone::Told => close(&mut sink).await,
        Gone::Closed(reason, message) => {
            let said = Message::Close(StreamClose {
                channel_id: attachment.channel.clone(),
                reason: reason.into(),
                message,
            });
            let _gone_already = write(&mut sink, said.encode()).await;
            close(&mut sink).await;
        }
    }
}

/// Attaches whoever is there; the error is what it is told, `None` when there is nobody to tell.
async fn handshake<S>(
    hub: &Arc<Hub>,
    query: &Query,
    limits: &Limits,
    sink: &mut Sink<S>,
    stream: &mut SplitStream<WebSocketStream<S>>,
) -> Result<Attachment, Option<Error>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let first = tokio::time::timeout(HANDSHAKE, first(stream));
    let open = match first.await {
        Ok(Some(first)) => opened(first)?,
        Ok(None) => return Err(None),
        Err(_) => {
            return Err(Some(Error::Timeout {
                what: "StreamOpen",
                after: HANDSHAKE,
            }));
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (key, role) = admit(query, hub.only_live(query), &open, &limits.secret, now.as_secs())?;
    let channel = key.channel.clone();
    let side = match role {
        Role::Producer => Side::Producer,
        Role::Viewer { .. } => Side::Viewer,
    };
    let (shared, attached) = hub.attach(key, role, open.resume_from_seq)?;
    // From here on it is detached however this ends.
    let attachment = Attachment {
        hub: Arc::clone(hub),
        shared,
        side,
        id: attached.id,
        channel,
    };
    hub.counts.attached.with_label_values(&[name(side)]).inc();
    let doubted = attachment.shared.channel.lock().take_doubted();
    attachment.say_doubts(doubted);
    let ack = Message::OpenAck(StreamOpenAck {
        accepted: true,
        error: None,
        resume_from_seq: attached.first,
    });
    write(sink, ack.encode()).await.map_err(|_| None)?;
    Ok(attachment)
}

/// The first binary message; `None` when the peer goes.
async fn first<S>(stream: &mut SplitStream<WebSocketStream<S>>) -> Option<Bytes>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    loop {
        match stream.next().await?.ok()? {
            Packet::Binary(bytes) => return Some(bytes),
            Packet::Close(_) => return None,
            Packet::Text(_) | Packet::Ping(_) | Packet::Pong(_) | Packet::Frame(_) => {}
        }
    }
}

fn opened(first: Bytes) -> Result<StreamOpen, Error> {
    match Message::decode(first)? {
        Message::Open(open) => Ok(open),
        other => Err(Error::Protocol {
            reason: format!("the first message is {} and not StreamOpen", other.name()),
        }),
    }
}

/// Tells that somebody may not attach.
async fn refuse<S>(hub: &Hub, sink: &mut Sink<S>, error: &Error)
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    tracing::debug!(%error, "an attachment is refused");
    hub.counts
        .refused
        .with_label_values(&[error.code().as_str()])
        .inc();
    let ack = Message::OpenAck(StreamOpenAck {
        accepted: false,
        error: Some(AgentError {
            code: ErrorCode::Stream.into(),
            message: error.to_string(),
            retryable: false,
            ..AgentError::default()
        }),
        resume_from_seq: 0,
    });
    let _gone_already = write(sink, ack.encode()).await;
    close(sink).await;
}

fn name(side: Side) -> &'static str {
    match side {
        Side::Producer => "producer",
        Side::Viewer => "viewer",
    }
}

impl Attachment {
    /// So many frames of viewers were left out.
    fn say_doubts(&self, frames: u64) {
        if frames > 0 {
            self.hub.counts.doubted.inc_by(frames);
            tracing::warn!(
                channel = self.channel,
                frames,
                "what a viewer sent was left out: by its numbers it was handed on before this relay was started, but where \
                 several viewers have typed it may be new"
            );
        }
    }

    /// Takes what the peer sends until it goes.
    async fn receive<S>(&self, stream: &mut SplitStream<WebSocketStream<S>>, limits: &Limits) -> Gone
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let allowed = (limits.rate, limits.burst);
        let bytes = self.hub.counts.bytes.with_label_values(&[name(self.side)]);
        // What has come at once is told at once: the other end is woken for a batch and not for each frame.
        let mut untold = 0;
        loop {
            let has_room = self.shared.channel.lock().may_read(self.side);
            let next = if has_room {
                stream.next().now_or_never()
            } else {
                None
            };
            if untold > 0 && (next.is_none() || untold >= BATCH) {
                untold = 0;
                self.shared.news.notify_waiters();
            }
            let next = if let Some(next) = next {
                Ok(next)
            } else {
                self.room().await;
                tokio::time::timeout(3 * PING, stream.next()).await
            };
            let packet = match next {
                Err(_) => return Gone::Closed(StreamCloseReason::TransportError, "nothing came".into()),
                Ok(Some(Ok(packet))) => packet,
                Ok(Some(Err(_)) | None) => return self.gone(untold),
            };
            let message = match packet {
                Packet::Binary(message) => message,
                Packet::Close(_) => return self.gone(untold),
                Packet::Text(_) | Packet::Ping(_) | Packet::Pong(_) | Packet::Frame(_) => continue,
            };
            if !self
                .shared
                .allows(self.side, message.len(), allowed, Instant::now())
            {
                self.hub.counts.rate_limited.inc();
                let what = format!("more than {} bytes a second", limits.rate);
                return Gone::Closed(StreamCloseReason::RateLimited, what);
            }
            bytes.inc_by(message.len() as u64);
            match self.take(&message) {
                Ok(is_news) => untold += usize::from(is_news),
                Err(gone) => {
                    self.shared.news.notify_waiters();
                    return gone;
                }
            }
        }
    }

    /// The peer went; what it said before is told.
    fn gone(&self, untold: usize) -> Gone {
        if untold > 0 {
            self.shared.news.notify_waiters();
        }
        Gone::Peer
    }

    /// Resolves when the other end takes more. Cancel-safe.
    async fn room(&self) {
        loop {
            let mut room = std::pin::pin!(self.shared.room.notified());
            room.as_mut().enable();
            if self.shared.channel.lock().may_read(self.side) {
                return;
            }
            room.await;
        }
    }

    /// Puts a message into the channel; says whether there is news for the other end.
    fn take(&self, message: &Bytes) -> Result<bool, Gone> {
        let wrong = |what: String| Gone::Closed(StreamCloseReason::TransportError, what);
        let decoded = Message::decode(message.clone()).map_err(|error| wrong(error.to_string()))?;
        let mut channel = self.shared.channel.lock();
        let taken = match decoded {
            Message::Frame(frame) => {
                let seq = frame.seq;
                // The channel is that of the connection, whatever the frame says. Bytes of its own: what lies in a ring
                // would hold the whole buffer that it was read into, which then could not be used again.
                let message = if frame.channel_id == self.channel {
                    Bytes::copy_from_slice(message)
                } else {
                    let channel_id = self.channel.clone();
                    Message::Frame(StreamFrame { channel_id, ..frame }).encode()
                };
                channel.frame(self.side, self.id, Frame { seq, message })
            }
            Message::Input(input) if self.side == Side::Viewer => channel.input(self.id, input),
            Message::Close(close) => channel.close(self.side, self.id, close),
            other => return Err(wrong(format!("{} does not belong here", other.name()))),
        };
        let doubted = channel.take_doubted();
        drop(channel);
        if taken == Taken::TooLarge {
            return Err(wrong("a key has a name of more than 4096 bytes".into()));
        }
        if taken == Taken::ViewOnly {
            self.hub.counts.view_only.inc();
        }
        self.say_doubts(doubted);
        // Who was replaced is told so by whoever sends.
        Ok(taken == Taken::Yes)
    }

    /// Sends what there is for the peer until it goes, or the other end closes.
    async fn send<S>(&self, sink: &mut Sink<S>) -> Gone
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let mut asking = tokio::time::interval_at(tokio::time::Instant::now() + PING, PING);
        loop {
            let mut news = std::pin::pin!(self.shared.news.notified());
            news.as_mut().enable();
            match self.send_all(sink).await {
                Ok(()) => {}
                Err(gone) => return gone,
            }
            tokio::select! {
                () = news => {}
                _ = asking.tick() => {
                    if put(sink, Packet::Ping(Bytes::new())).await.is_err() {
                        return Gone::Peer;
                    }
                }
            }
        }
    }

    async fn send_all<S>(&self, sink: &mut Sink<S>) -> Result<(), Gone>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let mut fed = 0;
        loop {
            let next = self.shared.channel.lock().next(self.side, self.id);
            let message = match next {
                Next::Frame(frame) => frame.message,
                Next::Input(input) => Message::Input(input).encode(),
                Next::Close(close) => {
                    let is_over = self.side == Side::Viewer;
                    write(sink, Message::Close(close).encode()).await?;
                    if is_over {
                        return Err(Gone::Told);
                    }
                    self.shared.channel.lock().told_of_close(self.id);
                    continue;
                }
                Next::Nothing if fed == 0 => return Ok(()),
                Next::Nothing => {
                    self.shared.room.notify_waiters();
                    return flush(sink).await;
                }
                Next::Replaced => {
                    self.hub.counts.replaced.inc();
                    let what = "a newer connection took its place".into();
                    return Err(Gone::Closed(StreamCloseReason::Fenced, what));
                }
            };
            feed(sink, message).await?;
            fed += 1;
            if fed % BATCH == 0 {
                self.shared.room.notify_waiters();
                flush(sink).await?;
            }
        }
    }
}

async fn put<S>(sink: &mut Sink<S>, packet: Packet) -> Result<(), Gone>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    in_time(sink.send(packet)).await
}

async fn write<S>(sink: &mut Sink<S>, message: Bytes) -> Result<(), Gone>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    put(sink, Packet::Binary(message)).await
}

async fn feed<S>(sink: &mut Sink<S>, message: Bytes) -> Result<(), Gone>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    in_time(sink.feed(Packet::Binary(message))).await
}

async fn flush<S>(sink: &mut Sink<S>) -> Result<(), Gone>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    in_time(sink.flush()).await
}

async fn in_time<T, E>(sending: impl Future<Output = Result<T, E>>) -> Result<(), Gone> {
    match tokio::time::timeout(STALL, sending).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Gone::Peer),
    }
}

async fn close<S>(sink: &mut Sink<S>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let _gone_already = in_time(sink.close()).await;
}
