//! One viewer of a terminal over a `WebSocket`: output as binary messages, what is typed back, `ready` first and `exit` last.
//!
//! A viewer is a reader of the process's log with a cursor of its own. One that is slow delays nobody: when the log has
//! dropped what it did not take yet, it is told how much, and gets the screen as it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::front::Caller;
use super::router::App;
use super::websocket::Socket;
use crate::error::Error;
use crate::exec::{Process, Size};
use crate::ops::Op;
use crate::pty::Attachment;
use crate::stream::{Channel, Cursor, Item};
use crate::wire::json::{ClientMessage, exit_code, input_bytes};

/// Bytes of output that are taken from the log at once.
const BATCH: u64 = 256 << 10;
/// How often a viewer is asked whether it is there; it is given up when it said nothing for three times that.
const PING: Duration = Duration::from_secs(15);
/// Refusals that wait to be told.
const REFUSALS: usize = 16;
/// How long a viewer may leave a message unread.
const STALL: Duration = Duration::from_secs(300);

/// Who looks, and how.
pub(super) struct Viewer {
    pub(super) app: Arc<App>,
    pub(super) caller: Caller,
    pub(super) process: Arc<Process>,
    pub(super) restore: bool,
    pub(super) offset: Option<u64>,
    pub(super) name: Option<String>,
}

type Sink = SplitSink<Socket, Message>;

/// Why a connection ends before the process.
#[derive(Debug)]
enum Gone {
    /// The viewer went, or does not read.
    Peer,
    /// It says that it goes.
    Goodbye,
    /// What is told it.
    Failed(Error),
}

impl From<Error> for Gone {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Viewer {
    /// Serves the socket until the process has ended or the viewer goes.
    pub(super) async fn serve(self, socket: Socket) {
        // One that has ended has nobody who looks; its output is told all the same.
        let attachment = self
            .terminals()
            .attach(self.process.id(), self.name.as_deref())
            .ok();
        let (mut sink, stream) = socket.split();
        let (refusals, refused) = mpsc::channel(REFUSALS);
        let outcome = tokio::select! {
            outcome = self.show(&mut sink, refused) => outcome,
            gone = self.listen(stream, refusals, attachment.as_ref()) => Err(gone),
        };
        let close = match outcome {
            Ok(()) | Err(Gone::Goodbye) => CloseCode::Normal,
            Err(Gone::Peer) => return,
            Err(Gone::Failed(error)) => {
                let _gone_already = send(&mut sink, said(&error)).await;
                CloseCode::Error
            }
        };
        let frame = CloseFrame {
            code: close,
            reason: "".into(),
        };
        let _gone_already = send(&mut sink, Message::Close(Some(frame))).await;
    }

    fn terminals(&self) -> &Arc<crate::pty::Terminals> {
        self.app.behind.rooms.terminals()
    }

    /// Sends everything from where the viewer begins, to the end.
    async fn show(&self, sink: &mut Sink, mut refused: mpsc::Receiver<Error>) -> Result<(), Gone> {
        let output = self.process.output();
        let mut offset = self.offset.unwrap_or(0);
        let frame = if self.restore {
            let restored = self.terminals().restore(&self.process).await?;
            offset = restored.offset;
            Some((restored.frame, restored.size, restored.is_exact))
        } else {
            None
        };
        let mut ready =
            json!({ "type": "ready", "processId": self.process.id().to_string(), "offset": offset });
        if let Some((frame, size, is_exact)) = &frame {
            let frame_bytes = frame.len();
            ready["cols"] = size.cols().into();
            ready["rows"] = size.rows().into();
            ready["exact"] = (*is_exact).into();
            ready["frameBytes"] = frame_bytes.into();
        }
        send(sink, text(&ready)).await?;
        if let Some((frame, ..)) = frame {
            send(sink, Message::Binary(frame.into())).await?;
        }
        let mut cursor = output.cursor_at(Channel::Tty, offset);
        // First of all, so that a program that never rests does not keep us from asking: who only watches says nothing else.
        let mut asking = every_ping();
        loop {
            let items = tokio::select! {
                biased;
                _ = asking.tick() => {
                    send(sink, Message::Ping(Bytes::new())).await?;
                    continue;
                }
                Some(error) = refused.recv() => {
                    send(sink, said(&error)).await?;
                    continue;
                }
                items = output.next(&mut cursor, BATCH) => items?,
            };
            if items.is_empty() {
                return self.say_exit(sink).await;
            }
            for item in items {
                self.show_item(sink, &mut offset, &mut cursor, item).await?;
            }
        }
    }

