//! From the configuration to what each room and door wants to know.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Config, Token};
use crate::doors::{http, nats, relay};
use crate::error::Error;
use crate::exec::{self, Engine, Prepared, Spool};
use crate::fs::Files;
use crate::git::Git;
use crate::host::Host;
use crate::ids::InstanceId;
use crate::lifecycle::Tasks;
use crate::ops::{Ledger, LedgerConfig, Parts, Rooms};
use crate::state::State;
use crate::telemetry::{Metrics, Secret};
use crate::update::{self, Origin, Updater};

/// Time between heartbeats of a link.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The id of the link that flags describe.
const FLAG_LINK: &str = "flags";

/// Who may come in by HTTP.
pub(super) struct Admission {
    pub(super) access: http::Access,
    /// The token to show to a person, when there is one.
    pub(super) token: Option<Secret<String>>,
    /// The file that holds it.
    pub(super) token_file: Option<PathBuf>,
}

/// Takes the token from where the configuration says; the first start makes one.
pub(super) fn access(config: &Config, state: &State) -> Result<Admission, Error> {
    let (token, token_file) = match &config.http.token {
        Token::Off => {
            return Ok(Admission {
                access: http::Access::Open,
                token: None,
                token_file: None,
            });
        }
        Token::Given(token) => (token.clone(), None),
        // A client can read a file again, but not a descriptor of ours (/dev/fd/3).
        Token::File { path, token } => (
            token.clone(),
            std::fs::canonicalize(path).ok().filter(|file| file.is_file()),
        ),
        Token::Generated => state.token()?,
    };
    let access = http::Access::Tokens(vec![http::Token::full(token.clone())]);
    Ok(Admission {
        access,
        token: Some(token),
        token_file,
    })
}

/// What was taken down when the program began.
pub(super) struct Birth {
    /// What the engine needs from before there were threads.
    pub(super) prepared: Prepared,
    /// How the program was started.
    pub(super) origin: Origin,
}

/// The rooms, with the engine's reaper and the host's sampler running.
pub(super) fn rooms(
    config: &Config,
    Birth { prepared, origin }: Birth,
    state: &State,
    instance: InstanceId,
    tasks: &Tasks,
    metrics: Arc<Metrics>,
    started: Instant,
) -> Result<Arc<Rooms>, Error> {
    let host = Arc::new(Host::new(config.workspace.root.clone()));
    let engine = exec::Config {
        linger: config.exec.linger,
        kill_grace: config.exec.kill_grace,
        environment: config.children.clone(),
        prepared,
        spool: Spool::new(state.spool(), host.capacity().mem_available),
    };
    let engine = Engine::start(engine, instance, tasks);
    host.start(Arc::clone(&engine), tasks);
    let ledger = Ledger::open(LedgerConfig {
        directory: state.journal(),
        fsync: config.journal_fsync,
    })?;
    let updates = update::Config {
        agent_id: config.link.agent_id.clone(),
        ..config.update.clone()
    };
    let files = Arc::new(Files::new(config.fs.clone(), config.workspace.clone()));
    Ok(Arc::new(Rooms::new(Parts {
        workspace: config.workspace.clone(),
        updater: Updater::new(updates, origin, Arc::clone(&engine), files.transfers()),
        pty: config.pty,
        files,
        git: Arc::new(Git::new(Arc::clone(&engine), path_of(config))),
        engine,
        host,
        ledger,
        metrics,
        confine: config.fs_confine,
        tasks: tasks.clone(),
        started,
    })))
}

/// Where commands are looked up.
fn path_of(config: &Config) -> Option<&OsStr> {
    let found = config.children.iter().find(|(name, _)| name == "PATH");
    found.map(|(_, value)| value.as_os_str())
}

/// The HTTP door.
pub(super) fn http(config: &Config, access: http::Access) -> http::Config {
    http::Config {
        listen: config.http.listen.clone(),
        access,
        hosts: config.http.hosts.clone(),
        origins: config.http.origins.clone(),
        unix_users: config.http.unix_users.clone(),
        max_connections: config.http.max_connections,
    }
}

/// The NATS door.
pub(super) fn nats(config: &Config) -> nats::Config {
    nats::Config {
        subjects: config.nats.subjects,
        root: config.nats.root.clone(),
        client_name: config.nats.client_name.clone(),
        allow_plaintext: config.nats.allow_plaintext,
        heartbeat: HEARTBEAT,
        op: config.op,
        config_dir: Some(config.config_dir.clone()),
        flag_link: flag_link(config),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine_name: machine_name(),
    }
}

/// The link of the command line; it consents to the whole machine.
fn flag_link(config: &Config) -> Option<nats::LinkConfig> {
    let link = &config.link;
    if link.nats_urls.is_empty() {
        return None;
    }
    let credential = match (&link.nats_creds, &link.nats_token_file, &link.nats_token) {
        (Some(path), _, _) => nats::Credential::CredsFile(path.clone()),
        (None, Some(path), _) => nats::Credential::TokenFile(path.clone()),
        (None, None, Some(token)) => nats::Credential::Token(token.expose().clone()),
        (None, None, None) => nats::Credential::Anonymous,
    };
    Some(nats::LinkConfig {
        connection_id: FLAG_LINK.to_owned(),
        workspace_id: link.workspace_id.clone(),
        agent_id: link.agent_id.clone(),
        root: None,
        urls: link.nats_urls.clone(),
        credential,
        held_epoch: 0,
        whole_machine: true,
        screen_control: link.consent_screen_control,
        update_channel: "stable".to_owned(),
        relay: link.relay_url.clone().map(|url| relay::Endpoint {
            url,
            token: link
                .relay_token
                .clone()
                .unwrap_or_else(|| Secret::new(String::new())),
            allow_plaintext: config.nats.allow_plaintext,
        }),
    })
}

fn machine_name() -> String {
    nix::unistd::gethostname().map_or_else(
        |_| "unknown".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}
