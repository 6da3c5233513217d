//! One JSON request to a control plane, over TLS but to this machine itself.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use hyper::{Request, Uri};
use serde_json::Value;

use crate::error::Error;
use crate::web::Peer;

const PEER: Peer = Peer {
    name: "the control plane",
    field: "api-url",
};
/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of an answer.
const LARGEST: usize = 1 << 20;

/// What came back.
pub(super) struct Answer {
    pub(super) status: u16,
    /// What `Retry-After` says, in seconds.
    pub(super) retry_after: Option<Duration>,
    /// Null when it is no JSON.
    pub(super) body: Value,
}

/// Posts JSON.
///
/// # Errors
///
/// [`Error::Invalid`] when the URL cannot be dialed, [`Error::Unavailable`] when nobody answers there, [`Error::Protocol`]
/// when a good answer is no JSON.
pub(super) async fn post(url: &str, body: &Value) -> Result<Answer, Error> {
    let uri = PEER.url(url)?;
    let exchange = tokio::time::timeout(LIMIT, exchange(&uri, body)).await;
    exchange.unwrap_or_else(|_| {
        let reason = format!("nothing came within {} s", LIMIT.as_secs());
        Err(PEER.unavailable(&uri, &reason))
    })
}

async fn exchange(uri: &Uri, body: &Value) -> Result<Answer, Error> {
    let request = Request::post("/")
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json")
        .body(Full::<Bytes>::from(body.to_string()))
        .map_err(|error| PEER.invalid(error.to_string()))?;
    let (status, retry_after, bytes) = PEER
        .exchange(uri, request, async |response| {
            let status = response.status().as_u16();
            let retry_after = response.headers().get(RETRY_AFTER);
            let retry_after = retry_after
                .and_then(|value| value.to_str().ok()?.trim().parse().ok())
                .map(Duration::from_secs);
            let body = Limited::new(response.into_body(), LARGEST).collect().await;
            let bytes = body.map_err(|error| PEER.unavailable(uri, &error))?.to_bytes();
            Ok((status, retry_after, bytes))
        })
        .await?;
    let body = match serde_json::from_slice(&bytes) {
        Ok(body) => body,
        Err(_) if status >= 400 => Value::Null,
        Err(_) => {
            return Err(Error::Protocol {
                reason: format!("{uri} answers {status} with something that is no JSON; is this the API?"),
            });
        }
    };
    Ok(Answer {
        status,
        retry_after,
        body,
    })
}
