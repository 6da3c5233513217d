//! The content of a file: streamed out with ranges and validators, streamed in whole or not at all.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED,
};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode};
use axum::response::{IntoResponse, Response};

use super::body;
use super::error::{Problem, ProblemBody};
use super::front::Caller;
use super::openapi::{EntryPath, FileRefusals};
use super::query::Query;
use super::range::{self, Part};
use super::router::{App, unexpected};
use crate::error::Error;
use crate::fs::{Base, InPlace, OpenFile, Read, Write};
use crate::ops::{Op, Reply};
use crate::wire::json::{self, UploadArguments, UploadReply, Written, http_date};

/// Up to this size the content is read before the head is sent, so that both leave in one write.
const AT_ONCE: u64 = 64 << 10;
/// Bytes of one piece of an upload.
const PIECE_BYTES: u64 = 16 << 20;

/// The bytes of a file, or of one range of it.
#[utoipa::path(
    get, path = "/v1/fs/file", tag = "files",
    params(EntryPath, ("mime" = Option<bool>, Query, description = "Guess the content type from the name.")),
    responses(
        (status = 200, description = "The content.", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, description = "The range.", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "The caller has this version."),
        (status = 412, description = "It is not the version that If-Match names.",
         body = ProblemBody, content_type = "application/problem+json"),
        (status = 416, description = "The range lies outside.",
         body = ProblemBody, content_type = "application/problem+json"),
        FileRefusals
    )
)]
pub(super) async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let guess = query.flag("mime")?;
    let read = Read {
        path: query.path()?,
        offset: 0,
        length: None,
    };
    match app.perform(caller.call(None), Op::FsRead(read)).await? {
        Reply::File(file) => send(file, &headers, guess).await,
        other => Err(unexpected(&other)),
    }
}

async fn send(mut file: OpenFile, headers: &HeaderMap, guess: bool) -> Result<Response, Problem> {
    let etag = format!("\"{}\"", file.version());
    let modified = http_date(file.entry().modified);
    let total = file.total();
    let (status, content_range) = match range::part(headers, total, &etag, modified.as_deref()) {
        Part::Whole => (StatusCode::OK, None),
        Part::Unchanged => (StatusCode::NOT_MODIFIED, None),
        Part::Changed => return Err(Problem::changed(&etag)),
        Part::Outside { first } => return Err(Error::Range { offset: first, total }.into()),
        Part::Range { first, length } => {
            file.narrow(first, Some(length));
            let last = first + length - 1;
            (
                StatusCode::PARTIAL_CONTENT,
                Some(format!("bytes {first}-{last}/{total}")),
            )
        }
    };
    let content_type = content_type(&file, guess);
    let range = file.range();
    let length = range.end - range.start;
    let body = if status == StatusCode::NOT_MODIFIED {
        Body::empty()
    } else if length <= AT_ONCE {
        Body::from(file.read_all(length).await?)
    } else {
        Body::from_stream(file.into_stream())
    };
    let mut response = (status, body).into_response();
    let answer = response.headers_mut();
    answer.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // A cache may keep it but has to ask each time: files change without notice.
    answer.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    // Bytes of the workspace never run as a page of this origin.
    answer.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    insert(answer, ETAG, Some(etag));
    insert(answer, LAST_MODIFIED, modified);
    insert(answer, CONTENT_RANGE, content_range);
    if status != StatusCode::NOT_MODIFIED {
        insert(answer, CONTENT_TYPE, Some(content_type));
        answer.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(response)
}

fn content_type(file: &OpenFile, guess: bool) -> String {
    if !guess {
        return "application/octet-stream".into();
    }
    let guessed = mime_guess::from_path(&file.entry().path).first_or_octet_stream();
    if guessed.type_() == "text" {
        format!("{guessed}; charset=utf-8")
    } else {
        guessed.to_string()
    }
}

fn insert(headers: &mut HeaderMap, name: axum::http::HeaderName, value: Option<String>) {
    // Every value is made of ASCII here; what could not be a header is left out.
    if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
        headers.insert(name, value);
    }
}

