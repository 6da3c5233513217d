//! The producer of one channel: what a source says goes to the relay, what viewers say goes to the source, over as many
//! connections as it takes.
//!
//! ```text
//!   source --next--> session --frames--> relay     lost: dial again, for ever; say again what is not confirmed
//!   source <--take-- session <--frames-- relay
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_tungstenite::tungstenite::Message as Packet;

use super::Endpoint;
use super::dial::{Socket, attach};
use super::pace::Pace;
use super::session::{Received, Sent, Session};
use crate::error::Error;
use crate::lifecycle::Tasks;
use crate::wire::proto::{StreamChannel, StreamClose, StreamCloseReason, StreamFrame};
use crate::wire::relay::Message;

/// How often the relay is asked whether it is there; it is given up when it said nothing for three times that.
const PING: Duration = Duration::from_secs(15);
/// The first ceiling between two attempts to dial, and the highest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long the relay may take to confirm the end.
const FAREWELL: Duration = Duration::from_secs(5);
/// The ping that confirms it.
const LAST: &[u8] = b"last";
/// Bytes that viewers say and that wait for the source; then the relay waits, and with it what it confirms.
const INBOX: usize = 8 << 20;
/// What a message takes beside its bytes.
const OVERHEAD: usize = 64;

/// Bytes that are said again before the relay is asked whether it has them.
const AGAIN: usize = 128 << 10;

/// Where the relay is, and what opens it, as far as that is known now: tokens are renewed.
pub type Whereabouts = Arc<dyn Fn() -> Option<Endpoint> + Send + Sync>;

/// Whether the relay knows of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Its bytes flow.
    Attached,
    /// It is dialed again.
    Lost,
    /// It said why not; it is asked again.
    Refused(String),
}

/// What a source says.
#[derive(Debug)]
pub(super) enum Produced {
    /// Some frames.
    Frames(Vec<Bytes>),
    /// Nothing any more, for this reason.
    End(StreamCloseReason),
}

/// What a viewer says.
#[derive(Debug)]
pub(super) enum Said {
    /// Bytes for it.
    Data(Bytes),
    /// It closes the channel.
    Close,
}

/// What a viewer says, as long as it waits in the inbox.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) said: Said,
    _room: OwnedSemaphorePermit,
}

/// What viewers say on its way to the source: bounded by bytes, because a program that reads nothing is not to keep the
/// relay from being heard.
#[derive(Debug)]
struct Inbox {
    sender: mpsc::UnboundedSender<Waiting>,
    room: Arc<Semaphore>,
}

impl Inbox {
    /// Waits for room. Cancel-safe.
    async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let wanted = (bytes + OVERHEAD).min(INBOX) as u32;
        Arc::clone(&self.room).acquire_many_owned(wanted).await.ok()
    }
}

/// Where the bytes of a channel come from.
pub(super) trait Source: Send + 'static {
    /// What is to be sent next. Cancel-safe: what it did not answer is still to come.
    fn next(&mut self) -> impl Future<Output = Produced> + Send;
}

type Sink = SplitSink<Socket, Packet>;

/// A producer that is attached, before it runs.
pub(super) struct Producer {
    whereabouts: Whereabouts,
    channel: StreamChannel,
    shared: Arc<Shared>,
    inbox: Inbox,
    state: watch::Sender<State>,
    socket: Socket,
}

/// What those who wait for a channel look at.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub(super) state: watch::Receiver<State>,
    shared: Arc<Shared>,
}

impl Watched {
    /// Has a lost relay dialed now.
    pub(super) fn dial_now(&self) {
        self.shared.dial.notify_waiters();
    }
}

/// What receiving and sending share.
#[derive(Debug, Default)]
struct Shared {
    session: Mutex<Session>,
    pace: Mutex<Pace>,
    /// The relay confirmed something.
    confirmed: Notify,
    /// Somebody wants the channel now.
    dial: Notify,
}

/// How a connection ended.
enum Ended {
    /// Dial again.
    Lost(String),
    /// Dial again, and send less.
    TooFast(String),
    /// There is nothing more to be done.
    Over,
}

impl Producer {
    /// Attaches for the first time; what viewers say comes out of the receiver.
    ///
    /// # Errors
    ///
    /// As [`attach`].
    pub(super) async fn open(
        whereabouts: Whereabouts,
        channel: StreamChannel,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Waiting>, Watched), Error> {
        let endpoint = whereabouts().ok_or_else(|| no_relay(&channel))?;
        let (socket, first) = attach(&endpoint, &channel, 0).await?;
        let (sender, said) = mpsc::unbounded_channel();
        let inbox = Inbox {
            sender,
            room: Arc::new(Semaphore::new(INBOX)),
        };
        let (state, watched) = watch::channel(State::Attached);
        let shared: Arc<Shared> = Arc::default();
        let producer = Self {
            whereabouts,
            channel,
            shared: Arc::clone(&shared),
            inbox,
            state,
            socket,
        };
        producer.connected(first);
        let watched = Watched {
            state: watched,
            shared,
        };
        Ok((producer, said, watched))
    }

