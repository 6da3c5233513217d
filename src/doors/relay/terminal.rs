//! Terminals over a relay: one channel for each, from its first byte to its last.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell, mpsc};

pub use super::producer::Whereabouts;
use super::producer::{Produced, Producer, Said, Source, State, Waiting, Watched};
use crate::error::Error;
use crate::exec::Process;
use crate::ids::ProcessId;
use crate::lifecycle::Tasks;
use crate::pty::{LogFollower, Terminals};
use crate::stream::{Channel, Cursor, Item};
use crate::wire::proto::{StreamChannel, StreamCloseReason, StreamKind};

/// The stream port of terminals.
const PORT: u32 = 7681;
/// Bytes of one frame at most.
const FRAME: usize = 8 * 1024;
/// Bytes of output that are taken from the log at once.
const BATCH: u64 = 64 << 10;

/// A channel, and whether the relay knows of it.
type Live = (StreamChannel, Watched);

/// A process, and the relay's address.
type Place = (ProcessId, String);

/// The channels of terminals that are live.
#[derive(Debug)]
pub struct Ports {
    terminals: Arc<Terminals>,
    tasks: Tasks,
    /// By the process and the relay's address.
    live: Mutex<HashMap<Place, Port>>,
    /// A channel has ended.
    gone: Notify,
}

/// One of them; empty while the first of those who ask attaches.
#[derive(Debug, Default)]
struct Port {
    cell: Arc<OnceCell<Live>>,
    /// How many ask for it now.
    asking: usize,
}

/// Whose channel it is to be.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The workspace of its address.
    pub workspace_id: String,
    /// The agent of its address.
    pub agent_id: String,
    /// Whether a viewer that closes the channel ends the terminal.
    pub ends_with_viewer: bool,
}

impl Ports {
    /// None yet.
    pub fn new(terminals: &Arc<Terminals>, tasks: &Tasks) -> Arc<Self> {
        Arc::new(Self {
            terminals: Arc::clone(terminals),
            tasks: tasks.clone(),
            live: Mutex::default(),
            gone: Notify::new(),
        })
    }

    /// The channel of a terminal; when this answers, its bytes flow. The same one for whoever asks again. `whereabouts`
    /// says where the relay is, whenever it is dialed.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the relay refuses it, [`Error::Unavailable`] and [`Error::Timeout`] when it cannot be
    /// reached.
    pub async fn terminal(
        self: &Arc<Self>,
        url: &str,
        whereabouts: Whereabouts,
        owner: &Owner,
        process: &Arc<Process>,
    ) -> Result<StreamChannel, Error> {
        let place = (process.id(), url.to_owned());
        let opening = self.opening(place);
        let opened = opening
            .cell
            .get_or_try_init(|| self.open(whereabouts, owner, process, opening.place.clone()))
            .await;
        let (channel, watched) = opened?.clone();
        drop(opening);
        attached(watched).await?;
        Ok(channel)
    }

    /// Waits until the relay knows that the terminals have ended, for so long at most.
    pub async fn farewell(&self, limit: Duration) {
        let all_gone = async {
            loop {
                let mut gone = std::pin::pin!(self.gone.notified());
                gone.as_mut().enable();
                if self.live.lock().is_empty() {
                    return;
                }
                gone.await;
            }
        };
        let _late_ones_are_left = tokio::time::timeout(limit, all_gone).await;
    }

    fn opening(&self, place: Place) -> Opening<'_> {
        let mut live = self.live.lock();
        let port = live.entry(place.clone()).or_default();
        port.asking += 1;
        Opening {
            ports: self,
            cell: Arc::clone(&port.cell),
            place,
        }
    }

    async fn open(
        self: &Arc<Self>,
        whereabouts: Whereabouts,
        owner: &Owner,
        process: &Arc<Process>,
        place: Place,
    ) -> Result<(StreamChannel, Watched), Error> {
        let channel = StreamChannel {
            channel_id: format!("pty-{}", uuid::Uuid::new_v4().simple()),
            workspace_id: owner.workspace_id.clone(),
            agent_id: owner.agent_id.clone(),
            kind: StreamKind::Pty.into(),
            port: PORT,
        };
        let (producer, said, watched) = Producer::open(whereabouts, channel.clone()).await?;
        let source = Output {
            process: Arc::clone(process),
            terminals: Arc::clone(&self.terminals),
            cursor: Cursor::start().only(&[Channel::Tty]),
            behind: None,
            _kept: self.terminals.follow_log(process.id()),
        };
        let input = Input {
            process: Arc::clone(process),
            terminals: Arc::clone(&self.terminals),
            ends_with_viewer: owner.ends_with_viewer,
        };
        drop(self.tasks.detach("relay-input", input.run(said)));
        let ports = Arc::clone(self);
        drop(self.tasks.detach("relay-producer", async move {
            producer.run(source, &ports.tasks).await;
            ports.live.lock().remove(&place);
            ports.gone.notify_waiters();
        }));
        Ok((channel, watched))
    }
}

/// Somebody who asks for a channel, until it is open or will not be.
struct Opening<'a> {
    ports: &'a Ports,
    place: Place,
    cell: Arc<OnceCell<Live>>,
}

