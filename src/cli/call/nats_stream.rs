//! Streams over NATS: an operation is started, its frames are acknowledged as they are printed, and after a lost connection
//! it is attached to again behind the last one.

use std::time::Duration;

use async_nats::Subscriber;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use prost::Message;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::nats::{ANSWER_TIMEOUT, Nats, fresh_id};
use super::output;
use super::remote::{ExecRequest, unexpected};
use super::run::{Ending, Interrupt, Interrupts};
use super::streamed::{Event, Printer};
use crate::error::Error;
use crate::wire::proto;
use proto::control_request::Op;
use proto::control_response::Result as Answer;
use proto::{OpChannel, OpExit, OpFrame, OpStart, op_frame, op_start};

/// Payload that may be on its way.
const WINDOW: u64 = 4 << 20;
/// A running operation gives a sign of life at least every five seconds: after so long without one it is attached to again.
const SILENCE: Duration = Duration::from_secs(12);
/// The pause before a cancel that was not answered is said again.
const AGAIN: Duration = Duration::from_millis(200);
/// Attempts to come back without a single frame.
const ATTEMPTS: u32 = 20;

/// One operation, followed.
struct Following<'a> {
    nats: &'a Nats,
    id: String,
    frames: Subscriber,
    generation: u64,
    seen: u64,
    /// The interrupt that cancelled it.
    passed_on: Option<Interrupt>,
}

/// How a stream came to its end.
enum Streamed {
    /// The operation has ended.
    Exit(OpExit),
    /// We were told to leave.
    Left(Interrupt),
}

impl Nats {
    /// Runs a command and prints what it says.
    pub(super) async fn run(&self, request: &ExecRequest, printer: &mut Printer) -> Result<Ending, Error> {
        let interrupts = Interrupts::listen();
        let exec = proto::ExecRequest {
            command: request.command.clone(),
            shell: request.shell,
            cwd: request.cwd.clone(),
            env: request.env.iter().cloned().collect(),
            stdin: request.stdin.clone(),
            timeout_ms: request.timeout.map_or(0, |timeout| {
                u32::try_from(timeout.as_millis().max(1)).unwrap_or(u32::MAX)
            }),
        };
        let id = request.request_id.clone().unwrap_or_else(fresh_id);
        let start = OpStart {
            op: Some(op_start::Op::Exec(exec)),
            window_bytes: WINDOW,
            ..OpStart::default()
        };
        let mut following = self.start(id, start).await?;
        let streamed = following.stream(interrupts, printer, command).await;
        if streamed.as_ref().is_err_and(output::is_lost) {
            // The first error is the one that is told.
            let _ = following.cancel().await;
        }
        let exit = match streamed? {
            Streamed::Exit(exit) => exit,
            Streamed::Left(interrupt) => return Ok(Ending::Left(interrupt)),
        };
        let end = exit_event(&exit);
        let line = end.to_string();
        printer.take(Event::Exit(end), line.as_bytes())?;
        Ok(Ending::Ended)
    }

    /// Prints what a process wrote and writes until it ends.
    pub(super) async fn follow(&self, id: &str, printer: &mut Printer) -> Result<Ending, Error> {
        self.process_follow(id, printer, true).await
    }

    /// Prints what a process wrote so far.
    pub(super) async fn logs(&self, id: &str, printer: &mut Printer) -> Result<Ending, Error> {
        self.process_follow(id, printer, false).await
    }

    async fn process_follow(&self, id: &str, printer: &mut Printer, follow: bool) -> Result<Ending, Error> {
        let interrupts = Interrupts::listen();
        let payload = json!({ "id": id, "since": printer.sequence, "follow": follow });
        let start = OpStart {
            ext: Some(proto::Extension {
                op: "process.follow".into(),
                payload: payload.to_string().into(),
            }),
            window_bytes: WINDOW,
            ..OpStart::default()
        };
        let mut lines = Vec::new();
        let take = move |printer: &mut Printer, frame: OpFrame| {
            if let Some(op_frame::Body::Data(data)) = frame.body {
                lines.extend_from_slice(&data.bytes);
            }
            while let Some(end) = lines.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = lines.drain(..=end).collect();
                printer.take(Event::parse(&line[..end])?, &line[..end])?;
            }
            Ok(())
        };
        let mut following = self.start(fresh_id(), start).await?;
        let streamed = following.stream(interrupts, printer, take).await;
        if streamed.is_err() {
            // It would be kept for whoever comes back; the first error is the one that is told.
            let _ = following.cancel().await;
        }
        let streamed = streamed?;
        let exit = match streamed {
            Streamed::Left(interrupt) => return Ok(Ending::Left(interrupt)),
            Streamed::Exit(exit) => exit,
        };
        // An interrupt ends the following, and says nothing of the process.
        if let Some(interrupt) = following.passed_on.filter(|_| printer.exit.is_none()) {
            return Ok(Ending::Left(interrupt));
        }
        if !exit.failure_code.is_empty() {
            return Err(Error::Unavailable {
                what: "the log".into(),
                reason: format!(
                    "it was cut short by {} {:?}",
                    exit.failure_code, exit.failure_detail
                ),
            });
        }
        Ok(Ending::Ended)
    }

    /// Starts an operation.
    async fn start(&self, id: String, start: OpStart) -> Result<Following<'_>, Error> {
        let following = Following {
            frames: self.subscribe(&format!("op.{id}")).await?,
            nats: self,
            id,
            generation: 1,
            seen: 0,
            passed_on: None,
        };
        let asked = self
            .ask(following.id.clone(), Op::OpStart(start), Some(ANSWER_TIMEOUT))
            .await?;
        let Answer::OpStart(started) = asked else {
            return Err(unexpected("another operation"));
        };
        if started
            .status
            .is_some_and(|status| status.state() == proto::OpState::Lost)
        {
            return Err(Error::Lost { key: following.id });
        }
        Ok(following)
    }
}

