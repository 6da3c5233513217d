//! `boxd token`: tokens of the relay, made and looked into.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::json;

use super::{output, secret_file};
use crate::doors::relay;
use crate::error::Error;
use crate::wire::relay_token::{Claims, Mode, ProducerClaims, ViewerClaims, mint, verify};

/// Make and check tokens.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  boxd token mint producer --secret-file relay.secret --workspace-id W --agent-id A
  boxd token mint viewer --secret-file relay.secret --workspace-id W --port 7681 --mode control
  boxd token verify --secret-file relay.secret < token")]
pub(super) struct Token {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Mint(Mint),
    Verify(Verify),
}

/// Make a token and print it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  boxd token mint producer --secret-file relay.secret --workspace-id W --agent-id A --ttl 30d
  boxd token mint viewer --secret-file relay.secret --workspace-id W --agent-id A --port 7681")]
struct Mint {
    /// For the machine, or for somebody who looks.
    kind: Kind,
    /// What the relay signs with; the file is for its owner alone.
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
    /// The workspace of the channel.
    #[arg(long, value_name = "ID")]
    workspace_id: String,
    /// The machine; a viewer may look at all of the workspace without.
    #[arg(long, value_name = "ID", required_if_eq("kind", "producer"))]
    agent_id: Option<String>,
    /// The stream port of a viewer: 7681 terminals, 6080 desktop, 20000 to 65535.
    #[arg(long, required_if_eq("kind", "viewer"))]
    port: Option<u16>,
    /// What a viewer may do.
    #[arg(long, default_value = "view")]
    mode: Look,
    /// The session of a viewer.
    #[arg(long, value_name = "ID", default_value = "cli")]
    session_id: String,
    /// The viewer.
    #[arg(long, value_name = "ID", default_value = "cli")]
    viewer_id: String,
    /// Its lease: a viewer with a lower one is fenced off.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    lease_epoch: u64,
    /// How long it counts; 120s for viewers and 30d for machines unless given.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
}

/// Check a token from standard input and print its claims.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit code: 0 when it counts, 77 when not.

Examples:
  boxd token verify --secret-file relay.secret < token")]
struct Verify {
    /// What the relay signs with; the file is for its owner alone.
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Producer,
    Viewer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Look {
    View,
    Control,
}

impl Token {
    pub(super) fn run(self) -> Result<(), Error> {
        match self.verb {
            Verb::Mint(mint) => mint.run(),
            Verb::Verify(verify) => verify.run(),
        }
    }
}

impl Mint {
    fn run(self) -> Result<(), Error> {
        if let Some(port) = self.port.filter(|port| !relay::is_stream_port(*port)) {
            return Err(Error::Invalid {
                field: "port",
                reason: format!("{port} is no stream port: 6080, 7681 and 20000 to 65535 are"),
            });
        }
        let secret = secret_file::read_key(&self.secret_file)?;
        let token = match self.kind {
            Kind::Producer => mint(
                &ProducerClaims {
                    workspace_id: self.workspace_id,
                    agent_id: self.agent_id.unwrap_or_default(),
                    exp: expires(self.ttl, Duration::from_secs(30 * 24 * 3600)),
                },
                secret.expose(),
            )?,
            Kind::Viewer => mint(
                &ViewerClaims {
                    workspace_id: self.workspace_id,
                    agent_id: self.agent_id,
                    session_id: self.session_id,
                    viewer_id: self.viewer_id,
                    lease_epoch: self.lease_epoch,
                    mode: match self.mode {
                        Look::View => Mode::View,
                        Look::Control => Mode::Control,
                    },
                    port: self.port.unwrap_or_default(),
                    exp: expires(self.ttl, Duration::from_secs(120)),
                },
                secret.expose(),
            )?,
        };
        output::answer(format!("{token}\n").as_bytes())
    }
}

impl Verify {
    fn run(&self) -> Result<(), Error> {
        let secret = secret_file::read_key(&self.secret_file)?;
        let mut token = String::new();
        std::io::stdin()
            .read_line(&mut token)
            .map_err(|source| Error::Io {
                doing: "read a token from standard input".into(),
                source,
            })?;
        let token = token.trim_end();
        let (secret, now) = (secret.expose(), unix_now());
        if token.starts_with(ProducerClaims::PREFIX) {
            return show("producer", &verify::<ProducerClaims>(token, secret, now)?);
        }
        show("viewer", &verify::<ViewerClaims>(token, secret, now)?)
    }
}

fn show(kind: &str, claims: &impl Serialize) -> Result<(), Error> {
    output::json(&json!({ "kind": kind, "claims": claims }))
}

fn expires(ttl: Option<Duration>, usual: Duration) -> u64 {
    unix_now().saturating_add(ttl.unwrap_or(usual).as_secs())
}

fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
