//! The `OpenAPI` 3.1 document, generated from the routes. The committed copy is `docs/openapi.json`.

use std::collections::BTreeMap;

use axum::response::Response;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, ResponseBuilder, SecurityRequirement,
};
use utoipa::{IntoParams, IntoResponses, PartialSchema, ToSchema};

use super::body;
use super::error::{Problem, ProblemBody};
use super::router;
use crate::error::Error;

/// The document as JSON, with a line feed at its end: what `boxd openapi` prints.
///
/// # Errors
///
/// [`Error::Internal`] when it cannot be serialised.
pub fn openapi() -> Result<String, Error> {
    let mut document = router::documented().into_openapi();
    name_operations(&mut document);
    let mut text = document.to_pretty_json().map_err(|error| Error::Internal {
        reason: format!("the OpenAPI document cannot be written: {error}"),
    })?;
    text.push('\n');
    Ok(text)
}

/// Gives every operation the id that its method and path make: `get_v1_fs_file`.
fn name_operations(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let words = path
            .split(|letter: char| !letter.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty());
        let name = words.collect::<Vec<_>>().join("_");
        let operations = [
            ("get", &mut item.get),
            ("put", &mut item.put),
            ("post", &mut item.post),
            ("delete", &mut item.delete),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                operation.operation_id = Some(format!("{method}_{name}"));
            }
        }
    }
}

/// This document.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "host",
    responses((status = 200, description = "OpenAPI 3.1.", body = Object), Refusals)
)]
pub(super) async fn document() -> Result<Response, Problem> {
    Ok(body::raw_json(openapi()?))
}

/// What the document says besides the routes.
pub(super) fn base() -> OpenApi {
    let info = InfoBuilder::new()
        .title("boxd")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Hands inside a sandbox or machine. Every rejection is application/problem+json with a stable code.",
        ))
        .license(Some(utoipa::openapi::License::new("Apache-2.0")))
        .build();
    let mut document = OpenApiBuilder::new()
        .info(info)
        .security(Some([SecurityRequirement::new("bearer", [] as [&str; 0])]))
        .components(Some(utoipa::openapi::Components::new()))
        .build();
    if let Some(components) = &mut document.components {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        // The sets of refusals below are references, so what they lead to has to be put here by hand.
        for (status, description) in EVERYWHERE.iter().chain(&FILES) {
            components
                .responses
                .insert(response_name(*status), RefOr::T(problem(description)));
        }
        for (_, name, description) in PROCESSES {
            components
                .responses
                .insert(name.to_owned(), RefOr::T(problem(description)));
        }
        components
            .schemas
            .insert(ProblemBody::name().into_owned(), ProblemBody::schema());
    }
    document
}

/// What every route may refuse with.
pub(super) struct Refusals;

/// What a file route may refuse with besides.
pub(super) struct FileRefusals;

/// What a route about one process may refuse with besides.
pub(super) struct ProcessRefusals;

const EVERYWHERE: [(u16, &str); 12] = [
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

const FILES: [(u16, &str); 3] = [
    (404, "The path does not exist."),
    (409, "The entry exists, or the directory is not empty."),
    (507, "The disk or the quota is full; what was there is untouched."),
];

const PROCESSES: [(u16, &str, &str); 2] = [
    (404, "ProcessNotFound", "There is no such process (any more)."),
    (
        409,
        "ProcessConflict",
        "The state of the process does not allow it: it runs, it has exited, or its standard input is closed.",
    ),
];

type Responses = BTreeMap<String, RefOr<utoipa::openapi::Response>>;

/// The responses by reference; [`base`] has them in full.
fn problems(rows: &[(u16, &str)]) -> Responses {
    let reference = |status: u16| RefOr::Ref(Ref::from_response_name(response_name(status)));
    rows.iter()
        .map(|(status, _)| (status.to_string(), reference(*status)))
        .collect()
}

fn response_name(status: u16) -> String {
    format!("Problem{status}")
}

fn problem(description: &str) -> utoipa::openapi::Response {
    let schema = Ref::from_schema_name(ProblemBody::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", content)
        .build()
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

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_committed_document_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
        let committed = std::fs::read_to_string(path).unwrap();
        assert!(
            committed == openapi().unwrap(),
            "docs/openapi.json is stale; run: cargo run -- openapi > docs/openapi.json"
        );
    }

    #[test]
    fn every_route_documents_its_refusals_and_every_reference_leads_somewhere() {
        let document: Value = serde_json::from_str(&openapi().unwrap()).unwrap();
        assert!(
            document["openapi"].as_str().unwrap().starts_with("3.1"),
            "{}",
            document["openapi"]
        );
        let mut ids = std::collections::BTreeSet::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                for status in ["400", "401", "421", "503"] {
                    let problem = format!("#/components/responses/Problem{status}");
                    assert_eq!(operation["responses"][status]["$ref"], problem, "{method} {path}");
                }
                let id = operation["operationId"].as_str().unwrap();
                assert!(ids.insert(id), "{id} twice");
                assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            }
        }
        let mut pending = vec![&document];
        while let Some(value) = pending.pop() {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(reference)) = map.get("$ref") {
                        let target = document.pointer(reference.trim_start_matches('#'));
                        assert!(target.is_some(), "{reference} leads nowhere");
                    }
                    pending.extend(map.values());
                }
                Value::Array(list) => pending.extend(list),
                _ => {}
            }
        }
    }
}
