//! Several commands in one request: a bounded number of them at a time, answered in the order in which they were asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{StreamExt, stream};

use super::{Call, Reply, Rooms, Run};
use crate::error::Error;
use crate::exec::{Exit, Finished};

/// Several commands.
#[derive(Debug)]
pub struct Batch {
    /// The commands.
    pub runs: Vec<BatchRun>,
    /// So many at a time, at least one.
    pub parallel: usize,
    /// Whether those that have not begun are skipped once one has failed.
    pub stop_on_failure: bool,
}

/// One of them.
#[derive(Debug)]
pub struct BatchRun {
    /// The command.
    pub run: Run,
    /// The key under which a repeat gets its outcome.
    pub idempotency_key: Option<String>,
    /// Whether its caller wants the exact bytes; carried through to the answer.
    pub exact: bool,
}

/// What came of one of them.
#[derive(Debug)]
pub enum BatchOutcome {
    /// It ran to its end.
    Ran {
        /// How it ended and what it wrote.
        finished: Arc<Finished>,
        /// See [`BatchRun::exact`].
        exact: bool,
    },
    /// It did not run, or its outcome is not known.
    Failed(Error),
    /// It was not begun because another one had failed.
    Skipped,
}

impl BatchOutcome {
    /// Anything but an end with code 0.
    fn is_failure(&self) -> bool {
        match self {
            Self::Ran { finished, .. } => finished.end.exit != Exit::Code(0) || finished.end.timed_out,
            Self::Failed(_) | Self::Skipped => true,
        }
    }
}

impl Rooms {
    /// Commands that were begun run on when the caller goes away; the others are not begun then.
    pub(super) async fn batch(&self, call: &Call, batch: Batch) -> Vec<BatchOutcome> {
        let (stop, has_failed) = (batch.stop_on_failure, AtomicBool::new(false));
        let outcomes = stream::iter(batch.runs).map(|asked| async {
            if stop && has_failed.load(Ordering::Relaxed) {
                return BatchOutcome::Skipped;
            }
            let outcome = self.batch_run(call, asked).await;
            if outcome.is_failure() {
                has_failed.store(true, Ordering::Relaxed);
            }
            outcome
        });
        outcomes.buffered(batch.parallel.max(1)).collect().await
    }

    async fn batch_run(&self, call: &Call, asked: BatchRun) -> BatchOutcome {
        let call = Call {
            idempotency_key: asked.idempotency_key,
            ..call.clone()
        };
        let exact = asked.exact;
        match self.run(&call, asked.run).await {
            Ok(Reply::Ran(finished)) => BatchOutcome::Ran { finished, exact },
            Ok(other) => BatchOutcome::Failed(Error::Internal {
                reason: format!("a run answered {other:?}"),
            }),
            Err(error) => BatchOutcome::Failed(error),
        }
    }
}
