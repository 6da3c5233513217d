//! `boxd call attach`: a terminal of the daemon in this one. It survives a dropped connection: what was missed is shown when it
//! is back, and nothing that was typed meanwhile is lost.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures_util::{SinkExt, StreamExt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_tungstenite::tungstenite::Message;

use super::address::encoded;
use super::exec::ended;
use super::http::{Http, Socket};
use super::remote::{Remote, unexpected};
use super::{Shown, output};
use crate::error::Error;

/// Control-]: leaves the terminal as it is.
const DETACH: u8 = 0x1d;
/// Pauses between attempts to come back, and how many of them.
const PAUSE: Duration = Duration::from_millis(200);
const ATTEMPTS: u32 = 300;
/// A connection on which nothing comes for so long, not even a ping, is lost.
const SILENCE: Duration = Duration::from_secs(40);

/// Look at a terminal and type into it; without an id a new one is made.
#[derive(Debug, Args)]
#[command(after_help = "\
Control-] leaves it running; attach to it again by its id.

Exit code: that of the program in it, 0 after leaving.

Examples:
  boxd call attach                    a login shell
  boxd call attach proc_3
  boxd call attach --scope build -- make menuconfig")]
pub(super) struct Attach {
    /// The process: `proc_N`.
    id: Option<String>,
    /// The terminal of this scope, a new one only when it has none.
    #[arg(long, conflicts_with = "id")]
    scope: Option<String>,
    /// Program and arguments of a new one; a login shell when not given.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Attach {
    pub(super) async fn perform(self, remote: &Remote) -> Result<Shown, Error> {
        let Remote::Http(http) = remote else {
            return Err(Error::Unsupported {
                what: "attach over NATS".into(),
                why: "terminals are streamed over HTTP".into(),
                fix: Some("use --url".into()),
            });
        };
        let id = match self.id {
            Some(id) => id,
            None => create(http, self.scope, self.command).await?,
        };
        let mut terminal = Here::open()?;
        let outcome = attach(http, &id, &mut terminal).await;
        drop(terminal);
        match outcome? {
            Left::Detached => {
                output::diagnostic(format!("\r\nboxd: {id} goes on\r\n").as_bytes())?;
                Ok(Shown::OK)
            }
            Left::Exited(code) => Ok(Shown {
                exit: exit_of(http, &id, code).await?,
            }),
        }
    }
}

async fn create(http: &Http, scope: Option<String>, command: Vec<String>) -> Result<String, Error> {
    let (cols, rows) = size().unwrap_or((80, 24));
    let mut payload = json!({ "tty": true, "cols": cols, "rows": rows });
    let mut words = command.into_iter();
    if let Some(program) = words.next() {
        payload["command"] = program.into();
        payload["args"] = words.collect();
    }
    if let Some(scope) = scope {
        payload["scopeId"] = scope.into();
    }
    let created = http.operation("process.create", &payload).await?;
    let id = created["id"]
        .as_str()
        .ok_or_else(|| unexpected("a process without an id"))?;
    Ok(id.to_owned())
}

/// Why nobody looks any more.
#[derive(Debug)]
enum Left {
    Detached,
    Exited(Option<i32>),
}

/// Why a connection is over.
enum Over {
    Left(Left),
    Lost,
}

/// The terminal that we are in: raw while this lives.
struct Here {
    before: Option<Termios>,
    sizes: Signal,
    /// Bytes of output that were shown, and those before them.
    offset: Option<u64>,
    /// What was typed and is not sent yet.
    typed: Vec<u8>,
}

