//! Every rejection as `application/problem+json` (RFC 9457), and the one map from [`Code`] to a status.
//!
//! A handler returns a [`Problem`]; it travels in the response's extensions until the front, which knows the request
//! id, renders it. Rejections that only exist in HTTP (no such route, foreign Host) are made here too.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::error::{Code, Error, Retry};

/// Whose contract a route follows; they differ in the status of a wrong field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contract {
    /// The compatible one: 400.
    Compatible,
    /// Our own: 422.
    Ours,
}

/// The status of a code. The only place that decides it.
fn status(code: Code, contract: Contract) -> StatusCode {
    match code {
        Code::Invalid if contract == Contract::Ours => StatusCode::UNPROCESSABLE_ENTITY,
        Code::Invalid | Code::WrongKind | Code::Protocol => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Denied | Code::Forbidden | Code::ConsentRequired => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists
        | Code::Conflict
        | Code::DuplicateInFlight
        | Code::Lost
        | Code::Fenced
        | Code::AlreadyRunning => StatusCode::CONFLICT,
        Code::Evicted => StatusCode::GONE,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::Range => StatusCode::RANGE_NOT_SATISFIABLE,
        Code::Config | Code::Io | Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Code::Overloaded | Code::Stopping | Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Code::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
    }
}

/// A rejection on its way out.
#[derive(Debug, Clone)]
pub(super) struct Problem(Box<Rejection>);

#[derive(Debug, Clone)]
struct Rejection {
    status: StatusCode,
    code: &'static str,
    detail: String,
    hint: Option<String>,
    retry: Retry,
    details: Option<Value>,
    header: Option<(HeaderName, HeaderValue)>,
    /// What the log gets besides the answer: the whole chain of causes.
    causes: Option<String>,
}

/// The body of every rejection (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProblemDetails)]
pub(super) struct ProblemBody<'a> {
    /// `urn:sandbox-agent:error:<code>`.
    #[serde(rename = "type")]
    kind: String,
    /// The code in words.
    title: String,
    /// The status of the response.
    status: u16,
    /// What failed, with its subject.
    detail: &'a str,
    /// The stable code.
    code: &'static str,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    /// Whether the same request may be sent again: `never`, `safe` or `later` (then `Retry-After` says when).
    retry: &'static str,
    /// The id of the request, also in `x-request-id` and in the daemon's log.
    request_id: &'a str,
    /// Figures and names by key: `field`, `errno`, `limit` ...
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    details: Option<&'a Value>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Rejection {
            status,
            code,
            detail: detail.into(),
            hint: None,
            retry: Retry::Never,
            details: None,
            header: None,
            causes: None,
        }))
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.header = Some((name, value));
        self
    }

    /// A failed operation on a route of `contract`.
    pub(super) fn of(error: &Error, contract: Contract) -> Self {
        let mut problem = Self::new(
            status(error.code(), contract),
            error.code().as_str(),
            error.to_string(),
        );
        problem.0.hint = error.hint();
        problem.0.retry = error.retry();
        problem.0.details = details(error);
        problem.0.header = header(error);
        if problem.0.status == StatusCode::INTERNAL_SERVER_ERROR {
            problem.0.causes = Some(format!("{error:?}"));
        }
        problem
    }

    /// The same failure on a route of our own contract.
    pub(super) fn ours(error: &Error) -> Self {
        Self::of(error, Contract::Ours)
    }

    /// No such route.
    pub(super) fn no_route(path: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "route_not_found",
            format!("there is no route {path:?}"),
        )
        .hint("GET /v1/openapi.json lists the routes")
    }

    /// A route of the compatible contract that this daemon does not serve.
    pub(super) fn not_served(path: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_served",
            format!("{path:?} is not served by this daemon"),
        )
    }

    /// The route exists for other methods; the router adds `Allow`.
    pub(super) fn method(method: &Method, path: &str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            format!("{path:?} does not take {method}"),
        )
        .hint("the Allow header lists the methods")
    }

    /// The body is not JSON by its own account.
    pub(super) fn media_type(found: &str) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            format!("the body has {found}, expected application/json"),
        )
        .hint("send Content-Type: application/json")
    }

    /// No token, or a wrong one.
    pub(super) fn token(reason: &'static str) -> Self {
        Self::of(&Error::Unauthenticated { reason }, Contract::Ours)
            .hint("send Authorization: Bearer with the token that `boxd run` keeps in its state directory")
            .header(
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"boxd\""),
            )
    }

    /// A Host that is no name of this listener: DNS rebinding looks like this.
    pub(super) fn foreign_host(host: &str) -> Self {
        Self::new(
            StatusCode::MISDIRECTED_REQUEST,
            "foreign_host",
            format!("{host:?} is no name of this listener"),
        )
        .hint("use localhost, or list the name in http.hosts")
    }

    /// A page of another origin tries to change something.
    pub(super) fn foreign_origin(origin: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "foreign_origin",
            format!("requests of pages on {origin:?} may not change anything here"),
        )
        .hint("list the origin in http.origins to allow it")
    }

    /// The file is not the version that the caller relies on.
    pub(super) fn changed(etag: &str) -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            format!("the file is version {etag} now, which If-Match does not name"),
        )
    }

    /// What is there is not what the condition of a write names.
    pub(super) fn stale(error: &Error) -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            error.to_string(),
        )
    }

    /// Too many bytes of headers.
    pub(super) fn headers(limit: usize) -> Self {
        Self::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "headers_too_large",
            format!("the header fields are larger than {limit} bytes"),
        )
    }

    /// A head beyond what is read of one: too many header fields, or too many bytes.
    pub(super) fn head(fields: usize, bytes: usize) -> Self {
        Self::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "headers_too_large",
            format!("the head has more than {fields} header fields or {bytes} bytes"),
        )
    }

    /// The head of a request did not come in time.
    pub(super) fn slow_head(limit: Duration) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "head_timeout",
            format!("the head of the request did not come within {limit:?}"),
        )
    }

    /// Too long a request target.
    pub(super) fn target(limit: usize) -> Self {
        Self::new(
            StatusCode::URI_TOO_LONG,
            "target_too_long",
            format!("the request target is longer than {limit} bytes"),
        )
    }

    /// A request that HTTP itself does not allow.
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::of(
            &Error::Protocol {
                reason: detail.into(),
            },
            Contract::Ours,
        )
    }

    /// Every connection slot is taken; only health is answered on the reserved ones.
    pub(super) fn no_slot(limit: usize) -> Self {
        let reason = format!("{limit} are open");
        Self::of(
            &Error::Overloaded {
                what: "the number of connections",
                reason,
            },
            Contract::Ours,
        )
    }

    /// Status and body of the answer to the request with this id.
    pub(super) fn body(&self, request_id: &str) -> (StatusCode, Vec<u8>) {
        let rejection = &*self.0;
        let body = ProblemBody {
            kind: format!("urn:sandbox-agent:error:{}", rejection.code),
            title: title(rejection.code),
            status: rejection.status.as_u16(),
            detail: &rejection.detail,
            code: rejection.code,
            hint: rejection.hint.as_deref(),
            retry: match rejection.retry {
                Retry::Never => "never",
                Retry::Safe => "safe",
                Retry::After(_) => "later",
            },
            request_id,
            details: rejection.details.as_ref(),
        };
        // Strings and numbers always serialise; an empty body with the right status would still be the truth.
        (rejection.status, serde_json::to_vec(&body).unwrap_or_default())
    }

    /// The whole answer.
    pub(super) fn render(&self, request_id: &str) -> Response {
        let rejection = &*self.0;
        let (status, body) = self.body(request_id);
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Retry::After(after) = rejection.retry {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if let Some((name, value)) = &rejection.header {
            headers.insert(name, value.clone());
        }
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::of(&error, Contract::Compatible)
    }
}

