//! The border between the async callers and the blocking pool: what may wait for a disk happens behind it, and what belongs
//! to the pool is also dropped there (closing a large unnamed file frees its blocks, which can take long).

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::error::Error;

/// Work on files at once. The pool has 512 threads: a file system that hangs may take these and leaves the others to
/// commands and their end; more work waits for a place.
static PLACES: Semaphore = Semaphore::const_new(256);

/// Does `work` on the blocking pool. When the caller goes away the work still runs to its end.
pub(super) async fn run<T, F>(work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Error> + Send + 'static,
{
    let place = PLACES.acquire().await.map_err(|_| Error::Stopping)?;
    let placed = move || {
        let _until_the_end = place;
        work()
    };
    joined(spawn_blocking(placed)).await
}

/// Waits for work on the blocking pool; a panic there is a bug and becomes [`Error::Internal`].
pub(super) async fn joined<T>(work: JoinHandle<Result<T, Error>>) -> Result<T, Error> {
    match work.await {
        Ok(result) => result,
        Err(reason) => Err(Error::Internal {
            reason: format!("work on a file ended early: {reason}"),
        }),
    }
}

/// Something that is dropped on the blocking pool when an async caller goes away while holding it.
#[derive(Debug)]
pub(super) struct Parked<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Parked<T> {
    /// Parks `value`.
    pub(super) fn new(value: T) -> Self {
        Self(Some(value))
    }

    /// Takes it back, to hand it to the pool.
    pub(super) fn take(mut self) -> Result<T, Error> {
        self.0.take().ok_or_else(|| Error::Internal {
            reason: "a parked value was taken twice".into(),
        })
    }

    /// Drops it on the pool and waits for that.
    pub(super) async fn discard(self) -> Result<(), Error> {
        let value = self.take()?;
        run(move || {
            drop(value);
            Ok(())
        })
        .await
    }
}

impl<T: Send + 'static> Drop for Parked<T> {
    fn drop(&mut self) {
        // Outside a runtime (it is being shut down) it is dropped here.
        if let (Some(value), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn_blocking(move || drop(value));
        }
    }
}
