//! The `OpenAPI` document as the routes have it: what the committed one has to be.

use serde_json::Value;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, InfoBuilder, License, OpenApi, OpenApiBuilder, Ref, RefOr, Response,
    ResponseBuilder, SecurityRequirement,
};
use utoipa::{PartialSchema, ToSchema};

use super::error::ProblemBody;
use super::openapi::{EVERYWHERE, FILES, PROCESSES, openapi, response_name};
use super::router;

/// The document of the routes as they are.
fn generated() -> String {
    let mut document = router::documentation();
    name_operations(&mut document);
    document.to_pretty_json().unwrap() + "\n"
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

/// What the document says besides the routes.
pub(super) fn base() -> OpenApi {
    let info = InfoBuilder::new()
        .title("boxd")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Hands inside a sandbox or machine. Every rejection is application/problem+json with a stable code.",
        ))
        .license(Some(License::new("Apache-2.0")))
        .build();
    let mut document = OpenApiBuilder::new()
        .info(info)
        .security(Some([SecurityRequirement::new("bearer", [] as [&str; 0])]))
        .components(Some(Components::new()))
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

fn problem(description: &str) -> Response {
    let schema = Ref::from_schema_name(ProblemBody::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", content)
        .build()
}

#[test]
fn the_committed_document_is_this_one() {
    let generated = generated();
    if generated != openapi().unwrap() {
        std::fs::write(
            concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json.new"),
            generated,
        )
        .unwrap();
        panic!("docs/openapi.json is stale; run: mv docs/openapi.json.new docs/openapi.json");
    }
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
