//! `boxd version`.

use clap::Args;

use super::output;
use crate::error::Error;

/// Print the version.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  boxd version\n  boxd version --json")]
pub(super) struct Version {
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

impl Version {
    pub(super) fn run(&self) -> Result<(), Error> {
        let version = env!("CARGO_PKG_VERSION");
        if self.json {
            return output::json(&serde_json::json!({
                "version": version,
                "os": std::env::consts::OS,
                "arch": std::env::consts::ARCH,
                "target": env!("TARGET_TRIPLE"),
            }));
        }
        output::answer(format!("boxd {version}\n").as_bytes())
    }
}
