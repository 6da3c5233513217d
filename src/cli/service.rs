//! `boxd service`: the daemon under a service manager.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::output;
use crate::config;
use crate::error::Error;
use crate::service::{self, Action, Homes, Manager, Place, Scope, Unit};
use crate::startup::Startup;

/// Keep boxd running by systemd or launchd.
#[derive(Debug, Args)]
#[command(after_help = "\
Start, stop, restart and status are what systemctl or launchctl says, and exit with its
code. Where no service manager runs (exit code 69), as in most containers, `boxd run` is
the entry point.

Examples:
  boxd service install --now
  boxd service status
  boxd service print --system > boxd.service")]
pub(super) struct Service {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write the unit and have it start with the machine, or with the user's session.
    #[command(after_help = "\
A unit that somebody else wrote is not written over without --force. Below --root, for an
image, the unit is written and nobody is asked to read it.

Examples:
  boxd service install --now
  boxd service install --user --workspace-root ~/work
  boxd service install --system --root /mnt/image --binary /usr/local/bin/boxd")]
    Install(Install),
    /// Stop the service and remove the unit, if boxd wrote it.
    #[command(after_help = "Examples:\n  boxd service uninstall")]
    Uninstall(Uninstall),
    /// Start it.
    #[command(after_help = "Examples:\n  boxd service start")]
    Start(Whose),
    /// Stop it.
    #[command(after_help = "Examples:\n  boxd service stop")]
    Stop(Whose),
    /// Stop it and start it.
    #[command(after_help = "Examples:\n  boxd service restart --user")]
    Restart(Whose),
    /// Show how it is.
    #[command(after_help = "Examples:\n  boxd service status")]
    Status(Whose),
    /// Print the unit that install would write.
    #[command(after_help = "\
Examples:
  boxd service print
  boxd service print --manager launchd --binary /usr/local/bin/boxd")]
    Print(Print),
}

