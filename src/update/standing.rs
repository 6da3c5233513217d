//! What stands in the place of the executable, before another one takes it.

use super::apply::{Updater, blocking};
use super::place::Place;
use super::trial::Record;
use crate::error::Error;

/// What is in the place of the executable.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// One that has served, to be kept as the one to go back to.
    Proved,
    /// One that was never started: the one before it stays the one to go back to.
    Untried,
    /// One that was started and has not served, of this version; the same.
    OnTrial(String),
    /// One that has not, and is what would come: it only has to be started.
    Wanted,
}

impl Standing {
    /// What is in place, where one with the digest `wanted` is to come. Blocks.
    pub(super) fn of(place: &Place, record: &Record, wanted: &str) -> Result<Self, Error> {
        let Some(trial) = &record.trial else {
            return Ok(Self::Proved);
        };
        let update = &trial.update;
        if place.digest()? != update.sha256 {
            return Ok(Self::Proved);
        }
        Ok(if update.sha256.eq_ignore_ascii_case(wanted) {
            Self::Wanted
        } else if trial.starts > 0 || trial.is_guarded {
            Self::OnTrial(update.version.clone())
        } else {
            Self::Untried
        })
    }

    /// What is being tried is replaced by something else only when that is asked for.
    pub(super) fn may_be_replaced(&self, force: bool) -> Result<(), Error> {
        match self {
            Self::OnTrial(version) if !force => Err(Error::Conflict {
                what: "update".into(),
                reason: format!("{version} was started and has not served yet: wait for it, or use force"),
            }),
            _ => Ok(()),
        }
    }
}

impl Updater {
    /// Whether what is in place has served, where one with the digest `wanted` is to come.
    pub(super) async fn standing(&self, wanted: &str) -> Result<Standing, Error> {
        let (place, wanted) = (self.origin.place.clone(), wanted.to_owned());
        blocking(move || Standing::of(&place, &Record::read(&place), &wanted)).await
    }

    /// An update ends what runs, and starts it again: not a main command, unless that is asked for.
    pub(super) fn may_restart(&self, force: bool) -> Result<(), Error> {
        if force || !self.engine.main_lives() {
            return Ok(());
        }
        Err(Error::Conflict {
            what: "update".into(),
            reason: "it would end the main command and start it again: use force".into(),
        })
    }

    /// What is in place is what runs: it is to be kept as the one to go back to.
    pub(super) async fn is_what_runs(&self) -> Result<(), Error> {
        let place = self.origin.place.clone();
        let (in_place, running) = blocking(move || Ok((place.digest()?, place.digest_of_running()?))).await?;
        if in_place == running {
            return Ok(());
        }
        Err(Error::Conflict {
            what: format!("{:?}", self.origin.place.executable()),
            reason: "it was replaced since this daemon started: restart the daemon first, or use force"
                .into(),
        })
    }
}
