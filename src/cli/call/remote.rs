//! A daemon at the other end: the same calls over HTTP and over NATS.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value};

use super::http::Http;
use super::nats::Nats;
use super::output;
use super::run::{Ending, Interrupts, payload};
use super::streamed::Printer;
use crate::error::Error;

/// A daemon that answers.
#[derive(Debug)]
pub(super) enum Remote {
    /// Over HTTP.
    Http(Http),
    /// Over NATS.
    Nats(Nats),
}

/// A command to run to its end.
#[derive(Debug)]
pub(super) struct ExecRequest {
    pub(super) command: Vec<String>,
    pub(super) shell: bool,
    pub(super) cwd: String,
    pub(super) env: Vec<(String, String)>,
    pub(super) stdin: Bytes,
    pub(super) timeout: Option<Duration>,
    pub(super) request_id: Option<String>,
}

/// How it ended.
#[derive(Debug)]
pub(super) struct ExecAnswer {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    /// `None` after a signal or the time limit.
    pub(super) exit_code: Option<i32>,
    /// The signal's number, where the door tells it.
    pub(super) signal: Option<i32>,
    pub(super) timed_out: bool,
    /// Bytes that the daemon left out of standard output and standard error.
    pub(super) omitted: (u64, u64),
    /// The whole answer for `--json`.
    pub(super) json: Value,
}

/// What an interrupt of the person does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnInterrupt {
    /// The first one goes to the command, a second one leaves.
    PassOn,
    /// It leaves.
    Leave,
}

/// A file to write.
#[derive(Debug)]
pub(super) struct WriteRequest {
    pub(super) path: PathBuf,
    pub(super) append: bool,
    pub(super) mode: Option<String>,
}

impl Remote {
    /// Performs the operation `name` of the table with a JSON payload.
    pub(super) async fn operation(&self, name: &str, payload: &Value) -> Result<Value, Error> {
        match self {
            Self::Http(http) => http.operation(name, payload).await,
            Self::Nats(nats) => nats.operation(name, payload).await,
        }
    }

    /// Runs a command to its end.
    pub(super) async fn exec(&self, request: ExecRequest) -> Result<ExecAnswer, Error> {
        match self {
            Self::Http(http) => http.exec(request).await,
            Self::Nats(nats) => nats.exec(request).await,
        }
    }

    /// Runs a command and prints what it says; a lost connection is taken up again.
    pub(super) async fn run(&self, request: &ExecRequest, printer: &mut Printer) -> Result<Ending, Error> {
        match self {
            Self::Http(http) => {
                let interrupts = Interrupts::listen();
                let created = http.operation("process.create", &payload(request)).await?;
                let id = created["id"]
                    .as_str()
                    .ok_or_else(|| unexpected("a process without an id"))?;
                let ending = http.follow(id, printer, OnInterrupt::PassOn, interrupts).await;
                if ending.as_ref().is_err_and(output::is_lost) {
                    http.end(id).await;
                }
                ending
            }
            Self::Nats(nats) => nats.run(request, printer).await,
        }
    }

    /// Prints what a process wrote and writes until it ends.
    pub(super) async fn follow(&self, id: &str, printer: &mut Printer) -> Result<Ending, Error> {
        match self {
            Self::Http(http) => {
                let interrupts = Interrupts::listen();
                http.follow(id, printer, OnInterrupt::Leave, interrupts).await
            }
            Self::Nats(nats) => nats.follow(id, printer).await,
        }
    }

    /// Prints what a process wrote so far.
    pub(super) async fn logs(&self, id: &str, printer: &mut Printer) -> Result<Ending, Error> {
        match self {
            Self::Http(http) => http.logs(id, printer).await,
            Self::Nats(nats) => nats.logs(id, printer).await,
        }
    }

    /// Copies a file or a range of it to standard output as it arrives.
    pub(super) async fn read(&self, path: &Path, offset: u64, length: Option<u64>) -> Result<(), Error> {
        match self {
            Self::Http(http) => http.read(path, offset, length).await,
            Self::Nats(nats) => nats.read(path, offset, length).await,
        }
    }

    /// Writes a file from a stream of bytes.
    pub(super) async fn write(
        &self,
        request: WriteRequest,
        source: Box<dyn tokio::io::AsyncRead + Send + Unpin>,
    ) -> Result<Value, Error> {
        match self {
            Self::Http(http) => http.write(request, source).await,
            Self::Nats(nats) => nats.write(request, source).await,
        }
    }
}

/// Puts `path` into a payload: as text, or base64 when it is not UTF-8.
pub(super) fn set_path(payload: &mut Map<String, Value>, field: &str, path: &OsStr) {
    match path.to_str() {
        Some(text) => payload.insert(field.to_owned(), text.into()),
        None => payload.insert(format!("{field}B64"), STANDARD.encode(path.as_bytes()).into()),
    };
}

/// The bytes of a field that is text, or base64 beside it when the text could not hold them.
pub(super) fn exact_bytes(entry: &Value, field: &str) -> Vec<u8> {
    entry[format!("{field}B64")]
        .as_str()
        .and_then(|encoded| STANDARD.decode(encoded).ok())
        .unwrap_or_else(|| entry[field].as_str().unwrap_or_default().into())
}

/// An error that the daemon answered, in the words it used.
pub(super) fn refused(code: &str, message: &str, hint: Option<&str>) -> Error {
    let mut reason = message.to_owned();
    if !code.is_empty() {
        reason = format!("{reason} ({code})");
    }
    if let Some(hint) = hint {
        reason = format!("{reason}\n  hint: {hint}");
    }
    Error::Protocol { reason }
}

/// An answer that makes no sense.
pub(super) fn unexpected(what: &str) -> Error {
    Error::Protocol {
        reason: format!("the daemon answered {what}; are both ends the same boxd?"),
    }
}
