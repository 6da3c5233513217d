//! The one owner of every wait: it reaps our children and, as PID 1 or subreaper, the orphans of others.
//!
//! A zombie keeps its pid until it is waited for, and only this file waits, so a pid is never mistaken for another's:
//!
//! ```text
//!   SIGCHLD -> peek (WNOWAIT) -> registered?  yes ---------> wait, deliver the exit to its owner
//!                                being born?  yes ---------> leave it; its registration wakes the reaper again
//!                                neither ------------------> orphan: wait and forget
//! ```
//!
//! A child writes its own pid into its [`Slot`] before it does anything that could end it, so a birth under way is
//! recognised without waiting for it: one that hangs (a program on a dead file system) holds nobody up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};

use super::sys::{self, Ended, StartFailure};
use crate::error::Error;
use crate::lifecycle::Tasks;

/// How one child ended, and when it was waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reaped {
    pub(super) ended: Ended,
    pub(super) at: Instant,
}

/// Where a child that is being born writes its pid; 0 until then.
pub(super) type Slot = AtomicI32;

/// Children that somebody waits for, and orphans.
#[derive(Debug, Default)]
pub(super) struct Reaper {
    registry: Mutex<Registry>,
    /// A child was registered that may have been seen, and left, as a zombie before.
    registered: Notify,
    orphans: AtomicU64,
}

#[derive(Debug, Default)]
struct Registry {
    waiting: HashMap<i32, oneshot::Sender<Reaped>>,
    births: Vec<Arc<Slot>>,
}

/// Whose zombie it is.
enum Whose {
    Ours(oneshot::Sender<Reaped>),
    BeingBorn,
    Nobodys,
}

impl Reaper {
    /// Starts a child by `spawn` and registers it before anything can reap it. A child whose program could not be run
    /// is reaped without anybody being told.
    pub(super) fn register<T>(
        &self,
        spawn: impl FnOnce(&Slot) -> Result<(i32, T), StartFailure>,
    ) -> Result<(T, oneshot::Receiver<Reaped>), StartFailure> {
        let slot = Arc::new(Slot::new(0));
        self.registry.lock().births.push(Arc::clone(&slot));
        let outcome = spawn(&slot);
        let (sender, receiver) = oneshot::channel();
        {
            let mut registry = self.registry.lock();
            registry.births.retain(|other| !Arc::ptr_eq(other, &slot));
            let pid = outcome
                .as_ref()
                .map_or_else(|_| slot.load(Ordering::Acquire), |(pid, _)| *pid);
            if pid > 0 {
                registry.waiting.insert(pid, sender);
            }
        }
        self.registered.notify_one();
        outcome.map(|(_, child)| (child, receiver))
    }

    /// Children that are registered and have not been reaped.
    pub(super) fn living(&self) -> usize {
        self.registry.lock().waiting.len()
    }

    /// Orphans reaped since the start.
    pub(super) fn orphans(&self) -> u64 {
        self.orphans.load(Ordering::Relaxed)
    }

    /// The pillar: reaps whenever a child has ended, until the process trees were killed and nothing is left.
    pub(super) async fn run(self: Arc<Self>, tasks: Tasks) -> Result<(), Error> {
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
                () = self.registered.notified() => {}
                () = tasks.killing(), if !killing => killing = true,
            }
        }
    }

    /// Waits for every zombie there is.
    fn reap_all(&self) {
        while let Some(pid) = sys::peek_zombie() {
            let whose = self.whose(pid);
            if matches!(whose, Whose::BeingBorn) {
                return;
            }
            let Some(ended) = sys::wait(pid) else { continue };
            match whose {
                // The owner may have gone; the child is reaped all the same.
                Whose::Ours(owner) => drop(owner.send(Reaped {
                    ended,
                    at: Instant::now(),
                })),
                Whose::BeingBorn | Whose::Nobodys => drop(self.orphans.fetch_add(1, Ordering::Relaxed)),
            }
        }
    }

    fn whose(&self, pid: i32) -> Whose {
        let mut registry = self.registry.lock();
        if registry
            .births
            .iter()
            .any(|slot| slot.load(Ordering::Acquire) == pid)
        {
            return Whose::BeingBorn;
        }
        registry.waiting.remove(&pid).map_or(Whose::Nobodys, Whose::Ours)
    }
}