/// Which service.
#[derive(Debug, Args)]
struct Whose {
    /// The user's own; the default unless root asks.
    #[arg(long, conflicts_with = "system")]
    user: bool,
    /// The machine's; the default for root.
    #[arg(long)]
    system: bool,
    /// Who keeps it running; the one of this platform by default.
    #[arg(long, value_name = "NAME")]
    manager: Option<ManagerName>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ManagerName {
    Systemd,
    Launchd,
}

/// What is in the unit.
#[derive(Debug, Args)]
struct Content {
    /// The program; the running one by default.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where config.toml and connections/ are.
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// What relative paths mean; the home directory by default.
    #[arg(long, value_name = "DIR")]
    workspace_root: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Install {
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    content: Content,
    /// Write below this directory and ask no service manager.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Start it now as well.
    #[arg(long, conflicts_with = "root")]
    now: bool,
    /// Write over a unit that somebody else wrote.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct Uninstall {
    #[command(flatten)]
    whose: Whose,
    /// Remove it below this directory and ask no service manager.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Print {
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    content: Content,
}

/// What the verbs stand on: whose service is meant, and what surrounds us.
struct Context {
    manager: Manager,
    scope: Scope,
    homes: Homes,
    children: Vec<(OsString, OsString)>,
}

impl Service {
    pub(super) fn run(self, startup: Startup) -> Result<ExitCode, Error> {
        let (whose, action) = match self.verb {
            Verb::Install(install) => return install.run(startup),
            Verb::Uninstall(uninstall) => return uninstall.run(startup),
            Verb::Print(print) => return print.run(startup),
            Verb::Start(whose) => (whose, Action::Start),
            Verb::Stop(whose) => (whose, Action::Stop),
            Verb::Restart(whose) => (whose, Action::Restart),
            Verb::Status(whose) => (whose, Action::Status),
        };
        let context = whose.context(startup);
        context.available()?;
        context.ask(action, &context.place(None)?).map(ExitCode::from)
    }
}

impl Install {
    fn run(self, startup: Startup) -> Result<ExitCode, Error> {
        let context = self.whose.context(startup);
        let text = self.content.unit(context.scope)?.text(context.manager)?;
        let place = context.place(self.root.as_deref())?;
        if self.root.is_none() {
            context.available()?;
        }
        place.write(&text, self.force)?;
        output::answer(format!("written: {}\n", place.path().display()).as_bytes())?;
        if self.root.is_some() {
            return Ok(ExitCode::SUCCESS);
        }
        let enabled = context.ask(Action::Enable, &place)?;
        if enabled != 0 || !self.now {
            return Ok(ExitCode::from(enabled));
        }
        context.start_anew(&place).map(ExitCode::from)
    }
}

impl Uninstall {
    fn run(self, startup: Startup) -> Result<ExitCode, Error> {
        let context = self.whose.context(startup);
        let place = context.place(self.root.as_deref())?;
        place.check_ours()?;
        if self.root.is_none() {
            context.available()?;
            let code = context.ask(Action::Disable, &place)?;
            // launchd calls it an error that a job is not loaded; systemd would go on running what it was not asked to stop.
            if code != 0 && context.manager == Manager::Systemd {
                output::diagnostic(b"boxd: the unit is kept, because its service could not be stopped\n")?;
                return Ok(ExitCode::from(code));
            }
        }
        place.remove()?;
        output::answer(format!("removed: {}\n", place.path().display()).as_bytes())?;
        if self.root.is_none() {
            return context.ask(Action::Forget, &place).map(ExitCode::from);
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Print {
    fn run(self, startup: Startup) -> Result<ExitCode, Error> {
        let context = self.whose.context(startup);
        let text = self.content.unit(context.scope)?.text(context.manager)?;
        output::answer(text.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Whose {
    fn context(&self, startup: Startup) -> Context {
        let sources = super::sources(startup);
        let variable = |name: &str| {
            let value = sources.environment.get(OsStr::new(name));
            value.filter(|value| !value.is_empty()).map(PathBuf::from)
        };
        let homes = Homes {
            home: variable("HOME"),
            config: variable("XDG_CONFIG_HOME"),
        };
        let scope = if self.system || (sources.root && !self.user) {
            Scope::System
        } else {
            Scope::User
        };
        let manager = match self.manager {
            Some(ManagerName::Launchd) => Manager::Launchd,
            None if cfg!(target_os = "macos") => Manager::Launchd,
            Some(ManagerName::Systemd) | None => Manager::Systemd,
        };
        Context {
            manager,
            scope,
            homes,
            // Not by the whole configuration: one that cannot be used must not keep a service from being stopped.
            children: config::children(&sources.environment),
        }
    }
}

impl Context {
    /// Starts what was just written, also in place of what runs with the settings of before.
    fn start_anew(&self, place: &Place) -> Result<u8, Error> {
        match self.manager {
            // Restart starts what does not run, too.
            Manager::Systemd => self.ask(Action::Restart, place),
            Manager::Launchd => {
                // One that is not loaded is no error here.
                self.ask(Action::Stop, place)?;
                self.ask(Action::Start, place)
            }
        }
    }

    fn place(&self, root: Option<&Path>) -> Result<Place, Error> {
        Place::of(self.manager, self.scope, &self.homes, root)
    }

    fn available(&self) -> Result<(), Error> {
        service::available(self.manager, &self.children)
    }

    fn ask(&self, action: Action, place: &Place) -> Result<u8, Error> {
        service::perform(
            (self.manager, self.scope),
            action,
            place.path(),
            self.children.clone(),
        )
    }
}

impl Content {
    fn unit(self, scope: Scope) -> Result<Unit, Error> {
        let binary = match self.binary {
            Some(given) => absolute("binary", &given)?,
            None => std::env::current_exe()
                .and_then(std::fs::canonicalize)
                .map_err(|source| Error::Io {
                    doing: "find the running executable".into(),
                    source,
                })?,
        };
        Ok(Unit {
            scope,
            binary,
            config_dir: self
                .config_dir
                .map(|path| absolute("config-dir", &path))
                .transpose()?,
            workspace_root: self
                .workspace_root
                .map(|path| absolute("workspace-root", &path))
                .transpose()?,
        })
    }
}

/// The path as a service, which has another current directory, will understand it.
fn absolute(field: &'static str, path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|error| Error::Invalid {
        field,
        reason: format!("{path:?}: {error}"),
    })
}
