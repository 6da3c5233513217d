//! `boxd run`: the daemon in the foreground.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::banner::Banner;
use super::flags::{Daemon, SettingFlags};
use super::output;
use crate::config::{self, Config, Listen, Sources, Supervisor};
use crate::daemon::{self, Announcement, End, Main};
use crate::doors::http;
use crate::enroll::store;
use crate::error::Error;
use crate::startup::Startup;
use crate::telemetry;
use crate::update::{Origin, Place, Start, Trial, guard};

/// Serve this machine until told to stop.
#[derive(Debug, Args)]
#[command(after_help = "\
Every flag also has a key in the configuration file and most have a variable; flags
win over variables, variables over the file. `boxd doctor --print-config` shows the
outcome. Give secrets by file or descriptor.

Examples:
  boxd run
  boxd run --http 127.0.0.1:0 --workspace-root /workspace --ready-file /tmp/ready.json
  boxd run --http unix:/run/boxd.sock --token-file /run/secrets/boxd-token
  boxd run --nats-url tls://broker.example.com:4222 --workspace-id W --agent-id A \\
           --nats-token-file /run/secrets/nats-token
  boxd run --exit-with-main -- nginx -g 'daemon off;'")]
pub(super) struct Run {
    #[command(flatten)]
    flags: SettingFlags<Daemon>,
    /// End when the main command ends, with its exit code or 128+n after signal n.
    #[arg(long, requires = "main")]
    exit_with_main: bool,
    /// The image's own main command; it gets our standard input and output, and signals are passed on to it.
    #[arg(last = true, value_name = "COMMAND")]
    main: Vec<OsString>,
}

impl Run {
    pub(super) fn run(self, startup: Startup) -> Result<ExitCode, Error> {
        let origin = Origin {
            place: Place::of_this_program(startup.arguments.first()),
            start: Start {
                arguments: startup.arguments.clone(),
                environment: startup.environment.clone().into_iter().collect(),
            },
        };
        let trial = match Trial::begin(&origin.place) {
            Ok(Trial::Restored(executable)) => return restart(&origin, &executable),
            Ok(trial) => trial,
            // What cannot be counted cannot be taken back, which is no reason not to serve.
            Err(error) => {
                output::complaint(&error);
                Trial::None
            }
        };
        match self.serve(startup, origin.clone()) {
            Ok(End::Exit(code)) => {
                withdraw(trial);
                Ok(ExitCode::from(code))
            }
            // That is no fault of the executable on trial.
            Ok(End::Survived(processes)) => {
                withdraw(trial);
                Err(Error::Internal {
                    reason: format!("processes {processes:?} could not be killed"),
                })
            }
            Ok(End::Restart) => {
                // It was rehearsed, and its starts are counted: no guard is no reason to stay behind.
                if let Err(error) = guard::post(&origin) {
                    output::complaint(&error);
                }
                daemon::hold_signals();
                restart(&origin, &origin.place.executable())
            }
            Err(error) if is_of_its_surroundings(&error) => {
                withdraw(trial);
                Err(error)
            }
            Err(error) => match trial {
                Trial::Running(running) if running.is_on_trial() => {
                    output::complaint(&error);
                    restart(&origin, &running.failed()?)
                }
                _ => Err(error),
            },
        }
    }

    fn serve(self, startup: Startup, origin: Origin) -> Result<End, Error> {
        let (config, main) = self.configure(startup)?;
        telemetry::init(
            &config.log_filter,
            config.log_format,
            config.color,
            config.supervisor.journal(),
        )?;
        match store::adopt(&config.config_dir) {
            Ok(None) => {}
            Ok(Some(id)) => tracing::info!(id, "credentials.json was imported: boxd connections lists it"),
            // It is used all the same, as it is.
            Err(error) => tracing::warn!(%error, "credentials.json cannot be imported"),
        }
        daemon::run(config, main, origin, announce)
    }

    fn configure(self, startup: Startup) -> Result<(Config, Option<Main>), Error> {
        let config = config::load(&Sources {
            flags: self.flags.given,
            ..super::sources(startup)
        })?
        .config;
        let main = (!self.main.is_empty()).then_some(Main {
            command: self.main,
            exit_with_main: self.exit_with_main,
        });
        Ok((config, main))
    }

    /// The same daemon beside the one that runs: on a port and with directories of its own, without links and main
    /// command, until it serves.
    pub(super) fn rehearse(self, startup: Startup) -> Result<ExitCode, Error> {
        let (mut config, _main) = self.configure(startup)?;
        let scratch = std::env::current_dir().map_err(|source| Error::Io {
            doing: "find the current directory".into(),
            source,
        })?;
        config.state_dir = scratch.join("state");
        config.config_dir = scratch.join("config");
        config.link.nats_urls.clear();
        config.ready_file = None;
        // Its service manager hears nothing of it.
        config.supervisor = Supervisor::default();
        config.http.listen = vec![Listen::Tcp(std::net::SocketAddr::from(([127, 0, 0, 1], 0)))];
        telemetry::init(&config.log_filter, config.log_format, false, None)?;
        let origin = Origin {
            place: Place::at(&scratch.join("boxd")),
            start: Start::default(),
        };
        let served = |_: &Announcement| {
            // It stops as any daemon does that is told to.
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM);
        };
        daemon::run(config, None, origin, served)?;
        output::answer(concat!("serves ", env!("CARGO_PKG_VERSION"), "\n").as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether every executable fails to start for that reason: another daemon runs, or somebody listens where it is to.
fn is_of_its_surroundings(error: &Error) -> bool {
    matches!(
        error,
        Error::AlreadyRunning { .. }
            | Error::AlreadyExists {
                what: http::TAKEN,
                ..
            }
    )
}

/// The end says nothing of the executable.
fn withdraw(trial: Trial) {
    if let Trial::Running(running) = trial
        && let Err(error) = running.withdraw()
    {
        output::complaint(&error);
    }
}

/// Becomes the executable; returns when that failed, which leaves no daemon.
fn restart(origin: &Origin, executable: &Path) -> Result<ExitCode, Error> {
    match origin.start.become_it(executable)? {}
}

/// Shows a person where the daemon is. Nobody else: the URL carries the token.
fn announce(announcement: &Announcement) {
    if !io::stderr().is_terminal() {
        return;
    }
    let banner = Banner {
        ready: &announcement.ready,
        token: announcement.token.as_ref(),
        workspace_root: &announcement.workspace_root,
        capabilities: &announcement.capabilities,
    };
    // A terminal that went away is no reason to stop serving.
    let _ = output::diagnostic(banner.text().as_bytes());
}
