//! How a git is ended whose time is over, or that nobody waits for any more.
//!
//! It is asked first: git removes its locks and half a clone when it may. A lock that stays would keep every later git out
//! of the repository. What does not go in time, and whatever a hook has left, is killed.

use std::sync::Arc;
use std::time::Duration;

use crate::exec::{Process, Scope};

/// How long git may take to clean up.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// A process that is ended when nobody waits for it.
pub(super) struct Unwanted(pub(super) Arc<Process>);

impl Drop for Unwanted {
    fn drop(&mut self) {
        if self.0.end().is_some() {
            return;
        }
        let process = Arc::clone(&self.0);
        match tokio::runtime::Handle::try_current() {
            // It is over a moment after the grace.
            Ok(runtime) => drop(runtime.spawn(async move { end(&process).await })),
            Err(_) => process.cancel(),
        }
    }
}

/// Asks the whole tree to end, and kills what is left of it.
pub(super) async fn end(process: &Arc<Process>) {
    // Whoever has ended meanwhile needs no signal.
    let _ = process.signal(libc::SIGTERM, Scope::Tree).await;
    let went = process.ended_within(GRACE).await;
    if !went {
        process.cancel();
        process.ended().await;
    }
    // Git has gone and may have left somebody behind who did not listen.
    let _ = process.kill().await;
}
