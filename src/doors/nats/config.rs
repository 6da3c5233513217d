//! What the NATS door is told: its own settings and, per link, where to dial and as whom. Plain data.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::doors::relay::Endpoint;
/// Which subjects a link answers on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Families {
    /// `agent.<ws>.<id>.…`
    Plain,
    /// `agent.<ws>.<id>.connection.<instance>.…`
    Instance,
    /// Both of them.
    #[default]
    Both,
}

/// Settings of the door.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which subjects links answer on.
    pub subjects: Families,
    /// First token of every subject.
    pub root: String,
    /// The client name shown to the broker; `None` is `opengeni-agent/connection/<instance>`.
    pub client_name: Option<String>,
    /// Whether `nats://` and `ws://` may be dialled when the broker is not on loopback.
    pub allow_plaintext: bool,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Operations that are streamed.
    pub op: OpConfig,
    /// The directory that holds `connections/*.json`; `None` reads no files.
    pub config_dir: Option<PathBuf>,
    /// A link made by flags or the configuration file.
    pub flag_link: Option<LinkConfig>,
    /// Version of the daemon, for Hello.
    pub version: String,
    /// Name of the machine, for Hello.
    pub machine_name: String,
}

/// Operations that are streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpConfig {
    /// Bytes of payload of one frame, as far as the broker takes it.
    pub frame_bytes: usize,
    /// How long an op may be detached while no more of its output can be kept.
    pub abandon: Duration,
}

impl Default for OpConfig {
    fn default() -> Self {
        Self {
            frame_bytes: 128 << 10,
            abandon: Duration::from_secs(24 * 3600),
        }
    }
}

/// One link: where to dial, as whom, and what its owner consented to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkConfig {
    /// Names the link among the others; part of its principal's id.
    pub connection_id: String,
    /// First id of its subjects.
    pub workspace_id: String,
    /// Second id of its subjects.
    pub agent_id: String,
    /// What its subjects begin with, where its control plane says so; else [`Config::root`].
    pub root: Option<String>,
    /// `nats://`, `tls://`, `ws://` or `wss://`, tried in turn.
    pub urls: Vec<String>,
    /// What is presented to the broker.
    pub credential: Credential,
    /// Requests with a lower epoch (but not zero) are refused.
    pub held_epoch: u32,
    /// Whether the owner consented to more than the workspace.
    pub whole_machine: bool,
    /// Whether the owner consented to synthetic input.
    pub screen_control: bool,
    /// The release channel, for Hello.
    pub update_channel: String,
    /// The relay for stream ports.
    pub relay: Option<Endpoint>,
}

/// What a link presents to its broker. Formatting it never shows a secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// Nothing: for a broker without authentication, asked for by naming no credential at all.
    Anonymous,
    /// The enrollment bearer, as the NATS auth token. Empty is never dialled.
    Token(String),
    /// A file that holds the token, read again for every attempt.
    TokenFile(PathBuf),
    /// A NATS `.creds` file, read again for every attempt.
    CredsFile(PathBuf),
    /// The text of one.
    Creds(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => formatter.write_str("Anonymous"),
            Self::Token(token) if token.is_empty() => formatter.write_str("Token(empty)"),
            Self::Token(_) => formatter.write_str("Token(***)"),
            Self::TokenFile(path) => write!(formatter, "TokenFile({})", path.display()),
            Self::CredsFile(path) => write!(formatter, "CredsFile({})", path.display()),
            Self::Creds(_) => formatter.write_str("Creds(***)"),
        }
    }
}

impl LinkConfig {
    /// What its subjects begin with; `usual` where nothing is said.
    pub(super) fn root<'a>(&'a self, usual: &'a str) -> &'a str {
        self.root.as_deref().unwrap_or(usual)
    }

    /// Whether `other` is reached as the same agent at the same brokers, so that a running connection may stay.
    pub(super) fn same_place(&self, other: &Self) -> bool {
        let place = |link: &Self| {
            (
                link.workspace_id.clone(),
                link.agent_id.clone(),
                link.urls.clone(),
            )
        };
        place(self) == place(other)
    }
}