/// Writes a file with the body as its content, whole or not at all; missing parents are made.
#[utoipa::path(
    put, path = "/v1/fs/file", tag = "files",
    params(
        EntryPath,
        ("mode" = Option<String>, Query, description = "Permission bits of a new file in octal: 0644."),
        ("append" = Option<bool>, Query, description = "Append instead of replacing; then not atomic."),
        ("upload" = Option<String>, Query, description = "The body is one piece of an upload that its sender calls so; the answer is an `FsUploadReply`."),
        ("seq" = Option<u64>, Query, description = "With `upload`: the number of the piece, from 1."),
        ("offset" = Option<u64>, Query, description = "With `upload`: where the piece belongs, in bytes."),
        ("last" = Option<bool>, Query, description = "With `upload`: no piece is behind it. The file has its name when all are there."),
        ("ifMatch" = Option<String>, Query, description = "Only when this is there now: an ETag, a BLAKE3 digest in hex, or `absent`."),
        ("If-Match" = Option<String>, Header, description = "The same; one tag."),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only when no file is there."),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, body = Written),
        (status = 412, description = "What is there is not what the condition names.",
         body = ProblemBody, content_type = "application/problem+json"),
        FileRefusals
    )
)]
pub(super) async fn put(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
    request: Request<Body>,
) -> Result<Response, Problem> {
    if query.has("upload") {
        return put_piece(&app, caller, &query, request).await;
    }
    if query.has("offset") || query.has("seq") || query.has("last") {
        return Err(Error::Invalid {
            field: "upload",
            reason: "is required with seq, offset and last".into(),
        }
        .into());
    }
    let base = condition(&query, request.headers())?;
    let write = Write {
        path: query.path()?,
        create_parents: true,
        append: query.flag("append")?,
        mode: query.mode()?,
        // Said in the answer, where it was not atomic.
        in_place: InPlace::Allow,
        base,
        body: body::content(request.into_body()),
    };
    match app.perform(caller.call(None), Op::FsWrite(write)).await {
        Ok(Reply::Written(written)) => body::answer(&Written::from(&written)),
        Ok(other) => Err(unexpected(&other)),
        Err(error @ Error::Stale { .. }) => Err(Problem::stale(&error)),
        Err(error) => Err(error.into()),
    }
}

/// One piece of an upload.
async fn put_piece(
    app: &App,
    caller: Caller,
    query: &Query,
    request: Request<Body>,
) -> Result<Response, Problem> {
    if query.has("append") {
        return Err(Error::Invalid {
            field: "append",
            reason: "cannot be combined with upload".into(),
        }
        .into());
    }
    refuse_conditions("PUT of a piece", request.headers())?;
    let text = |name| query.text(name).map(|text| text.map(str::to_owned));
    let arguments = UploadArguments {
        id: text("upload")?,
        seq: query.number("seq")?,
        offset: query.number("offset")?,
        last: query.flag("last")?,
        mode: text("mode")?,
        if_match: text("ifMatch")?,
        ..UploadArguments::default()
    };
    let path = query.path()?;
    let bytes = body::bytes(request, PIECE_BYTES).await?;
    let piece = Box::new(arguments.with(Some(path), bytes)?);
    match app.perform(caller.call(None), Op::FsUpload(piece)).await {
        Ok(Reply::UploadTaken(taken)) => body::answer(&UploadReply::from(&taken)),
        Ok(other) => Err(unexpected(&other)),
        Err(error @ Error::Stale { .. }) => Err(Problem::stale(&error)),
        Err(error) => Err(error.into()),
    }
}

/// What must be there for a file to be written, by the query or by one of the headers that RFC 9110 has for it.
fn condition(query: &Query, headers: &HeaderMap) -> Result<Option<Base>, Error> {
    let text = |name: &axum::http::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let mut found = Vec::new();
    if let Some(asked) = query.text("ifMatch")? {
        found.push(json::base("ifMatch", asked)?);
    }
    if let Some(tag) = text(&IF_MATCH) {
        found.push(json::base("If-Match", tag).or_else(|error| foreign(tag).ok_or(error))?);
    }
    if let Some(tag) = text(&IF_NONE_MATCH) {
        if tag.trim() != "*" {
            return Err(Error::Invalid {
                field: "If-None-Match",
                reason: format!("{tag:.80?}: a write takes \"*\" only, for no file"),
            });
        }
        found.push(Base::Absent);
    }
    refuse("PUT", headers, &[IF_UNMODIFIED_SINCE, CONTENT_RANGE])?;
    if found.len() > 1 {
        return Err(Error::Invalid {
            field: "ifMatch",
            reason: "one condition only".into(),
        });
    }
    Ok(found.pop())
}

/// An entity tag that is none of ours, a weak one among them: RFC 9110 has it match nothing.
fn foreign(tag: &str) -> Option<Base> {
    let opaque = tag.strip_prefix("W/").unwrap_or(tag);
    let inside = opaque.strip_prefix('"')?.strip_suffix('"')?;
    (!inside.contains('"')).then(|| Base::Version(tag.to_owned()))
}

/// A condition or a range that is not looked at must not be ignored: the caller relies on it.
pub(super) fn refuse_conditions(method: &str, headers: &HeaderMap) -> Result<(), Error> {
    let unsupported = [IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, CONTENT_RANGE];
    refuse(method, headers, &unsupported)
}

fn refuse(method: &str, headers: &HeaderMap, unsupported: &[axum::http::HeaderName]) -> Result<(), Error> {
    match unsupported.iter().find(|name| headers.contains_key(*name)) {
        None => Ok(()),
        Some(name) => Err(Error::Unsupported {
            what: format!("{method} with {name}"),
            why: "this build does not implement it".into(),
            fix: Some(format!("leave {name} out")),
        }),
    }
}
