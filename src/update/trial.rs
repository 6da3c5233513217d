//! The first start of a new executable, and what is remembered from one start to the next.
//!
//! ```text
//!   replaced --start--> on trial --serves--> confirmed
//!                        |    ^
//!          fails to start|    | dies, is started again (at most `STARTS` times)
//!                        v    |
//!                    restored: the one before runs again, and says so
//! ```
//!
//! The record stands beside the executable, so that it is found before any configuration is read: a version that cannot
//! read its configuration is taken back, too.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::place::Place;
use super::release::CURRENT;
use crate::error::Error;

/// Starts that a new executable has to come up in.
const STARTS: u32 = 3;

/// How far ahead of the clock of this machine a manifest may be signed and still have older ones refused: one day.
const AHEAD_MS: i64 = 24 * 60 * 60 * 1000;

fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64)
}

/// What is remembered beside the executable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    /// When the newest manifest of each channel was signed that was believed, unix milliseconds.
    pub(super) signed_at_ms: std::collections::BTreeMap<String, i64>,
    /// The one that is to prove itself.
    pub(super) trial: Option<OnTrial>,
    /// The last one that did.
    pub(super) completed: Option<Completed>,
    /// The last one that did not.
    pub(super) rolled_back: Option<Completed>,
}

/// A new executable, in place and not proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OnTrial {
    pub(super) update: Completed,
    /// How often it was started.
    pub(super) starts: u32,
    /// The process that was started last, or is about to become it.
    #[serde(default)]
    pub(super) pid: Option<i32>,
    /// The code of the one before stands guard over it.
    #[serde(default)]
    pub(super) is_guarded: bool,
    /// How long that waits for it to serve, milliseconds.
    #[serde(default)]
    pub(super) limit_ms: u64,
}

impl OnTrial {
    /// One that is about to be started. Where the same one is being tried already, as `before`, whoever stands guard over that
    /// start goes on.
    pub(super) fn of(update: Completed, limit: Duration, before: Option<Self>) -> Self {
        let guarded = before.filter(|before| before.is_guarded);
        Self {
            update,
            starts: guarded.as_ref().map_or(0, |before| before.starts),
            pid: guarded.as_ref().and_then(|before| before.pid),
            is_guarded: guarded.is_some(),
            limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// How long it has to come up.
    pub(super) fn limit(&self) -> Duration {
        Duration::from_millis(self.limit_ms)
    }
}

/// An update that was put in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completed {
    /// What whoever asked for it calls it.
    pub operation_id: String,
    /// Its version.
    pub version: String,
    /// Its digest, lower-case hex.
    pub sha256: String,
}

impl Record {
    /// What is remembered; nothing where there is no record, or none that can be read.
    pub(super) fn read(place: &Place) -> Self {
        let Ok(bytes) = fs::read(place.record()) else {
            return Self::default();
        };
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// A manifest of `channel` was believed; says whether that is news. From then on no older one is.
    pub(super) fn saw(&mut self, channel: &str, signed_at_ms: i64) -> bool {
        // One clock that was wrong is not to close the channel for ever.
        let believable = signed_at_ms.min(now_ms().saturating_add(AHEAD_MS));
        let newest = self.signed_at_ms.entry(channel.to_owned()).or_insert(i64::MIN);
        let is_news = *newest < believable;
        *newest = (*newest).max(believable);
        is_news
    }

    /// When the newest manifest of `channel` was signed that is remembered, unix milliseconds.
    pub(super) fn signed_after_ms(&self, channel: &str) -> i64 {
        self.signed_at_ms.get(channel).copied().unwrap_or(0)
    }

    /// Whether the one with this digest was taken back, and none was put in place since.
    fn has_taken_back(&self, sha256: &str) -> bool {
        let taken_back = self.rolled_back.as_ref();
        self.trial.is_none() && taken_back.is_some_and(|update| update.sha256 == sha256)
    }

    /// Remembers, in one step.
    pub(super) fn write(&self, place: &Place) -> Result<(), Error> {
        self.write_as(place, &place.record())
    }

    /// Remembers what is on trial, and beside it what there is to say when that serves: then the disk may be full.
    pub(super) fn write_both(&self, place: &Place) -> Result<(), Error> {
        self.write(place)?;
        self.clone().confirmed().write_as(place, &place.served())
    }

    /// What is on trial serves.
    fn confirmed(mut self) -> Self {
        if let Some(trial) = self.trial.take() {
            self.completed = Some(trial.update);
            self.rolled_back = None;
        }
        self
    }

    fn write_as(&self, place: &Place, path: &Path) -> Result<(), Error> {
        let fresh = place.record().with_extension("update.fresh");
        let failed = |error: io::Error| Error::from_path_io("record of updates", "write", path, error);
        let bytes = serde_json::to_vec(self)
            .map_err(io::Error::other)
            .map_err(failed)?;
        // Of one that was killed.
        let _ = fs::remove_file(&fresh);
        // There is nothing secret in it, and a daemon of another user has to know of it.
        let mut file = place.make(&fresh, 0o644).map_err(failed)?;
        file.write_all(&bytes)
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&fresh, path))
            .map_err(failed)?;
        place.sync()
    }
}

