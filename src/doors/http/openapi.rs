//! The `OpenAPI` 3.1 document, `docs/openapi.json`: generated from the routes by a test, and carried by the binary as it was
//! committed, so that no daemon builds it.

use std::collections::BTreeMap;
use std::io::Read;

use axum::response::Response;
use flate2::read::DeflateDecoder;
use utoipa::openapi::{Ref, RefOr};
use utoipa::{IntoParams, IntoResponses};

use super::body;
use super::error::Problem;
use crate::error::Error;

/// `docs/openapi.json`, deflated by the build script.
static DEFLATED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/openapi.json.deflate"));

/// The document as JSON, with a line feed at its end: what `boxd openapi` prints.
///
/// # Errors
///
/// [`Error::Internal`] when it cannot be read.
pub fn openapi() -> Result<String, Error> {
    let mut text = String::new();
    DeflateDecoder::new(DEFLATED)
        .read_to_string(&mut text)
        .map_err(|error| Error::Internal {
            reason: format!("the OpenAPI document cannot be read: {error}"),
        })?;
    Ok(text)
}

/// This document.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "host",
    responses((status = 200, description = "OpenAPI 3.1.", body = Object), Refusals)
)]
pub(super) async fn document() -> Result<Response, Problem> {
    Ok(body::raw_json(openapi()?))
}

/// What every route may refuse with.
pub(super) struct Refusals;

/// What a file route may refuse with besides.
pub(super) struct FileRefusals;

/// What a route about one process may refuse with besides.
pub(super) struct ProcessRefusals;

pub(super) const EVERYWHERE: [(u16, &str); 12] = [
    (
        400,
        "The request is malformed, a field is wrong (named in `details.field`), or the path is of another kind than the operation needs.",
    ),
    (401, "The token is missing or wrong."),
    (
        403,
        "The token does not allow it, the operating system denies it, or the page's origin is foreign.",
    ),
    (
        405,
        "The route does not take this method; `Allow` lists those it takes.",
    ),
    (413, "The body is too large."),
    (415, "The body is not JSON by its content type."),
    (421, "The Host header is no name of this listener."),
    (
        422,
        "A field is wrong, on routes that are not part of the compatible contract.",
    ),
    (431, "The header fields are too large."),
    (
        500,
        "A bug or an operating system failure; the log has the causes under the same request id.",
    ),
    (
        501,
        "Known, but not available in this build or on this machine; the reason says why.",
    ),
    (
        503,
        "The daemon is stopping or at its limits; `Retry-After` says when to come back.",
    ),
];

pub(super) const FILES: [(u16, &str); 3] = [
    (404, "The path does not exist."),
    (409, "The entry exists, or the directory is not empty."),
    (507, "The disk or the quota is full; what was there is untouched."),
];

pub(super) const PROCESSES: [(u16, &str, &str); 2] = [
    (404, "ProcessNotFound", "There is no such process (any more)."),
    (
        409,
        "ProcessConflict",
        "The state of the process does not allow it: it runs, it has exited, or its standard input is closed.",
    ),
];

type Responses = BTreeMap<String, RefOr<utoipa::openapi::Response>>;

/// The responses by reference; the base of the document has them in full.
fn problems(rows: &[(u16, &str)]) -> Responses {
    let reference = |status: u16| RefOr::Ref(Ref::from_response_name(response_name(status)));
    rows.iter()
        .map(|(status, _)| (status.to_string(), reference(*status)))
        .collect()
}

pub(super) fn response_name(status: u16) -> String {
    format!("Problem{status}")
}

impl IntoResponses for Refusals {
    fn responses() -> Responses {
        problems(&EVERYWHERE)
    }
}

impl IntoResponses for FileRefusals {
    fn responses() -> Responses {
        let mut responses = problems(&EVERYWHERE);
        responses.extend(problems(&FILES));
        responses
    }
}

impl IntoResponses for ProcessRefusals {
    fn responses() -> Responses {
        let mut responses = problems(&EVERYWHERE);
        for (status, name, _) in PROCESSES {
            responses.insert(status.to_string(), RefOr::Ref(Ref::from_response_name(name)));
        }
        responses
    }
}

/// The entry that a request is about; one of the two is needed.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "only its documentation is used; query.rs reads the parameters"
)]
pub(super) struct EntryPath {
    /// Relative to the workspace root, absolute, or below `~`. Percent-encoded bytes need not be UTF-8.
    path: Option<String>,
    /// The exact bytes in base64, instead of `path`.
    #[param(rename = "pathB64")]
    path_b64: Option<String>,
}

/// The directory that a request is about; the workspace root when neither is there.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "only its documentation is used; query.rs reads the parameters"
)]
pub(super) struct OptionalPath {
    /// Relative to the workspace root, absolute, or below `~`. Percent-encoded bytes need not be UTF-8.
    path: Option<String>,
    /// The exact bytes in base64, instead of `path`.
    #[param(rename = "pathB64")]
    path_b64: Option<String>,
}
