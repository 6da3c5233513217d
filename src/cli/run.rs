//! `boxd run`: the daemon in the foreground.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Args;

use super::banner::Banner;
use super::flags::{Daemon, SettingFlags};
use super::output;
use crate::config::{self, Sources};
use crate::daemon::{self, Announcement, Main};
use crate::error::Error;
use crate::startup::Startup;
use crate::telemetry;

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
        let config = config::load(&Sources {
            flags: self.flags.given,
            ..super::sources(startup)
        })?
        .config;
        telemetry::init(
            &config.log_filter,
            config.log_format,
            config.color,
            config.supervisor.journal(),
        )?;
        let main = (!self.main.is_empty()).then_some(Main {
            command: self.main,
            exit_with_main: self.exit_with_main,
        });
        daemon::run(config, main, announce).map(ExitCode::from)
    }
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
