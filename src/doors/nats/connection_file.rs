//! Reading one connection file: its format, its other names for the same things, and what is refused. Pure but for
//! [`private`]. `directory.rs` finds the files.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Map, Value};

use super::config::{Credential, LinkConfig};
use super::pty::endpoint;
use super::subjects::is_token;
use crate::error::Error;

/// Reads the text of `connections/<id>.json`, or of a bare `credentials.json`, which is the inner object alone.
/// Unknown keys are tolerated; of several names for one thing the first that is present counts.
pub(super) fn parse(file_stem: &str, text: &str) -> Result<LinkConfig, Error> {
    let document: Value = serde_json::from_str(text).map_err(|error| invalid(&error.to_string()))?;
    let outer = document
        .as_object()
        .ok_or_else(|| invalid("is not a JSON object"))?;
    let inner = match outer.get("credentials") {
        Some(credentials) => credentials
            .as_object()
            .ok_or_else(|| invalid("credentials is not an object"))?,
        None => outer,
    };
    let connection_id = text_of(outer, &["connection_id", "connectionId"])?.unwrap_or(file_stem);
    let bearer = text_of(
        inner,
        &["nats_bearer", "nats_credentials", "bearer", "natsAccountCreds"],
    )?;
    Ok(LinkConfig {
        connection_id: connection_id.to_owned(),
        workspace_id: id_of(inner, "workspace_id", "workspaceId")?,
        agent_id: id_of(inner, "agent_id", "agentId")?,
        root: root_of(inner)?,
        urls: urls_of(inner)?,
        credential: credential(bearer.unwrap_or_default()),
        held_epoch: epoch_of(inner)?,
        whole_machine: flag_of(inner, &["consented_whole_machine", "consentedWholeMachine"])?,
        screen_control: flag_of(inner, &["consented_screen_control", "consentedScreenControl"])?,
        update_channel: text_of(inner, &["update_channel", "updateChannel"])?
            .unwrap_or("stable")
            .to_owned(),
        relay: endpoint(
            text_of(inner, &["relay_url", "relayUrl"])?,
            text_of(inner, &["relay_token", "relayToken"])?,
        ),
    })
}

/// A bearer is presented as it is, unless it is the text of a `.creds` file.
fn credential(bearer: &str) -> Credential {
    if bearer.contains("BEGIN NATS USER JWT") {
        return Credential::Creds(bearer.to_owned());
    }
    Credential::Token(bearer.trim().to_owned())
}

fn invalid(reason: &str) -> Error {
    Error::Invalid {
        field: "connection file",
        reason: reason.to_owned(),
    }
}

fn first<'a>(object: &'a Map<String, Value>, names: &[&str]) -> Option<&'a Value> {
    names
        .iter()
        .filter_map(|name| object.get(*name))
        .find(|value| !value.is_null())
}

fn text_of<'a>(object: &'a Map<String, Value>, names: &[&str]) -> Result<Option<&'a str>, Error> {
    first(object, names)
        .map(|value| {
            value
                .as_str()
                .ok_or_else(|| invalid(&format!("{} is not a string", names[0])))
        })
        .transpose()
}

fn id_of(object: &Map<String, Value>, name: &'static str, other: &'static str) -> Result<String, Error> {
    let id = text_of(object, &[name, other])?.unwrap_or_default();
    if is_token(id) {
        return Ok(id.to_owned());
    }
    Err(invalid(&format!(
        "{name} {id:?} cannot be one token of a NATS subject"
    )))
}

/// What the subjects of this link begin with, where the control plane says so.
fn root_of(object: &Map<String, Value>) -> Result<Option<String>, Error> {
    let root = text_of(object, &["subject_prefix", "subjectPrefix"])?.unwrap_or_default();
    if root.is_empty() {
        return Ok(None);
    }
    if is_token(root) {
        return Ok(Some(root.to_owned()));
    }
    Err(invalid(&format!(
        "subject_prefix {root:?} cannot be one token of a NATS subject"
    )))
}

fn flag_of(object: &Map<String, Value>, names: &[&str]) -> Result<bool, Error> {
    let value = first(object, names);
    value.map_or(Ok(false), |value| {
        value
            .as_bool()
            .ok_or_else(|| invalid(&format!("{} is neither true nor false", names[0])))
    })
}

