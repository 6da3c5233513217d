//! The ready file: what a running daemon is bound to and linked with, for scripts that wait for it and for `call`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{State, write_atomically};
use crate::error::Error;

/// Written once listeners are bound and every link was tried once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// Process id of the daemon.
    pub pid: u32,
    /// Its listeners: `http://127.0.0.1:2468` or `unix:/path`.
    pub http: Vec<String>,
    /// The file that holds the bearer token, when one does.
    pub token_file: Option<PathBuf>,
    /// This run of the daemon.
    pub instance: String,
    /// Its control-plane links.
    pub links: Vec<LinkState>,
}

/// One control-plane link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkState {
    /// The workspace it serves.
    pub workspace_id: String,
    /// This machine's id there.
    pub agent_id: String,
    /// How the first attempt ended: `connected`, `connecting`, `refused`.
    pub state: String,
}

impl Ready {
    /// Its name in the state directory.
    pub const FILE_NAME: &'static str = "ready.json";

    /// Reads the ready file of the daemon that uses the state directory `state`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when no daemon runs there, [`Error::Protocol`] when the file makes no sense.
    pub fn read(state: &Path) -> Result<Self, Error> {
        let path = state.join(Self::FILE_NAME);
        let text = std::fs::read(&path)
            .map_err(|source| Error::from_path_io("ready file", "read", &path, source))?;
        serde_json::from_slice(&text).map_err(|error| Error::Protocol {
            reason: format!("ready file {path:?}: {error}"),
        })
    }
}

impl State {
    /// Writes the ready file into the state directory and to `also`, each whole or not at all.
    pub fn write_ready(&self, ready: &Ready, also: Option<&Path>) -> Result<(), Error> {
        let mut text = serde_json::to_vec(ready).map_err(|error| Error::Internal {
            reason: format!("encode the ready file: {error}"),
        })?;
        text.push(b'\n');
        for path in self.part(Ready::FILE_NAME).as_deref().into_iter().chain(also) {
            write_atomically(path, &text, 0o644)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_file_has_the_documented_shape_and_goes_with_the_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let state_path = directory.path().join("state");
        let also = directory.path().join("ready");
        let state = State::open(&state_path).unwrap();
        let ready = Ready {
            pid: 1,
            http: vec!["http://127.0.0.1:2468".into()],
            token_file: Some("/var/lib/boxd/token".into()),
            instance: "i".into(),
            links: vec![LinkState {
                workspace_id: "w".into(),
                agent_id: "a".into(),
                state: "connected".into(),
            }],
        };
        state.write_ready(&ready, Some(&also)).unwrap();
        assert_eq!(
            std::fs::read_to_string(&also).unwrap(),
            "{\"pid\":1,\"http\":[\"http://127.0.0.1:2468\"],\"tokenFile\":\"/var/lib/boxd/token\",\
             \"instance\":\"i\",\"links\":[{\"workspaceId\":\"w\",\"agentId\":\"a\",\"state\":\"connected\"}]}\n"
        );
        assert_eq!(Ready::read(&state_path).unwrap(), ready);
        drop(state);
        assert!(matches!(Ready::read(&state_path), Err(Error::NotFound { .. })));
    }
}
