//! `boxd call attach`: a terminal of the daemon in this one. It survives a dropped connection: what was missed is shown when it
//! is back, and nothing that was typed meanwhile is lost.

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::address::encoded;
use super::exec::ended;
use super::http::{Http, Socket};
use super::remote::{Remote, unexpected};
use super::terminal::{Happened, Terminal, size};
use super::{Shown, output};
use crate::error::Error;

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
        let mut here = Terminal::open()?;
        let mut place = Place::default();
        let outcome = attach(http, &id, &mut here, &mut place).await;
        drop(here);
        if let Some(refused) = place.refused {
            output::diagnostic(format!("\r\nboxd: {refused}\r\n").as_bytes())?;
        }
        match outcome? {
            Left::Detached => {
                output::diagnostic(format!("\r\nboxd: {id} goes on\r\n").as_bytes())?;
                Ok(Shown::OK)
            }
            Left::Told(signal) => Ok(Shown {
                exit: ended(false, Some(signal), None)?,
            }),
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
    /// We were told to end, by a signal.
    Told(i32),
    Exited(Option<i32>),
}

/// Why a connection is over, or did not come to be.
enum Over {
    Left(Left),
    Lost,
}

/// How far the output was shown.
#[derive(Debug, Default)]
struct Place {
    /// Bytes of output that were shown, and those before them; `None` asks for the screen as it is.
    offset: Option<u64>,
    /// Where output goes on behind the frame that comes next and redraws the screen.
    behind_frame: Option<u64>,
    /// What was refused last, in the daemon's words: told when the terminal is ours again.
    refused: Option<String>,
}

async fn attach(http: &Http, id: &str, here: &mut Terminal, place: &mut Place) -> Result<Left, Error> {
    // Whoever was never there is not waited for.
    let (mut failed, mut was_there) = (0, false);
    loop {
        let from = place
            .offset
            .map_or("restore=true".to_owned(), |offset| format!("offset={offset}"));
        let path = format!("/v1/processes/{}/terminal/ws?{from}", encoded(id.as_bytes()));
        let over = match while_typing(here, http.socket(&path)).await? {
            Err(left) => return Ok(left),
            Ok(Ok(socket)) => {
                (failed, was_there) = (0, true);
                converse(socket, here, place).await?
            }
            Ok(Err(error @ (Error::Unavailable { .. } | Error::Timeout { .. }))) => {
                failed += 1;
                if failed > ATTEMPTS || !was_there {
                    return Err(error);
                }
                Over::Lost
            }
            Ok(Err(error)) => return Err(error),
        };
        if let Over::Left(left) = over {
            return Ok(left);
        }
        if let Err(left) = while_typing(here, tokio::time::sleep(PAUSE)).await? {
            return Ok(left);
        }
    }
}

/// Waits for something while there is no connection: what is typed is kept for the next one, and it can be left.
async fn while_typing<T>(
    here: &mut Terminal,
    awaited: impl Future<Output = T>,
) -> Result<Result<T, Left>, Error> {
    tokio::pin!(awaited);
    loop {
        tokio::select! {
            come = &mut awaited => return Ok(Ok(come)),
            happened = here.next() => match happened? {
                Happened::Typed | Happened::Resized => {}
                Happened::Detached => return Ok(Err(Left::Detached)),
                Happened::Told(signal) => return Ok(Err(Left::Told(signal))),
            }
        }
    }
}

