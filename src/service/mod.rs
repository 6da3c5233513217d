//! boxd as a service: the units of systemd and launchd, where they lie, what their managers are asked to do, and what the
//! running daemon tells the one that started it.
//!
//! `systemd` and `launchd` are pure: from a [`Unit`] to text. `place` writes and removes that text, `control` has the
//! manager's own program do the rest, and `notify` is the datagram socket of `sd_notify`, which the daemon speaks to. Nothing
//! here decides when; `boxd service` and the daemon do.

mod control;
mod launchd;
mod notify;
mod place;
mod systemd;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;

pub use control::{Action, available, perform};
pub use notify::Socket;
pub use place::{Homes, Place};

/// What everything that the service is called by its manager begins with.
const NAME: &str = "boxd";
/// Every unit of ours carries this, and what does not is never overwritten or removed.
const MARKER: &str = "Written by `boxd service install`";
/// How long a manager waits for a stop before it kills.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// What keeps services running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// systemd, on Linux.
    Systemd,
    /// launchd, on macOS.
    Launchd,
}

/// Whose service it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The machine's: it runs as root from the start of the machine.
    System,
    /// One user's: it runs while that user's manager does.
    User,
}

/// A service to be described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Whose it is.
    pub scope: Scope,
    /// The program, by its absolute path.
    pub binary: PathBuf,
    /// `--config-dir`, where it is not the usual one; absolute.
    pub config_dir: Option<PathBuf>,
    /// `--workspace-root`; the home directory when not given; absolute.
    pub workspace_root: Option<PathBuf>,
}

impl Unit {
    /// The text that `manager` reads.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when a path is not UTF-8, which neither format can hold.
    pub fn text(&self, manager: Manager) -> Result<String, Error> {
        match manager {
            Manager::Systemd => systemd::text(self),
            Manager::Launchd => launchd::text(self),
        }
    }

    /// The command that the manager runs. What is usual for the service is said all the same where it must not depend on
    /// an environment.
    fn command(&self) -> Result<Vec<&str>, Error> {
        let (config, state) = match self.scope {
            Scope::System => (Some(SYSTEM_CONFIG), Some(SYSTEM_STATE)),
            Scope::User => (None, None),
        };
        let mut command = vec![utf8("binary", &self.binary)?, "run"];
        let config = match &self.config_dir {
            Some(path) => Some(utf8("config-dir", path)?),
            None => config,
        };
        command.extend(config.into_iter().flat_map(|path| ["--config-dir", path]));
        command.extend(state.into_iter().flat_map(|path| ["--state-dir", path]));
        if let Some(path) = &self.workspace_root {
            command.extend(["--workspace-root", utf8("workspace-root", path)?]);
        }
        Ok(command)
    }
}

/// Where a machine's service has its configuration.
const SYSTEM_CONFIG: &str = "/etc/boxd";
/// Where it keeps its state.
const SYSTEM_STATE: &str = "/var/lib/boxd";

fn utf8<'a>(field: &'static str, path: &'a Path) -> Result<&'a str, Error> {
    path.to_str().ok_or_else(|| Error::Invalid {
        field,
        reason: format!("{path:?} is not UTF-8, which a service manager cannot read"),
    })
}
