//! `boxd connect`, `boxd connections` and `boxd disconnect`: the links of this machine.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde_json::json;

use super::{output, secret_file};
use crate::config::{self, Config};
use crate::enroll::{Api, Credentials, Machine, Started, flow, key, store};
use crate::error::Error;
use crate::lifecycle;
use crate::startup::Startup;
use crate::telemetry::{self, Secret};

/// Enroll this machine with a control plane.
#[derive(Debug, Args)]
#[command(after_help = "\
Without a token it shows a code and a link; somebody who may say yes opens the link. A
running daemon picks the new link up within two seconds.

Exit codes: 0 enrolled, 69 the control plane is not there or nobody said yes in time,
77 it was denied or the token is not accepted.

Examples:
  boxd connect --api-url https://api.example.com --workspace-id W
  boxd connect --api-url https://api.example.com --workspace-id W --token-file /run/secrets/enroll
  boxd connect --import /etc/opengeni")]
pub(super) struct Connect {
    /// The control plane.
    #[arg(long, value_name = "URL", required_unless_present = "import")]
    api_url: Option<String>,
    /// The workspace that the machine is for; an enrollment token knows it.
    #[arg(long, value_name = "ID")]
    workspace_id: Option<String>,
    /// A file with an enrollment token; without one a person is asked.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The enrollment token itself; others may read it while it is typed, a file is better.
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<String>,
    /// What its owner knows the machine by; the host name when not given.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Offer to have the screen controlled.
    #[arg(long)]
    screen_control: bool,
    /// Enroll again where there is a connection already; the machine's key stays.
    #[arg(long)]
    force: bool,
    /// Take over the connections of another directory instead: `connections/` or `credentials.json` in it.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["api_url", "workspace_id", "token", "token_file"])]
    import: Option<PathBuf>,
    /// Where connections are kept.
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// List the connections of this machine.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  boxd connections\n  boxd connections --json")]
pub(super) struct Connections {
    /// Where connections are kept.
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
}

/// Forget a connection; a running daemon closes its link within two seconds.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  boxd disconnect 3f9c")]
pub(super) struct Disconnect {
    /// The beginning of its id, as `boxd connections` shows it.
    prefix: String,
    /// Where connections are kept.
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
}

impl Connect {
    pub(super) fn run(self, startup: Startup) -> Result<ExitCode, Error> {
        let token = self.given_token(&startup)?;
        let (config, config_dir) = found(startup, self.config_dir.as_deref())?;
        telemetry::init(
            &config.log_filter,
            config.log_format,
            config.color,
            config.supervisor.journal(),
        )?;
        if let Some(from) = &self.import {
            let ids = store::import(&config_dir, from)?;
            self.done(&ids)?;
            return Ok(ExitCode::SUCCESS);
        }
        let api = Api::new(self.api_url.as_deref().unwrap_or_default());
        let workspace = self.workspace_id.as_deref().unwrap_or_default();
        if workspace.is_empty() && token.is_none() {
            return Err(Error::Invalid {
                field: "workspace-id",
                reason: "is required without an enrollment token".into(),
            });
        }
        if !self.force {
            refuse_twice(&config_dir, api.url(), workspace)?;
        }
        let machine = Machine {
            public_key: key::public(&config_dir)?,
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            machine_name: self.name.clone().unwrap_or_else(host_name),
            // This version has no desktop that could be offered.
            can_offer_display: false,
            requests_screen_control: self.screen_control,
        };
        // A token is good once: what cannot be written is said before it is spent.
        store::rehearse(&config_dir, api.url(), workspace)?;
        let runtime = lifecycle::runtime()?;
        let credentials: Credentials = runtime.block_on(async {
            match &token {
                Some(token) => api.exchange(token.expose(), &machine).await,
                None => flow::device(&api, workspace, &machine, show).await,
            }
        })?;
        let id = store::write(&config_dir, api.url(), &credentials)?;
        self.done(&[id])?;
        Ok(ExitCode::SUCCESS)
    }