impl Here {
    fn open() -> Result<Self, Error> {
        let failed = |source: std::io::Error| Error::Io {
            doing: "prepare the terminal".into(),
            source,
        };
        let before = if std::io::stdin().is_terminal() {
            let before = tcgetattr(std::io::stdin()).map_err(|error| failed(error.into()))?;
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).map_err(|error| failed(error.into()))?;
            Some(before)
        } else {
            None
        };
        Ok(Self {
            before,
            sizes: signal(SignalKind::window_change()).map_err(failed)?,
            offset: None,
            typed: Vec::new(),
        })
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Nothing can be done about a terminal that is gone.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Columns and rows of the terminal that we are in.
fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

async fn attach(http: &Http, id: &str, here: &mut Here) -> Result<Left, Error> {
    let (mut stdin, mut failed) = (tokio::io::stdin(), 0);
    loop {
        let from = here
            .offset
            .map_or("restore=true".to_owned(), |offset| format!("offset={offset}"));
        let path = format!("/v1/processes/{}/terminal/ws?{from}", encoded(id.as_bytes()));
        match http.socket(&path).await {
            Ok(socket) => {
                failed = 0;
                if let Over::Left(left) = converse(socket, &mut stdin, here).await? {
                    return Ok(left);
                }
            }
            Err(error @ (Error::Unavailable { .. } | Error::Timeout { .. })) => {
                failed += 1;
                if failed > ATTEMPTS {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One connection.
async fn converse(socket: Socket, stdin: &mut tokio::io::Stdin, here: &mut Here) -> Result<Over, Error> {
    let (mut sink, mut stream) = socket.split();
    if let Some((cols, rows)) = size() {
        let said = json!({ "type": "resize", "cols": cols, "rows": rows });
        if sink.send(Message::Text(said.to_string().into())).await.is_err() {
            return Ok(Over::Lost);
        }
    }
    let (mut typing, mut buffer) = (true, vec![0; 64 << 10]);
    loop {
        if !here.typed.is_empty() {
            let typed = Bytes::copy_from_slice(&here.typed);
            if sink.send(Message::Binary(typed)).await.is_err() {
                return Ok(Over::Lost);
            }
            here.typed.clear();
        }
        tokio::select! {
            message = tokio::time::timeout(SILENCE, stream.next()) => match message {
                Ok(Some(Ok(Message::Binary(bytes)))) => show(here, &bytes)?,
                Ok(Some(Ok(Message::Text(text)))) => {
                    if let Some(left) = heard(here, &text)? {
                        return Ok(Over::Left(left));
                    }
                }
                Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) | Err(_) => return Ok(Over::Lost),
                Ok(Some(Ok(_))) => {}
            },
            read = stdin.read(&mut buffer), if typing => {
                let read = read.map_err(|source| Error::Io { doing: "read standard input".into(), source })?;
                typing = read > 0;
                if here.before.is_some() && buffer[..read].contains(&DETACH) {
                    return Ok(Over::Left(Left::Detached));
                }
                here.typed.extend_from_slice(&buffer[..read]);
            }
            _ = here.sizes.recv() => {
                if let Some((cols, rows)) = size() {
                    let said = json!({ "type": "resize", "cols": cols, "rows": rows });
                    if sink.send(Message::Text(said.to_string().into())).await.is_err() {
                        return Ok(Over::Lost);
                    }
                }
            }
        }
    }
}

/// Shows output, and knows how much of it there was; a frame that redraws the screen is none.
fn show(here: &mut Here, bytes: &[u8]) -> Result<(), Error> {
    output::answer(bytes)?;
    if let Some(offset) = &mut here.offset {
        *offset += bytes.len() as u64;
    }
    Ok(())
}

/// Takes a message about the terminal; answers its end.
fn heard(here: &mut Here, text: &str) -> Result<Option<Left>, Error> {
    let message: Value = serde_json::from_str(text).map_err(|_| unexpected("a message that is not JSON"))?;
    match message["type"].as_str() {
        Some("exit") => Ok(Some(Left::Exited(
            message["exitCode"].as_i64().map(|code| code as i32),
        ))),
        Some("error") => Err(Error::Protocol {
            reason: message["message"]
                .as_str()
                .unwrap_or("the terminal failed")
                .to_owned(),
        }),
        Some("ready") if message["cols"].is_null() => {
            here.offset = message["offset"].as_u64();
            Ok(None)
        }
        // The frame that follows is no output: it is counted off beforehand.
        Some("ready" | "gap") => {
            let frame = message["frameBytes"].as_u64().unwrap_or(0);
            here.offset = message["offset"]
                .as_u64()
                .map(|offset| offset.wrapping_sub(frame));
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// The exit code of the program, by its end record where a signal ended it.
async fn exit_of(http: &Http, id: &str, code: Option<i32>) -> Result<ExitCode, Error> {
    if code.is_some() {
        return ended(false, None, code);
    }
    let process = http.operation("process.get", &json!({ "id": id })).await?;
    let signal = process["signalNumber"].as_i64().map(|signal| signal as i32);
    ended(process["timedOut"] == true, signal, None)
}
