//! The one owner of every wait: it reaps our children and, as PID 1 or subreaper, the orphans of others.
//!
//! A zombie keeps its pid until it is waited for, and only this file waits, so a pid is never mistaken for another's:
//!
//! ```text
//!   SIGCHLD -> peek (WNOWAIT) -> registered?  yes -> wait, deliver the exit to its owner
//!                                             no  -> a spawn may be about to register it: wait for the spawns that
//!                                                    are under way (the gate), look again; still unknown -> orphan,
//!                                                    wait and forget
//! ```
//!
//! Spawns hold the gate shared, so they do not wait for each other; only an unknown zombie closes it for a moment.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::sys::{self, Ended, StartFailure};
use crate::error::Error;
use crate::lifecycle::Tasks;

/// How one child ended, and when it was waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reaped {
    pub(super) ended: Ended,
    pub(super) at: Instant,
}

/// The registry of children that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Reaper {
    gate: RwLock<()>,
    waiting: Mutex<HashMap<i32, oneshot::Sender<Reaped>>>,
    orphans: AtomicU64,
}

impl Reaper {
    /// Starts a child by `spawn` and registers it before anything can reap it.
    pub(super) fn register<T>(
        &self,
        spawn: impl FnOnce() -> Result<(i32, T), StartFailure>,
    ) -> Result<(T, oneshot::Receiver<Reaped>), StartFailure> {
        let _open = self.gate.read();
        let (pid, child) = spawn()?;
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().insert(pid, sender);
        Ok((child, receiver))
    }

    /// Children that are registered and have not been reaped.
    pub(super) fn living(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Orphans reaped since the start.
    pub(super) fn orphans(&self) -> u64 {
        self.orphans.load(Ordering::Relaxed)
    }

    /// The pillar: reaps whenever a child has ended, until the process trees were killed and nothing is left.
    pub(super) async fn run(self: std::sync::Arc<Self>, tasks: Tasks) -> Result<(), Error> {
        let mut ended = signal(SignalKind::child()).map_err(|source| Error::Io {
            doing: "listen for SIGCHLD".into(),
            source,
        })?;
        let mut killing = false;
        loop {
            self.reap_all();
            // Asked anew after each wake: a child may have been born since the last one.
            if killing && self.living() == 0 {
                return Ok(());
            }
            tokio::select! {
                _ = ended.recv() => {}
                () = tasks.killing(), if !killing => killing = true,
            }
        }
    }

    /// Waits for every zombie there is.
    fn reap_all(&self) {
        while let Some(pid) = sys::peek_zombie() {
            let sender = self.take(pid);
            // A birth that failed reaps its own child, maybe between the look and this; others may be there still.
            let Some(ended) = sys::wait(pid) else { continue };
            match sender {
                // The owner may have gone; the child is reaped all the same.
                Some(sender) => drop(sender.send(Reaped {
                    ended,
                    at: Instant::now(),
                })),
                None => drop(self.orphans.fetch_add(1, Ordering::Relaxed)),
            }
        }
    }

    fn take(&self, pid: i32) -> Option<oneshot::Sender<Reaped>> {
        let known = self.waiting.lock().remove(&pid);
        known.or_else(|| {
            drop(self.gate.write());
            self.waiting.lock().remove(&pid)
        })
    }
}
