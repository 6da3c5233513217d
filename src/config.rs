//! The configuration: flags over `BOXD_*` variables over `config.toml` over defaults, decided once at start.
//!
//! `settings.rs` is the one table that keys, variables, flags and documentation come from. This is the only reader
//! of the environment, which it is handed as a map. All problems of all layers are reported together. Called by
//! `cli`; rooms and doors are handed their part and never see this module.

mod children;
mod example;
mod layers;
mod parts;
mod rules;
mod settings;
mod supervisor;
mod value;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::doors::nats::{Families, OpConfig};
use crate::error::Error;
use crate::startup::SecretNames;
use crate::telemetry::{Filter, Format, Secret};
use crate::update::{self, ReleaseKey};
use crate::workspace::Workspace;

pub use children::children;
pub use example::example;
pub use layers::{ENROLL_TOKEN, Layer};
pub use parts::{Config, Exec, Http, Link, Listen, Nats, Token};
pub use settings::{SETTINGS, Secrecy, Setting, setting};
pub use supervisor::Supervisor;
pub use value::Given;

/// What configuration is made from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Values of flags by the key of their setting.
    pub flags: Vec<(&'static str, Given)>,
    /// The environment of the process.
    pub environment: BTreeMap<OsString, OsString>,
    /// The current directory, `None` when it was removed.
    pub current_dir: Option<PathBuf>,
    /// Whether the process runs as root, which chooses system directories.
    pub root: bool,
    /// Whether this is for a client (`call`), which is not held to the rules of a daemon.
    pub client: bool,
}

/// The configuration and where each value came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The layer that decided each setting, in the order of [`SETTINGS`].
    pub origins: Vec<(&'static Setting, Layer)>,
}

/// Reads every layer and decides every setting.
///
/// # Errors
///
/// [`Error::Config`] with every problem found: unknown keys and variables, values that make no sense, settings that
/// do not go together.
pub fn load(sources: &Sources) -> Result<Loaded, Error> {
    let mut problems = Vec::new();
    let mut config = defaults(sources, &mut problems);
    let chosen = layers::choose(sources, &config.config_file, &mut problems);
    let mut origins = Vec::with_capacity(SETTINGS.len());
    for setting in SETTINGS {
        let winner = chosen
            .iter()
            .find(|candidate| candidate.setting.key == setting.key);
        if let Some(winner) = winner
            && let Err(problem) = (setting.set)(&mut config, &winner.given)
        {
            problems.push(format!("{}: {} {problem}", winner.layer, setting.key));
        }
        origins.push((
            setting,
            winner.map_or(Layer::Default, |winner| winner.layer.clone()),
        ));
    }
    rules::make_absolute(&mut config, sources.current_dir.as_deref());
    if !sources.client {
        rules::check(&config, &mut problems);
    }
    if problems.is_empty() {
        Ok(Loaded { config, origins })
    } else {
        Err(Error::Config { problems })
    }
}

/// The names that carry secrets, for `startup`.
pub fn secret_names() -> SecretNames {
    let mut names = SecretNames::default();
    for setting in SETTINGS {
        let (flags, variables) = match setting.secrecy {
            Secrecy::Open => continue,
            Secrecy::Secret => (&mut names.flags, &mut names.variables),
            Secrecy::UrlCredentials => (&mut names.url_flags, &mut names.url_variables),
        };
        flags.extend(setting.flag);
        variables.extend(setting.variable);
    }
    names.variables.push(ENROLL_TOKEN);
    names
}

impl Loaded {
    /// One row per setting: key, value as TOML (secrets as `***`, unset as an empty text), layer.
    pub fn rows(&self) -> Vec<(&'static str, String, String)> {
        self.origins
            .iter()
            .map(|(setting, layer)| {
                (
                    setting.key,
                    (setting.show)(&self.config).unwrap_or_default(),
                    layer.to_string(),
                )
            })
            .collect()
    }
}

/// The configuration that no layer has touched. Directories come from the flags and the environment, because the
/// file is found through them.
fn defaults(sources: &Sources, problems: &mut Vec<String>) -> Config {
    let variable = |name: &str| {
        sources
            .environment
            .get(OsStr::new(name))
            .filter(|value| !value.is_empty())
    };
    let home = variable("HOME").map(PathBuf::from);
    let directory = |xdg: &str, below_home: &str, system: &str| {
        let user = || home.as_ref().map(|home| home.join(below_home).join("boxd"));
        variable(xdg)
            .map(|base| Path::new(base).join("boxd"))
            .or_else(|| if sources.root { None } else { user() })
            .unwrap_or_else(|| PathBuf::from(system))
    };
    let mut named = |key| layers::early(sources, key, problems);
    let config_dir =
        named("config.dir").unwrap_or_else(|| directory("XDG_CONFIG_HOME", ".config", "/etc/boxd"));
    let config_file = named("config.file").unwrap_or_else(|| config_dir.join("config.toml"));
    Config {
        state_dir: directory("XDG_STATE_HOME", ".local/state", "/var/lib/boxd"),
        config_dir,
        config_file,
        workspace: Workspace {
            root: sources.current_dir.clone().unwrap_or_else(|| PathBuf::from("/")),
            home,
        },
        http: Http {
            listen: vec![Listen::Tcp(([127, 0, 0, 1], 2468).into())],
            token: Token::Generated,
            hosts: Vec::new(),
            origins: Vec::new(),
            unix_users: Vec::new(),
            max_connections: None,
            i_know: false,
        },
        nats: Nats {
            subjects: Families::Both,
            root: "agent".into(),
            client_name: None,
            allow_plaintext: false,
        },
        link: Link::default(),
        exec: Exec {
            linger: Duration::from_millis(20),
            kill_grace: Duration::from_millis(500),
        },
        pty: crate::pty::Config::default(),
        op: OpConfig::default(),
        fs: crate::fs::Config::default(),
        fs_confine: false,
        journal_fsync: false,
        update: update::Config {
            keys: ReleaseKey::built_in().into_iter().collect(),
            ..update::Config::default()
        },
        shutdown_grace: Duration::from_secs(5),
        log_filter: Filter::default(),
        log_format: Format::Auto,
        color: variable("NO_COLOR").is_none(),
        ready_file: None,
        url: None,
        supervisor: Supervisor::of(&sources.environment, std::process::id()),
        children: children(&sources.environment),
    }
}

/// Reads a secret from a file or an inherited descriptor (`/dev/fd/3`), without the white space around it.
fn secret_file(path: &Path) -> Result<Secret<String>, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("cannot be read from {path:?}: {error}"))?;
    match text.trim() {
        "" => Err(format!("is empty in {path:?}")),
        secret => Ok(Secret::new(secret.to_owned())),
    }
}

#[cfg(test)]
mod tests;
