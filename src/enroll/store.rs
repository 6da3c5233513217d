//! Connection files: written whole or not at all, read by nobody but their owner.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::api::Credentials;
use crate::doors::nats;
use crate::error::Error;

/// A connection, as a person wants to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The name of its file.
    pub id: String,
    /// The control plane that it came from.
    pub api_url: String,
    /// Whose it is.
    pub workspace_id: String,
    /// As whom.
    pub agent_id: String,
    /// Where it dials.
    pub nats_urls: Vec<String>,
}

/// The id of the connection of a workspace: the same one each time.
pub fn id(api_url: &str, workspace_id: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(api_url.as_bytes());
    hasher.update(b"\0");
    hasher.update(workspace_id.as_bytes());
    hasher.finalize().to_hex()[..20].to_owned()
}

/// Refuses a file that others can read.
pub(super) fn private(path: &Path, mode: u32) -> Result<(), Error> {
    if mode & 0o077 != 0 {
        return Err(Error::Forbidden {
            reason: format!("{path:?} can be read by other users and is not used; chmod 600 it"),
        });
    }
    Ok(())
}

/// A directory for its owner alone.
pub(super) fn directory(path: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| Error::Io {
        doing: format!("make {path:?}"),
        source,
    })
}

/// Writes the connection of these credentials, over the one of the same id where there is one; keys that we do not know
/// stay. Answers its id.
///
/// # Errors
///
/// [`Error::Io`] as the disk says; then nothing has changed.
pub fn write(config_dir: &Path, api_url: &str, credentials: &Credentials) -> Result<String, Error> {
    let id = id(api_url, &credentials.workspace_id);
    let path = path(config_dir, &id);
    let mut document = existing(&path)?.unwrap_or_default();
    document.insert("schema_version".into(), 1.into());
    document.insert("connection_id".into(), id.as_str().into());
    document.insert("api_url".into(), api_url.into());
    let inner = document
        .entry("credentials")
        .or_insert_with(|| Value::Object(Map::new()));
    let fields = json!({
        "agent_id": credentials.agent_id,
        "workspace_id": credentials.workspace_id,
        "nats_bearer": credentials.bearer.expose(),
        "nats_urls": credentials.nats_urls,
        "relay_url": credentials.relay_url,
        "relay_token": credentials.relay_token.expose(),
        "update_pubkey": credentials.update_public_key,
        "consented_whole_machine": credentials.consented_whole_machine,
        "consented_screen_control": credentials.consented_screen_control,
        "subject_prefix": credentials.subject_prefix,
    });
    if let (Value::Object(inner), Value::Object(fields)) = (inner, fields) {
        inner.extend(fields);
        inner.entry("update_channel").or_insert_with(|| "stable".into());
        inner.entry("last_known_epoch").or_insert_with(|| 0.into());
    }
    replace(&path, &Value::Object(document))?;
    Ok(id)
}

/// Makes sure that [`write()`] would be able to, as far as that can be known before: what is there can be read and is
/// private, and a file can be made beside it.
///
/// # Errors
///
/// As [`write()`].
pub fn rehearse(config_dir: &Path, api_url: &str, workspace_id: &str) -> Result<(), Error> {
    let path = path(config_dir, &id(api_url, workspace_id));
    existing(&path)?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    // With a token, the control plane says which workspace it is: any of them may be the one.
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if let Ok(metadata) = entry.metadata()
            && entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "json")
        {
            private(&entry.path(), metadata.mode())?;
        }
    }
    let is_new = !parent.exists();
    directory(parent)?;
    let draft = draft_of(&path);
    let begun = begin(&draft).and_then(|_| fs::remove_file(&draft));
    if is_new {
        // Nothing stays of what may come to nothing.
        let _ = fs::remove_dir(parent);
    }
    begun.map_err(|source| Error::Io {
        doing: format!("write {path:?}"),
        source,
    })
}

/// Whether there is a connection of that id.
pub fn exists(config_dir: &Path, id: &str) -> bool {
    path(config_dir, id).exists()
}

/// What is in the directory of connections.
#[derive(Debug, Default)]
pub struct Listed {
    /// Those that can be used, by their id.
    pub connections: Vec<Connection>,
    /// What is wrong with each of the others; it names the file.
    pub broken: Vec<Error>,
}

