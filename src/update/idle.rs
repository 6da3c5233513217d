//! Waiting until nothing is cut off by the restart: no process lives, and no file is on its way in or out. Whoever follows
//! or watches something comes back by itself and is not waited for.

use std::time::Duration;

use super::apply::Updater;
use super::status::{Apply, Progress, Stage};
use crate::error::Error;
use crate::exec::Rest;

/// How long an update waits at most.
const LIMIT: Duration = Duration::from_secs(24 * 60 * 60);
/// How often it looks whether a file is on its way.
const LOOK: Duration = Duration::from_millis(200);

/// What the update that waits is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Haste {
    /// Nothing.
    #[default]
    None,
    /// The update with this id goes on.
    Hurry(String),
    /// The first ends, for the second.
    GiveWay(String, String),
}

impl Updater {
    /// Nothing is under way, and no process begins before the update is put in place, or has failed to be; `None` when it
    /// is not to wait for that any longer.
    pub(super) async fn at_rest(&self, apply: &Apply) -> Result<Option<Rest>, Error> {
        let own = &apply.operation_id;
        let concerns = |told: &Haste| match told {
            Haste::None => false,
            Haste::Hurry(id) | Haste::GiveWay(id, _) => id == own,
        };
        let mut haste = self.haste.subscribe();
        tokio::select! {
            rest = tokio::time::timeout(LIMIT, self.nothing_is_under_way()) => {
                rest.map(Some).map_err(|_| Error::Timeout { what: "the end of what runs", after: LIMIT })
            }
            told = haste.wait_for(concerns) => match told.as_deref() {
                Ok(Haste::GiveWay(_, to)) => Err(Error::Conflict {
                    what: "update".into(),
                    reason: format!("it waited for what runs, and gave way to the update {to:?}, which does not"),
                }),
                _ => Ok(None),
            },
        }
    }

    async fn nothing_is_under_way(&self) -> Rest {
        loop {
            let rest = self.engine.at_rest().await;
            if self.transfers.under_way() == 0 {
                return rest;
            }
            drop(rest);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Has the update that waits end for `other`; resolves when it does not wait any longer.
    pub(super) async fn give_way(&self, waiting: &Progress, other: &Apply) {
        let mut status = self.status.subscribe();
        let (from, to) = (waiting.operation_id.clone(), other.operation_id.clone());
        self.haste.send_replace(Haste::GiveWay(from, to));
        let waits = |progress: &Progress| {
            progress.operation_id == waiting.operation_id && progress.stage == Stage::WaitingForIdle
        };
        // The sender is ours, so this ends with the wait.
        let _ = status
            .wait_for(|status| !status.progress.as_ref().is_some_and(waits))
            .await;
    }
}