/// What a start finds.
#[derive(Debug)]
#[must_use]
pub enum Trial {
    /// Nothing that has to prove itself.
    None,
    /// This executable has to: it is to say when it serves.
    Running(Running),
    /// It did not come up in time, and the one before is in place again: run that.
    Restored(PathBuf),
}

/// A start on trial.
#[derive(Debug)]
pub struct Running {
    place: Place,
}

impl Trial {
    /// To be called first at the start of the daemon. Counts the start when the executable is on trial and no other start of
    /// it is: beside one that may still come up, this one is about to be refused. Only the process that the guard watches is
    /// under guard.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the start cannot be counted, or the one before cannot be restored.
    pub fn begin(place: &Place) -> Result<Self, Error> {
        let record = Record::read(place);
        if record.trial.is_none() {
            // Started before it was taken back, which did not see this start.
            let is_taken_back = !place.is_what_runs() && record.has_taken_back(&place.digest_of_running()?);
            return Ok(if is_taken_back {
                Self::Restored(place.executable())
            } else {
                Self::None
            });
        }
        let _turn = place.turn()?;
        let mut record = Record::read(place);
        let Some(trial) = &mut record.trial else {
            return Ok(Self::None);
        };
        if place.digest()? != trial.update.sha256 {
            // An update that was killed before it replaced anything, or somebody installed another one since. One that was
            // started and is gone was taken back, by a restore that was killed before it could say so.
            record.rolled_back = record
                .trial
                .take()
                .filter(|trial| trial.starts > 0 || trial.is_guarded)
                .map(|trial| trial.update)
                .or(record.rolled_back);
            record.write(place)?;
            return Ok(Self::None);
        }
        let own = std::process::id().cast_signed();
        if trial.pid.is_some_and(|pid| pid != own && place.is_run_by(pid)) {
            return Ok(Self::None);
        }
        if trial.starts >= STARTS {
            return restore(place, record).map(Self::Restored);
        }
        trial.is_guarded &= trial.pid == Some(own);
        trial.pid = Some(own);
        trial.starts += 1;
        record.write(place)?;
        Ok(Self::Running(Running { place: place.clone() }))
    }
}

impl Running {
    /// Whether it still has to prove itself.
    pub fn is_on_trial(&self) -> bool {
        Record::read(&self.place).trial.is_some()
    }

    /// It ended before it served and for a reason that says nothing of it, as when it was told to stop: nobody takes it back,
    /// the start does not count, and its next one is on trial.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when that cannot be noted.
    pub fn withdraw(self) -> Result<(), Error> {
        let _turn = self.place.turn()?;
        let mut record = Record::read(&self.place);
        let own = std::process::id().cast_signed();
        let Some(trial) = record.trial.as_mut().filter(|trial| trial.pid == Some(own)) else {
            return Ok(());
        };
        // The disk may be full.
        let _ = fs::remove_file(self.place.guarded());
        trial.is_guarded = false;
        trial.pid = None;
        trial.starts = trial.starts.saturating_sub(1);
        record.write(&self.place)
    }

    /// It did not come up: the one before is in place again, and is to be run.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be restored.
    pub fn failed(self) -> Result<PathBuf, Error> {
        let _turn = self.place.turn()?;
        restore(&self.place, Record::read(&self.place))
    }
}

/// Puts the one before in place again and remembers that. When that cannot be written down, the digest tells that the trial
/// is over.
fn restore(place: &Place, record: Record) -> Result<PathBuf, Error> {
    place.restore()?;
    restored(place, record)?;
    Ok(place.executable())
}

/// The one before is in place again.
pub(super) fn restored(place: &Place, mut record: Record) -> Result<(), Error> {
    let _ = fs::remove_file(place.served());
    let _ = fs::remove_file(place.guarded());
    record.rolled_back = record.trial.take().map(|trial| trial.update);
    record.write(place)
}