/// All connections.
///
/// # Errors
///
/// [`Error::Io`] when the directory cannot be read.
pub fn list(config_dir: &Path) -> Result<Listed, Error> {
    let directory = config_dir.join("connections");
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Listed::default()),
        Err(source) => {
            return Err(Error::Io {
                doing: format!("read {directory:?}"),
                source,
            });
        }
    };
    let mut found = Listed::default();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            match read(&path) {
                Ok(connection) => found.connections.push(connection),
                Err(error) => found.broken.push(error),
            }
        }
    }
    found.connections.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(found)
}

fn read(path: &Path) -> Result<Connection, Error> {
    let document = existing(path)?.unwrap_or_default();
    let stem = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let text = Value::Object(document.clone()).to_string();
    let link = nats::connection(&stem, &text).map_err(|error| Error::Invalid {
        field: "connection file",
        reason: format!("{path:?}: {error}"),
    })?;
    Ok(Connection {
        id: stem,
        api_url: document
            .get("api_url")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        workspace_id: link.workspace_id,
        agent_id: link.agent_id,
        nats_urls: link.urls,
    })
}

/// Removes the one connection whose id begins so.
///
/// # Errors
///
/// [`Error::NotFound`] when there is none, [`Error::Conflict`] when there are several.
pub fn remove(config_dir: &Path, prefix: &str) -> Result<String, Error> {
    if prefix.is_empty() {
        return Err(Error::Invalid {
            field: "prefix",
            reason: "is empty; `boxd connections` shows the ids".into(),
        });
    }
    let mut ids: Vec<String> = fs::read_dir(config_dir.join("connections"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .filter(|id| id.starts_with(prefix))
        .collect();
    ids.sort();
    match ids.as_slice() {
        [] => Err(Error::NotFound {
            what: "connection",
            name: prefix.to_owned(),
        }),
        [id] => {
            let path = path(config_dir, id);
            fs::remove_file(&path).map_err(|source| Error::Io {
                doing: format!("remove {path:?}"),
                source,
            })?;
            Ok(id.clone())
        }
        several => Err(Error::Conflict {
            what: format!("connection {prefix:?}"),
            reason: format!("{} begin so: {}", several.len(), several.join(", ")),
        }),
    }
}

/// Takes over the connections of another directory: `connections/*.json`, and a bare `credentials.json`. Answers their ids;
/// those that are there already stay as they are.
///
/// # Errors
///
/// [`Error::NotFound`] when there is nothing to take; the first file that is none keeps all from being taken.
pub fn import(config_dir: &Path, from: &Path) -> Result<Vec<String>, Error> {
    let mut files: Vec<PathBuf> = fs::read_dir(from.join("connections"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    let bare = from.join("credentials.json");
    if bare.exists() {
        files.push(bare);
    }
    let taken: Vec<_> = files.iter().map(|file| whole(file)).collect::<Result<_, _>>()?;
    if taken.is_empty() {
        return Err(Error::NotFound {
            what: "connection file or credentials.json in",
            name: from.display().to_string(),
        });
    }
    let mut ids = Vec::new();
    for (id, document) in taken {
        if !exists(config_dir, &id) {
            replace(&path(config_dir, &id), &document)?;
            ids.push(id);
        }
    }
    Ok(ids)
}

/// The id and the document of a connection file; a bare `credentials.json` is what is inside of one.
fn whole(file: &Path) -> Result<(String, Value), Error> {
    let connection = read(file)?;
    let document = existing(file)?.unwrap_or_default();
    if document.contains_key("credentials") {
        return Ok((connection.id, Value::Object(document)));
    }
    let id = id(&connection.api_url, &connection.workspace_id);
    let document =
        json!({ "schema_version": 1, "connection_id": id, "api_url": "", "credentials": document });
    Ok((id, document))
}

/// Makes a connection of a bare `credentials.json` in the configuration directory itself, once: from then on it is listed
/// and can be removed like any other. Answers its id.
///
/// # Errors
///
/// As the disk says; then the file is where it was.
pub fn adopt(config_dir: &Path) -> Result<Option<String>, Error> {
    let bare = config_dir.join("credentials.json");
    if !bare.exists() {
        return Ok(None);
    }
    let (id, document) = whole(&bare)?;
    if !exists(config_dir, &id) {
        replace(&path(config_dir, &id), &document)?;
    }
    let taken = config_dir.join("credentials.json.imported");
    fs::rename(&bare, &taken).map_err(|source| Error::Io {
        doing: format!("rename {bare:?}"),
        source,
    })?;
    Ok(Some(id))
}

fn path(config_dir: &Path, id: &str) -> PathBuf {
    config_dir.join("connections").join(format!("{id}.json"))
}

/// The document that is there; a file that others can read is not used.
fn existing(path: &Path) -> Result<Option<Map<String, Value>>, Error> {
    let failed = |source| Error::Io {
        doing: format!("read {path:?}"),
        source,
    };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    private(path, metadata.mode())?;
    let text = fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Error::Forbidden {
            reason: format!(
                "{path:?} belongs to another user and cannot be read; run this as that user, or chown it"
            ),
        },
        _ => failed(error),
    })?;
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| Error::Invalid {
            field: "connection file",
            reason: format!("{path:?} is not a JSON object: {error}"),
        })
}

/// Beside it, under a name that nobody has.
fn draft_of(path: &Path) -> PathBuf {
    path.with_extension(format!("{}.draft", uuid::Uuid::new_v4().simple()))
}

/// A new file that only its owner can read.
fn begin(draft: &Path) -> io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(draft)
}

