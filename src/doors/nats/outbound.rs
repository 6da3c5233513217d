//! What waits to be sent on one connection: bounded in bytes, pings and errors before replies, and an end to the
//! connection when nothing moves.
//!
//! ```text
//!   urgent (pings, errors, hello, events) ──┐ straight into the client when nothing urgent waits
//!                                           ├──> client ──> socket
//!   replies ── wait for room in bytes ──────┘ straight in when nothing waits and less than the window is unflushed
//! ```
//!
//! Without pressure a message takes no detour: it is handed to the client by the task that made it. What cannot go
//! at once is queued and sent by [`Outbound::run`]; whoever queued a reply learns whether it went, so that a reply
//! that was still waiting when the connection was lost can go over the next one.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::{Client, Subject};
use bytes::Bytes;
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

/// Bytes of replies that may wait; whoever has one more waits for room with it.
const REPLY_BYTES: usize = 16 << 20;
/// Bytes of urgent messages that may wait. More means that the broker takes nothing: the connection ends.
const URGENT_BYTES: usize = 4 << 20;
/// A connection on which nothing is written for so long is given up.
const STALL: Duration = Duration::from_secs(30);

/// The connection is given up; the supervisor makes a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

struct Message {
    subject: Subject,
    payload: Bytes,
}

/// A message in the queue.
struct Waiting {
    message: Message,
    /// For a reply: told when the client has the message, dropped when it will never have it.
    handed: Option<oneshot::Sender<()>>,
}

/// What became of a reply that was to be sent.
enum Sent {
    /// The client has it.
    Handed,
    /// It waits for its turn.
    Queued(oneshot::Receiver<()>),
    /// There is no room for it to wait.
    Full(Message),
    /// The connection is given up.
    Gone,
}

#[derive(Default)]
struct Queue {
    urgent: VecDeque<Message>,
    urgent_bytes: usize,
    replies: VecDeque<Waiting>,
    reply_bytes: usize,
    /// Bytes of replies handed to the client since it last flushed.
    unflushed: usize,
    /// The sender has taken a message off and not handed it over yet.
    in_hand: bool,
    gone: bool,
}

/// The sending half of one connection.
pub(super) struct Outbound {
    client: Client,
    /// Bytes of replies handed to the client before they are known to be on the socket: what a ping may wait behind.
    window: usize,
    queue: Mutex<Queue>,
    /// Something was queued.
    work: Notify,
    /// A reply was taken off the queue, or the connection is gone.
    room: Notify,
}

impl Outbound {
    /// For `client`, which is given at most about `window` bytes of replies at once; nothing queued moves before
    /// [`Outbound::run`] does.
    pub(super) fn new(client: Client, window: usize) -> Self {
        Self {
            client,
            window,
            queue: Mutex::default(),
            work: Notify::new(),
            room: Notify::new(),
        }
    }

    /// Sends what must not wait behind replies. Never waits itself.
    pub(super) fn send_urgent(&self, subject: Subject, payload: Bytes) -> Result<(), Gone> {
        let mut queue = self.queue.lock();
        if queue.gone {
            return Err(Gone);
        }
        if queue.urgent.is_empty() && self.hand_over(&subject, &payload) {
            return Ok(());
        }
        queue.urgent_bytes += payload.len();
        if queue.urgent_bytes > URGENT_BYTES {
            tracing::warn!(
                bytes = queue.urgent_bytes,
                "the broker takes no messages, the connection is given up"
            );
            self.give_up(&mut queue);
            return Err(Gone);
        }
        queue.urgent.push_back(Message { subject, payload });
        self.work.notify_one();
        Ok(())
    }

    /// Sends a reply, waiting for its turn; the error means that it was not sent and that nothing is any more.
    pub(super) async fn send(&self, subject: Subject, payload: Bytes) -> Result<(), Gone> {
        let mut message = Message { subject, payload };
        loop {
            let room = self.room.notified();
            match self.try_send(message) {
                Sent::Handed => return Ok(()),
                Sent::Queued(handed) => return handed.await.map_err(|_| Gone),
                Sent::Gone => return Err(Gone),
                Sent::Full(back) => message = back,
            }
            room.await;
        }
    }

