//! `boxd relay`: the embedded relay.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::secret_file;
use crate::config;
use crate::daemon;
use crate::doors::relay::Config;
use crate::error::Error;
use crate::startup::Startup;
use crate::telemetry;

/// Serve the relay that machines and viewers of their stream ports dial.
#[derive(Debug, Args)]
#[command(after_help = "\
Both ends open GET /stream?ws=&agent=&port=&channel= as a WebSocket; /healthz and
/metrics are for its operator. Tokens are made by `boxd token mint`.

Examples:
  boxd relay --secret-file /etc/boxd/relay.secret --tls-cert relay.pem --tls-key relay.key
  boxd relay --bind 127.0.0.1:8443 --secret-file relay.secret")]
pub(super) struct Relay {
    /// Where it listens.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443")]
    bind: SocketAddr,
    /// What tokens are signed with; the file is for its owner alone.
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
    /// Certificate chain, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Bytes that each direction of a channel keeps for who comes back.
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20, value_parser = clap::value_parser!(u64).range(65_536..=1 << 30))]
    ring_bytes: u64,
    /// Bytes a second that one end may send; who sends more is closed with `RATE_LIMITED`.
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20, value_parser = clap::value_parser!(u64).range(1024..))]
    rate: u64,
    /// Bytes that it may send at once; as many as in two seconds unless given.
    #[arg(long, value_name = "BYTES")]
    burst: Option<u64>,
    /// How long a channel is kept that nobody is attached to.
    #[arg(long, value_name = "DURATION", default_value = "120s", value_parser = humantime::parse_duration)]
    idle: Duration,
    /// Write {"address"} here once it listens.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

impl Relay {
    pub(super) fn run(self, startup: Startup) -> Result<ExitCode, Error> {
        let shown = config::load(&super::sources(startup))?.config;
        telemetry::init(
            &shown.log_filter,
            shown.log_format,
            shown.color,
            shown.supervisor.journal(),
        )?;
        let config = Config {
            bind: self.bind,
            secret: secret_file::read_key(&self.secret_file)?,
            tls: self.tls_cert.zip(self.tls_key),
            ring: usize::try_from(self.ring_bytes).unwrap_or(usize::MAX),
            rate: self.rate,
            burst: self.burst.unwrap_or_else(|| self.rate.saturating_mul(2)),
            idle: self.idle,
        };
        daemon::relay::run(config, |address| match &self.ready_file {
            None => Ok(()),
            Some(path) => {
                let ready = json!({ "address": address.to_string() });
                std::fs::write(path, format!("{ready}\n")).map_err(|source| Error::Io {
                    doing: format!("write {path:?}"),
                    source,
                })
            }
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
