//! What happens to every request before and after its route: sizes, Host, Origin, token, request id, CORS.
//!
//! One function instead of a stack of layers, so that the order can be read and costs nothing.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::header::{UPGRADE, X_CONTENT_TYPE_OPTIONS};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use axum::response::{IntoResponse, Response};
use tower::ServiceExt;

use super::auth::Tokens;
use super::error::Problem;
use super::origin::{Origins, Via};
use super::router::{self, App};
use super::{Behind, Config, websocket};
use crate::error::Error;
use crate::ids::RequestId;
use crate::ops::{Call, Following, Principal};
use crate::telemetry::Metrics;

/// Bytes of header names and values that are accepted.
const HEADER_BYTES: usize = 64 * 1024;
/// Bytes of a request target that are accepted.
const TARGET_BYTES: usize = 16 * 1024;
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const HEALTH: &str = "/v1/health";

/// What is known about the connection of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    /// The listener.
    pub(super) via: Via,
    /// Set when there was no ordinary slot for the connection: how many there are.
    pub(super) no_slot: Option<usize>,
}

/// The gate and the routes behind it.
#[derive(Debug)]
pub(super) struct Front {
    router: Router,
    tokens: Tokens,
    origins: Origins,
    metrics: Arc<Metrics>,
}

impl Front {
    pub(super) fn new(config: &Config, behind: Behind) -> Self {
        Self {
            metrics: Arc::clone(&behind.metrics),
            router: router::router(App::new(behind)),
            tokens: Tokens::new(&config.access),
            origins: Origins::new(&config.hosts, &config.origins),
        }
    }

    /// The registry that this door counts in.
    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Answers one request.
    pub(super) async fn answer(&self, mut request: Request<Body>, peer: Peer) -> Response {
        let (id, header) = request_id(request.headers());
        let origin = self.origins.allowed_origin(request.headers());
        let mut response = match self.admit(&mut request, peer, &id) {
            Ok(Some(answer)) => answer,
            Ok(None) => match self.router.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
            Err(problem) => problem.into_response(),
        };
        response = Problem::take(response, &id.0);
        let headers = response.headers_mut();
        headers.insert(X_REQUEST_ID, header);
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        self.origins.mark(&mut response, origin);
        response
    }

    /// Lets a request pass with its caller attached, or answers or refuses it at once.
    fn admit(
        &self,
        request: &mut Request<Body>,
        peer: Peer,
        id: &RequestId,
    ) -> Result<Option<Response>, Problem> {
        if let Some(limit) = peer.no_slot
            && request.uri().path() != HEALTH
        {
            return Err(Problem::no_slot(limit));
        }
        check_sizes(request)?;
        if let Some(preflight) = self.origins.preflight(request) {
            return Ok(Some(preflight));
        }
        self.origins.check(request, peer.via)?;
        let mut principal = self.tokens.check(request.headers())?;
        let is_socket = websocket::offers(request.headers(), &UPGRADE, "websocket");
        if principal.is_none() && is_socket {
            principal = self.tokens.check_protocols(request.headers())?;
        }
        if principal.is_none() && (is_socket || is_event_stream(request)) {
            principal = self.tokens.check_query(request.uri().query())?;
        }
        if principal.is_none() && request.uri().path() != HEALTH {
            return Err(Problem::token("a bearer token is needed"));
        }
        let extensions = request.extensions_mut();
        extensions.insert(id.clone());
        if let Some(principal) = principal {
            extensions.insert(principal);
        }
        Ok(None)
    }
}

/// Whether a browser reads this with an `EventSource`, which cannot send a header: then the token may stand in the URL.
fn is_event_stream(request: &Request<Body>) -> bool {
    let path = request.uri().path();
    let follows = |query: &str| query.split('&').any(|pair| pair == "follow=true");
    if request.method() == Method::GET && path == "/v1/fs/watch" {
        return true;
    }
    request.method() == Method::GET
        && (path.starts_with("/v1/processes/") || path.starts_with("/v1/terminals/"))
        && path.ends_with("/logs")
        && request.uri().query().is_some_and(follows)
}

fn check_sizes(request: &Request<Body>) -> Result<(), Problem> {
    if request.uri().path().len() + request.uri().query().map_or(0, str::len) > TARGET_BYTES {
        return Err(Problem::target(TARGET_BYTES));
    }
    let bytes: usize = request
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if bytes > HEADER_BYTES {
        return Err(Problem::headers(HEADER_BYTES));
    }
    Ok(())
}

/// The caller's id when it is printable and of a sane length, else a fresh one.
fn request_id(headers: &HeaderMap) -> (RequestId, HeaderValue) {
    let given = headers
        .get(X_REQUEST_ID)
        .filter(|value| (1..=128).contains(&value.len()));
    if let Some(value) = given
        && let Ok(text) = value.to_str()
        && text.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return (RequestId(text.to_owned()), value.clone());
    }
    let id = RequestId::mint();
    let header = HeaderValue::from_str(&id.0).unwrap_or_else(|_| HeaderValue::from_static("invalid"));
    (id, header)
}

/// Who asks, as handlers take it; every route but health has one.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    principal: Principal,
    request_id: RequestId,
}

impl Caller {
    /// A place among the streams that this caller follows.
    pub(super) fn follow(&self, app: &App) -> Result<Following, Error> {
        app.behind.rooms.follow(&self.principal.id)
    }

    /// One call of this caller; a repeat with the same key and principal is not run again.
    pub(super) fn call(self, idempotency_key: Option<String>) -> Call {
        Call {
            principal: self.principal,
            request_id: self.request_id,
            idempotency_key,
        }
    }
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _app: &Arc<App>) -> Result<Self, Problem> {
        MaybeCaller::of(parts).0.ok_or_else(|| {
            // The gate lets nothing but health pass without a principal.
            Problem::ours(&Error::Internal {
                reason: "a request has no principal".into(),
            })
        })
    }
}

/// Who asks, if it showed a token.
#[derive(Debug, Clone)]
pub(super) struct MaybeCaller(pub(super) Option<Caller>);

impl MaybeCaller {
    fn of(parts: &Parts) -> Self {
        let principal = parts.extensions.get::<Principal>();
        let request_id = parts.extensions.get::<RequestId>();
        Self(principal.zip(request_id).map(|(principal, request_id)| Caller {
            principal: principal.clone(),
            request_id: request_id.clone(),
        }))
    }
}

impl FromRequestParts<Arc<App>> for MaybeCaller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _app: &Arc<App>) -> Result<Self, Self::Rejection> {
        Ok(Self::of(parts))
    }
}