/// Writes beside, syncs, and puts it in place: who reads sees the old or the new one, also after a crash.
fn replace(path: &Path, document: &Value) -> Result<(), Error> {
    let failed = |source| Error::Io {
        doing: format!("write {path:?}"),
        source,
    };
    let parent = path.parent().unwrap_or(Path::new("/"));
    directory(parent)?;
    let draft = draft_of(path);
    let write = || -> io::Result<()> {
        let mut file = begin(&draft)?;
        file.write_all(format!("{document:#}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        File::open(parent)?.sync_all()
    };
    write().map_err(|error| {
        // It may not be there.
        let _ = fs::remove_file(&draft);
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::telemetry::Secret;

    fn credentials(agent: &str) -> Credentials {
        Credentials {
            agent_id: agent.into(),
            workspace_id: "w".into(),
            bearer: Secret::new("b".into()),
            nats_urls: vec!["nats://127.0.0.1:4222".into()],
            relay_url: String::new(),
            relay_token: Secret::new(String::new()),
            update_public_key: String::new(),
            consented_whole_machine: true,
            consented_screen_control: false,
            subject_prefix: String::new(),
        }
    }

    #[test]
    fn connections_are_written_whole_listed_and_removed_by_prefix() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path();
        assert!(list(config).unwrap().connections.is_empty());
        let id = write(config, "https://api.example", &credentials("a")).unwrap();
        assert_eq!((id.len(), exists(config, &id)), (20, true));
        let mode = fs::metadata(path(config, &id)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        // Another enrollment of the same workspace takes its place, and keeps what it does not know.
        let mut document = existing(&path(config, &id)).unwrap().unwrap();
        document.insert("theirs".into(), 1.into());
        replace(&path(config, &id), &Value::Object(document)).unwrap();
        assert_eq!(
            write(config, "https://api.example", &credentials("b")).unwrap(),
            id
        );
        assert_eq!(existing(&path(config, &id)).unwrap().unwrap()["theirs"], 1);
        let all = list(config).unwrap().connections;
        assert_eq!((all.len(), all[0].agent_id.as_str()), (1, "b"));
        assert!(remove(config, "").is_err() && remove(config, "zzz").is_err());
        assert_eq!(remove(config, &id[..6]).unwrap(), id);
        assert!(!exists(config, &id));
        let left = fs::read_dir(config.join("connections")).unwrap().count();
        assert_eq!(left, 0, "no drafts");
    }

    #[test]
    fn another_directory_is_taken_over_once() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert!(import(to.path(), from.path()).is_err());
        let id = write(from.path(), "https://api.example", &credentials("a")).unwrap();
        let bare = from.path().join("credentials.json");
        let inner = json!({ "agentId": "c", "workspaceId": "v", "bearer": "b", "natsUrls": ["nats://h"] });
        fs::write(&bare, inner.to_string()).unwrap();
        fs::set_permissions(&bare, fs::Permissions::from_mode(0o644)).unwrap();
        let error = import(to.path(), from.path()).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
        fs::set_permissions(&bare, fs::Permissions::from_mode(0o600)).unwrap();
        let ids = import(to.path(), from.path()).unwrap();
        assert_eq!((ids.len(), &ids[0]), (2, &id));
        assert!(
            import(to.path(), from.path()).unwrap().is_empty(),
            "they are there"
        );
        let agents: Vec<String> = list(to.path())
            .unwrap()
            .connections
            .into_iter()
            .map(|one| one.agent_id)
            .collect();
        assert!(agents.contains(&"a".to_owned()) && agents.contains(&"c".to_owned()));
    }
}
