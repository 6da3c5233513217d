//! Waits: each child is waited for by its owner, and whoever has no owner (the orphans that come to PID 1 or to a
//! subreaper) by the reaper.
//!
//! A zombie keeps its pid until it is waited for, and owners wait by descriptor, so a pid is never mistaken for
//! another's. The reaper must leave the children of owners alone:
//!
//! ```text
//!   SIGCHLD -> peek (WNOWAIT) -> has an owner, or is being born?  yes -> leave it; its owner wakes the reaper again
//!                                                                  no -> orphan: wait and forget
//! ```
//!
//! A child writes its own pid into its [`Birth`] before it does anything that could end it, so a birth under way is
//! recognised without waiting for it: one that hangs (a program on a dead file system) holds nobody up.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::sync::Notify;

use super::sys::{self, Birth, Born, Ended, StartFailure};
use super::watch::Watch;
use crate::error::Error;
use crate::lifecycle::Tasks;

/// How long orphans may stay zombies: under load the reaper looks once for many ends.
const PATIENCE: Duration = Duration::from_millis(20);

/// How one child ended, and when it was waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reaped {
    pub(super) ended: Ended,
    pub(super) at: Instant,
}

/// Knows who has an owner, and reaps who has none.
#[derive(Debug, Default)]
pub(super) struct Reaper {
    registry: Mutex<Registry>,
    /// The reaper has seen, or may see, a zombie that has an owner, and wants to hear when that is gone.
    held_up: AtomicBool,
    /// What the reaper wanted to hear.
    gone: Notify,
    orphans: AtomicU64,
}

#[derive(Debug, Default)]
struct Registry {
    owned: HashSet<i32>,
    births: Vec<Arc<Birth>>,
}

/// A child and the right to wait for it. Dropped before its end it becomes an orphan, which the reaper takes care of.
#[derive(Debug)]
pub(super) struct Child {
    reaper: Arc<Reaper>,
    pid: i32,
    pidfd: Arc<OwnedFd>,
    exit: Watch,
    reaped: Option<Reaped>,
}

/// Keeps `SIGCHLD` from every thread that is started from now on, so that the reaper can read it from a descriptor: no
/// handler interrupts anybody, and a thousand ends while it is busy are one wake-up. Children start with no signal
/// blocked.
pub fn hold_child_signals() -> Result<(), Error> {
    child_signal().thread_block().map_err(|errno| Error::Io {
        doing: "block SIGCHLD".into(),
        source: errno.into(),
    })
}

fn child_signal() -> SigSet {
    SigSet::from(Signal::SIGCHLD)
}

impl Reaper {
    /// Starts a child by `spawn` and makes the caller its owner before anybody can reap it.
    pub(super) fn adopt(
        self: &Arc<Self>,
        spawn: impl FnOnce(&Birth) -> Result<Born, StartFailure>,
    ) -> Result<Child, StartFailure> {
        let birth = Arc::new(Birth::default());
        self.registry.lock().births.push(Arc::clone(&birth));
        let born = spawn(&birth);
        birth.let_go.store(true, Ordering::Release);
        {
            let mut registry = self.registry.lock();
            registry.births.retain(|other| !Arc::ptr_eq(other, &birth));
            if let Ok(born) = &born {
                registry.owned.insert(born.pid);
            }
        }
        if born.is_err() {
            self.tell();
        }
        let Born { pid, pidfd } = born?;
        let pidfd = Arc::new(pidfd);
        Ok(Child {
            reaper: Arc::clone(self),
            pid,
            exit: Watch::new(Arc::clone(&pidfd), Interest::READABLE),
            pidfd,
            reaped: None,
        })
    }

