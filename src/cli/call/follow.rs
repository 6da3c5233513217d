//! A process followed over HTTP: lines of JSON, taken up again behind the last one when the connection breaks.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::ACCEPT;
use hyper::{Method, Response};
use serde_json::json;

use super::address::encoded;
use super::http::{Body, Http, lost};
use super::output;
use super::remote::OnInterrupt;
use super::run::{Ending, Interrupt, Interrupts};
use super::streamed::{Event, Printer};
use crate::error::Error;

/// Pauses between attempts to come back, and how many of them.
const PAUSE: Duration = Duration::from_millis(200);
const ATTEMPTS: u32 = 150;
/// Nothing for so long, not even a sign of life, is a lost connection.
const SILENCE: Duration = Duration::from_secs(45);
/// How long the daemon may take for what it does at once.
const ANSWER: Duration = Duration::from_secs(10);

/// What is kept from one connection to the next.
struct Following {
    interrupts: Interrupts,
    on_interrupt: OnInterrupt,
    /// An interrupt that is still to be passed on.
    owed: Option<Interrupt>,
    /// Whether there ever was a connection.
    was_there: bool,
}

impl Following {
    /// What an interrupt does: it is passed on, or we leave.
    fn take(&mut self, (interrupt, is_first): (Interrupt, bool)) -> Option<Ending> {
        if !is_first || self.on_interrupt == OnInterrupt::Leave {
            return Some(Ending::Left(interrupt));
        }
        self.owed = Some(interrupt);
        None
    }
}

/// The body of a response, line by line.
struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    fn new(response: Response<Incoming>) -> Self {
        Self {
            body: response.into_body(),
            buffer: BytesMut::new(),
        }
    }

    /// The next line, `None` at the end. Cancel-safe.
    async fn next(&mut self) -> Result<Option<BytesMut>, Error> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                return Ok(Some(line));
            }
            let frame = tokio::time::timeout(SILENCE, self.body.frame()).await;
            let frame = frame.map_err(|_| Error::Timeout {
                what: "a sign of life of the daemon",
                after: SILENCE,
            })?;
            match frame {
                None => return Ok(None),
                Some(frame) => {
                    if let Some(data) = frame.map_err(|error| lost(&error))?.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

impl Http {
    /// Prints what a process wrote and writes until it ends.
    pub(super) async fn follow(
        &self,
        id: &str,
        printer: &mut Printer,
        on_interrupt: OnInterrupt,
        interrupts: Interrupts,
    ) -> Result<Ending, Error> {
        let mut following = Following {
            interrupts,
            on_interrupt,
            owed: None,
            was_there: false,
        };
        let mut failed = 0;
        loop {
            let before = printer.sequence;
            let lost = match self.follow_once(id, printer, &mut following).await {
                Ok(Some(ending)) => return Ok(ending),
                Ok(None) => None,
                Err(error @ (Error::Unavailable { .. } | Error::Timeout { .. })) => Some(error),
                Err(error) => return Err(error),
            };
            failed = if printer.sequence > before { 0 } else { failed + 1 };
            // Whoever was never there is not waited for, unless it has a command of ours.
            let is_hopeless = !following.was_there && on_interrupt == OnInterrupt::Leave;
            if let Some(error) = lost.filter(|_| failed > ATTEMPTS || is_hopeless) {
                return Err(error);
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                come = following.interrupts.next() => if let Some(ending) = following.take(come) {
                    return Ok(ending);
                }
            }
        }
    }

    /// One connection; `None` when it broke off.
    async fn follow_once(
        &self,
        id: &str,
        printer: &mut Printer,
        following: &mut Following,
    ) -> Result<Option<Ending>, Error> {
        let mut lines = self.log_lines(id, printer.sequence, true).await?;
        following.was_there = true;
        loop {
            if let Some(interrupt) = following.owed {
                self.pass_on(id, interrupt).await?;
                following.owed = None;
            }
            tokio::select! {
                line = lines.next() => match line? {
                    None => return Ok(None),
                    Some(line) => printer.take(Event::parse(&line)?, &line)?,
                },
                come = following.interrupts.next() => if let Some(ending) = following.take(come) {
                    return Ok(Some(ending));
                }
            }
            if printer.exit.is_some() {
                return Ok(Some(Ending::Ended));
            }
        }
    }

    /// Interrupts the process; that it has ended already is told by its end.
    async fn pass_on(&self, id: &str, interrupt: Interrupt) -> Result<(), Error> {
        let signal = json!({ "id": id, "signal": interrupt.name(), "scope": "tree" });
        let answered = tokio::time::timeout(ANSWER, self.operation("process.signal", &signal)).await;
        let late = Error::Timeout {
            what: "the daemon",
            after: ANSWER,
        };
        match answered.unwrap_or(Err(late)) {
            Err(error @ Error::Protocol { .. }) => {
                output::complaint(&error);
                Ok(())
            }
            other => other.map(|_| ()),
        }
    }

    /// Ends a process whose output nobody takes any more: here it would have been told by its next write. One that has
    /// ended leaves alive what it left alive.
    pub(super) async fn end(&self, id: &str) {
        let ending = async {
            let one = json!({ "id": id });
            let info = self.operation("process.get", &one).await?;
            if info["status"] == "running" {
                self.operation("process.kill", &one).await?;
            }
            Ok::<_, Error>(())
        };
        // The lost output is what is told.
        let _ = tokio::time::timeout(ANSWER, ending).await;
    }

    /// Prints what a process wrote so far.
    pub(super) async fn logs(&self, id: &str, printer: &mut Printer) -> Result<Ending, Error> {
        let mut lines = self.log_lines(id, printer.sequence, false).await?;
        while let Some(line) = lines.next().await? {
            printer.take(Event::parse(&line)?, &line)?;
        }
        Ok(Ending::Ended)
    }

    async fn log_lines(&self, id: &str, since: u64, follow: bool) -> Result<Lines, Error> {
        let id = encoded(id.as_bytes());
        let how = if follow { "follow=true" } else { "format=ndjson" };
        let uri = format!("/v1/processes/{id}/logs?{how}&since={since}");
        let headers = [(ACCEPT, "application/x-ndjson")];
        let response = self.send(Method::GET, &uri, &headers, Body::default());
        let late = |_| Error::Timeout {
            what: "the daemon",
            after: SILENCE,
        };
        let response = tokio::time::timeout(SILENCE, response).await.map_err(late)??;
        Ok(Lines::new(response))
    }
}
