//! One update from the question to the restart, and what is known of it meanwhile.
//!
//! ```text
//!   accepted -> downloading -> verifying -> waiting for idle -> applying -> restarting
//!        `---------`--------------`---------------`-----------------`--> failed: the one before serves on
//! ```

use std::fs::File;
use std::io::{Read, Seek};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::origin::Origin;
use super::place::Place;
use super::proof;
use super::release::{self, Artifact, CURRENT, Judgement, Manifest, ReleaseKey, TARGET, Wanted};
use super::source::Source;
use super::standing::Standing;
use super::status::{Applied, Apply, Available, Outcome, Progress, Stage, Status};
use super::trial::{self, Completed, OnTrial, Record};
use crate::error::Error;
use crate::exec::{Engine, Rest};
use crate::lifecycle::Tasks;

/// Bytes of a manifest.
const MANIFEST: u64 = 1 << 20;
/// Bytes of a signature.
const SIGNATURE: u64 = 16 << 10;
/// Bytes of a binary: a release that says more is not believed.
const BINARY: u64 = 256 << 20;
/// How long an update waits at most until nothing runs.
const IDLE: Duration = Duration::from_secs(24 * 60 * 60);

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
    config: Config,
    pub(super) origin: Origin,
    pub(super) engine: Arc<Engine>,
    status: watch::Sender<Status>,
    /// One at a time.
    begun: Mutex<()>,
    /// Held from when nothing ran until the restart.
    rest: Mutex<Option<Rest>>,
    restart: CancellationToken,
}

