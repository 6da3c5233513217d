//! What stands in the place of the executable, before another one takes it.

use super::apply::{Updater, blocking};
use super::release::Artifact;
use super::trial::{Completed, OnTrial, Record};
use crate::error::Error;

/// What is in the place of the executable.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// One that has served, to be kept as the one to go back to.
    Proved,
    /// One that has not: the one before it stays the one to go back to.
    Unproved,
    /// One that has not, and is what would come: it only has to be started.
    Wanted(Completed),
}

impl Updater {
    /// Whether what is in place has served.
    pub(super) async fn standing(
        &self,
        record: &Record,
        artifact: &Artifact,
        force: bool,
    ) -> Result<Standing, Error> {
        let Some(OnTrial { update, .. }) = &record.trial else {
            return Ok(Standing::Proved);
        };
        let place = self.origin.place.clone();
        if blocking(move || place.digest()).await? != update.sha256 {
            return Ok(Standing::Proved);
        }
        if update.sha256.eq_ignore_ascii_case(&artifact.sha256) {
            return Ok(Standing::Wanted(update.clone()));
        }
        if force {
            return Ok(Standing::Unproved);
        }
        Err(Error::Conflict {
            what: format!("{:?}", self.origin.place.executable()),
            reason: format!(
                "{} is in place and has not served yet: start it first, or use force",
                update.version
            ),
        })
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