/// One connection.
async fn converse(socket: Socket, here: &mut Terminal, place: &mut Place) -> Result<Over, Error> {
    let (mut sink, mut stream) = socket.split();
    let (mut resized, mut left) = (true, None);
    loop {
        if let Some((cols, rows)) = size().filter(|_| resized) {
            let said = json!({ "type": "resize", "cols": cols, "rows": rows });
            if sink.send(Message::Text(said.to_string().into())).await.is_err() {
                return Ok(Over::Lost);
            }
        }
        resized = false;
        if !here.typed.is_empty() {
            let typed = Bytes::copy_from_slice(&here.typed);
            if sink.send(Message::Binary(typed)).await.is_err() {
                return Ok(left.map_or(Over::Lost, Over::Left));
            }
            here.typed.clear();
        }
        if let Some(left) = left {
            return Ok(Over::Left(left));
        }
        tokio::select! {
            message = tokio::time::timeout(SILENCE, stream.next()) => match message {
                Ok(Some(Ok(Message::Binary(bytes)))) => place.show(&bytes)?,
                Ok(Some(Ok(Message::Text(text)))) => {
                    if let Some(left) = place.heard(&text)? {
                        return Ok(Over::Left(left));
                    }
                }
                Ok(Some(Ok(Message::Close(Some(close))))) if close.code == CloseCode::Error => {
                    let reason = place.refused.take();
                    return Err(Error::Protocol {
                        reason: reason.unwrap_or_else(|| "the terminal failed".into()),
                    });
                }
                Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) | Err(_) => return Ok(Over::Lost),
                Ok(Some(Ok(_))) => {}
            },
            happened = here.next() => match happened? {
                Happened::Typed => {}
                Happened::Resized => resized = true,
                Happened::Detached => left = Some(Left::Detached),
                Happened::Told(signal) => left = Some(Left::Told(signal)),
            }
        }
    }
}

impl Place {
    /// Shows output, and knows how much of it there was; a frame that redraws the screen is none.
    fn show(&mut self, bytes: &[u8]) -> Result<(), Error> {
        output::answer(bytes)?;
        if let Some(behind) = self.behind_frame.take() {
            self.offset = Some(behind);
        } else if let Some(offset) = &mut self.offset {
            *offset += bytes.len() as u64;
        }
        Ok(())
    }

    /// Takes a message about the terminal; answers its end.
    fn heard(&mut self, text: &str) -> Result<Option<Left>, Error> {
        let message: Value =
            serde_json::from_str(text).map_err(|_| unexpected("a message that is not JSON"))?;
        let offset = message["offset"].as_u64();
        match message["type"].as_str() {
            Some("exit") => {
                let code = message["exitCode"].as_i64().map(|code| code as i32);
                return Ok(Some(Left::Exited(code)));
            }
            // Typing on may be allowed later. When it is the end, the connection is closed.
            Some("error") => self.refused = message["message"].as_str().map(str::to_owned),
            // The frame that follows stands for everything before. Without it the screen is asked for again.
            Some("ready" | "gap") if !message["frameBytes"].is_null() => {
                (self.offset, self.behind_frame) = (None, offset);
            }
            Some("ready") => (self.offset, self.behind_frame) = (offset, None),
            _ => {}
        }
        Ok(None)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_counted_and_frames_are_not() {
        let mut place = Place::default();
        let ready =
            r#"{"type":"ready","processId":"proc_1","offset":7,"cols":80,"rows":24,"frameBytes":900}"#;
        assert!(place.heard(ready).unwrap().is_none());
        assert_eq!(place.offset, None, "cut off here, the screen is asked for again");
        place.show(b"").unwrap();
        assert_eq!(place.offset, Some(7));
        assert!(
            place
                .heard(r#"{"type":"gap","offset":99,"frameBytes":1}"#)
                .unwrap()
                .is_none()
        );
        place.show(b"").unwrap();
        assert_eq!(place.offset, Some(99));
        assert!(place.heard(r#"{"type":"ready","offset":5}"#).unwrap().is_none());
        assert_eq!(place.offset, Some(5));
        let exit = place.heard(r#"{"type":"exit","exitCode":3}"#).unwrap();
        assert!(matches!(exit, Some(Left::Exited(Some(3)))), "{exit:?}");
        assert!(
            place
                .heard(r#"{"type":"error","message":"no"}"#)
                .unwrap()
                .is_none()
        );
        assert_eq!(place.refused.as_deref(), Some("no"));
        assert!(place.heard("no").is_err());
    }
}
