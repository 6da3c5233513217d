//! What a process wrote, in the form that is asked for. Nothing but text is held whole: bodies are made piece by piece as
//! their reader takes them.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::Stream;

use super::accept::Accept;
use super::body;
use super::error::Problem;
use super::events;
use super::front::Caller;
use super::meter;
use super::openapi::ProcessRefusals;
use super::process::Id;
use super::query::Query;
use super::router::{App, unexpected};
use crate::error::Error;
use crate::ops::{Feed, LogForm, LogReader, LogsReply, Op, Reply};
use crate::stream::Item;
use crate::telemetry::Metrics;
use crate::wire::json::{self, Framing, LogEntry, LogFormat, LogGap, LogsRequest, left_out};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Bytes that a raw body lacks because they are not kept any more.
const OMITTED_BYTES: HeaderName = HeaderName::from_static("x-omitted-bytes");

/// What a process wrote: entries, lines, or its bytes; with `follow`, as events until its end.
#[utoipa::path(
    get, path = "/v1/processes/{id}/logs", tag = "processes",
    params(
        ("id" = String, Path, description = "`proc_N`."),
        ("stream" = Option<String>, Query, description = "`stdout`, `stderr`, `combined` (the default), `pty`, `after_exit`."),
        ("since" = Option<u64>, Query, description = "Behind the entry of this sequence."),
        ("tail" = Option<u64>, Query, description = "The newest so many entries; lines with `format=text`."),
        ("head" = Option<u64>, Query, description = "The first so many entries; lines with `format=text`."),
        ("lines" = Option<String>, Query, description = "With `format=text`: lines `A-B`, from 1."),
        ("grep" = Option<String>, Query, description = "With `format=text`: lines that match this regular expression."),
        ("context" = Option<u64>, Query, description = "With `grep`: so many lines around each match."),
        ("format" = Option<String>, Query, description = "`json` (the default), `text`, `ndjson`, `raw`."),
        ("collapse" = Option<bool>, Query, description = "With `format=text`: without escape sequences and what a carriage return took back."),
        ("maxBytes" = Option<u64>, Query, description = "Bytes of text or entries at most."),
        ("follow" = Option<bool>, Query, description = "As events, to the end of the process: server-sent ones, or NDJSON by `Accept` or `format`."),
        ("Last-Event-ID" = Option<u64>, Header, description = "With `follow`: resume behind this sequence, instead of `since`."),
        ("access_token" = Option<String>, Query, description = "With `follow`: the token, where a header cannot be sent.")
    ),
    responses(
        (status = 200, description = "`application/json`, `text/plain`, `application/x-ndjson`, `application/octet-stream` or `text/event-stream`.",
         body = json::LogsReply),
        (status = 204, description = "With `follow`: the end had been seen already by `Last-Event-ID`; do not come back."),
        ProcessRefusals
    )
)]
pub(super) async fn logs(
    State(app): State<Arc<App>>,
    caller: Caller,
    id: Id,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut asked = request(&query)?;
    let accept = Accept::of(&headers);
    if query.flag("follow")? {
        return follow(&app, caller, id, asked, &headers, accept).await;
    }
    if asked.format.is_none() && accept.is_only(Framing::Ndjson) {
        asked.format = Some(LogFormat::Ndjson);
    }
    let format = asked.format.unwrap_or_default();
    let logs = asked.into_logs(Some(id.0))?;
    match app
        .perform(caller.call(None), Op::ProcessLogs(Box::new(logs)))
        .await?
    {
        Reply::Logs(LogsReply::Text(text)) => Ok(plain(json::LogsText::from(&text).text)),
        Reply::Logs(LogsReply::Reader(reader)) => Ok(Pieces::response(*reader, format, &app.behind.metrics)),
        other => Err(unexpected(&other)),
    }
}

async fn follow(
    app: &Arc<App>,
    caller: Caller,
    id: Id,
    mut asked: LogsRequest,
    headers: &HeaderMap,
    accept: Accept,
) -> Result<Response, Problem> {
    let framing = match asked.format.take() {
        Some(LogFormat::Ndjson) => Framing::Ndjson,
        Some(_) => return Err(invalid("format", "can only be \"ndjson\" with follow").into()),
        None if accept.is_only(Framing::Ndjson) => Framing::Ndjson,
        None => Framing::Sse,
    };
    if asked.head.is_some() || asked.max_bytes.is_some() {
        let field = if asked.head.is_some() { "head" } else { "maxBytes" };
        return Err(invalid(field, "cannot be combined with follow").into());
    }
    let seen = last_event(headers)?;
    if seen.is_some() {
        (asked.since, asked.tail) = (seen, None);
    }
    let place = caller.follow(app)?;
    let mut logs = asked.into_logs(Some(id.0))?;
    if let LogForm::Records(limits) = logs.form {
        logs.form = LogForm::Follow { tail: limits.tail };
    }
    match app
        .perform(caller.call(None), Op::ProcessLogs(Box::new(logs)))
        .await?
    {
        Reply::Logs(LogsReply::Reader(reader)) => {
            let end = reader.process().end().map(|end| end.seq);
            if end.is_some_and(|end| seen == Some(end)) {
                return Ok(StatusCode::NO_CONTENT.into_response());
            }
            let feed = Feed::of_log(*reader, place);
            Ok(events::response(feed, framing, &app.behind.metrics))
        }
        other => Err(unexpected(&other)),
    }
}

/// The id of the last event that a client saw before it was cut off.
fn last_event(headers: &HeaderMap) -> Result<Option<u64>, Error> {
    let Some(value) = headers.get(LAST_EVENT_ID) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or("(not ASCII)");
    match text {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| invalid("Last-Event-ID", "is no sequence of an entry")),
    }
}

