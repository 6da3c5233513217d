//! What stands in the place of the executable, before another one takes it.

use super::apply::{Updater, blocking};
use super::release::Artifact;
use super::trial::{Completed, OnTrial, Record};
use crate::error::Error;

impl Updater {
    /// What is in place has not served yet, and is what would come: it only has to be started. Another one is refused, or
    /// this one would be kept as the one to go back to.
    pub(super) async fn unproved(
        &self,
        record: &Record,
        artifact: &Artifact,
        force: bool,
    ) -> Result<Option<Completed>, Error> {
        let Some(OnTrial { update, .. }) = &record.trial else {
            return Ok(None);
        };
        let place = self.origin.place.clone();
        if blocking(move || place.digest()).await? != update.sha256 {
            return Ok(None);
        }
        if update.sha256.eq_ignore_ascii_case(&artifact.sha256) {
            return Ok(Some(update.clone()));
        }
        if force {
            return Ok(None);
        }
        Err(Error::Conflict {
            what: format!("{:?}", self.origin.place.executable()),
            reason: format!(
                "{} is in place and has not served yet: start it first, or use force",
                update.version
            ),
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