    fn try_send(&self, message: Message) -> Sent {
        let size = message.payload.len();
        let mut queue = self.queue.lock();
        if queue.gone {
            return Sent::Gone;
        }
        let fits = queue.unflushed == 0 || queue.unflushed + size <= self.window;
        if queue.replies.is_empty() && fits && self.hand_over(&message.subject, &message.payload) {
            queue.unflushed += size;
            if queue.unflushed > self.window / 2 {
                self.work.notify_one();
            }
            return Sent::Handed;
        }
        if queue.reply_bytes > 0 && queue.reply_bytes + size > REPLY_BYTES {
            return Sent::Full(message);
        }
        queue.reply_bytes += size;
        let (handed, turn) = oneshot::channel();
        let handed = Some(handed);
        queue.replies.push_back(Waiting { message, handed });
        self.work.notify_one();
        Sent::Queued(turn)
    }

    /// Hands a message to the client if that takes it at once.
    fn hand_over(&self, subject: &Subject, payload: &Bytes) -> bool {
        matches!(
            self.client
                .publish(subject.clone(), payload.clone())
                .now_or_never(),
            Some(Ok(()))
        )
    }

    /// Sends what is queued until the connection is given up; that is when it returns.
    pub(super) async fn run(&self) {
        loop {
            let work = self.work.notified();
            if self.pass().await.is_err() {
                return self.close();
            }
            work.await;
        }
    }

    /// One round: everything urgent, then replies up to the next flush, until nothing is left.
    async fn pass(&self) -> Result<(), Gone> {
        while let Some(Waiting { message, handed }) = self.next()? {
            moving(self.client.publish(message.subject, message.payload)).await?;
            if let Some(handed) = handed {
                // Who sent it may have stopped waiting.
                let _ = handed.send(());
            }
            self.flush_above(self.window).await?;
        }
        self.flush_above(self.window / 2).await
    }

    fn next(&self) -> Result<Option<Waiting>, Gone> {
        let mut queue = self.queue.lock();
        if queue.gone {
            return Err(Gone);
        }
        let next = match queue.urgent.pop_front() {
            Some(message) => {
                queue.urgent_bytes -= message.payload.len();
                let handed = None;
                Some(Waiting { message, handed })
            }
            None => queue.replies.pop_front().inspect(|waiting| {
                queue.reply_bytes -= waiting.message.payload.len();
                queue.unflushed += waiting.message.payload.len();
            }),
        };
        queue.in_hand = next.is_some();
        self.room.notify_waiters();
        Ok(next)
    }

    async fn flush_above(&self, limit: usize) -> Result<(), Gone> {
        {
            let mut queue = self.queue.lock();
            if queue.unflushed <= limit {
                return Ok(());
            }
            queue.unflushed = 0;
        }
        moving(self.client.flush()).await
    }

    /// Resolves when everything queued so far is on the socket. Bound it in time: a broker may take nothing.
    pub(super) async fn flush(&self) -> Result<(), Gone> {
        loop {
            let room = self.room.notified();
            {
                let queue = self.queue.lock();
                if queue.gone {
                    return Err(Gone);
                }
                if !queue.in_hand && queue.urgent.is_empty() && queue.replies.is_empty() {
                    break;
                }
            }
            room.await;
        }
        moving(self.client.flush()).await
    }

    /// Nothing is sent from now on; whoever waits for room learns it.
    pub(super) fn close(&self) {
        self.give_up(&mut self.queue.lock());
    }

    fn give_up(&self, queue: &mut Queue) {
        queue.gone = true;
        queue.urgent.clear();
        queue.replies.clear();
        self.room.notify_waiters();
        self.work.notify_one();
    }
}

/// A step of sending, which must come to an end.
async fn moving<E: std::fmt::Display>(step: impl Future<Output = Result<(), E>>) -> Result<(), Gone> {
    match tokio::time::timeout(STALL, step).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            tracing::debug!(%error, "the connection takes no more messages");
            Err(Gone)
        }
        Err(_) => {
            tracing::warn!(
                seconds = STALL.as_secs(),
                "nothing could be written, the connection is given up"
            );
            Err(Gone)
        }
    }
}