    /// Runs until the source has ended and the relay knows, or the daemon stops and the relay is lost.
    pub(super) async fn run(mut self, mut source: impl Source, tasks: &Tasks) {
        let mut ended = None;
        let mut pause = PAUSE.0;
        loop {
            let before = self.shared.session.lock().progress();
            let (sink, stream) = self.socket.split();
            let connection = Connection {
                channel: &self.channel,
                shared: &self.shared,
                inbox: &self.inbox,
            };
            let why = match connection.run(sink, stream, &mut source, &mut ended).await {
                Ended::Over => return,
                Ended::Lost(why) => why,
                Ended::TooFast(why) => {
                    self.shared.pace.lock().refused(Instant::now());
                    why
                }
            };
            tracing::info!(
                channel = self.channel.channel_id,
                why,
                "the relay was lost, it is dialed again"
            );
            // A connection that was of no use is no reason to hurry.
            if self.shared.session.lock().progress() > before {
                pause = PAUSE.0;
            }
            self.state.send_replace(State::Lost);
            let Some(socket) = dial_again(
                &self.whereabouts,
                &self.channel,
                &self.shared,
                &self.state,
                &mut pause,
                tasks,
            )
            .await
            else {
                return;
            };
            self.state.send_replace(State::Attached);
            self.socket = socket;
        }
    }

    fn connected(&self, first: u64) {
        let lost = self.shared.session.lock().connected(first);
        warn_of(lost, &self.channel);
    }
}

/// Dials until the relay takes the channel; `None` when the daemon stops.
async fn dial_again(
    whereabouts: &Whereabouts,
    channel: &StreamChannel,
    shared: &Shared,
    state: &watch::Sender<State>,
    pause: &mut Duration,
    tasks: &Tasks,
) -> Option<Socket> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause.mul_f64(fastrand::f64())) => {}
            () = shared.dial.notified() => {}
            () = tasks.stopping() => return None,
        }
        *pause = (*pause * 2).min(PAUSE.1);
        let resume = shared.session.lock().resume_from();
        let attached = match whereabouts() {
            Some(endpoint) => attach(&endpoint, channel, resume).await,
            None => Err(no_relay(channel)),
        };
        match attached {
            Ok((socket, first)) => {
                let lost = shared.session.lock().connected(first);
                warn_of(lost, channel);
                return Some(socket);
            }
            Err(error @ Error::Forbidden { .. }) => {
                let refused = State::Refused(error.to_string());
                if state.send_replace(refused.clone()) != refused {
                    tracing::warn!(channel = channel.channel_id, %error, "a channel waits for what lets it in again");
                }
            }
            Err(error) => {
                tracing::debug!(channel = channel.channel_id, %error, "the relay cannot be attached to");
            }
        }
    }
}

fn no_relay(channel: &StreamChannel) -> Error {
    Error::Unavailable {
        what: "the relay".into(),
        reason: format!(
            "the connection of channel {} names none any more",
            channel.channel_id
        ),
    }
}

fn warn_of(lost: u64, channel: &StreamChannel) {
    if lost > 0 {
        tracing::warn!(
            channel = channel.channel_id,
            frames = lost,
            "the relay lost what a viewer sent"
        );
    }
}

/// One connection of a producer.
struct Connection<'a> {
    channel: &'a StreamChannel,
    shared: &'a Shared,
    inbox: &'a Inbox,
}

