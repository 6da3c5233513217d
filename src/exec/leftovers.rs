//! The end of everything at once: what this daemon started, and what one before it that was killed has left running.

use std::sync::Arc;

use super::engine::Engine;
use super::environment::MARKER;
use super::kill;
use super::members::Tree;
use super::proc;
use crate::error::Error;
use crate::ids::InstanceId;

impl Engine {
    /// Ends every process that this daemon ever started and that is still alive, background children too: TERM,
    /// the grace of the configuration, KILL, for all trees in one go. Nothing is born from now on. Answers who would not end.
    pub async fn kill_everything(self: &Arc<Self>) -> Vec<i32> {
        self.births.close();
        self.spare_births.close();
        let tree = Tree {
            leader: None,
            marker: format!("{MARKER}={}:", self.instance).into_bytes(),
            orphans: true,
            siblings: None,
        };
        let asked = tree.clone();
        let asking = tokio::task::spawn_blocking(move || kill::signal_tree(&asked, libc::SIGTERM));
        if asking.await.is_ok_and(|asked| !asked.is_empty()) {
            kill::ended_within(&tree, self.kill_grace).await;
        }
        let engine = Arc::clone(self);
        let killing = tokio::task::spawn_blocking(move || {
            let killed = kill::kill_tree(&tree);
            engine.warden.close();
            killed
        });
        killing.await.map(|killed| killed.survivors).unwrap_or_default()
    }

    /// Stops what a daemon that was killed has left running: TERM, the grace of the configuration, KILL. Answers how many.
    pub async fn stop_leftovers(self: &Arc<Self>, killed: InstanceId) -> Result<usize, Error> {
        let tree = Tree {
            leader: None,
            marker: format!("{MARKER}={killed}:").into_bytes(),
            orphans: false,
            siblings: None,
        };
        if proc::carries(std::process::id() as i32, &tree.marker).unwrap_or(false) {
            // We are part of that tree ourselves: started by one of its commands.
            return Ok(0);
        }
        let panicked = |panic: tokio::task::JoinError| Error::Internal {
            reason: panic.to_string(),
        };
        let asked = tree.clone();
        let found = tokio::task::spawn_blocking(move || kill::signal_tree(&asked, libc::SIGTERM));
        let found = found.await.map_err(panicked)?.len();
        if found > 0 {
            kill::ended_within(&tree, self.kill_grace).await;
            tokio::task::spawn_blocking(move || kill::kill_tree(&tree))
                .await
                .map_err(panicked)?;
            let engine = Arc::clone(self);
            tokio::task::spawn_blocking(move || engine.sweep())
                .await
                .map_err(panicked)?;
        }
        Ok(found)
    }

    /// Removes control groups that nobody is in any more. Blocks for a few system calls.
    pub fn sweep(&self) {
        self.warden.sweep();
    }
}
