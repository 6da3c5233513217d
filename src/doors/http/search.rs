//! Searching and watching a tree.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request};
use axum::response::Response;

use super::accept::Accept;
use super::codec::{at_length, length};
use super::error::{Contract, Problem};
use super::front::Caller;
use super::openapi::{FileRefusals, OptionalPath};
use super::query::Query;
use super::router::{App, unexpected};
use super::{body, events};
use crate::error::Error;
use crate::ops::{Op, Reply, Streamed};
use crate::wire::json::{
    Framing, Globs, SearchReply, SearchRequest, Unknown, WatchArguments, WatchReply, decode,
};

const REQUEST_BYTES: u64 = 1 << 20;

/// Searches what files hold or what they are called. Who accepts only `application/x-ndjson` or `text/event-stream`
/// gets each `match` as it is found, and an `end`.
#[utoipa::path(
    post, path = "/v1/fs/search", tag = "files", request_body = SearchRequest,
    responses((status = 200, body = SearchReply), FileRefusals)
)]
pub(super) async fn search(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let stream = Accept::of(request.headers()).only();
    let bytes = body::json(request, REQUEST_BYTES, Contract::Ours).await?;
    let ours = |error: Error| Problem::ours(&error);
    let asked = decode::<SearchRequest>(&bytes, Unknown::Refused).and_then(SearchRequest::into_search);
    let search = Box::new(asked.map_err(ours)?);
    if let Some(framing) = stream {
        let call = caller.call(None);
        let feed = app.behind.rooms.stream(&call, Streamed::Search(search)).await;
        return Ok(events::response(
            feed.map_err(ours)?,
            framing,
            &app.behind.metrics,
        ));
    }
    let reply = app
        .perform(caller.call(None), Op::FsSearch(search))
        .await
        .map_err(ours)?;
    let length = length(&reply);
    let Reply::Searched(answer) = reply else {
        return Err(unexpected(&reply));
    };
    let encode = move || body::encode(&SearchReply::from(&answer));
    Ok(body::raw_json(at_length(length, encode).await?))
}

/// What changes below a directory, as server-sent events (NDJSON by `Accept`): `ready` once the watch stands, then
/// `created`, `modified`, `removed`, `renamed`; `overflow` and `rescanned` around an exact difference when the kernel's
/// hints were not enough; `gap` where this follower missed some; `gone` at the end. Each has an id, and `Last-Event-ID`
/// (or `since`) resumes behind it for a minute after the last follower left; then 404, and everything has to be looked at
/// anew.
#[utoipa::path(
    get, path = "/v1/fs/watch", tag = "files",
    params(
        OptionalPath,
        ("recursive" = Option<bool>, Query, description = "What is below it too; true when absent."),
        ("glob" = Option<String>, Query, description = "Only what this glob names; with `!` in front, not that and nothing below it."),
        ("windowMs" = Option<u64>, Query, description = "How long changes are gathered, 1 to 10000; 20 when absent."),
        ("since" = Option<String>, Query, description = "The id of an event: only what comes behind it."),
        ("Last-Event-ID" = Option<String>, Header, description = "The same."),
        ("access_token" = Option<String>, Query, description = "The token, where a header cannot be sent.")
    ),
    responses((status = 200, body = WatchReply, content_type = "text/event-stream"), FileRefusals)
)]
pub(super) async fn watch(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let text = |name| query.text(name).map(|text| text.map(str::to_owned));
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let arguments = WatchArguments {
        recursive: query
            .has("recursive")
            .then(|| query.flag("recursive"))
            .transpose()?,
        glob: text("glob")?.map(Globs::One),
        window_ms: query.number("windowMs")?,
        since: last.map(str::to_owned).or(text("since")?),
        ..WatchArguments::default()
    };
    let mut watch = arguments.into_watch()?;
    watch.path = query.optional_path()?.unwrap_or_default();
    let framing = Accept::of(&headers).only().unwrap_or(Framing::Sse);
    let call = caller.call(None);
    let feed = app
        .behind
        .rooms
        .stream(&call, Streamed::Watch(Box::new(watch)))
        .await?;
    Ok(events::response(feed, framing, &app.behind.metrics))
}
