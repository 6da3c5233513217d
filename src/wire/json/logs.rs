//! What a process wrote: what is asked of it, and one page of the answer. `log_events` has the same as a stream.

use regex::RegexBuilder;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::process_requests::required_id;
use super::text::to_base64;
use crate::error::Error;
use crate::ids::ProcessId;
use crate::ops::{LeftOut, LogForm, LogLimits, LogPage, LogStream, Logs};
use crate::stream::{Gap, Item, Record, Select, Survey};

/// Bytes of text, or of records at once, that are answered unless something else is asked for, and at most.
const BYTES: (u64, u64) = (256 << 10, 16 << 20);
/// Bytes of a pattern, and of what is made of it.
const PATTERN: (usize, usize) = (4096, 1 << 20);
/// Lines around a match.
const CONTEXT: u64 = 1000;

/// In which form a log is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ProcessLogsFormat)]
pub enum LogFormat {
    /// One object with all entries.
    #[default]
    Json,
    /// Lines, for people and models.
    Text,
    /// One object per line.
    Ndjson,
    /// The bytes themselves.
    Raw,
}

/// Read what a process wrote.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LogsRequest {
    /// `proc_N`; on its own route, that of the path.
    pub id: Option<String>,
    /// `stdout`, `stderr`, `combined` (the default), `pty` or `after_exit`.
    pub stream: Option<String>,
    /// Behind the entry of this sequence.
    pub since: Option<u64>,
    /// The newest so many entries; with `format` `text`, lines.
    pub tail: Option<u64>,
    /// The first so many entries; with `format` `text`, lines.
    pub head: Option<u64>,
    /// Lines `A-B`, from 1; `A-` and `-B` are open.
    pub lines: Option<String>,
    /// Lines that match this regular expression.
    pub grep: Option<String>,
    /// So many lines around each match.
    pub context: Option<u64>,
    /// In which form.
    pub format: Option<LogFormat>,
    /// Without escape sequences and without what a carriage return took back.
    pub collapse: Option<bool>,
    /// Bytes at most.
    pub max_bytes: Option<u64>,
}

/// Arguments of the streaming operation `process.follow`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FollowArguments {
    /// `proc_N`.
    pub id: Option<String>,
    /// `stdout`, `stderr`, `combined` (the default) or `pty`.
    pub stream: Option<String>,
    /// Behind the entry of this sequence.
    pub since: Option<u64>,
    /// Of those that are there, the newest so many.
    pub tail: Option<u64>,
    /// `false` ends with what is there now.
    pub follow: Option<bool>,
}

impl FollowArguments {
    /// What is to be read.
    pub fn into_logs(self) -> Result<Logs, Error> {
        let (tail, follows) = (self.tail, self.follow.unwrap_or(true));
        let asked = LogsRequest {
            id: self.id,
            stream: self.stream,
            since: self.since,
            tail,
            ..LogsRequest::default()
        };
        let mut logs = asked.into_logs(None)?;
        if follows {
            logs.form = LogForm::Follow { tail };
        }
        Ok(logs)
    }
}

impl LogsRequest {
    /// What is to be read of the process of `id`, where that is known already; record by record where that can be.
    pub fn into_logs(self, id: Option<ProcessId>) -> Result<Logs, Error> {
        let id = id.map_or_else(|| required_id(self.id.as_deref()), Ok)?;
        for (field, value) in [
            ("tail", self.tail),
            ("head", self.head),
            ("maxBytes", self.max_bytes),
        ] {
            if value == Some(0) {
                return Err(invalid(field, "must be above zero"));
            }
        }
        let stream = stream(self.stream.as_deref())?;
        let since = self.since.unwrap_or(0);
        let form = if self.format == Some(LogFormat::Text) {
            self.text()?
        } else {
            self.refuse_lines()?;
            LogForm::Records(LogLimits {
                tail: self.tail,
                head: self.head,
                max_bytes: self.max_bytes,
            })
        };
        Ok(Logs {
            id,
            stream,
            since,
            form,
        })
    }

