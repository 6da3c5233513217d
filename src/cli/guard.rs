//! `boxd guard`: what a daemon leaves behind when it becomes another executable, until that one serves.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use clap::Args;

use super::output;
use crate::error::Error;
use crate::startup::Startup;
use crate::update::{Place, guard};

/// Watch the daemon that started this become another executable, and take that back when it does not come up.
#[derive(Debug, Args)]
#[command(
    hide = true,
    after_help = "Examples:\n  boxd guard    its standard input is a socket of the daemon\n  boxd.previous guard --after-stop"
)]
pub(super) struct Guard {
    /// The daemon has ended already: take back what did not come up.
    #[arg(long)]
    after_stop: bool,
}

impl Guard {
    pub(super) fn run(self, startup: &Startup) -> Result<ExitCode, Error> {
        let complain = |text: &str| {
            // The log may be gone with whoever read it.
            let _ = output::diagnostic(format!("boxd: {text}\n").as_bytes());
        };
        if self.after_stop {
            let place = Place::of_this_previous(startup.arguments.first());
            if let Some(version) = guard::after_stop(&place)? {
                complain(&format!(
                    "the update to {version} did not come up: the one before is in place again"
                ));
            }
            return Ok(ExitCode::SUCCESS);
        }
        let failed = |source| Error::Io {
            doing: "take standard input".into(),
            source,
        };
        let orders = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
        // In a root without /dev it stays the socket, which is at its end.
        if let Ok(null) = std::fs::File::open("/dev/null") {
            nix::unistd::dup2_stdin(null).map_err(|errno| failed(errno.into()))?;
        }
        let Some(origin) = guard::stand(UnixStream::from(orders), complain)? else {
            return Ok(ExitCode::SUCCESS);
        };
        match origin.start.become_it(&origin.place.executable())? {}
    }
}