    /// Resolves when no child that is being born now holds copies of the daemon's descriptors any more: until then a
    /// pipe may seem to be held that nobody holds. On a crowded machine a newborn may have to wait for a processor.
    pub(super) async fn newborns_let_go(&self) {
        let births = self.registry.lock().births.clone();
        for birth in births {
            while !birth.let_go.load(Ordering::Acquire) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Children that have an owner and have not been waited for.
    pub(super) fn living(&self) -> usize {
        self.registry.lock().owned.len()
    }

    /// Orphans reaped since the start.
    pub(super) fn orphans(&self) -> u64 {
        self.orphans.load(Ordering::Relaxed)
    }

    /// The pillar: reaps orphans until the process trees were killed and nobody's child is left.
    pub(super) async fn run(self: Arc<Self>, tasks: Tasks) -> Result<(), Error> {
        let fail = |source: io::Error| Error::Io {
            doing: "listen for SIGCHLD".into(),
            source,
        };
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&child_signal(), flags).map_err(|errno| fail(errno.into()))?;
        let mut signals = Watch::new(OwnedFd::from(signals), Interest::READABLE);
        loop {
            self.sweep();
            tokio::select! {
                seen = signals.until_ready(consume) => {
                    seen.map_err(fail)?;
                    tokio::select! {
                        () = tokio::time::sleep(PATIENCE) => {}
                        () = tasks.killing() => {}
                    }
                }
                () = self.gone.notified() => {}
                () = tasks.killing() => return self.until_all_are_gone().await,
            }
        }
    }

    async fn until_all_are_gone(&self) -> Result<(), Error> {
        loop {
            self.sweep();
            self.held_up.store(true, Ordering::SeqCst);
            // Asked anew after each wake: a child may have been born since the last one.
            if self.living() == 0 {
                return Ok(());
            }
            self.gone.notified().await;
        }
    }

    /// Reaps every orphan that can be seen: a zombie with an owner hides those behind it until its owner has waited.
    fn sweep(&self) {
        self.held_up.store(true, Ordering::SeqCst);
        while let Some(pid) = sys::peek_zombie() {
            // The lock is held while an orphan is reaped, so that nobody is born with its pid meanwhile.
            let registry = self.registry.lock();
            if registry.has_owner(pid) {
                return;
            }
            if sys::bury(pid) {
                self.orphans.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.held_up.store(false, Ordering::SeqCst);
    }

    fn disown(&self, pid: i32) {
        self.registry.lock().owned.remove(&pid);
        self.tell();
    }

    /// Tells the reaper that a zombie which may have held it up is gone, if it wants to hear that.
    fn tell(&self) {
        if self.held_up.load(Ordering::SeqCst) {
            self.gone.notify_one();
        }
    }
}

/// Takes a pending signal off the descriptor.
fn consume(signals: BorrowedFd<'_>) -> io::Result<()> {
    let mut record = [0; size_of::<nix::sys::signalfd::siginfo>()];
    nix::unistd::read(signals, &mut record)?;
    Ok(())
}

impl Registry {
    fn has_owner(&self, pid: i32) -> bool {
        self.owned.contains(&pid)
            || self
                .births
                .iter()
                .any(|birth| birth.pid.load(Ordering::Acquire) == pid)
    }
}

impl Child {
    /// Its pid, which is nobody else's until it was waited for.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// Who knows of all births.
    pub(super) fn reaper(&self) -> &Reaper {
        &self.reaper
    }

    /// What it is signalled by.
    pub(super) fn pidfd(&self) -> &Arc<OwnedFd> {
        &self.pidfd
    }

    /// Resolves when it has ended, at once when that is known. Cancel-safe.
    pub(super) async fn exited(&mut self) -> Result<Reaped, Error> {
        if self.reaped.is_none() {
            let ended = self.exit.until_ready(sys::wait).await;
            self.note(ended)?;
        }
        self.reaped.ok_or_else(|| Error::Internal {
            reason: "an end was noted and is not there".into(),
        })
    }

    /// Waits for it if it has ended; says whether its end is known now.
    pub(super) fn has_exited(&mut self) -> Result<bool, Error> {
        if self.reaped.is_some() {
            return Ok(true);
        }
        match sys::wait(self.pidfd.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            ended => self.note(ended).map(|()| true),
        }
    }

    fn note(&mut self, ended: io::Result<Ended>) -> Result<(), Error> {
        let ended = ended.map_err(|source| Error::Io {
            doing: format!("wait for process {}", self.pid),
            source,
        })?;
        let at = Instant::now();
        self.reaped = Some(Reaped { ended, at });
        self.reaper.disown(self.pid);
        Ok(())
    }
}

impl AsFd for Child {
    /// Readable when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.reaped.is_none() {
            self.reaper.disown(self.pid);
        }
    }
}
