//! A connection file, as an enrollment leaves it in the configuration directory.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

/// One link of the daemon, before it is written down.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    /// Name of the file.
    pub(crate) id: String,
    /// Workspace in the subjects.
    pub(crate) workspace_id: String,
    /// Agent in the subjects.
    pub(crate) agent_id: String,
    /// The NATS connect token.
    pub(crate) bearer: String,
    /// Brokers.
    pub(crate) urls: Vec<String>,
    /// `last_known_epoch`.
    pub(crate) epoch: u32,
    /// `consented_whole_machine`.
    pub(crate) whole_machine: bool,
    /// URL and producer token of its relay; empty for none.
    pub(crate) relay: (String, String),
}

impl Connection {
    /// A link to `url` with fresh ids and some bearer.
    pub(crate) fn to(url: &str) -> Self {
        Self {
            id: uuid::Uuid::new_v4().to_string(),
            workspace_id: uuid::Uuid::new_v4().to_string(),
            agent_id: uuid::Uuid::new_v4().to_string(),
            bearer: "bearer-of-a-test".to_owned(),
            urls: vec![url.to_owned()],
            epoch: 0,
            whole_machine: true,
            relay: (String::new(), String::new()),
        }
    }

    /// Writes the file below `config`, whole, over what was there.
    pub(crate) fn write(&self, config: &Path) {
        let path = self.path(config);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let content = json!({
            "schema_version": 1,
            "connection_id": self.id,
            "api_url": "https://control.example",
            "an_unknown_key": "is kept",
            "credentials": {
                "agent_id": self.agent_id,
                "workspace_id": self.workspace_id,
                "nats_bearer": self.bearer,
                "nats_urls": self.urls,
                "relay_url": self.relay.0,
                "relay_token": self.relay.1,
                "update_pubkey": "",
                "consented_whole_machine": self.whole_machine,
                "consented_screen_control": false,
                "update_channel": "stable",
                "last_known_epoch": self.epoch,
            }
        });
        // Not ending in .json until it is complete: the directory is being watched.
        let draft = path.with_extension("draft");
        let mut file = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .unwrap();
        file.write_all(content.to_string().as_bytes()).unwrap();
        std::fs::rename(&draft, &path).unwrap();
    }

    /// Removes the file.
    pub(crate) fn remove(&self, config: &Path) {
        std::fs::remove_file(self.path(config)).unwrap();
    }

    fn path(&self, config: &Path) -> PathBuf {
        config.join("connections").join(format!("{}.json", self.id))
    }
}