    async fn show_item(
        &self,
        sink: &mut Sink,
        offset: &mut u64,
        cursor: &mut Cursor,
        item: Item,
    ) -> Result<(), Gone> {
        match item {
            Item::Record(record) => {
                // The first one may begin before what is wanted.
                let known = usize::try_from(offset.saturating_sub(record.offset)).unwrap_or(usize::MAX);
                let bytes = record.bytes.slice(known.min(record.bytes.len())..);
                *offset = record.offset.max(*offset) + bytes.len() as u64;
                if !bytes.is_empty() {
                    send(sink, Message::Binary(bytes)).await?;
                }
            }
            Item::Gap(gap) => {
                let restored = self.terminals().restore(&self.process).await?;
                *offset = restored.offset;
                *cursor = self.process.output().cursor_at(Channel::Tty, *offset);
                // Output goes on at `offset`, behind a frame that redraws the screen.
                let said = json!({
                    "type": "gap", "from": gap.from, "to": gap.to, "bytes": gap.bytes, "offset": *offset,
                    "frameBytes": restored.frame.len(),
                });
                send(sink, text(&said)).await?;
                send(sink, Message::Binary(restored.frame.into())).await?;
            }
        }
        Ok(())
    }

    async fn say_exit(&self, sink: &mut Sink) -> Result<(), Gone> {
        let end = self.process.ended().await;
        let said = json!({ "type": "exit", "exitCode": exit_code(&end) });
        send(sink, text(&said)).await
    }

    /// Takes what the viewer says until it goes; what is refused of it is told, and the next is taken.
    async fn listen(
        &self,
        mut stream: SplitStream<Socket>,
        refusals: mpsc::Sender<Error>,
        _looking: Option<&Attachment>,
    ) -> Gone {
        let mut heard = Instant::now();
        let mut checking = every_ping();
        loop {
            let message = tokio::select! {
                biased;
                message = stream.next() => message,
                _ = checking.tick() => {
                    if heard.elapsed() >= 3 * PING {
                        return Gone::Peer;
                    }
                    continue;
                }
            };
            heard = Instant::now();
            let Some(Ok(message)) = message else {
                return Gone::Peer;
            };
            let taken = match message {
                Message::Binary(bytes) => self.input(bytes).await,
                Message::Text(text) => match serde_json::from_str(&text) {
                    Ok(ClientMessage::Input { data, encoding }) => match encoding {
                        None => self.input(data.into()).await,
                        Some(encoding) => match input_bytes(data, encoding) {
                            Ok(bytes) => self.input(bytes).await,
                            Err(error) => Err(error),
                        },
                    },
                    Ok(ClientMessage::Resize { cols, rows }) => self.resize(cols, rows).await,
                    Ok(ClientMessage::Close) => return Gone::Goodbye,
                    Err(error) => Err(Error::Protocol {
                        reason: format!("a message is not understood: {error}"),
                    }),
                },
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
                Message::Close(_) => return Gone::Peer,
            };
            match taken {
                Ok(()) => {}
                // The end is told by whoever shows it.
                Err(Error::Conflict { .. }) if self.process.end().is_some() => {}
                // Full is a viewer that says nonsense and does not listen: it waits.
                Err(error) => {
                    let _shown_no_more = refusals.send(error).await;
                }
            }
        }
    }

    async fn input(&self, bytes: Bytes) -> Result<(), Error> {
        let name = self.name.as_deref().unwrap_or_default();
        self.terminals().check_input(self.process.id(), name)?;
        let op = Op::ProcessInput {
            id: self.process.id(),
            bytes,
            holder: name.to_owned(),
        };
        self.app
            .perform(self.caller.clone().call(None), op)
            .await
            .map(|_| ())
    }

    async fn resize(&self, cols: u32, rows: u32) -> Result<(), Error> {
        let op = Op::ProcessResize {
            id: self.process.id(),
            size: Size::new(cols, rows)?,
        };
        self.app
            .perform(self.caller.clone().call(None), op)
            .await
            .map(|_| ())
    }
}

/// A timer that is set once, not at every message.
fn every_ping() -> tokio::time::Interval {
    tokio::time::interval_at(tokio::time::Instant::now() + PING, PING)
}

fn said(error: &Error) -> Message {
    text(&json!({ "type": "error", "message": error.to_string(), "code": error.code().as_str() }))
}

fn text(value: &Value) -> Message {
    Message::Text(value.to_string().into())
}

async fn send(sink: &mut Sink, message: Message) -> Result<(), Gone> {
    match tokio::time::timeout(STALL, sink.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Gone::Peer),
    }
}
