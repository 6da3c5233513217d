//! Configuration that clients keep beside a workspace: MCP servers and skills, in two JSON maps below
//! `<directory>/.sandbox-agent/config/`. The files are read and written through the same operations as every file.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use utoipa::IntoParams;

use super::body;
use super::error::{Contract, Problem};
use super::front::Caller;
use super::openapi::FileRefusals;
use super::query::Query;
use super::router::{App, unexpected};
use crate::error::{Code, Error};
use crate::fs;
use crate::ops::{Op, Reply};

/// Bytes of one map.
const MAP_BYTES: u64 = 8 << 20;

/// One of the two maps.
struct Kind {
    file: &'static str,
    /// The query parameter that names a row.
    name: &'static str,
    /// What a row is called in errors.
    what: &'static str,
    check: fn(&Map<String, Value>) -> Result<(), Error>,
}

const MCP: Kind = Kind {
    file: "mcp.json",
    name: "mcpName",
    what: "MCP server",
    check: check_mcp,
};
const SKILLS: Kind = Kind {
    file: "skills.json",
    name: "skillName",
    what: "skill",
    check: check_skills,
};

/// Which row of the map of MCP servers.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "only its documentation is used; query.rs reads the parameters"
)]
pub(super) struct McpRow {
    /// The workspace that the map belongs to.
    directory: String,
    /// The server.
    #[param(rename = "mcpName")]
    mcp_name: String,
}

/// Which row of the map of skills.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "only its documentation is used; query.rs reads the parameters"
)]
pub(super) struct SkillRow {
    /// The workspace that the map belongs to.
    directory: String,
    /// The skill.
    #[param(rename = "skillName")]
    skill_name: String,
}

/// One MCP server's configuration.
#[utoipa::path(
    get, path = "/v1/config/mcp", tag = "config", params(McpRow),
    responses((status = 200, description = "The stored object.", body = Object), FileRefusals)
)]
pub(super) async fn get_mcp(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    MCP.get(&app, caller, &query).await
}

/// Stores one MCP server's configuration.
#[utoipa::path(
    put, path = "/v1/config/mcp", tag = "config", params(McpRow),
    request_body(content = Object, content_type = "application/json"),
    responses((status = 204, description = "Stored."), FileRefusals)
)]
pub(super) async fn put_mcp(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
    request: Request<Body>,
) -> Result<Response, Problem> {
    MCP.put(&app, caller, &query, request).await
}

/// Removes one MCP server's configuration.
#[utoipa::path(
    delete, path = "/v1/config/mcp", tag = "config", params(McpRow),
    responses((status = 204, description = "Removed."), FileRefusals)
)]
pub(super) async fn delete_mcp(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    MCP.delete(&app, caller, &query).await
}

/// One skill's configuration.
#[utoipa::path(
    get, path = "/v1/config/skills", tag = "config", params(SkillRow),
    responses((status = 200, description = "The stored object.", body = Object), FileRefusals)
)]
pub(super) async fn get_skills(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    SKILLS.get(&app, caller, &query).await
}

/// Stores one skill's configuration.
#[utoipa::path(
    put, path = "/v1/config/skills", tag = "config", params(SkillRow),
    request_body(content = Object, content_type = "application/json"),
    responses((status = 204, description = "Stored."), FileRefusals)
)]
pub(super) async fn put_skills(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
    request: Request<Body>,
) -> Result<Response, Problem> {
    SKILLS.put(&app, caller, &query, request).await
}

