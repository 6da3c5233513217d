//! What a process writes as events: `text/event-stream` and one JSON object per line. Each event is a piece of a body.

use std::fmt::Display;
use std::io::Write as _;

use serde::Serialize;

use super::end::exit_code;
use super::{Exited, LogEntry, LogGap, LogLeftOut};
use crate::error::Error;
use crate::exec::Process;
use crate::stream::Item;

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// `event:`, `id:` and `data:` lines, as a browser's `EventSource` reads them.
    Sse,
    /// An object with a `type` on each line.
    Ndjson,
}

#[derive(Serialize)]
struct Tagged<'a, T> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Started {
    process_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ended {
    process_id: String,
    exit_code: Option<i32>,
    #[serde(flatten)]
    exited: Exited,
}

#[derive(Serialize)]
struct Failed {
    code: &'static str,
    detail: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Read {
    sequence: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<LogLeftOut>,
}

#[derive(Serialize)]
struct Nothing {}

impl Framing {
    /// The content type of a body of such events.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Sse => "text/event-stream",
            Self::Ndjson => "application/x-ndjson",
        }
    }

    /// A process was started.
    pub fn started(self, process: &Process, into: &mut Vec<u8>) -> Result<(), Error> {
        let process_id = process.id().to_string();
        self.event("started", None::<u64>, &Started { process_id }, into)
    }

    /// Output, or the lack of it. A gap has no id: a reader that resumes behind it is told of it again.
    pub fn item(self, item: &Item, into: &mut Vec<u8>) -> Result<(), Error> {
        match item {
            Item::Record(record) => self.event("log", Some(record.seq), &LogEntry::from(record), into),
            Item::Gap(gap) => self.event("gap", None::<u64>, &LogGap::from(gap), into),
        }
    }

    /// The end of the process, which is the end of the stream.
    pub fn exit(self, process: &Process, into: &mut Vec<u8>) -> Result<(), Error> {
        let end = process.end().ok_or_else(|| Error::Internal {
            reason: format!("{} has no end yet", process.id()),
        })?;
        let exit = Ended {
            process_id: process.id().to_string(),
            exit_code: exit_code(end),
            exited: Exited::new(end, process),
        };
        self.event("exit", Some(end.seq), &exit, into)
    }

    /// The end of what was asked for, which is not that of the process.
    pub fn end(self, sequence: u64, left_out: Vec<LogLeftOut>, into: &mut Vec<u8>) -> Result<(), Error> {
        self.event("end", None::<u64>, &Read { sequence, left_out }, into)
    }

    /// The stream ends here because of a failure.
    pub fn failed(self, error: &Error, into: &mut Vec<u8>) -> Result<(), Error> {
        let failed = Failed {
            code: error.code().as_str(),
            detail: error.to_string(),
        };
        self.event("error", None::<u64>, &failed, into)
    }

    /// Nothing happened for a while.
    pub fn ping(self, into: &mut Vec<u8>) -> Result<(), Error> {
        match self {
            Self::Sse => {
                into.extend_from_slice(b": ping\n\n");
                Ok(())
            }
            Self::Ndjson => self.event("ping", None::<u64>, &Nothing {}, into),
        }
    }

    pub(super) fn event<T: Serialize>(
        self,
        name: &str,
        id: Option<impl Display>,
        body: &T,
        into: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let written = match self {
            Self::Ndjson => serde_json::to_writer(&mut *into, &Tagged { kind: name, body })
                .map_err(std::io::Error::from)
                .and_then(|()| into.write_all(b"\n")),
            Self::Sse => writeln!(into, "event: {name}")
                .and_then(|()| id.map_or(Ok(()), |id| writeln!(into, "id: {id}")))
                .and_then(|()| into.write_all(b"data: "))
                .and_then(|()| serde_json::to_writer(&mut *into, body).map_err(std::io::Error::from))
                .and_then(|()| into.write_all(b"\n\n")),
        };
        written.map_err(|error| Error::Internal {
            reason: format!("an event cannot be written as JSON: {error}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Channel, Gap, Record};

    #[test]
    fn events_have_one_shape_in_either_framing() {
        let record = Item::Record(Record {
            seq: 3,
            channel: Channel::Stdout,
            at_ms: 5,
            offset: 0,
            bytes: "a\nb".into(),
        });
        let gap = Item::Gap(Gap {
            channel: Channel::Stderr,
            from: 1,
            to: 2,
            bytes: 9,
        });
        let all = |framing: Framing| {
            let mut bytes = Vec::new();
            framing.item(&gap, &mut bytes).unwrap();
            framing.item(&record, &mut bytes).unwrap();
            framing.ping(&mut bytes).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        insta::assert_snapshot!(all(Framing::Sse), @r#"
        event: gap
        data: {"stream":"stderr","from":1,"to":2,"bytes":9}

        event: log
        id: 3
        data: {"sequence":3,"stream":"stdout","timestampMs":5,"data":"YQpi","encoding":"base64"}

        : ping
        "#);
        insta::assert_snapshot!(all(Framing::Ndjson), @r#"
        {"type":"gap","stream":"stderr","from":1,"to":2,"bytes":9}
        {"type":"log","sequence":3,"stream":"stdout","timestampMs":5,"data":"YQpi","encoding":"base64"}
        {"type":"ping"}
        "#);
    }
}