    /// The same as one answer of bounded size.
    pub fn into_page(self) -> Result<Logs, Error> {
        if let Some(LogFormat::Ndjson | LogFormat::Raw) = self.format {
            return Err(invalid("format", "is \"json\" or \"text\" here"));
        }
        let mut logs = self.into_logs(None)?;
        if let LogForm::Records(mut limits) = logs.form {
            limits.max_bytes = Some(bytes(limits.max_bytes)?);
            logs.form = LogForm::Page(limits);
        }
        Ok(logs)
    }

    fn text(&self) -> Result<LogForm, Error> {
        let context = self.context.unwrap_or(0);
        if context > CONTEXT {
            return Err(invalid(
                "context",
                &format!("is {context}, {CONTEXT} is the most"),
            ));
        }
        if self.context.is_some() && self.grep.is_none() {
            return Err(invalid(
                "context",
                "stands around matches of grep, which is not given",
            ));
        }
        let select = Select {
            range: self.lines.as_deref().map(range).transpose()?,
            grep: self.grep.as_deref().map(pattern).transpose()?,
            context,
            head: self.head,
            tail: self.tail,
            max_bytes: bytes(self.max_bytes)?,
        };
        Ok(LogForm::Text {
            select: Box::new(select),
            collapse: self.collapse.unwrap_or(false),
        })
    }

    /// What chooses lines chooses nothing where there are none, and is not ignored.
    fn refuse_lines(&self) -> Result<(), Error> {
        let given = [
            ("lines", self.lines.is_some()),
            ("grep", self.grep.is_some()),
            ("context", self.context.is_some()),
            ("collapse", self.collapse == Some(true)),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((field, _)) => Err(invalid(field, "needs format=text")),
        }
    }
}

fn invalid(field: &'static str, reason: &str) -> Error {
    Error::Invalid {
        field,
        reason: reason.to_owned(),
    }
}

fn stream(name: Option<&str>) -> Result<LogStream, Error> {
    let Some(name) = name else {
        return Ok(LogStream::Combined);
    };
    let stream = LogStream::ALL.into_iter().find(|stream| stream.as_str() == name);
    stream.ok_or_else(|| {
        let names = LogStream::ALL.map(LogStream::as_str).join(", ");
        invalid("stream", &format!("{name:.40?} is none of {names}"))
    })
}

fn bytes(asked: Option<u64>) -> Result<u64, Error> {
    let (usual, most) = BYTES;
    match asked {
        Some(asked) if asked > most => Err(invalid("maxBytes", &format!("is {asked}, {most} is the most"))),
        asked => Ok(asked.unwrap_or(usual)),
    }
}

fn pattern(text: &str) -> Result<regex::Regex, Error> {
    let (length, size) = PATTERN;
    if text.len() > length {
        return Err(invalid("grep", &format!("has more than {length} bytes")));
    }
    let built = RegexBuilder::new(text)
        .size_limit(size)
        .dfa_size_limit(size)
        .build();
    built.map_err(|error| {
        invalid(
            "grep",
            &format!("is no regular expression that can be used: {error}"),
        )
    })
}

/// `A-B`, `A-`, `-B` or `A`.
fn range(text: &str) -> Result<(u64, u64), Error> {
    let wrong = || {
        invalid(
            "lines",
            &format!("{text:.40?} is no range; 10-20, 10- and -20 are"),
        )
    };
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str, open: u64| match text {
        "" => Ok(open),
        text if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().map_err(|_| wrong()),
        _ => Err(wrong()),
    };
    let (from, to) = (number(from, 1)?, number(to, u64::MAX)?);
    if from == 0 || to < from || text == "-" || text.is_empty() {
        return Err(wrong());
    }
    Ok((from, to))
}

/// Some bytes that a process wrote.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProcessLogEntry)]
pub struct LogEntry {
    /// Its position in the one sequence of the process, from 1.
    pub sequence: u64,
    /// Where it was written to: `stdout`, `stderr` or `pty`.
    pub stream: &'static str,
    /// When the first of the bytes arrived, unix milliseconds.
    pub timestamp_ms: u64,
    /// The bytes.
    pub data: String,
    /// How `data` is written: `base64`.
    pub encoding: &'static str,
}

impl From<&Record> for LogEntry {
    fn from(record: &Record) -> Self {
        Self {
            sequence: record.seq,
            stream: record.channel.as_str(),
            timestamp_ms: record.at_ms,
            data: to_base64(&record.bytes),
            encoding: "base64",
        }
    }
}

