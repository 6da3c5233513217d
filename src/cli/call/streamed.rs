//! What a streamed command says, whichever way it comes: lines of JSON over HTTP, frames over NATS.

use std::io::Write as _;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::exec::ended;
use super::output;
use super::remote::unexpected;
use super::run::Ending;
use crate::error::Error;

/// One thing that it says.
#[derive(Debug)]
pub(super) enum Event {
    /// The process is there.
    Started {
        /// Its id.
        id: String,
    },
    /// It wrote something.
    Output {
        /// The number of the record.
        sequence: u64,
        /// Where to.
        stream: String,
        /// What.
        bytes: Vec<u8>,
    },
    /// Output that is not there any more.
    Gap {
        /// Where it was written to.
        stream: String,
        /// How much of it.
        bytes: u64,
    },
    /// It ended: the fields of the end record.
    Exit(Value),
    /// It is still there.
    Ping,
}

impl Event {
    /// The event of one line.
    pub(super) fn parse(line: &[u8]) -> Result<Self, Error> {
        let value: Value = serde_json::from_slice(line).map_err(|_| unexpected("a line that is not JSON"))?;
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        Ok(match value["type"].as_str() {
            Some("started") => Self::Started {
                id: text("processId"),
            },
            Some("log") => Self::Output {
                sequence: value["sequence"].as_u64().unwrap_or(0),
                stream: text("stream"),
                bytes: STANDARD
                    .decode(text("data"))
                    .map_err(|_| unexpected("output that is not base64"))?,
            },
            Some("gap") => Self::Gap {
                stream: text("stream"),
                bytes: value["bytes"].as_u64().unwrap_or(0),
            },
            Some("exit") => Self::Exit(value),
            _ => Self::Ping,
        })
    }
}

/// Prints events as they come, and knows where to go on after a lost connection.
#[derive(Debug, Default)]
pub(super) struct Printer {
    /// Lines of JSON instead of the bytes.
    pub(super) json: bool,
    /// The last record that was printed.
    pub(super) sequence: u64,
    /// The process, once it is known.
    pub(super) id: Option<String>,
    /// How it ended, once it has.
    pub(super) exit: Option<Value>,
}

impl Printer {
    /// Prints one event; what was printed before a connection was lost is not printed again.
    pub(super) fn take(&mut self, event: Event, line: &[u8]) -> Result<(), Error> {
        let was_told = match &event {
            Event::Started { .. } => self.id.is_some(),
            Event::Output { sequence, .. } => *sequence <= self.sequence && *sequence > 0,
            Event::Ping => true,
            Event::Gap { .. } | Event::Exit(_) => false,
        };
        if was_told {
            return Ok(());
        }
        if self.json {
            let mut text = line.to_vec();
            text.push(b'\n');
            output::answer(&text)?;
        }
        match event {
            Event::Started { id } => self.id = Some(id),
            Event::Output {
                sequence,
                stream,
                bytes,
            } => {
                self.sequence = sequence;
                if self.json {
                } else if stream == "stderr" {
                    output::diagnostic(&bytes)?;
                } else {
                    output::answer(&bytes)?;
                }
            }
            Event::Gap { stream, bytes, .. } => {
                let mut note = Vec::new();
                // Writing to memory does not fail.
                let _ = writeln!(note, "boxd: {bytes} bytes of {stream} are not kept any more");
                output::diagnostic(&note)?;
            }
            Event::Exit(exit) => self.exit = Some(exit),
            Event::Ping => {}
        }
        Ok(())
    }

    /// The exit code that stands for how it ended, or for why we left.
    pub(super) fn code(&self, ending: Ending) -> Result<ExitCode, Error> {
        if let Ending::Left(interrupt) = ending {
            return Ok(interrupt.exit_code());
        }
        let exit = self.exit.as_ref().ok_or_else(|| unexpected("no end"))?;
        let number = |field: &str| exit[field].as_i64().map(|number| number as i32);
        let timed_out = exit["timedOut"].as_bool().unwrap_or(false);
        ended(timed_out, number("signalNumber"), number("exitCode"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_events() {
        let line = br#"{"type":"log","sequence":3,"stream":"stderr","timestampMs":1,"data":"aGk=","encoding":"base64"}"#;
        let Event::Output {
            sequence,
            stream,
            bytes,
        } = Event::parse(line).unwrap()
        else {
            panic!("no output");
        };
        assert_eq!((sequence, stream.as_str(), &bytes[..]), (3, "stderr", &b"hi"[..]));
        assert!(matches!(Event::parse(br#"{"type":"later"}"#), Ok(Event::Ping)));
        assert!(Event::parse(b"no").is_err());
    }

    #[test]
    fn the_end_is_an_exit_code() {
        let mut printer = Printer::default();
        assert!(printer.code(Ending::Ended).is_err());
        let end = br#"{"type":"exit","exitCode":7,"timedOut":false}"#;
        printer.take(Event::parse(end).unwrap(), end).unwrap();
        assert_eq!(
            format!("{:?}", printer.code(Ending::Ended).unwrap()),
            format!("{:?}", ExitCode::from(7))
        );
    }
}
