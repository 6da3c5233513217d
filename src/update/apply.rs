//! One update from the question to the restart, and what is known of it meanwhile.
//!
//! ```text
//!   accepted -> downloading -> verifying -> waiting for idle -> applying -> restarting
//!        `---------`--------------`---------------`-----------------`--> failed: the one before serves on
//! ```

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::idle::Haste;
use super::origin::Origin;
use super::place::Place;
use super::proof;
use super::release::{CURRENT, Judgement, Manifest, ReleaseKey};
use super::standing::Standing;
use super::status::{Applied, Apply, Available, Outcome, Progress, Stage, Status};
use super::trial::{self, Completed, OnTrial, Record};
use crate::error::Error;
use crate::exec::{Engine, Rest};
use crate::lifecycle::{Tasks, Transfers};

/// What updates go by.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where releases are, unless somebody says otherwise.
    pub base_url: Option<String>,
    /// Which of them.
    pub channel: String,
    /// Whom they are signed by; without a key nothing is believed.
    pub keys: Vec<ReleaseKey>,
    /// Who asks, for staged rollouts.
    pub agent_id: String,
    /// How long a new one has to serve.
    pub trial_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            base_url: None,
            channel: "stable".into(),
            keys: Vec::new(),
            agent_id: String::new(),
            trial_timeout: Duration::from_secs(120),
        }
    }
}

/// Keeps one executable current.
#[derive(Debug)]
pub struct Updater {
    pub(super) config: Config,
    pub(super) origin: Origin,
    pub(super) engine: Arc<Engine>,
    pub(super) transfers: Transfers,
    pub(super) status: watch::Sender<Status>,
    /// What the one that waits for idle is told.
    pub(super) haste: watch::Sender<Haste>,
    /// One at a time.
    begun: Mutex<()>,
    /// Held from when nothing ran until the restart.
    rest: Mutex<Option<Rest>>,
    restart: CancellationToken,
}

impl Updater {
    /// Of the program that `origin` says. What `engine` runs and `transfers` counts is waited for.
    pub fn new(config: Config, origin: Origin, engine: Arc<Engine>, transfers: Transfers) -> Arc<Self> {
        Arc::new(Self {
            config,
            origin,
            engine,
            transfers,
            haste: watch::Sender::default(),
            status: watch::Sender::default(),
            begun: Mutex::default(),
            rest: Mutex::default(),
            restart: CancellationToken::new(),
        })
    }

    /// The daemon serves: whatever was on trial has proved itself. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when that cannot be noted.
    pub fn confirm(&self) -> Result<(), Error> {
        let record = trial::confirm(&self.origin.place, || self.origin.place.digest_of_running())?;
        self.status.send_modify(|status| {
            status.completed = record.completed;
            status.rolled_back = record.rolled_back;
        });
        Ok(())
    }

