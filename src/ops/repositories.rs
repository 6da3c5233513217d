//! The operations of the git room: who may do what, and what outlives its caller.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Call, Op, Reply, Rooms, Scope};
use crate::error::Error;
use crate::git::{Did, Progress, Transfer, Trust};

/// Steps of progress that wait to be read; beyond them some are passed over.
const STEPS: usize = 64;

/// A transfer that tells its progress; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Underway {
    pub(super) progress: mpsc::Receiver<Progress>,
    pub(super) work: Ending,
}

/// A task that ends with its reader.
#[derive(Debug)]
pub(super) struct Ending(pub(super) JoinHandle<Result<Did, Error>>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Rooms {
    pub(super) async fn dispatch_git(&self, call: &Call, op: Op) -> Result<Reply, Error> {
        let what = op.name();
        let git = Arc::clone(&self.git);
        let trust = trust(call);
        match op {
            Op::GitAsk { path, query } => {
                let path = self.unconfined(call, what, &path)?;
                git.ask(&path, query).await.map(Reply::GitAnswer)
            }
            Op::GitAct { path, action } => {
                let path = self.unconfined(call, what, &path)?;
                // What is begun is done, whoever went away: half a rebase helps nobody.
                let work = self
                    .tasks
                    .spawn("git", async move { git.act(&path, *action, trust).await });
                done(work.await).map(Reply::GitDid)
            }
            Op::GitTransfer { path, transfer } => {
                let path = self.unconfined(call, what, &path)?;
                let work = async move { git.transfer(&path, *transfer, trust, None).await };
                // It ends with whoever asked.
                let mut work = Ending(self.tasks.spawn("git", work));
                done((&mut work.0).await).map(Reply::GitDid)
            }
            other => Err(Error::Internal {
                reason: format!("{} is no operation on repositories", other.name()),
            }),
        }
    }

    /// Begins a transfer whose progress is followed.
    pub(super) fn transfer(&self, call: &Call, path: &Path, transfer: Transfer) -> Result<Underway, Error> {
        self.admit(call, transfer.name())?;
        let path = self.unconfined(call, transfer.name(), path)?;
        let (sender, progress) = mpsc::channel(STEPS);
        let (git, trust) = (Arc::clone(&self.git), trust(call));
        let work = async move { git.transfer(&path, transfer, trust, Some(sender)).await };
        Ok(Underway {
            progress,
            work: Ending(self.tasks.spawn("git", work)),
        })
    }
}

/// What the caller may have git do besides.
fn trust(call: &Call) -> Trust {
    if call.principal.allows(Scope::Full) {
        Trust::Full
    } else {
        Trust::Workspace
    }
}

pub(super) fn done(outcome: Result<Result<Did, Error>, tokio::task::JoinError>) -> Result<Did, Error> {
    outcome.map_err(|panic| Error::Internal {
        reason: format!("work on a repository ended early: {panic}"),
    })?
}