    fn given_token(&self, startup: &Startup) -> Result<Option<Secret<String>>, Error> {
        if let Some(path) = &self.token_file {
            let bytes = secret_file::read(path)?.expose().clone();
            let text = String::from_utf8(bytes).map_err(|_| Error::Invalid {
                field: "token-file",
                reason: format!("{path:?} is not text"),
            })?;
            return Ok(Some(Secret::new(text.trim().to_owned())));
        }
        let variable = || {
            startup
                .environment
                .get(std::ffi::OsStr::new(config::ENROLL_TOKEN))
        };
        let given = self
            .token
            .clone()
            .or_else(|| variable().map(|value| value.to_string_lossy().into_owned()));
        Ok(given.filter(|token| !token.is_empty()).map(Secret::new))
    }

    fn done(&self, ids: &[String]) -> Result<(), Error> {
        if self.json {
            return output::json(&json!({ "connections": ids }));
        }
        let mut text = String::new();
        for id in ids {
            // Writing to memory does not fail.
            let _ = writeln!(text, "connected: {id}");
        }
        if ids.is_empty() {
            text.push_str("nothing new\n");
        }
        output::answer(text.as_bytes())
    }
}

impl Connections {
    pub(super) fn run(self, startup: Startup) -> Result<(), Error> {
        let (_, config_dir) = found(startup, self.config_dir.as_deref())?;
        let store::Listed {
            connections,
            mut broken,
        } = store::list(&config_dir)?;
        self.show(&connections)?;
        // The last of the complaints is how it ends.
        let last = broken.pop();
        broken.iter().for_each(output::complaint);
        last.map_or(Ok(()), Err)
    }

    fn show(&self, connections: &[store::Connection]) -> Result<(), Error> {
        if self.json {
            let rows: Vec<_> = connections
                .iter()
                .map(|one| {
                    json!({
                        "id": one.id, "apiUrl": one.api_url, "workspaceId": one.workspace_id, "agentId": one.agent_id,
                        "natsUrls": one.nats_urls,
                    })
                })
                .collect();
            return output::json(&rows.into());
        }
        let mut text = String::new();
        for one in connections {
            let _ = writeln!(
                text,
                "{}  {}  {}  {}",
                one.id, one.workspace_id, one.agent_id, one.api_url
            );
        }
        output::answer(text.as_bytes())
    }
}

impl Disconnect {
    pub(super) fn run(self, startup: Startup) -> Result<(), Error> {
        let (_, config_dir) = found(startup, self.config_dir.as_deref())?;
        let id = store::remove(&config_dir, &self.prefix)?;
        output::answer(format!("disconnected: {id}\n").as_bytes())
    }
}

/// Refuses a machine that is enrolled there already; without a workspace, in any of that control plane.
fn refuse_twice(config_dir: &Path, api_url: &str, workspace: &str) -> Result<(), Error> {
    let is_there = |one: &store::Connection| {
        one.api_url == api_url && (workspace.is_empty() || one.workspace_id == workspace)
    };
    let known = store::list(config_dir)?.connections;
    match known.iter().find(|one| is_there(one)) {
        None => Ok(()),
        Some(one) => Err(Error::Conflict {
            what: format!("connection {}", one.id),
            reason: "this machine is enrolled there already; --force enrolls it again".into(),
        }),
    }
}

/// What a server says, as it may be shown on a terminal.
fn harmless(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}

/// The configuration, and where connections are.
fn found(startup: Startup, given: Option<&Path>) -> Result<(Config, PathBuf), Error> {
    let mut sources = super::sources(startup);
    sources.client = true;
    let config = config::load(&sources)?.config;
    let config_dir = given.map_or_else(|| config.config_dir.clone(), Path::to_path_buf);
    Ok((config, config_dir))
}

/// Shows a person where to go. On standard error: standard output is for the answer.
fn show(started: &Started) -> Result<(), Error> {
    let link = started
        .verification_uri_complete
        .as_ref()
        .unwrap_or(&started.verification_uri);
    let (link, code) = (harmless(link), harmless(&started.user_code));
    let mut text =
        format!("To connect this machine, open\n\n  {link}\n\nand compare the code\n\n  {code}\n\n");
    // A link that does not fit is one to be typed.
    if std::io::stderr().is_terminal()
        && let Ok(code) = QrCode::new(&link)
    {
        let _ = writeln!(text, "{}\n", code.render::<Dense1x2>().quiet_zone(true).build());
    }
    output::diagnostic(text.as_bytes())
}

fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(
        |_| "unknown".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}