/// Removes one skill's configuration.
#[utoipa::path(
    delete, path = "/v1/config/skills", tag = "config", params(SkillRow),
    responses((status = 204, description = "Removed."), FileRefusals)
)]
pub(super) async fn delete_skills(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Problem> {
    SKILLS.delete(&app, caller, &query).await
}

impl Kind {
    async fn get(&self, app: &Arc<App>, caller: Caller, query: &Query) -> Result<Response, Problem> {
        let (path, name) = self.row(query)?;
        match load(app, caller, path).await?.get(&name) {
            Some(row) => body::answer(row),
            None => Err(self.missing(name)),
        }
    }

    async fn put(
        &self,
        app: &Arc<App>,
        caller: Caller,
        query: &Query,
        request: Request<Body>,
    ) -> Result<Response, Problem> {
        let (path, name) = self.row(query)?;
        let bytes = body::json(request, MAP_BYTES, Contract::Compatible).await?;
        let row = object(&bytes)?;
        (self.check)(&row)?;
        let _writing = app.stored.lock().await;
        let mut map = load(app, caller.clone(), path.clone()).await?;
        map.insert(name, Value::Object(row));
        save(app, caller, path, &map).await
    }

    async fn delete(&self, app: &Arc<App>, caller: Caller, query: &Query) -> Result<Response, Problem> {
        let (path, name) = self.row(query)?;
        let _writing = app.stored.lock().await;
        let mut map = load(app, caller.clone(), path.clone()).await?;
        if map.remove(&name).is_none() {
            return Err(self.missing(name));
        }
        save(app, caller, path, &map).await
    }

    /// The file of the map and the name of the row.
    fn row(&self, query: &Query) -> Result<(PathBuf, String), Error> {
        let required = |field| match query.text(field)? {
            Some(text) if !text.is_empty() => Ok(text.to_owned()),
            _ => Err(Error::Invalid {
                field,
                reason: "is required".into(),
            }),
        };
        let path = PathBuf::from(required("directory")?)
            .join(".sandbox-agent/config")
            .join(self.file);
        Ok((path, required(self.name)?))
    }

    fn missing(&self, name: String) -> Problem {
        Error::NotFound {
            what: self.what,
            name,
        }
        .into()
    }
}

async fn load(app: &Arc<App>, caller: Caller, path: PathBuf) -> Result<Map<String, Value>, Problem> {
    let read = fs::Read {
        path: path.clone(),
        offset: 0,
        length: None,
    };
    let bytes = match app.perform(caller.call(None), Op::FsRead(read)).await {
        Ok(Reply::File(file)) => file.read_all(MAP_BYTES).await?,
        Ok(other) => return Err(unexpected(&other)),
        Err(error) if error.code() == Code::NotFound => return Ok(Map::new()),
        Err(error) => return Err(error.into()),
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        let reason = format!("is not a JSON object: {error}");
        Error::Conflict {
            what: path.display().to_string(),
            reason,
        }
        .into()
    })
}

async fn save(
    app: &Arc<App>,
    caller: Caller,
    path: PathBuf,
    map: &Map<String, Value>,
) -> Result<Response, Problem> {
    let bytes = serde_json::to_vec_pretty(map).map_err(|error| Error::Internal {
        reason: format!("a map cannot be written as JSON: {error}"),
    })?;
    // Rows may hold credentials.
    let mode = Some(0o600);
    let body = fs::Body::Bytes(bytes.into());
    let write = fs::Write {
        path,
        create_parents: true,
        append: false,
        mode,
        in_place: fs::InPlace::default(),
        base: None,
        body,
    };
    match app.perform(caller.call(None), Op::FsWrite(write)).await? {
        Reply::Written(_) => Ok(StatusCode::NO_CONTENT.into_response()),
        other => Err(unexpected(&other)),
    }
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, Error> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(row)) => Ok(row),
        Ok(_) => Err(Error::Invalid {
            field: "body",
            reason: "must be a JSON object".into(),
        }),
        Err(error) => Err(Error::Protocol {
            reason: format!("malformed JSON: {error}"),
        }),
    }
}

fn check_mcp(row: &Map<String, Value>) -> Result<(), Error> {
    let (field, ok) = match row.get("type").and_then(Value::as_str) {
        Some("local" | "stdio") => (
            "command",
            row.get("command")
                .is_some_and(|value| value.is_string() || value.is_array()),
        ),
        Some("remote" | "http") => ("url", row.get("url").is_some_and(Value::is_string)),
        _ => {
            let reason = "must be \"local\" (or \"stdio\") or \"remote\" (or \"http\")".into();
            return Err(Error::Invalid {
                field: "type",
                reason,
            });
        }
    };
    if ok {
        Ok(())
    } else {
        Err(Error::Invalid {
            field,
            reason: "is required for this type".into(),
        })
    }
}

fn check_skills(row: &Map<String, Value>) -> Result<(), Error> {
    let sources = row.get("sources").and_then(Value::as_array);
    let named = |source: &Value| {
        source.get("type").is_some_and(Value::is_string) && source.get("source").is_some_and(Value::is_string)
    };
    if sources.is_some_and(|sources| sources.iter().all(named)) {
        return Ok(());
    }
    let reason = "must be an array of objects with type and source".into();
    Err(Error::Invalid {
        field: "sources",
        reason,
    })
}
