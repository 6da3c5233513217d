//! `boxd git-credential`: what git asks for a credential that the daemon was given for one operation.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::error::Error;
use crate::git;

/// Pass a question of git to the daemon that started it, and the answer back.
#[derive(Debug, Args)]
#[command(
    hide = true,
    after_help = "Examples:\n  git -c credential.helper='!boxd git-credential /tmp/x/s' fetch"
)]
pub(super) struct GitCredential {
    /// The socket of the operation.
    socket: PathBuf,
    /// `get`, `store` or `erase`: only `get` does anything.
    verb: String,
}

impl GitCredential {
    pub(super) fn run(self) -> Result<ExitCode, Error> {
        let answered = git::helper(&self.socket, &self.verb, std::io::stdin(), std::io::stdout());
        answered.map_err(|source| Error::Io {
            doing: format!("ask for a credential at {:?}", self.socket),
            source,
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