impl Updater {
    /// Of the program that `origin` says.
    pub fn new(config: Config, origin: Origin, engine: Arc<Engine>) -> Arc<Self> {
        Arc::new(Self {
            config,
            origin,
            engine,
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
        let place = &self.origin.place;
        let record = Record::read(place);
        let judgement = manifest.judge(&self.wanted(apply, &record))?;
        let (place, channel, signed_at_ms) = (place.clone(), manifest.channel.clone(), manifest.signed_at_ms);
        blocking(move || {
            // Where somebody else holds it, or this user may not write, the next look remembers.
            let Ok(_held) = place.hold() else {
                return Ok(());
            };
            let mut record = Record::read(&place);
            if record.saw(&channel, signed_at_ms) {
                record.write(&place)?;
            }
            Ok(())
        })
        .await?;
        Ok(Available {
            current: CURRENT,
            newest: manifest.version.to_string(),
            is_due: matches!(judgement, Judgement::Take(_)),
        })
    }

    /// Begins an update in a task of its own; what comes of it is told by [`Updater::status`]. The same one again is the
    /// one that is under way.
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
        {
            let _one = self.begun.lock();
            let running = self
                .status()
                .progress
                .filter(|progress| !progress.stage.is_over());
            if let Some(running) = running {
                return if running.operation_id == apply.operation_id {
                    Ok(applied)
                } else {
                    Err(Error::Conflict {
                        what: "update".into(),
                        reason: format!("update {:?} is under way", running.operation_id),
                    })
                };
            }
            self.tell(&apply, Stage::Accepted, None);
        }
        let updater = Arc::clone(self);
        drop(tasks.detach("update", async move { updater.run(apply).await }));
        Ok(applied)
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
        let place = &self.origin.place;
        let _held = place.hold()?;
        told(Stage::Downloading, None);
        let (source, manifest) = self.manifest(apply).await?;
        let mut record = Record::read(place);
        let judged = manifest.judge(&self.wanted(apply, &record))?;
        if record.saw(&manifest.channel, manifest.signed_at_ms) {
            let (seen, place) = (record.clone(), place.clone());
            blocking(move || seen.write(&place)).await?;
        }
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
        let standing = self.standing(&record, artifact, apply.force).await?;
        self.may_restart(apply.force)?;
        if let Standing::Wanted(there) = standing {
            if !apply.force {
                told(Stage::WaitingForIdle, Some(&there));
                *self.rest.lock() = Some(self.at_rest().await?);
            }
            return Ok(Outcome::Replaced(there));
        }
        if !apply.force {
            self.is_what_runs().await?;
        }
        let update = Completed {
            operation_id: apply.operation_id.clone(),
            version: manifest.version.to_string(),
            sha256: artifact.sha256.clone(),
        };
        told(Stage::Downloading, Some(&update));
        let staged = Staged(place);
        self.fetch(&source, &update.version, artifact).await?;
        told(Stage::Verifying, Some(&update));
        proof::prove(&self.engine, &self.origin).await?;
        let mut rest = None;
        if !apply.force {
            told(Stage::WaitingForIdle, Some(&update));
            rest = Some(self.at_rest().await?);
        }
        told(Stage::Applying, Some(&update));
        record.trial = Some(OnTrial {
            update: update.clone(),
            starts: 0,
            is_guarded: false,
            limit_ms: u64::try_from(self.config.trial_timeout.as_millis()).unwrap_or(u64::MAX),
        });
        let place = place.clone();
        blocking(move || {
            if standing == Standing::Proved {
                place.keep_previous()?;
            }
            record.write_both(&place)?;
            place.replace()
        })
        .await?;
        drop(staged);
        *self.rest.lock() = rest;
        Ok(Outcome::Replaced(update))
    }

    fn keys(&self) -> Result<&[ReleaseKey], Error> {
        if self.config.keys.is_empty() {
            return Err(Error::Unsupported {
                what: "update".into(),
                why: "this build has no release key, so no release could be believed".into(),
                fix: Some(
                    "set update.public_keys to the minisign key that your releases are signed with".into(),
                ),
            });
        }
        Ok(&self.config.keys)
    }

    fn source(&self, apply: &Apply) -> Result<Source, Error> {
        let base = apply.base_url.as_ref().or(self.config.base_url.as_ref());
        let base = base.ok_or_else(|| Error::Unsupported {
            what: "update".into(),
            why: "nothing says where releases are".into(),
            fix: Some("set update.base_url, or give --base-url".into()),
        })?;
        Source::parse(base)
    }

    fn channel<'a>(&'a self, apply: &'a Apply) -> &'a str {
        apply.channel.as_deref().unwrap_or(&self.config.channel)
    }

    fn wanted<'a>(&'a self, apply: &'a Apply, record: &'a Record) -> Wanted<'a> {
        let channel = self.channel(apply);
        Wanted {
            channel,
            version: apply.version.as_deref(),
            signed_after_ms: record.signed_after_ms(channel),
            taken_back: record.rolled_back.as_ref().map(|update| update.sha256.as_str()),
            agent_id: apply.agent_id.as_deref().unwrap_or(&self.config.agent_id),
            force: apply.force,
        }
    }

    async fn manifest(&self, apply: &Apply) -> Result<(Source, Manifest), Error> {
        let (keys, source) = (self.keys()?, self.source(apply)?);
        let channel = self.channel(apply);
        if channel.is_empty()
            || !channel
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        {
            return Err(Error::Invalid {
                field: "channel",
                reason: format!("{channel:?} is no name of a channel"),
            });
        }
        let path = format!("agent/{channel}/manifest.json");
        let bytes = source.small(&path, MANIFEST).await?;
        let signature = source.small(&format!("{path}.minisig"), SIGNATURE).await?;
        release::verify(keys, "the manifest", &bytes, &String::from_utf8_lossy(&signature))?;
        Ok((source, Manifest::parse(&bytes)?))
    }

    /// Stages the binary and checks that it is the one that was signed.
    async fn fetch(&self, source: &Source, version: &str, artifact: &Artifact) -> Result<(), Error> {
        if artifact.size > BINARY {
            return Err(Error::TooLarge {
                what: "the executable of the release",
                size: artifact.size,
                limit: BINARY,
            });
        }
        let (place, path) = (&self.origin.place, format!("agent/{version}/boxd-{TARGET}"));
        let signature = source.small(&format!("{path}.minisig"), SIGNATURE).await?;
        let mut file = place.stage()?;
        let received = source
            .binary(&path, artifact.size, &mut file, &place.staged())
            .await?;
        if received.bytes != artifact.size || !received.sha256.eq_ignore_ascii_case(&artifact.sha256) {
            return Err(Error::Untrusted {
                what: "the executable of the release",
                reason: format!(
                    "it has {} bytes with SHA-256 {}, the manifest says {} with {}",
                    received.bytes, received.sha256, artifact.size, artifact.sha256
                ),
            });
        }
        let (keys, place) = (self.config.keys.clone(), place.clone());
        blocking(move || {
            // What is on the disk is checked, not what came.
            let bytes = whole(&mut file)?;
            release::verify(
                &keys,
                "the executable of the release",
                &bytes,
                &String::from_utf8_lossy(&signature),
            )?;
            place.seal(file)
        })
        .await
    }

    /// Nothing runs, and nothing begins before it is put in place, or has failed to be.
    async fn at_rest(&self) -> Result<Rest, Error> {
        tokio::time::timeout(IDLE, self.engine.at_rest())
            .await
            .map_err(|_| Error::Timeout {
                what: "the end of what runs",
                after: IDLE,
            })
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

fn whole(file: &mut File) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .map_err(|source| Error::Io {
            doing: "read the staged executable".into(),
            source,
        })?;
    Ok(bytes)
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|panic| Error::Internal {
        reason: format!("the update panicked: {panic}"),
    })?
}