/// What runs serves: the trial is over where it is that which was on trial, whose digest `running` answers. What is remembered
/// of updates for whoever asks. Blocks.
pub(super) fn confirm(
    place: &Place,
    running: impl FnOnce() -> Result<String, Error>,
) -> Result<Record, Error> {
    let record = Record::read(place);
    if record.trial.is_none() {
        return Ok(record);
    }
    let _turn = place.turn()?;
    let record = Record::read(place);
    // While this daemon was starting, another executable may have been put in its place: that one does not run yet.
    let running = running()?;
    if record
        .trial
        .as_ref()
        .is_none_or(|trial| trial.update.sha256 != running)
    {
        return Ok(record);
    }
    let record = record.confirmed();
    tracing::info!(version = CURRENT, "the update has come up");
    let written = record.write(place);
    // A rename needs no room.
    if let Err(error) = written
        && fs::rename(place.served(), place.record()).is_err()
    {
        return Err(error);
    }
    let _ = fs::remove_file(place.served());
    let _ = fs::remove_file(place.guarded());
    Ok(record)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn updated() -> (tempfile::TempDir, Place) {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::at(&directory.path().join("boxd"));
        fs::write(place.executable(), "new").unwrap();
        fs::write(place.previous(), "old").unwrap();
        let update = Completed {
            operation_id: "op".into(),
            version: "9.0.0".into(),
            sha256: place.digest().unwrap(),
        };
        let record = Record {
            signed_at_ms: [("stable".to_owned(), 5)].into(),
            trial: Some(OnTrial {
                update,
                starts: 0,
                pid: None,
                is_guarded: true,
                limit_ms: 0,
            }),
            ..Record::default()
        };
        record.write(&place).unwrap();
        (directory, place)
    }

    fn sha256_of(text: &str) -> String {
        format!("{:x}", Sha256::digest(text))
    }

    fn content(place: &Place) -> String {
        fs::read_to_string(place.executable()).unwrap()
    }

    #[test]
    fn one_that_serves_is_confirmed() {
        let (_directory, place) = updated();
        assert!(matches!(Trial::begin(&place), Ok(Trial::Running(_))));
        let record = confirm(&place, || Ok(sha256_of("new"))).unwrap();
        assert_eq!(record.completed.unwrap().operation_id, "op");
        assert!(matches!(Trial::begin(&place), Ok(Trial::None)));
        assert_eq!(content(&place), "new");
        assert_eq!(Record::read(&place).signed_at_ms["stable"], 5);
    }

    #[test]
    fn one_that_was_put_in_place_beside_a_start_of_another_is_not_confirmed_by_that() {
        let (_directory, place) = updated();
        let record = confirm(&place, || Ok(sha256_of("old"))).unwrap();
        assert_eq!((record.completed, record.trial.unwrap().starts), (None, 0));
        assert!(matches!(Trial::begin(&place), Ok(Trial::Running(_))));
    }

    #[test]
    fn a_manifest_of_the_far_future_does_not_refuse_those_of_tomorrow() {
        let mut record = Record::default();
        assert!(record.saw("stable", i64::MAX));
        assert!(record.signed_after_ms("stable") <= now_ms() + AHEAD_MS);
        assert!(!record.saw("stable", now_ms()));
    }

    #[test]
    fn one_that_dies_at_every_start_is_taken_back() {
        let (_directory, place) = updated();
        for _ in 0..STARTS {
            assert!(matches!(Trial::begin(&place), Ok(Trial::Running(_))));
        }
        let Trial::Restored(path) = Trial::begin(&place).unwrap() else {
            panic!("it had its chances")
        };
        assert_eq!(path, place.executable());
        assert_eq!(content(&place), "old");
        let record = confirm(&place, || Ok(sha256_of("new"))).unwrap();
        assert_eq!(record.rolled_back.unwrap().version, "9.0.0");
        assert_eq!((record.completed, record.trial), (None, None));
        assert!(matches!(Trial::begin(&place), Ok(Trial::None)));
    }

    #[test]
    fn one_that_says_that_it_cannot_start_is_taken_back_at_once() {
        let (_directory, place) = updated();
        let Trial::Running(running) = Trial::begin(&place).unwrap() else {
            panic!("not on trial")
        };
        running.failed().unwrap();
        assert_eq!(content(&place), "old");
    }

    #[test]
    fn an_executable_that_is_not_the_one_on_trial_is_left_alone() {
        let (_directory, place) = updated();
        fs::write(place.executable(), "installed by hand").unwrap();
        assert!(matches!(Trial::begin(&place), Ok(Trial::None)));
        assert_eq!(content(&place), "installed by hand");
        assert_eq!(Record::read(&place).trial, None);
    }

    #[test]
    fn a_restore_that_was_killed_halfway_is_told() {
        let (_directory, place) = updated();
        assert!(matches!(Trial::begin(&place), Ok(Trial::Running(_))));
        place.restore().unwrap();
        assert!(matches!(Trial::begin(&place), Ok(Trial::None)));
        assert_eq!(Record::read(&place).rolled_back.unwrap().version, "9.0.0");
    }

    #[test]
    fn one_that_serves_is_confirmed_where_nothing_can_be_written_any_more() {
        let (_directory, place) = updated();
        Record::read(&place).write_both(&place).unwrap();
        // In the way of what is written before it gets its name.
        fs::create_dir(place.record().with_extension("update.fresh")).unwrap();
        confirm(&place, || Ok(sha256_of("new"))).unwrap();
        let record = Record::read(&place);
        assert_eq!(record.completed.unwrap().operation_id, "op");
        assert_eq!((record.trial, record.signed_at_ms["stable"]), (None, 5));
        assert!(!place.served().exists());
    }

    #[test]
    fn one_that_is_told_to_stop_is_on_trial_again_and_has_no_guard() {
        let (_directory, place) = updated();
        let Trial::Running(running) = Trial::begin(&place).unwrap() else {
            panic!("not on trial")
        };
        running.withdraw().unwrap();
        let trial = Record::read(&place).trial.unwrap();
        assert_eq!((trial.is_guarded, trial.starts, trial.pid), (false, 0, None));
        assert!(matches!(Trial::begin(&place), Ok(Trial::Running(_))));
    }

    #[test]
    fn only_the_process_that_is_watched_is_under_guard() {
        let (_directory, place) = updated();
        let own = std::process::id().cast_signed();
        for (watched, stays) in [(own, true), (i32::MAX, false)] {
            let mut record = Record::read(&place);
            let trial = record.trial.as_mut().unwrap();
            (trial.pid, trial.is_guarded, trial.starts) = (Some(watched), true, 0);
            record.write(&place).unwrap();
            assert!(matches!(Trial::begin(&place), Ok(Trial::Running(_))));
            let trial = Record::read(&place).trial.unwrap();
            assert_eq!((trial.is_guarded, trial.pid, trial.starts), (stays, Some(own), 1));
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "another process, of nobody's")]
    fn a_start_beside_one_that_may_still_come_up_does_not_count() {
        let (_directory, place) = updated();
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        // What stands there is what the other process runs.
        let running = fs::read_link(format!("/proc/{}/exe", other.id())).unwrap();
        fs::remove_file(place.executable()).unwrap();
        std::os::unix::fs::symlink(running, place.executable()).unwrap();
        let mut record = Record::read(&place);
        let trial = record.trial.as_mut().unwrap();
        (trial.pid, trial.starts) = (Some(other.id().cast_signed()), STARTS);
        trial.update.sha256 = place.digest().unwrap();
        record.write(&place).unwrap();
        assert!(matches!(Trial::begin(&place), Ok(Trial::None)));
        assert!(Record::read(&place).trial.unwrap().is_guarded);
        other.kill().unwrap();
        // A reaper of another test may have been first.
        let _ = other.wait();
        assert!(matches!(Trial::begin(&place), Ok(Trial::Restored(_))));
    }

    #[test]
    fn one_that_is_asked_for_again_keeps_its_guard_and_has_the_newer_name() {
        let (_directory, place) = updated();
        let before = OnTrial {
            starts: 1,
            pid: Some(7),
            ..Record::read(&place).trial.unwrap()
        };
        let update = Completed {
            operation_id: "again".into(),
            ..before.update.clone()
        };
        let limit = before.limit();
        let again = OnTrial::of(update.clone(), limit, Some(before.clone()));
        assert_eq!((again.is_guarded, again.pid, again.starts), (true, Some(7), 1));
        assert_eq!(again.update.operation_id, "again");
        let unguarded = OnTrial {
            is_guarded: false,
            ..before
        };
        let again = OnTrial::of(update, limit, Some(unguarded));
        assert_eq!((again.is_guarded, again.pid, again.starts), (false, None, 0));
    }

    #[test]
    fn a_start_withdraws_no_trial_but_its_own() {
        let (_directory, place) = updated();
        let Trial::Running(running) = Trial::begin(&place).unwrap() else {
            panic!("not on trial")
        };
        let mut record = Record::read(&place);
        let trial = record.trial.as_mut().unwrap();
        (trial.pid, trial.is_guarded) = (Some(1), true);
        record.write(&place).unwrap();
        running.withdraw().unwrap();
        assert_eq!(Record::read(&place), record);
    }

    #[test]
    fn a_record_that_cannot_be_read_is_none() {
        let (_directory, place) = updated();
        fs::write(place.record(), "{").unwrap();
        assert!(matches!(Trial::begin(&place), Ok(Trial::None)));
    }
}
