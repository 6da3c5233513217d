//! `boxd completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, output};
use crate::error::Error;

/// Print a completion script for a shell.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  boxd completions bash > /etc/bash_completion.d/boxd\n  \
                        boxd completions zsh > ~/.zfunc/_boxd"
)]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self) -> Result<(), Error> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "boxd", &mut script);
        output::answer(&script)
    }
}
