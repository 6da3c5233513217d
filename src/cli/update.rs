//! `boxd update`: through the daemon that runs here, which restarts itself, or by ourselves where none does.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::call::Here;
use super::flags::{Client, SettingFlags};
use super::output;
use crate::config::{self, Config, Sources};
use crate::error::Error;
use crate::exec::{self, Engine};
use crate::ids::InstanceId;
use crate::lifecycle::{self, Tasks, Transfers};
use crate::startup::Startup;
use crate::update::{self, Apply, Completed, Outcome, Stage, Updater};

/// How often the daemon is asked how far it is.
const LOOK: Duration = Duration::from_millis(100);
/// How long it may be away while it restarts.
const AWAY: Duration = Duration::from_secs(60);

/// Update boxd to the newest signed release of its channel.
#[derive(Debug, Args)]
#[command(after_help = "\
A release is believed when the release key has signed it (update.public_keys), and put in place after it has passed its
self-test and a rehearsal of the daemon. One that does not come up is taken back.

Exit codes: 0 done, or nothing to do; 77 the release is not to be trusted; 64 it does not run here, or nothing says
where releases are; 69 it cannot be had; 70 it failed or was taken back.

Examples:
  boxd update --check
  boxd update
  boxd update --base-url /media/usb/boxd --channel beta")]
