//! Searching a tree.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;

use super::accept::Accept;
use super::codec::{at_length, length};
use super::error::{Contract, Problem};
use super::front::Caller;
use super::openapi::FileRefusals;
use super::router::{App, unexpected};
use super::{body, events};
use crate::error::Error;
use crate::ops::{Op, Reply, Streamed};
use crate::wire::json::{SearchReply, SearchRequest, Unknown, decode};

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
