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
use super::remote::OnInterrupt;
use super::run::{Ending, Interrupts};
use super::streamed::{Event, Printer};
use crate::error::Error;

/// Pauses between attempts to come back, and how many of them.
const PAUSE: Duration = Duration::from_millis(200);
const ATTEMPTS: u32 = 150;
/// Nothing for so long, not even a sign of life, is a lost connection.
const SILENCE: Duration = Duration::from_secs(45);

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
    ) -> Result<Ending, Error> {
        let (mut interrupts, mut failed) = (Interrupts::default(), 0);
        loop {
            let before = printer.sequence;
            let lost = match self.follow_once(id, printer, &mut interrupts, on_interrupt).await {
                Ok(Some(ending)) => return Ok(ending),
                Ok(None) => None,
                Err(error @ (Error::Unavailable { .. } | Error::Timeout { .. })) => Some(error),
                Err(error) => return Err(error),
            };
            failed = if printer.sequence > before { 0 } else { failed + 1 };
            if let Some(error) = lost.filter(|_| failed > ATTEMPTS) {
                return Err(error);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One connection; `None` when it broke off.
    async fn follow_once(
        &self,
        id: &str,
        printer: &mut Printer,
        interrupts: &mut Interrupts,
        on_interrupt: OnInterrupt,
    ) -> Result<Option<Ending>, Error> {
        let mut lines = self.log_lines(id, printer.sequence, true).await?;
        loop {
            tokio::select! {
                line = lines.next() => match line? {
                    None => return Ok(None),
                    Some(line) => printer.take(Event::parse(&line)?, &line)?,
                },
                first = interrupts.next() => {
                    if !first || on_interrupt == OnInterrupt::Leave {
                        return Ok(Some(Ending::Left));
                    }
                    let signal = json!({ "id": id, "signal": "INT", "scope": "tree" });
                    self.operation("process.signal", &signal).await?;
                }
            }
            if printer.exit.is_some() {
                return Ok(Some(Ending::Ended));
            }
        }
    }

    /// Prints what a process wrote so far.
    pub(super) async fn logs(&self, id: &str, printer: &mut Printer) -> Result<(), Error> {
        let mut lines = self.log_lines(id, printer.sequence, false).await?;
        while let Some(line) = lines.next().await? {
            printer.take(Event::parse(&line)?, &line)?;
        }
        Ok(())
    }

    async fn log_lines(&self, id: &str, since: u64, follow: bool) -> Result<Lines, Error> {
        let id = encoded(id.as_bytes());
        let how = if follow { "follow=true" } else { "format=ndjson" };
        let uri = format!("/v1/processes/{id}/logs?{how}&since={since}");
        let headers = [(ACCEPT, "application/x-ndjson")];
        let response = self.send(Method::GET, &uri, &headers, Body::default()).await?;
        Ok(Lines::new(response))
    }
}