pub(super) struct Update {
    #[command(flatten)]
    flags: SettingFlags<Client>,
    /// Look whether there is a newer release, and change nothing.
    #[arg(long)]
    check: bool,
    /// Take releases of this channel.
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// Take them from there: an https URL or an absolute directory.
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// Take this version and no other.
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Do not wait for this machine's turn, or until nothing runs: what runs is stopped.
    #[arg(long)]
    force: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Update {
    pub(super) fn run(self, startup: Startup) -> Result<ExitCode, Error> {
        let start = update::Start {
            arguments: startup.arguments.clone(),
            environment: startup.environment.clone().into_iter().collect(),
        };
        let config = config::load(&Sources {
            flags: self.flags.given.clone(),
            ..super::sources(startup)
        })?
        .config;
        let runtime = lifecycle::runtime()?;
        runtime.block_on(async {
            match Here::find(&config) {
                Ok(daemon) => self.through(&config, daemon).await,
                Err(_nobody) => self.by_ourselves(&config, start).await,
            }
        })
    }

    fn apply(&self) -> Apply {
        Apply {
            operation_id: uuid::Uuid::new_v4().to_string(),
            version: self.version.clone(),
            channel: self.channel.clone(),
            base_url: self.base_url.clone(),
            force: self.force,
            ..Apply::default()
        }
    }

    /// Has the daemon do it, and watches.
    async fn through(&self, config: &Config, daemon: Here) -> Result<ExitCode, Error> {
        let apply = self.apply();
        if self.check {
            let available = daemon.operation("update.check", &request(&apply)).await?;
            return self.show_available(&available);
        }
        daemon.operation("update.apply", &request(&apply)).await?;
        let mut watch = Watch {
            id: &apply.operation_id,
            told: String::new(),
            json: self.json,
        };
        let mut last_seen = Instant::now();
        loop {
            // It may be on another port after the restart.
            let asked = match Here::find(config) {
                Ok(daemon) => daemon.operation("update.status", &json!({})).await,
                Err(error) => Err(error),
            };
            match asked {
                Ok(status) if watch.is_known(&status) => {
                    last_seen = Instant::now();
                    if let Some(end) = watch.look(&status)? {
                        return Ok(end);
                    }
                }
                Ok(status) if last_seen.elapsed() > AWAY => return Err(watch.forgotten(&status)),
                // It has just started, and is about to say so.
                Ok(_) => {}
                Err(error) if last_seen.elapsed() > AWAY => return Err(error),
                Err(_away) => {}
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// No daemon runs here: the next start is the new one.
    async fn by_ourselves(&self, config: &Config, start: update::Start) -> Result<ExitCode, Error> {
        let tasks = Tasks::new();
        let engine = exec::Config {
            environment: config.children.clone(),
            ..exec::Config::default()
        };
        let engine = Engine::start(engine, InstanceId::mint(), &tasks);
        let origin = update::Origin {
            place: update::Place::of_this_program(start.arguments.first()),
            start: as_daemon(start),
        };
        let updates = update::Config {
            agent_id: config.link.agent_id.clone(),
            ..config.update.clone()
        };
        let (updater, apply) = (
            Updater::new(updates, origin, engine, Transfers::default()),
            self.apply(),
        );
        if self.check {
            let available = updater.check(&apply).await?;
            return self.show_available(&json!({
                "current": available.current, "newest": available.newest, "due": available.is_due,
            }));
        }
        let told = |stage: Stage, update: Option<&Completed>| {
            let version = update.map_or("", |update| update.version.as_str());
            // There is nobody left to tell when that fails.
            let _ = tell(self.json, stage.as_str(), version);
        };
        match updater.perform(&apply, told).await? {
            Outcome::UpToDate(reason) => tell(self.json, "up_to_date", &reason)?,
            Outcome::Replaced(update) => tell(self.json, "installed", &update.version)?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn show_available(&self, available: &Value) -> Result<ExitCode, Error> {
        if self.json {
            output::json(available)?;
        } else {
            let text = |field: &str| available[field].as_str().unwrap_or_default().to_owned();
            let verdict = if available["due"] == true {
                "an update is available: boxd update"
            } else {
                "nothing to do"
            };
            let line = format!(
                "running {}, newest {}: {verdict}\n",
                text("current"),
                text("newest")
            );
            output::answer(line.as_bytes())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The payload of the operations.
fn request(apply: &Apply) -> Value {
    json!({
        "operationId": apply.operation_id, "version": apply.version, "channel": apply.channel,
        "baseUrl": apply.base_url, "force": apply.force,
    })
}

/// The start of a daemon in our surroundings.
fn as_daemon(start: update::Start) -> update::Start {
    let program = start
        .arguments
        .into_iter()
        .next()
        .unwrap_or_else(|| "boxd".into());
    update::Start {
        arguments: vec![program, "run".into()],
        environment: start.environment,
    }
}

/// What was told of an update of the daemon.
struct Watch<'a> {
    id: &'a str,
    told: String,
    json: bool,
}

impl Watch<'_> {
    /// Whether the daemon that answers has heard of it.
    fn is_known(&self, status: &Value) -> bool {
        ["progress", "completed", "rolledBack"]
            .iter()
            .any(|field| status[field]["operationId"] == self.id)
    }

    /// The error for a daemon that has not, for so long.
    fn forgotten(&self, status: &Value) -> Error {
        let current = status["current"].as_str().unwrap_or_default();
        Error::Unavailable {
            what: format!("the update {:?}", self.id),
            reason: format!(
                "the daemon that answers is version {current} and does not know it: another one was started meanwhile, or the \
                 release was in place already; `boxd update --check` tells what is due"
            ),
        }
    }

    /// Tells what is new; answers how it ended, when it has.
    fn look(&mut self, status: &Value) -> Result<Option<ExitCode>, Error> {
        let is_ours = |field: &str| status[field]["operationId"] == self.id;
        if is_ours("completed") {
            let version = status["completed"]["version"].as_str().unwrap_or_default();
            tell(self.json, "completed", version)?;
            return Ok(Some(ExitCode::SUCCESS));
        }
        if is_ours("rolledBack") {
            return Err(Error::Unavailable {
                what: "the new boxd".into(),
                reason: "it did not come up; the one before is in place again and serves".into(),
            });
        }
        let progress = &status["progress"];
        if !is_ours("progress") {
            return Ok(None);
        }
        let stage = progress["stage"].as_str().unwrap_or_default();
        if stage == "failed" {
            return Err(failure(progress));
        }
        if stage != self.told {
            stage.clone_into(&mut self.told);
            tell(self.json, stage, progress["version"].as_str().unwrap_or_default())?;
        }
        Ok((stage == "up_to_date").then_some(ExitCode::SUCCESS))
    }
}

/// The failure that a daemon tells of, as the exit code is to have it.
fn failure(progress: &Value) -> Error {
    let reason = progress["error"].as_str().unwrap_or("for no reason").to_owned();
    match progress["code"].as_str() {
        Some("forbidden") => Error::Forbidden { reason },
        Some("unsupported") => Error::Unsupported {
            what: "the release".into(),
            why: reason,
            fix: None,
        },
        Some("unavailable" | "timeout" | "not_found") => Error::Unavailable {
            what: "the release".into(),
            reason,
        },
        _ => Error::Protocol { reason },
    }
}

fn tell(json: bool, stage: &str, detail: &str) -> Result<(), Error> {
    if json {
        return output::answer(format!("{}\n", json!({ "stage": stage, "detail": detail })).as_bytes());
    }
    let stage = stage.replace('_', " ");
    output::answer(format!("{stage} {detail}").trim_end().as_bytes())?;
    output::answer(b"\n")
}