impl Connection<'_> {
    async fn run(
        &self,
        mut sink: Sink,
        mut stream: SplitStream<Socket>,
        source: &mut impl Source,
        ended: &mut Option<StreamCloseReason>,
    ) -> Ended {
        tokio::select! {
            // A word of farewell says more than a failed write.
            biased;
            ended = self.receive(&mut stream) => ended,
            sent = self.send(&mut sink, source, ended) => match sent {
                Ok(()) => Ended::Over,
                Err(error) => Ended::Lost(error.to_string()),
            },
        }
    }

    /// Sends again what is not confirmed, then what the source says, to its end and until that is confirmed.
    async fn send(
        &self,
        sink: &mut Sink,
        source: &mut impl Source,
        ended: &mut Option<StreamCloseReason>,
    ) -> tokio_tungstenite::tungstenite::Result<()> {
        let again: Vec<Sent> = self.shared.session.lock().unconfirmed().cloned().collect();
        let mut unasked = 0;
        for sent in again {
            let (size, behind) = (sent.data.len(), sent.seq + 1);
            sink.feed(self.frame(sent)).await?;
            self.keep_pace(sink, size).await?;
            unasked += size;
            if unasked >= AGAIN {
                unasked = 0;
                let ping = self.shared.session.lock().ask_behind(behind);
                if let Some(ping) = ping {
                    sink.send(Packet::Ping(ping)).await?;
                }
            }
        }
        let mut asking = tokio::time::interval(PING);
        while ended.is_none() {
            self.ask(sink).await?;
            let mut confirmed = std::pin::pin!(self.shared.confirmed.notified());
            confirmed.as_mut().enable();
            let has_room = self.shared.session.lock().has_room();
            tokio::select! {
                produced = source.next(), if has_room => match produced {
                    Produced::Frames(frames) => for sent in self.numbered(frames) {
                        let size = sent.data.len();
                        sink.feed(self.frame(sent)).await?;
                        self.keep_pace(sink, size).await?;
                    },
                    Produced::End(reason) => *ended = Some(reason),
                },
                () = confirmed => {}
                _ = asking.tick() => sink.send(Packet::Ping(Bytes::new())).await?,
            }
        }
        let close = Message::Close(StreamClose {
            channel_id: self.channel.channel_id.clone(),
            reason: ended.unwrap_or(StreamCloseReason::Normal).into(),
            message: String::new(),
        });
        sink.feed(Packet::Binary(close.encode())).await?;
        sink.send(Packet::Ping(Bytes::from_static(LAST))).await?;
        // Who receives tells when it is confirmed; without that it is said again over another connection.
        tokio::time::sleep(FAREWELL).await;
        Err(tokio_tungstenite::tungstenite::Error::ConnectionClosed)
    }

    /// All of what the source said, before the first of it is sent: the connection may end between any two frames, and the
    /// source does not say them again.
    fn numbered(&self, frames: Vec<Bytes>) -> Vec<Sent> {
        let now = unix_ms();
        let mut session = self.shared.session.lock();
        frames.into_iter().map(|data| session.send(data, now)).collect()
    }

    /// Waits as long as so many bytes take, where the relay has said that they come too fast.
    async fn keep_pace(&self, sink: &mut Sink, bytes: usize) -> tokio_tungstenite::tungstenite::Result<()> {
        let wait = self.shared.pace.lock().wait(bytes, Instant::now());
        if let Some(wait) = wait {
            sink.flush().await?;
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// Flushes, with a ping behind what is not confirmed.
    async fn ask(&self, sink: &mut Sink) -> tokio_tungstenite::tungstenite::Result<()> {
        let ping = self.shared.session.lock().ask();
        match ping {
            Some(payload) => sink.send(Packet::Ping(payload)).await,
            None => sink.flush().await,
        }
    }

    fn frame(&self, sent: Sent) -> Packet {
        let frame = Message::Frame(StreamFrame {
            channel_id: self.channel.channel_id.clone(),
            seq: sent.seq,
            data: sent.data,
            produced_at_ms: sent.produced_at_ms,
        });
        Packet::Binary(frame.encode())
    }

    async fn receive(&self, stream: &mut SplitStream<Socket>) -> Ended {
        loop {
            let packet = match tokio::time::timeout(3 * PING, stream.next()).await {
                Err(_) => return Ended::Lost("it says nothing".into()),
                Ok(None) => return Ended::Lost("it closed the connection".into()),
                Ok(Some(Err(error))) => return Ended::Lost(error.to_string()),
                Ok(Some(Ok(packet))) => packet,
            };
            match packet {
                Packet::Pong(payload) if payload == LAST => return Ended::Over,
                Packet::Pong(payload) => {
                    self.shared.session.lock().answered(&payload);
                    self.shared.confirmed.notify_waiters();
                }
                Packet::Binary(bytes) => match Message::decode(bytes) {
                    Ok(message) => {
                        if let Some(ended) = self.take(message).await {
                            return ended;
                        }
                    }
                    Err(error) => return Ended::Lost(error.to_string()),
                },
                Packet::Close(_) => return Ended::Lost("it closed the connection".into()),
                Packet::Text(_) | Packet::Ping(_) | Packet::Frame(_) => {}
            }
        }
    }

    /// Cancel-safe: a frame that could not be handed over was not received, and comes again.
    async fn take(&self, message: Message) -> Option<Ended> {
        let bytes = match &message {
            Message::Frame(frame) => frame.data.len(),
            _ => 0,
        };
        let room = self.inbox.room(bytes).await?;
        let said = match message {
            Message::Frame(frame) => {
                let received = self.shared.session.lock().received(frame.seq);
                match received {
                    Received::Known => return None,
                    Received::New => {}
                    Received::Behind(lost) => warn_of(lost, self.channel),
                }
                Said::Data(frame.data)
            }
            Message::Close(close) => match close.reason() {
                StreamCloseReason::Fenced => {
                    let why = "another producer took the place of this channel, it is left";
                    tracing::warn!(channel = self.channel.channel_id, why);
                    return Some(Ended::Over);
                }
                reason @ (StreamCloseReason::RateLimited | StreamCloseReason::TransportError) => {
                    let why = format!("{}: {}", reason.as_str_name(), close.message);
                    return Some(match reason {
                        StreamCloseReason::RateLimited => Ended::TooFast(why),
                        _ => Ended::Lost(why),
                    });
                }
                StreamCloseReason::Normal
                | StreamCloseReason::ProcessExit
                | StreamCloseReason::Unspecified => Said::Close,
            },
            // Nothing else is for a stream of bytes.
            Message::Input(_) | Message::Open(_) | Message::OpenAck(_) => return None,
        };
        // A source that has ended takes nothing more.
        let _ = self.inbox.sender.send(Waiting { said, _room: room });
        None
    }
}

fn unix_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64)
}