impl Following<'_> {
    /// Takes the frames of the operation until its exit.
    async fn stream(
        &mut self,
        mut interrupts: Interrupts,
        printer: &mut Printer,
        mut take: impl FnMut(&mut Printer, OpFrame) -> Result<(), Error>,
    ) -> Result<Streamed, Error> {
        // A cancel that was lost with a connection is said again, from this moment on.
        let (mut failed, mut owed) = (0, None);
        loop {
            tokio::select! {
                frame = self.next() => match frame {
                    Ok(frame) => {
                        failed = 0;
                        let exit = match &frame.body {
                            Some(op_frame::Body::Exit(exit)) => Some(exit.clone()),
                            _ => None,
                        };
                        take(printer, frame)?;
                        // One that is lost is made up for by the next, or by attaching.
                        let _ = self.acknowledge(exit.is_some()).await;
                        if let Some(exit) = exit {
                            return Ok(Streamed::Exit(exit));
                        }
                    }
                    Err(error) if failed >= ATTEMPTS => return Err(error),
                    Err(_) => {
                        failed += 1;
                        self.attach().await;
                    }
                },
                () = until(owed) => owed = self.cancel().await.err().map(|_| Instant::now() + AGAIN),
                (interrupt, is_first) = interrupts.next() => {
                    if !is_first {
                        return Ok(Streamed::Left(interrupt));
                    }
                    self.passed_on = Some(interrupt);
                    owed = Some(Instant::now());
                }
            }
        }
    }

    /// The next frame in order. Cancel-safe.
    async fn next(&mut self) -> Result<OpFrame, Error> {
        loop {
            let message = tokio::time::timeout(SILENCE, self.frames.next()).await;
            let Ok(Some(message)) = message else {
                return Err(Error::Timeout {
                    what: "a frame of the operation",
                    after: SILENCE,
                });
            };
            let frame = OpFrame::decode(message.payload).map_err(|error| Error::Protocol {
                reason: format!("a frame cannot be decoded: {error}"),
            })?;
            if frame.seq == self.seen + 1 {
                self.seen = frame.seq;
                return Ok(frame);
            }
            if frame.seq > self.seen + 1 {
                // Some were lost with a connection.
                self.attach().await;
            }
        }
    }

    async fn acknowledge(&self, is_final: bool) -> Result<(), Error> {
        let ack = proto::OpAck {
            op_id: self.id.clone(),
            acked_seq: self.seen,
            credit_bytes: 0,
            r#final: is_final,
            attach_generation: self.generation,
        };
        self.nats
            .publish("ack", ack.encode_to_vec().into(), is_final)
            .await
    }

    /// Asks for everything behind the last frame; when that fails, the next silence asks again.
    async fn attach(&mut self) {
        self.generation += 1;
        let attach = proto::OpAttach {
            op_id: self.id.clone(),
            from_seq: self.seen,
            attach_generation: self.generation,
            window_bytes: 0,
        };
        let _answered = self
            .nats
            .ask(fresh_id(), Op::OpAttach(attach), Some(ANSWER_TIMEOUT))
            .await;
    }

    async fn cancel(&self) -> Result<(), Error> {
        let cancel = proto::OpCancel {
            op_id: self.id.clone(),
        };
        let asked = self
            .nats
            .ask(fresh_id(), Op::OpCancel(cancel), Some(ANSWER_TIMEOUT));
        asked.await.map(|_| ())
    }
}

/// Resolves at that moment, never when there is none. Cancel-safe.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// A frame of a command as an event.
fn command(printer: &mut Printer, frame: OpFrame) -> Result<(), Error> {
    let Some(op_frame::Body::Data(data)) = frame.body else {
        return Ok(());
    };
    let stream = match data.channel() {
        OpChannel::Stderr => "stderr",
        _ => "stdout",
    };
    let line = json!({
        "type": "log", "sequence": frame.seq, "stream": stream, "data": STANDARD.encode(&data.bytes),
        "encoding": "base64",
    });
    let event = Event::Output {
        sequence: frame.seq,
        stream: stream.into(),
        bytes: data.bytes.into(),
    };
    printer.take(event, line.to_string().as_bytes())
}

/// The exit as an event.
fn exit_event(exit: &OpExit) -> Value {
    let signal: Option<i32> = exit
        .failure_detail
        .get("signal")
        .and_then(|signal| signal.parse().ok());
    json!({
        "type": "exit",
        "exitCode": (exit.exit_code >= 0).then_some(exit.exit_code),
        "signalNumber": signal.or(exit.cancelled.then_some(9)),
        "timedOut": exit.timed_out,
        "durationMs": exit.duration_ms,
    })
}
