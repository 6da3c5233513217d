//! The shape of the configuration: what one setting or one layer can not decide alone lives in `rules.rs`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::supervisor::Supervisor;
pub use crate::doors::http::Listen;
use crate::doors::nats;
use crate::telemetry::{Filter, Format, Secret};
use crate::workspace::Workspace;

/// Everything that was configured; never changes while the daemon runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The state directory.
    pub state_dir: PathBuf,
    /// The directory of `config.toml` and `connections/`.
    pub config_dir: PathBuf,
    /// The configuration file that was named, else `config.toml` in the configuration directory.
    pub config_file: PathBuf,
    /// What relative and `~` paths mean.
    pub workspace: Workspace,
    /// The HTTP door.
    pub http: Http,
    /// The NATS door.
    pub nats: Nats,
    /// The link of the command line, without a connection file.
    pub link: Link,
    /// The process engine.
    pub exec: Exec,
    /// The terminals.
    pub pty: crate::pty::Config,
    /// Operations that are streamed over NATS.
    pub op: nats::OpConfig,
    /// The files room.
    pub fs: crate::fs::Config,
    /// Whether every path of every caller stays beneath the workspace root.
    pub fs_confine: bool,
    /// Whether the journal of commands reaches the disk before a command starts.
    pub journal_fsync: bool,
    /// How the daemon itself stays current.
    pub update: crate::update::Config,
    /// How long running work may take to end when the daemon stops.
    pub shutdown_grace: Duration,
    /// Which log lines are written.
    pub log_filter: Filter,
    /// Their form.
    pub log_format: Format,
    /// Whether colours may be used on a terminal (`NO_COLOR` is not set).
    pub color: bool,
    /// A second place for the ready file.
    pub ready_file: Option<PathBuf>,
    /// The daemon that `call` speaks to.
    pub url: Option<String>,
    /// The service manager that started us, when one did.
    pub supervisor: Supervisor,
    /// The environment that children start from: ours without anything that is meant for boxd alone.
    pub children: Vec<(OsString, OsString)>,
}

/// The HTTP door.
#[derive(Debug, Clone)]
pub struct Http {
    /// Where it listens; empty is off.
    pub listen: Vec<Listen>,
    /// Who may come in.
    pub token: Token,
    /// Names that a `Host` header may have besides those of loopback.
    pub hosts: Vec<String>,
    /// Origins that browsers may send.
    pub origins: Vec<String>,
    /// User ids that may use a Unix socket besides root and the daemon's own.
    pub unix_users: Vec<u32>,
    /// Connections at once; `None` follows the limit on file descriptors.
    pub max_connections: Option<usize>,
    /// Whether running without a token was insisted on.
    pub i_know: bool,
}

/// The bearer token of the HTTP door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// Made at first start and kept in the state directory.
    Generated,
    /// Given on the command line, in the environment or in the configuration file.
    Given(Secret<String>),
    /// Read from this file.
    File {
        /// The file.
        path: PathBuf,
        /// Its content without surrounding white space.
        token: Secret<String>,
    },
    /// Everyone who reaches a listener may do everything.
    Off,
}

/// The NATS door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nats {
    /// Which subject families are served.
    pub subjects: nats::Families,
    /// First token of every subject.
    pub root: String,
    /// The client name presented to the broker; `None` is `opengeni-agent/connection/<instance>`.
    pub client_name: Option<String>,
    /// Whether `nats://` and `ws://` may leave the machine.
    pub allow_plaintext: bool,
}

/// One link that flags describe; unused while `nats_urls` is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Brokers, tried in order.
    pub nats_urls: Vec<String>,
    /// The workspace.
    pub workspace_id: String,
    /// This machine's id in it.
    pub agent_id: String,
    /// The connect token.
    pub nats_token: Option<Secret<String>>,
    /// The file that it was read from, when one was named.
    pub nats_token_file: Option<PathBuf>,
    /// A `.creds` file.
    pub nats_creds: Option<PathBuf>,
    /// The relay for stream ports.
    pub relay_url: Option<String>,
    /// The producer's token there.
    pub relay_token: Option<Secret<String>>,
    /// Whether synthetic input is allowed for this link.
    pub consent_screen_control: bool,
}

/// The process engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// How long output is still read after a leader's exit while a descendant holds the pipe.
    pub linger: Duration,
    /// How long a tree has between TERM and KILL when the daemon stops.
    pub kill_grace: Duration,
}