impl IntoResponse for Problem {
    /// A bare response that carries the problem to [`Problem::take`].
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl Problem {
    /// Renders the problem that `response` carries, if it does; keeps the `Allow` that the router added.
    pub(super) fn take(mut response: Response, request_id: &str) -> Response {
        let Some(problem) = response.extensions_mut().remove::<Self>() else {
            return response;
        };
        if let Some(causes) = &problem.0.causes {
            tracing::warn!(id = request_id, causes, "request failed");
        }
        let mut rendered = problem.render(request_id);
        if let Some(allow) = response.headers_mut().remove(ALLOW) {
            rendered.headers_mut().insert(ALLOW, allow);
        }
        rendered
    }
}

fn title(code: &str) -> String {
    let mut title = code.replace('_', " ");
    if let Some(first) = title.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    title
}

fn details(error: &Error) -> Option<Value> {
    match error {
        Error::Invalid { field, .. } => Some(json!({ "field": field })),
        Error::TooLarge { size, limit, .. } => Some(json!({ "size": size, "limit": limit })),
        Error::Range { offset, total } => Some(json!({ "offset": offset, "total": total })),
        Error::StorageFull { free, errno, .. } => Some(json!({ "freeBytes": free, "errno": errno })),
        other => other.errno().map(|errno| json!({ "errno": errno })),
    }
}

fn header(error: &Error) -> Option<(HeaderName, HeaderValue)> {
    match error {
        Error::Range { total, .. } => {
            let value = HeaderValue::from_str(&format!("bytes */{total}")).ok()?;
            Some((CONTENT_RANGE, value))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_of_codes_is_what_the_documentation_says() {
        let rows: Vec<_> = Code::ALL
            .iter()
            .map(|code| {
                let compatible = status(*code, Contract::Compatible).as_u16();
                let ours = status(*code, Contract::Ours).as_u16();
                format!("{} {compatible} {ours}", code.as_str())
            })
            .collect();
        insta::assert_snapshot!(rows.join("\n"), @r"
        invalid_request 400 422
        not_found 404 404
        already_exists 409 409
        wrong_kind 400 400
        permission_denied 403 403
        conflict 409 409
        duplicate_in_flight 409 409
        lost 409 409
        result_evicted 410 410
        overloaded 503 503
        stopping 503 503
        timeout 504 504
        too_large 413 413
        range 416 416
        storage_full 507 507
        unsupported 501 501
        consent_required 403 403
        token_invalid 401 401
        forbidden 403 403
        protocol 400 400
        fenced 409 409
        configuration 500 500
        already_running 409 409
        unavailable 503 503
        io 500 500
        internal 500 500
        ");
    }

    #[test]
    fn titles_are_words() {
        assert_eq!(title("not_found"), "Not found");
    }
}