    /// What is known.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Whoever wants to hear of every change.
    pub fn changes(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Resolves when a new executable is in place and the daemon is to become it. Cancel-safe.
    pub async fn restart_wanted(&self) {
        self.restart.cancelled().await;
    }

    /// Looks what there is. Nothing is changed.
    ///
    /// # Errors
    ///
    /// As [`Updater::perform`].
    pub async fn check(&self, apply: &Apply) -> Result<Available, Error> {
        let (_, manifest) = self.manifest(apply).await?;
        let record = Record::read(&self.origin.place);
        let judgement = manifest.judge(&self.wanted(apply, &record))?;
        // Where this user may not write, the next look remembers.
        if let Err(error) = self.remember(&manifest).await {
            tracing::debug!(%error, "what was seen of releases is not remembered");
        }
        Ok(Available {
            current: CURRENT,
            newest: manifest.version.to_string(),
            is_due: matches!(judgement, Judgement::Take(_)),
        })
    }

    /// Begins an update in a task of its own; what comes of it is told by [`Updater::status`]. The same one again is the
    /// one that is under way. One that is forced waits for nothing: the same goes on without waiting, another that waits
    /// gives way to it.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when another one is under way, [`Error::Stale`] when something else runs than is expected,
    /// [`Error::Unsupported`] when nothing could be believed.
    pub async fn begin(self: &Arc<Self>, apply: Apply, tasks: &Tasks) -> Result<Applied, Error> {
        self.keys()?;
        self.source(&apply)?;
        let place = self.origin.place.clone();
        let current_sha256 = blocking(move || place.digest_of_running()).await?;
        expect("version", apply.expected_version.as_deref(), CURRENT)?;
        expect("executable", apply.expected_sha256.as_deref(), &current_sha256)?;
        let applied = Applied {
            operation_id: apply.operation_id.clone(),
            current_version: CURRENT,
            current_sha256,
            version: apply.version.clone().unwrap_or_default(),
        };
        while let Some(running) = self.claim(&apply) {
            if running.operation_id == apply.operation_id {
                if apply.force {
                    self.haste.send_replace(Haste::Hurry(apply.operation_id.clone()));
                }
                return Ok(applied);
            }
            if !apply.force || running.stage != Stage::WaitingForIdle {
                return Err(Error::Conflict {
                    what: "update".into(),
                    reason: format!("update {:?} is under way", running.operation_id),
                });
            }
            self.give_way(&running, &apply).await;
        }
        let updater = Arc::clone(self);
        drop(tasks.detach("update", async move { updater.run(apply).await }));
        Ok(applied)
    }

    /// It is the one that is under way from now on, unless another is: that one is answered.
    fn claim(&self, apply: &Apply) -> Option<Progress> {
        let _one = self.begun.lock();
        let progress = self.status().progress;
        let running = progress.filter(|progress| !progress.stage.is_over());
        if running.is_none() {
            self.haste.send_replace(Haste::None);
            self.tell(apply, Stage::Accepted, None);
        }
        running
    }

    async fn run(&self, apply: Apply) {
        let told = |stage, artifact: Option<&Completed>| self.tell(&apply, stage, artifact);
        match self.perform(&apply, told).await {
            Ok(Outcome::UpToDate(reason)) => {
                tracing::info!(reason, "no update");
                self.tell(&apply, Stage::UpToDate, None);
            }
            Ok(Outcome::Replaced(update)) => {
                tracing::info!(version = update.version, "restarting for an update");
                self.tell(&apply, Stage::Restarting, Some(&update));
                self.restart.cancel();
            }
            Err(error) => {
                tracing::warn!(%error, "the update failed, nothing has changed");
                let error = Arc::new(error);
                self.status.send_modify(|status| {
                    if let Some(progress) = &mut status.progress {
                        progress.stage = Stage::Failed;
                        progress.error = Some(error);
                    }
                });
            }
        }
    }

    fn tell(&self, apply: &Apply, stage: Stage, update: Option<&Completed>) {
        self.status.send_modify(|status| {
            status.progress = Some(Progress {
                operation_id: apply.operation_id.clone(),
                stage,
                version: update.map_or_else(
                    || apply.version.clone().unwrap_or_default(),
                    |update| update.version.clone(),
                ),
                sha256: update.map_or_else(String::new, |update| update.sha256.clone()),
                error: None,
            });
        });
    }

    /// Finds a release, proves it and puts it in place. Nothing is restarted.
    ///
    /// # Errors
    ///
    /// [`Error::Untrusted`] when it is not what the release key signed, [`Error::Unsupported`] when it does not run here or
    /// nothing can be believed, else why it could not be had or put in place. Then nothing has changed.
    pub async fn perform(
        &self,
        apply: &Apply,
        told: impl Fn(Stage, Option<&Completed>),
    ) -> Result<Outcome, Error> {
        let _held = self.origin.place.hold()?;
        told(Stage::Downloading, None);
        let (source, manifest) = self.manifest(apply).await?;
        let record = Record::read(&self.origin.place);
        let judged = manifest.judge(&self.wanted(apply, &record))?;
        self.remember(&manifest).await?;
        let artifact = match judged {
            Judgement::Take(artifact) => artifact,
            Judgement::Current => {
                return Ok(Outcome::UpToDate(format!(
                    "{CURRENT} is the newest of its channel"
                )));
            }
            Judgement::NotYet => {
                return Ok(Outcome::UpToDate(format!(
                    "{} is not rolled out to this machine yet",
                    manifest.version
                )));
            }
            Judgement::TakenBack => {
                return Ok(Outcome::UpToDate(format!(
                    "{} did not come up here and was taken back; --force tries it again",
                    manifest.version
                )));
            }
        };
        let update = Completed {
            operation_id: apply.operation_id.clone(),
            version: manifest.version.to_string(),
            sha256: artifact.sha256.clone(),
        };
        let standing = self.standing(&update.sha256).await?;
        standing.may_be_replaced(apply.force)?;
        self.may_restart(apply.force)?;
        let is_there = matches!(standing, Standing::Wanted);
        let staged = Staged(&self.origin.place);
        if !is_there {
            if !apply.force {
                self.is_what_runs().await?;
            }
            told(Stage::Downloading, Some(&update));
            self.fetch(&source, &update.version, artifact).await?;
            told(Stage::Verifying, Some(&update));
            proof::prove(&self.engine, &self.origin).await?;
        }
        let mut rest = None;
        if !apply.force {
            told(Stage::WaitingForIdle, Some(&update));
            rest = self.at_rest(apply).await?;
        }
        told(Stage::Applying, Some(&update));
        self.put_in_place(update.clone()).await?;
        drop(staged);
        *self.rest.lock() = rest;
        Ok(Outcome::Replaced(update))
    }

    /// What is in place gives way to what was staged, or is tried once more when it is what is wanted.
    async fn put_in_place(&self, update: Completed) -> Result<(), Error> {
        let (place, limit) = (self.origin.place.clone(), self.config.trial_timeout);
        blocking(move || {
            let _turn = place.turn()?;
            // What is on trial may have served, or been taken back, while this one was on its way.
            let mut record = Record::read(&place);
            let standing = Standing::of(&place, &record, &update.sha256)?;
            let before = record.trial.take().filter(|_| standing == Standing::Wanted);
            record.trial = Some(OnTrial::of(update, limit, before));
            if standing == Standing::Proved {
                place.keep_previous()?;
            }
            record.write_both(&place)?;
            if standing == Standing::Wanted {
                return Ok(());
            }
            place.replace()
        })
        .await
    }

    /// No manifest that is older than this one is believed from here on.
    async fn remember(&self, manifest: &Manifest) -> Result<(), Error> {
        let (place, channel, signed_at_ms) = (
            self.origin.place.clone(),
            manifest.channel.clone(),
            manifest.signed_at_ms,
        );
        blocking(move || {
            let _turn = place.turn()?;
            let mut record = Record::read(&place);
            if record.saw(&channel, signed_at_ms) {
                record.write(&place)?;
            }
            Ok(())
        })
        .await
    }
}

/// What is staged goes when it was not put in place.
struct Staged<'a>(&'a Place);

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        self.0.discard();
    }
}

fn expect(what: &str, expected: Option<&str>, found: &str) -> Result<(), Error> {
    match expected.filter(|expected| !expected.is_empty()) {
        Some(expected) if !expected.eq_ignore_ascii_case(found) => Err(Error::Stale {
            what: format!("the {what} that runs"),
            reason: format!("it is {found}, {expected} was expected"),
        }),
        _ => Ok(()),
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|panic| Error::Internal {
        reason: format!("the update panicked: {panic}"),
    })?
}
