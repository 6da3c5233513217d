//! Long-lived tasks, ordinary work, and the order in which everything stops.
//!
//! A **pillar** (a door, the heartbeat, the reaper) is named and must not end by itself: when it does, the daemon
//! stops with its error. **Work** is everything else; it is counted, so that a stop can wait for it.
//!
//! ```text
//!   running --stop()--> draining --kill()--> killing --> ended
//!            doors refuse         trees get          runtime is
//!            new work, links      TERM then KILL     shut down
//!            say going offline
//! ```

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::error::Error;

/// The handle that rooms and doors use to run tasks and to learn that the daemon stops. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    stop: CancellationToken,
    kill: CancellationToken,
    work: TaskTracker,
    pillars: Mutex<JoinSet<(&'static str, Result<(), Error>)>>,
}

impl Tasks {
    /// A fresh, running set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a piece of work. It should end soon after [`Tasks::killing`]; a stop waits for it.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that starts tasks"
    )]
    pub fn spawn<F>(&self, name: &'static str, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let span = tracing::debug_span!("task", name);
        tokio::spawn(self.inner.work.track_future(future.instrument(span)))
    }

    /// Starts work that ends by itself and that a stop does not wait for (a connection's own task, a drain).
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that starts tasks"
    )]
    pub fn detach<F>(&self, name: &'static str, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(future.instrument(tracing::debug_span!("task", name)))
    }

    /// Starts a pillar: it must run until [`Tasks::stopping`] and return `Ok` only then.
    pub fn pillar<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let span = tracing::debug_span!("pillar", name);
        self.inner
            .pillars
            .lock()
            .spawn(async move { (name, future.await) }.instrument(span));
    }

    /// Doors refuse new work from now on.
    pub fn stop(&self) {
        self.inner.stop.cancel();
    }

    /// Process trees are killed from now on.
    pub fn kill(&self) {
        self.inner.kill.cancel();
    }

    /// Whether the daemon takes no new work.
    pub fn is_stopping(&self) -> bool {
        self.inner.stop.is_cancelled()
    }

    /// Resolves when the daemon takes no new work any more. Cancel-safe.
    pub async fn stopping(&self) {
        self.inner.stop.cancelled().await;
    }

    /// Resolves when every process tree is to be killed. Cancel-safe.
    pub async fn killing(&self) {
        self.inner.kill.cancelled().await;
    }

    /// Waits until no work is left, at most `limit`; says whether that came true.
    pub async fn idle(&self, limit: Duration) -> bool {
        self.inner.work.close();
        tokio::time::timeout(limit, self.inner.work.wait()).await.is_ok()
    }

    /// Number of pieces of work that run now.
    pub fn working(&self) -> usize {
        self.inner.work.len()
    }

    /// Resolves with the name and the end of the next pillar that ends, `None` when none is left. Cancel-safe.
    pub async fn next_pillar(&self) -> Option<(&'static str, Result<(), Error>)> {
        let ended = std::future::poll_fn(|context| self.inner.pillars.lock().poll_join_next(context)).await?;
        Some(ended.unwrap_or_else(|panic| {
            (
                "panicked",
                Err(Error::Internal {
                    reason: format!("a pillar panicked: {panic}"),
                }),
            )
        }))
    }
}

/// What is on its way into this machine or out of it, counted for whoever must not cut it off. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Transfers(Arc<AtomicUsize>);

/// One of [`Transfers`], under way until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Transfer(Transfers);

impl Transfers {
    /// Counts one more.
    pub fn begin(&self) -> Transfer {
        self.0.fetch_add(1, Ordering::Relaxed);
        Transfer(self.clone())
    }

    /// How many are under way.
    pub fn under_way(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A runtime on the thread of whoever asks, for programs that are over soon.
///
/// # Errors
///
/// [`Error::Io`] when the system has no descriptors for it.
pub fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|source| Error::Io {
        doing: "start the runtime".into(),
        source,
    })
}
