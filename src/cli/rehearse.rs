//! `boxd rehearse`: what an update runs before it trusts a new executable. It starts the daemon of standard input on a
//! port of its own with a state directory of its own, and stops it once it serves.

use std::io::Read;
use std::process::ExitCode;

use clap::{Args, Parser};

use super::{Cli, Verb};
use crate::error::Error;
use crate::startup::Startup;
use crate::update::Start;

/// Bytes of arguments and environment, as JSON.
const LARGEST: u64 = 16 << 20;

/// Start the daemon that standard input describes, beside the one that runs, and stop it once it serves.
#[derive(Debug, Args)]
#[command(hide = true, after_help = "Examples:\n  boxd rehearse < start.json")]
pub(super) struct Rehearse {}

impl Rehearse {
    #[expect(clippy::unused_self, reason = "a verb like the others")]
    pub(super) fn run(self) -> Result<ExitCode, Error> {
        let mut bytes = Vec::new();
        std::io::stdin()
            .take(LARGEST)
            .read_to_end(&mut bytes)
            .map_err(|source| Error::Io {
                doing: "read standard input".into(),
                source,
            })?;
        let Start {
            arguments,
            environment,
        } = Start::decode(&bytes)?;
        let cli = Cli::try_parse_from(&arguments).map_err(|error| Error::Config {
            problems: vec![error.to_string()],
        })?;
        let Verb::Run(run) = cli.verb else {
            return Err(Error::Invalid {
                field: "arguments",
                reason: "are not those of boxd run".into(),
            });
        };
        run.rehearse(Startup {
            arguments,
            environment: environment.into_iter().collect(),
        })
    }
}