fn invalid(field: &'static str, reason: &str) -> Error {
    Error::Invalid {
        field,
        reason: reason.to_owned(),
    }
}

fn request(query: &Query) -> Result<LogsRequest, Error> {
    let text = |name| Ok::<_, Error>(query.text(name)?.map(str::to_owned));
    let format = match query.text("format")? {
        None => None,
        Some("json") => Some(LogFormat::Json),
        Some("text") => Some(LogFormat::Text),
        Some("ndjson") => Some(LogFormat::Ndjson),
        Some("raw") => Some(LogFormat::Raw),
        Some(_) => return Err(invalid("format", "is none of json, text, ndjson, raw")),
    };
    Ok(LogsRequest {
        id: None,
        stream: text("stream")?,
        since: query.number("since")?,
        tail: query.number("tail")?,
        head: query.number("head")?,
        lines: text("lines")?,
        grep: text("grep")?,
        context: query.number("context")?,
        format,
        collapse: Some(query.flag("collapse")?),
        max_bytes: query.number("maxBytes")?,
    })
}

fn plain(text: String) -> Response {
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    ([(CONTENT_TYPE, kind)], text).into_response()
}

/// A body that is made of the log as it is read.
struct Pieces {
    reader: LogReader,
    format: LogFormat,
    has_begun: bool,
    is_over: bool,
    has_entries: bool,
    gaps: Vec<LogGap>,
    /// Bytes that may be missing of a raw body: so many were announced.
    announced: u64,
}

impl Pieces {
    fn response(reader: LogReader, format: LogFormat, metrics: &Arc<Metrics>) -> Response {
        let missing = reader.survey().missing;
        let pieces = Self {
            reader,
            format,
            has_begun: false,
            is_over: false,
            has_entries: false,
            gaps: Vec::new(),
            announced: missing,
        };
        let kind = match format {
            LogFormat::Json | LogFormat::Text => "application/json",
            LogFormat::Ndjson => Framing::Ndjson.content_type(),
            LogFormat::Raw => "application/octet-stream",
        };
        let mut response = Response::new(Body::from_stream(pieces.stream(Arc::clone(metrics))));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if format == LogFormat::Raw && missing > 0 {
            headers.insert(OMITTED_BYTES, HeaderValue::from(missing));
        }
        response
    }

    fn stream(self, metrics: Arc<Metrics>) -> impl Stream<Item = Result<Bytes, Error>> {
        futures_util::stream::unfold((self, metrics), |(mut pieces, metrics)| async move {
            // A fast reader would be served to the end without a pause otherwise.
            tokio::task::yield_now().await;
            let piece = pieces.next().await.transpose()?;
            match &piece {
                Ok(piece) => meter::count_piece(&metrics, piece),
                Err(_) => pieces.is_over = true,
            }
            Some((piece, (pieces, metrics)))
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.is_over {
            return Ok(None);
        }
        let items = self.reader.next().await?;
        self.is_over = items.is_empty();
        let mut piece = Vec::new();
        match self.format {
            LogFormat::Raw => return self.raw(items),
            LogFormat::Ndjson => {
                for item in &items {
                    Framing::Ndjson.item(item, &mut piece)?;
                }
                if self.is_over {
                    let (left, stream) = (self.reader.left_out(), self.reader.stream());
                    Framing::Ndjson.end(left.behind_since, left_out(stream, &left), &mut piece)?;
                }
            }
            LogFormat::Json | LogFormat::Text => self.json(&items, &mut piece)?,
        }
        Ok(Some(piece.into()))
    }

    /// The bytes as they were written; a gap that was not announced ends the body early, so that it never has a hole that
    /// nobody knows of.
    fn raw(&mut self, items: Vec<Item>) -> Result<Option<Bytes>, Error> {
        let mut piece = Vec::new();
        for item in items {
            match item {
                Item::Record(record) => piece.extend_from_slice(&record.bytes),
                Item::Gap(gap) if gap.bytes <= self.announced => self.announced -= gap.bytes,
                Item::Gap(gap) => {
                    return Err(Error::Conflict {
                        what: self.reader.process().id().to_string(),
                        reason: format!("{} bytes were dropped before they were read", gap.bytes),
                    });
                }
            }
        }
        Ok((!self.is_over || !piece.is_empty()).then(|| piece.into()))
    }

    fn json(&mut self, items: &[Item], piece: &mut Vec<u8>) -> Result<(), Error> {
        if !std::mem::replace(&mut self.has_begun, true) {
            let (id, stream) = (self.reader.process().id(), self.reader.stream().as_str());
            let begin = format!(r#"{{"processId":"{id}","stream":"{stream}","entries":["#);
            piece.extend_from_slice(begin.as_bytes());
        }
        for item in items {
            match item {
                Item::Gap(gap) => self.gaps.push(gap.into()),
                Item::Record(record) => {
                    if std::mem::replace(&mut self.has_entries, true) {
                        piece.push(b',');
                    }
                    piece.extend_from_slice(&body::encode(&LogEntry::from(record))?);
                }
            }
        }
        if self.is_over {
            piece.push(b']');
            if !self.gaps.is_empty() {
                piece.extend_from_slice(b",\"gaps\":");
                piece.extend_from_slice(&body::encode(&self.gaps)?);
            }
            let left = left_out(self.reader.stream(), &self.reader.left_out());
            if !left.is_empty() {
                piece.extend_from_slice(b",\"leftOut\":");
                piece.extend_from_slice(&body::encode(&left)?);
            }
            piece.push(b'}');
        }
        Ok(())
    }
}