impl Drop for Opening<'_> {
    /// Lets go of a place that nobody opened and nobody else is opening.
    fn drop(&mut self) {
        let mut live = self.ports.live.lock();
        // One that has ended since is not in the map any more.
        let port = live.get_mut(&self.place);
        let Some(port) = port.filter(|port| Arc::ptr_eq(&port.cell, &self.cell)) else {
            return;
        };
        port.asking -= 1;
        if port.asking == 0 && !self.cell.initialized() {
            live.remove(&self.place);
            drop(live);
            self.ports.gone.notify_waiters();
        }
    }
}

/// Waits until the relay knows of the channel; it is dialed at once.
async fn attached(mut watched: Watched) -> Result<(), Error> {
    let mut was_asked = false;
    loop {
        let state = watched.state.borrow_and_update().clone();
        match state {
            State::Attached => return Ok(()),
            State::Refused(reason) if was_asked => return Err(Error::Forbidden { reason }),
            State::Refused(_) | State::Lost => {
                was_asked = true;
                watched.dial_now();
            }
        }
        if watched.state.changed().await.is_err() {
            return Err(Error::Unavailable {
                what: "the channel of the terminal".into(),
                reason: "it has ended".into(),
            });
        }
    }
}

/// What a terminal says.
struct Output {
    process: Arc<Process>,
    terminals: Arc<Terminals>,
    cursor: Cursor,
    /// Output is lost: what came behind it, until the screen is drawn anew in its place.
    behind: Option<Vec<Bytes>>,
    /// Nobody may look at the moment, and it lives on.
    _kept: Option<LogFollower>,
}

impl Source for Output {
    async fn next(&mut self) -> Produced {
        loop {
            if self.behind.is_some() {
                let frames = self.redrawn().await;
                if !frames.is_empty() {
                    return Produced::Frames(frames);
                }
            }
            let items = match self.process.output().next(&mut self.cursor, BATCH).await {
                Ok(items) => items,
                Err(error) => {
                    tracing::warn!(%error, "the log of a terminal cannot be read");
                    return Produced::End(StreamCloseReason::TransportError);
                }
            };
            if items.is_empty() {
                return Produced::End(StreamCloseReason::ProcessExit);
            }
            let frames = self.frames(items);
            if !frames.is_empty() {
                return Produced::Frames(frames);
            }
        }
    }
}

impl Output {
    /// What was said before the first gap; behind one the screen is to be drawn anew.
    fn frames(&mut self, items: Vec<Item>) -> Vec<Bytes> {
        let mut said = Vec::new();
        for item in items {
            match item {
                Item::Record(record) => match &mut self.behind {
                    Some(behind) => behind.extend(frames(record.bytes)),
                    None => said.extend(frames(record.bytes)),
                },
                Item::Gap(gap) => {
                    tracing::warn!(id = %self.process.id(), gap.bytes, "output was lost before a relay took it");
                    self.behind.get_or_insert_default();
                }
            }
        }
        said
    }

    /// The screen as it is now, in place of what is lost; the log goes on behind it.
    async fn redrawn(&mut self) -> Vec<Bytes> {
        let restored = self.terminals.restore(&self.process).await;
        let behind = self.behind.take().unwrap_or_default();
        match restored {
            Ok(restored) => {
                self.cursor = self.process.output().cursor_at(Channel::Tty, restored.offset);
                frames(restored.frame.into())
            }
            Err(error) => {
                tracing::warn!(%error, "a screen cannot be drawn anew");
                behind
            }
        }
    }
}

fn frames(mut bytes: Bytes) -> Vec<Bytes> {
    let mut frames = Vec::with_capacity(bytes.len().div_ceil(FRAME));
    while !bytes.is_empty() {
        frames.push(bytes.split_to(FRAME.min(bytes.len())));
    }
    frames
}

/// What viewers say to it.
struct Input {
    process: Arc<Process>,
    terminals: Arc<Terminals>,
    ends_with_viewer: bool,
}

impl Input {
    async fn run(self, mut inbox: mpsc::UnboundedReceiver<Waiting>) {
        // Whoever types looks, and its terminal answers what the program asks.
        let mut looking = None;
        while let Some(waiting) = inbox.recv().await {
            match &waiting.said {
                Said::Data(data) => {
                    if looking.is_none() {
                        looking = self.terminals.attach(self.process.id(), None).ok();
                    }
                    let allowed = self.terminals.check_input(self.process.id(), "");
                    let written = match allowed {
                        Ok(()) => self.process.write(data.clone()).await.map(|_| ()),
                        Err(error) => Err(error),
                    };
                    if let Err(error) = written {
                        tracing::debug!(id = %self.process.id(), %error, "what a viewer typed was not taken");
                    }
                }
                Said::Close if self.ends_with_viewer => self.process.cancel(),
                Said::Close => looking = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pty;

    #[tokio::test]
    async fn a_place_is_kept_for_all_who_ask_for_it_and_for_nobody_else() {
        let tasks = Tasks::new();
        let terminals = Terminals::start(pty::Config::default(), &tasks);
        let ports = Ports::new(&terminals, &tasks);
        let place = (ProcessId(7), "wss://relay".to_owned());
        let (first, second) = (ports.opening(place.clone()), ports.opening(place.clone()));
        let cell = Arc::clone(&second.cell);
        // It failed; the other one still tries.
        drop(first);
        assert!(Arc::ptr_eq(&ports.opening(place).cell, &cell));
        drop(second);
        assert!(ports.live.lock().is_empty());
    }
}
