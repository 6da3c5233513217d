//! Bodies: JSON ones gathered within a limit, file contents as a stream that may not stall for ever.

use std::pin::pin;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Request};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http_body_util::BodyExt;
use serde::Serialize;

use super::error::{Contract, Problem};
use crate::error::Error;
use crate::fs;

/// How long a body may pause.
const STALL: Duration = Duration::from_secs(60);

/// Gathers a JSON body of at most `limit` bytes. The content type has to say JSON unless the body is empty.
pub(super) async fn json(request: Request<Body>, limit: u64, contract: Contract) -> Result<Bytes, Problem> {
    let (parts, body) = request.into_parts();
    if !hyper::body::Body::is_end_stream(&body) {
        expect_json(&parts.headers)?;
    }
    gather(&parts.headers, body, limit)
        .await
        .map_err(|error| Problem::of(&error, contract))
}

fn expect_json(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Err(Problem::media_type("no content type"));
    };
    let text = value.to_str().unwrap_or("(not ASCII)");
    let media = text
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let is_json =
        media == "application/json" || (media.starts_with("application/") && media.ends_with("+json"));
    if is_json {
        Ok(())
    } else {
        Err(Problem::media_type(&format!("the content type {text:?}")))
    }
}

async fn gather(headers: &HeaderMap, body: Body, limit: u64) -> Result<Bytes, Error> {
    let too_large = |size| Error::TooLarge {
        what: "the body",
        size,
        limit,
    };
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    if let Some(size) = announced.filter(|size| *size > limit) {
        return Err(too_large(size));
    }
    let mut chunks = pin!(chunks(body, STALL));
    let Some(first) = chunks.next().await.transpose()? else {
        return Ok(Bytes::new());
    };
    let mut size = first.len() as u64;
    if size > limit {
        return Err(too_large(size));
    }
    if Some(size) == announced {
        return Ok(first);
    }
    let mut whole = BytesMut::from(first);
    while let Some(chunk) = chunks.next().await.transpose()? {
        size += chunk.len() as u64;
        if size > limit {
            return Err(too_large(size));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

/// A body of bytes of at most `limit`, gathered.
pub(super) async fn bytes(request: Request<Body>, limit: u64) -> Result<Bytes, Problem> {
    let (parts, body) = request.into_parts();
    Ok(gather(&parts.headers, body, limit).await?)
}

/// The body of a request as the files room takes it.
pub(super) fn content(body: Body) -> fs::Body {
    fs::Body::Stream(Box::pin(chunks(body, STALL)))
}

/// The data of a body; one that pauses for longer than `stall` ends with an error.
fn chunks(body: Body, stall: Duration) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    futures_util::stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        loop {
            return match tokio::time::timeout(stall, body.frame()).await {
                Err(_) => {
                    let reason = format!("no byte of the body came for {stall:?}");
                    Some((Err(Error::Protocol { reason }), None))
                }
                Ok(None) => None,
                Ok(Some(Err(error))) => {
                    let reason = format!("the body ended early: {error}");
                    Some((Err(Error::Protocol { reason }), None))
                }
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => Some((Ok(data), Some(body))),
                    // Trailers say nothing that is needed here.
                    Err(_) => continue,
                },
            };
        }
    })
}

/// A JSON answer with status 200.
pub(super) fn answer<T: Serialize>(value: &T) -> Result<Response, Problem> {
    Ok(raw_json(encode(value)?))
}

/// The bytes of a JSON answer.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::Internal {
        reason: format!("an answer cannot be written as JSON: {error}"),
    })
}

/// An answer that is JSON already.
pub(super) fn raw_json(bytes: impl Into<Body>) -> Response {
    (
        [(CONTENT_TYPE, HeaderValue::from_static("application/json"))],
        bytes.into(),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[tokio::test]
    async fn a_body_of_unknown_length_is_held_to_its_limit() {
        let body = |sizes: &[usize]| {
            let pieces: Vec<_> = sizes
                .iter()
                .map(|size| Ok::<_, Error>(Bytes::from(vec![b'x'; *size])))
                .collect();
            Body::from_stream(futures_util::stream::iter(pieces))
        };
        for (sizes, whole) in [
            (&[10][..], Some(10)),
            (&[4, 6], Some(10)),
            (&[11], None),
            (&[4, 7], None),
            (&[4, 6, 1], None),
        ] {
            let gathered = gather(&HeaderMap::new(), body(sizes), 10).await;
            match whole {
                Some(length) => assert_eq!(gathered.unwrap().len(), length, "{sizes:?}"),
                None => assert_eq!(gathered.unwrap_err().code(), Code::TooLarge, "{sizes:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_body_that_pauses_too_long_ends_with_an_error() {
        let begun = futures_util::stream::iter([Ok::<_, Error>(Bytes::from("begun"))]);
        let body = Body::from_stream(begun.chain(futures_util::stream::pending()));
        let all: Vec<_> = chunks(body, Duration::from_millis(5)).collect().await;
        assert_eq!(all.len(), 2);
        assert_eq!(*all[0].as_ref().unwrap(), "begun");
        let error = all[1].as_ref().unwrap_err().to_string();
        assert!(error.contains("no byte of the body came for 5ms"), "{error}");
    }
}
