//! A search on its way: the threads on one side, whoever reads on the other.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::budget::Budget;
use super::names::Best;
use super::report::Report;
use super::request::{Found, Kind, Request, Summary};
use super::walk::{Compiled, Shared, Visitors, plan};
use crate::error::Error;

/// Results that wait to be read; then the threads wait too.
const WAITING: usize = 1024;
/// Results that are read at once.
const PIECE: usize = 256;
/// How long the threads may take to notice that the time is over.
const GRACE: Duration = Duration::from_millis(500);

/// What a search says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// A result.
    Found(Box<Found>),
    /// The last thing.
    Done(Box<Summary>),
}

/// All of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// By path and line; fuzzy ones best first.
    pub found: Vec<Found>,
    /// How it ended.
    pub summary: Summary,
}

/// A search on its way; it ends when this is dropped.
#[derive(Debug)]
pub struct Running {
    said: mpsc::Receiver<Said>,
    shared: Arc<Shared>,
}

/// Where threads put what they found.
#[derive(Debug)]
pub(super) struct Outlet(mpsc::Sender<Said>);

impl Outlet {
    /// Hands over a result, waiting for room; says whether anybody takes it.
    pub(super) fn found(&self, found: Found) -> bool {
        self.0.blocking_send(Said::Found(Box::new(found))).is_ok()
    }
}

/// Checks everything that can be wrong and starts the threads.
pub(super) async fn start(
    path: PathBuf,
    request: Request,
    turn: OwnedSemaphorePermit,
) -> Result<Running, Error> {
    let (sender, said) = mpsc::channel(WAITING);
    let prepared = tokio::task::spawn_blocking(move || {
        request.check()?;
        let compiled = Compiled::new(&request)?;
        std::fs::metadata(&path).map_err(|source| Error::from_path_io("path", "search", &path, source))?;
        let now = Instant::now();
        let report = Arc::new(Report::new(now));
        let walk = plan(&path, &request, &report)?;
        let shared = Shared {
            budget: Budget::new(&request, now),
            report,
            outlet: Outlet(sender.clone()),
            best: Mutex::new(Best::new(request.limit)),
            root: path,
            request,
        };
        Ok((walk, compiled, Arc::new(shared), sender))
    });
    let (walk, compiled, shared, sender) = prepared.await.map_err(|panic| Error::Internal {
        reason: format!("a search could not begin: {panic}"),
    })??;
    let searched = Arc::clone(&shared);
    drop(tokio::task::spawn_blocking(move || {
        let _until_the_end = turn;
        let mut visitors = Visitors {
            shared: &searched,
            compiled: &compiled,
        };
        walk.visit(&mut visitors);
        tell_best(&searched);
        let summary = searched.report.summary(&searched.budget);
        // Whoever went away does not need it.
        let _ = sender.blocking_send(Said::Done(Box::new(summary)));
    }));
    Ok(Running { said, shared })
}

/// Tells what a fuzzy search found, the best first.
fn tell_best(shared: &Shared) {
    let (best, has_more) = shared.best.lock().take();
    if has_more {
        shared.budget.has_more();
    }
    for found in best {
        if !shared.outlet.found(found) {
            return;
        }
    }
}

impl Running {
    /// What it says next, some at a time; the summary is the last. Cancel-safe.
    ///
    /// It comes at its time: a thread that is busy with one long line, or hangs at a disk, is not waited for. It keeps its
    /// turn until it is done.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] when its threads ended without a summary.
    pub async fn next(&mut self) -> Result<Vec<Said>, Error> {
        let mut said = Vec::new();
        let late = self
            .shared
            .budget
            .until()
            .and_then(|until| until.checked_add(GRACE));
        let over = async {
            match late {
                Some(late) => tokio::time::sleep_until(late.into()).await,
                None => std::future::pending().await,
            }
        };
        let count = tokio::select! {
            biased;
            count = self.said.recv_many(&mut said, PIECE) => count,
            () = over => {
                // To ask is what ends it.
                let _ = self.shared.budget.is_over();
                let summary = self.shared.report.summary(&self.shared.budget);
                return Ok(vec![Said::Done(Box::new(summary))]);
            }
        };
        if count == 0 {
            return Err(Error::Internal {
                reason: "a search ended without saying so".into(),
            });
        }
        Ok(said)
    }

    /// All of it, in order.
    ///
    /// # Errors
    ///
    /// As [`Running::next`].
    pub async fn answer(mut self) -> Result<Answer, Error> {
        let mut found = Vec::new();
        let mut summary = None;
        while summary.is_none() {
            for said in self.next().await? {
                match said {
                    Said::Found(one) => found.push(*one),
                    Said::Done(done) => summary = Some(*done),
                }
            }
        }
        let summary = summary.unwrap_or_default();
        if self.shared.request.kind != Kind::Fuzzy {
            let place = |found: &Found| found.line.as_ref().map_or(0, |place| place.number);
            found.sort_by(|one, other| (&one.path, place(one)).cmp(&(&other.path, place(other))));
        }
        Ok(Answer { found, summary })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.budget.abandon();
    }
}