fn epoch_of(object: &Map<String, Value>) -> Result<u32, Error> {
    let value = first(object, &["last_known_epoch", "lastKnownEpoch"]);
    value.map_or(Ok(0), |value| {
        let epoch = value.as_u64().and_then(|epoch| u32::try_from(epoch).ok());
        epoch.ok_or_else(|| invalid("last_known_epoch is not a 32-bit number"))
    })
}

fn urls_of(object: &Map<String, Value>) -> Result<Vec<String>, Error> {
    let list = first(object, &["nats_urls", "natsUrls"]).and_then(Value::as_array);
    let urls: Vec<String> = list
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .filter(|url| !url.is_empty())
        .map(str::to_owned)
        .collect();
    if urls.is_empty() {
        return Err(invalid("nats_urls names no broker"));
    }
    Ok(urls)
}

/// Refuses a file that others may read: it holds secrets.
pub(super) fn private(path: &Path, metadata: &std::fs::Metadata) -> Result<(), Error> {
    let mode = metadata.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(invalid(&format!(
            "can be read by other users (mode {:04o}) and is not used; chmod 600 {}",
            mode & 0o7777,
            path.display()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKSPACE: &str = "5f0c6b1e-0000-4000-8000-000000000001";

    #[test]
    fn the_documented_format_is_read() {
        let text = format!(
            r#"{{"schema_version":1,"connection_id":"c1","api_url":"https://x","extra":[1],"credentials":{{
            "agent_id":"a-1","workspace_id":"{WORKSPACE}","nats_bearer":"tok\n","nats_urls":["nats://h:1","tls://h"],
            "consented_whole_machine":true,"consented_screen_control":false,"update_channel":"beta",
            "last_known_epoch":7,"relay_url":""}}}}"#
        );
        let link = parse("file", &text).unwrap();
        assert_eq!(link.connection_id, "c1");
        assert_eq!(
            (link.workspace_id.as_str(), link.agent_id.as_str()),
            (WORKSPACE, "a-1")
        );
        assert_eq!(link.urls, ["nats://h:1", "tls://h"]);
        assert_eq!(link.credential, Credential::Token("tok".into()));
        assert_eq!(
            (link.held_epoch, link.whole_machine, link.screen_control),
            (7, true, false)
        );
        assert_eq!(link.update_channel, "beta");
    }

    #[test]
    fn enrollment_names_and_the_bare_object_are_read() {
        let text = r#"{"agentId":"a","workspaceId":"w","natsAccountCreds":"-----BEGIN NATS USER JWT-----\nx",
            "natsUrls":["wss://h"],"consentedWholeMachine":false}"#;
        let link = parse("credentials", text).unwrap();
        assert_eq!(link.connection_id, "credentials");
        assert!(matches!(link.credential, Credential::Creds(_)));
        assert_eq!(link.update_channel, "stable");
        assert!(!link.whole_machine);
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_the_field() {
        let cases = [
            ("{", "EOF"),
            ("[]", "not a JSON object"),
            (
                r#"{"agent_id":"a.b","workspace_id":"w","nats_urls":["x"]}"#,
                "agent_id",
            ),
            (
                r#"{"agent_id":"a","workspace_id":">","nats_urls":["x"]}"#,
                "workspace_id",
            ),
            (r#"{"agent_id":"a","workspace_id":"w"}"#, "nats_urls"),
            (
                r#"{"agent_id":"a","workspace_id":"w","nats_urls":["x"],"last_known_epoch":-1}"#,
                "last_known_epoch",
            ),
            (
                r#"{"agent_id":1,"workspace_id":"w","nats_urls":["x"]}"#,
                "agent_id",
            ),
        ];
        for (text, part) in cases {
            let error = parse("file", text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_link_never_prints_its_secret() {
        let text = r#"{"agent_id":"a","workspace_id":"w","nats_urls":["x"],"bearer":"hunter2"}"#;
        assert!(!format!("{:?}", parse("file", text).unwrap()).contains("hunter2"));
    }
}