/// Bytes that are not kept any more.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProcessLogGap)]
pub struct LogGap {
    /// Where they were written to.
    pub stream: &'static str,
    /// Sequence of the first entry that is missing.
    pub from: u64,
    /// Sequence of the last one.
    pub to: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl From<&Gap> for LogGap {
    fn from(gap: &Gap) -> Self {
        Self {
            stream: gap.channel.as_str(),
            from: gap.from,
            to: gap.to,
            bytes: gap.bytes,
        }
    }
}

/// Entries that are kept and not part of this answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProcessLogLeftOut)]
pub struct LogLeftOut {
    /// How many.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The query that reads them.
    pub query: String,
}

/// What a process wrote.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProcessLogsResponse)]
pub struct LogsReply {
    /// `proc_N`.
    pub process_id: String,
    /// The part that was asked for.
    #[schema(value_type = String)]
    pub stream: &'static str,
    /// Oldest first.
    pub entries: Vec<LogEntry>,
    /// Bytes that are not kept any more, where that concerns this answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<LogGap>,
    /// What a limit of the request left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LogLeftOut>,
}

impl From<&LogPage> for LogsReply {
    fn from(page: &LogPage) -> Self {
        let (mut entries, mut gaps) = (Vec::new(), Vec::new());
        for item in &page.items {
            match item {
                Item::Record(record) => entries.push(record.into()),
                Item::Gap(gap) => gaps.push(gap.into()),
            }
        }
        Self {
            process_id: page.id.to_string(),
            stream: page.stream.as_str(),
            entries,
            gaps,
            left_out: left_out(page.stream, &page.left_out),
        }
    }
}

/// What was left out, each with the query that reads it.
pub fn left_out(stream: LogStream, left_out: &LeftOut) -> Vec<LogLeftOut> {
    let stream = stream.as_str();
    let row = |survey: &Survey, query: String| LogLeftOut {
        entries: survey.records,
        bytes: survey.bytes,
        query,
    };
    let mut rows = Vec::new();
    let LeftOut { before, behind, .. } = left_out;
    if before.records > 0 {
        let (since, head) = (left_out.before_since, before.records);
        rows.push(row(before, format!("stream={stream}&since={since}&head={head}")));
    }
    if behind.records > 0 {
        let since = left_out.behind_since;
        rows.push(row(behind, format!("stream={stream}&since={since}")));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_from_one_and_may_be_open() {
        for (text, parsed) in [
            ("2-5", (2, 5)),
            ("7", (7, 7)),
            ("3-", (3, u64::MAX)),
            ("-4", (1, 4)),
        ] {
            assert_eq!(range(text).unwrap(), parsed, "{text}");
        }
        for wrong in [
            "",
            "-",
            "0-3",
            "5-4",
            "a-b",
            "1-2-3",
            "+1-2",
            "99999999999999999999",
        ] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }

    fn refused(request: LogsRequest) -> &'static str {
        match request.into_logs(Some(ProcessId(1))) {
            Err(Error::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let text = || LogsRequest {
            format: Some(LogFormat::Text),
            ..LogsRequest::default()
        };
        let grep = |pattern: &str| LogsRequest {
            grep: Some(pattern.to_owned()),
            ..text()
        };
        assert_eq!(refused(grep("(")), "grep");
        assert_eq!(refused(grep("a{1000}{1000}")), "grep");
        assert_eq!(refused(grep(&"a".repeat(5000))), "grep");
        let without_text = LogsRequest {
            lines: Some("1-2".to_owned()),
            ..LogsRequest::default()
        };
        assert_eq!(refused(without_text), "lines");
        let nothing = LogsRequest {
            tail: Some(0),
            ..LogsRequest::default()
        };
        assert_eq!(refused(nothing), "tail");
        let context = LogsRequest {
            context: Some(1),
            ..text()
        };
        assert_eq!(refused(context), "context");
        let much = LogsRequest {
            max_bytes: Some(u64::MAX),
            ..text()
        };
        assert_eq!(refused(much), "maxBytes");
        let stream = LogsRequest {
            stream: Some("stdin".to_owned()),
            ..text()
        };
        assert_eq!(refused(stream), "stream");
    }
}
