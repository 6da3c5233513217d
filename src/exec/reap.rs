//! Waits. Whoever accompanies a child waits for it by its descriptor; the reaper waits for whatever else has ended: the
//! orphans that come to PID 1 or to a subreaper, and children whose companion is late.
//!
//! A zombie keeps its pid until it is waited for, and nobody waits by a bare pid that he has not just seen as a zombie
//! under the registry's lock, so no exit is stolen and no pid mistaken for another's:
//!
//! ```text
//!   SIGCHLD -> peek (WNOWAIT) -> being born?   leave it: whoever gives birth is about to register it
//!                                registered?   wait, put its exit where its companion finds it
//!                                neither:      orphan, wait and forget
//! ```
//!
//! A child writes its own pid into its [`Birth`] before it does anything that could end it, so a birth under way is
//! recognised without waiting for it: one that hangs (a program on a dead file system) holds nobody up.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::sync::Notify;

use super::birth::{Birth, StartFailure};
use super::cradle::Born;
use super::sys::{self, Ended};
use super::watch::Watch;
use crate::error::Error;
use crate::lifecycle::Tasks;

/// How long orphans may stay zombies: under load the reaper looks once for many ends.
const PATIENCE: Duration = Duration::from_millis(20);

/// How long newborns are waited for until a pipe is said to be held: one may hang for as long as a file system does.
const NEWBORNS: Duration = Duration::from_millis(200);

/// How one child ended, and when it was waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reaped {
    pub(super) ended: Ended,
    pub(super) at: Instant,
}

/// Knows every child, and reaps whatever nobody else does.
#[derive(Debug, Default)]
pub(super) struct Reaper {
    registry: Mutex<Registry>,
    /// The reaper was held up by a birth, or waits for the last child, and wants to hear of ends and births.
    curious: AtomicBool,
    /// What the reaper wanted to hear.
    news: Notify,
    orphans: AtomicU64,
}

#[derive(Debug, Default)]
struct Registry {
    children: HashMap<i32, Arc<Registered>>,
    births: Vec<Arc<Birth>>,
}

/// A child that was born and not waited for.
#[derive(Debug)]
struct Registered {
    pidfd: Arc<OwnedFd>,
    /// Its exit, when the reaper was first.
    reaped: OnceLock<Reaped>,
}

/// A child that is accompanied. Dropped before its end it is left to the reaper.
#[derive(Debug)]
pub(super) struct Child {
    reaper: Arc<Reaper>,
    pid: i32,
    registered: Arc<Registered>,
    exit: Watch,
    reaped: Option<Reaped>,
}

/// Keeps `SIGCHLD` from every thread that is started from now on, so that the reaper can read it from a descriptor: no
/// handler interrupts anybody, and a thousand ends while it is busy are one wake-up. Children start with no signal
/// blocked. Also sees to it that the kernel keeps the ends of children for us.
pub(super) fn hold_child_signals() -> Result<(), Error> {
    let fail = |source| Error::Io {
        doing: "listen for SIGCHLD".into(),
        source,
    };
    sys::stop_ignoring_children().map_err(fail)?;
    child_signal().thread_block().map_err(|errno| fail(errno.into()))
}

fn child_signal() -> SigSet {
    SigSet::from(Signal::SIGCHLD)
}

impl Reaper {
    /// Starts a child by `spawn` and registers it before anybody can mistake it for an orphan.
    pub(super) fn register(
        self: &Arc<Self>,
        birth: &Arc<Birth>,
        spawn: impl FnOnce(&Birth) -> Result<Born, StartFailure>,
    ) -> Result<Child, StartFailure> {
        self.registry.lock().births.push(Arc::clone(birth));
        let born = spawn(birth);
        birth.let_go.store(true, Ordering::Release);
        let child = self.end_birth(birth, born);
        self.tell();
        child
    }

    fn end_birth(
        self: &Arc<Self>,
        birth: &Arc<Birth>,
        born: Result<Born, StartFailure>,
    ) -> Result<Child, StartFailure> {
        let mut registry = self.registry.lock();
        registry.births.retain(|other| !Arc::ptr_eq(other, birth));
        let Born { pid, pidfd } = born?;
        let pidfd = Arc::new(pidfd);
        let registered = Arc::new(Registered {
            pidfd: Arc::clone(&pidfd),
            reaped: OnceLock::new(),
        });
        registry.children.insert(pid, Arc::clone(&registered));
        Ok(Child {
            reaper: Arc::clone(self),
            pid,
            registered,
            exit: Watch::new(pidfd, Interest::READABLE),
            reaped: None,
        })
    }

    /// The children that were not waited for. A number that is free when the answer is used is not given out again before
    /// all others were.
    pub(super) fn leaders(&self) -> HashSet<i32> {
        let registry = self.registry.lock();
        let living = registry.children.iter();
        let living = living.filter(|(_, child)| child.reaped.get().is_none());
        living.map(|(pid, _)| *pid).collect()
    }

    /// Resolves when no child that is being born now holds copies of the daemon's descriptors any more, or after
    /// [`NEWBORNS`]: until then a pipe may seem to be held that nobody holds. On a crowded machine a newborn may have to
    /// wait for a processor.
    pub(super) async fn newborns_let_go(&self) {
        let births = self.registry.lock().births.clone();
        let deadline = tokio::time::Instant::now() + NEWBORNS;
        for birth in births {
            while !birth.let_go.load(Ordering::Acquire) && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Whether a child of this number has not been waited for.
    pub(super) fn knows(&self, pid: i32) -> bool {
        self.registry.lock().children.contains_key(&pid)
    }

    /// Children that have not been waited for.
    pub(super) fn living(&self) -> usize {
        self.registry.lock().children.len()
    }

    /// Orphans reaped since the start.
    pub(super) fn orphans(&self) -> u64 {
        self.orphans.load(Ordering::Relaxed)
    }

    /// The pillar: reaps until the process trees were killed and no child is left.
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
                () = self.news.notified() => {}
                () = tasks.killing() => return self.until_all_are_gone().await,
            }
        }
    }

    async fn until_all_are_gone(&self) -> Result<(), Error> {
        loop {
            self.sweep();
            self.curious.store(true, Ordering::SeqCst);
            // Asked anew after each wake: a child may have been born since the last one.
            if self.living() == 0 {
                return Ok(());
            }
            self.news.notified().await;
        }
    }

    /// Waits for every zombie there is, but for one that is being born: it hides those behind it for a moment.
    fn sweep(&self) {
        self.curious.store(true, Ordering::SeqCst);
        while let Some(pid) = sys::peek_zombie() {
            // Held until the wait is over: nobody registers a child that got the pid of this one meanwhile.
            let mut registry = self.registry.lock();
            if registry.is_being_born(pid) {
                return;
            }
            match registry.children.get(&pid) {
                // The zombie was waited for meanwhile, and one of ours that runs has its pid by now.
                Some(child) if !child.has_ended() => {}
                Some(_) => drop(registry.children.remove(&pid)),
                None if sys::bury(pid) => drop(self.orphans.fetch_add(1, Ordering::Relaxed)),
                None => {}
            }
        }
        self.curious.store(false, Ordering::SeqCst);
    }

    fn forget(&self, child: &Child) {
        let mut registry = self.registry.lock();
        let same = |registered: &Arc<Registered>| Arc::ptr_eq(registered, &child.registered);
        if registry.children.get(&child.pid).is_some_and(same) {
            registry.children.remove(&child.pid);
        }
        drop(registry);
        self.tell();
    }

    fn tell(&self) {
        if self.curious.load(Ordering::SeqCst) {
            self.news.notify_one();
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
    fn is_being_born(&self, pid: i32) -> bool {
        self.births
            .iter()
            .any(|birth| birth.pid.load(Ordering::Acquire) == pid)
    }
}

impl Registered {
    /// Waits in the place of the companion, who may have been faster. False while it runs.
    fn has_ended(&self) -> bool {
        match sys::wait(self.pidfd.as_fd()) {
            Ok(ended) => {
                let at = Instant::now();
                // Nobody else sets it.
                let _ = self.reaped.set(Reaped { ended, at });
                true
            }
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
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
        &self.registered.pidfd
    }

    /// Resolves when it has ended, at once when that is known. Cancel-safe.
    pub(super) async fn exited(&mut self) -> Result<Reaped, Error> {
        if let Some(reaped) = self.reaped {
            return Ok(reaped);
        }
        let ended = self.exit.until_ready(sys::wait).await;
        self.note(ended)
    }

    /// Waits for it if it has ended; says whether its end is known now.
    pub(super) fn has_exited(&mut self) -> Result<bool, Error> {
        if self.reaped.is_some() {
            return Ok(true);
        }
        match sys::wait(self.exit.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            ended => self.note(ended).map(|_| true),
        }
    }

    fn note(&mut self, ended: io::Result<Ended>) -> Result<Reaped, Error> {
        // What the reaper waits for under the lock is there once `forget` has had the lock.
        self.reaper.forget(self);
        let reaped = match (ended, self.registered.reaped.get()) {
            (Ok(ended), _) => Reaped {
                ended,
                at: Instant::now(),
            },
            (Err(_), Some(reaped)) => *reaped,
            (Err(source), None) => {
                return Err(Error::Io {
                    doing: format!("wait for process {}", self.pid),
                    source,
                });
            }
        };
        self.reaped = Some(reaped);
        Ok(reaped)
    }
}

impl AsFd for Child {
    /// Readable when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.exit.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.reaped.is_none() {
            self.reaper.forget(self);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newborn_that_hangs_is_not_waited_for_without_end() {
        let reaper = Reaper::default();
        reaper.registry.lock().births.push(Arc::default());
        let waiting = tokio::time::timeout(Duration::from_secs(5), reaper.newborns_let_go());
        assert!(
            waiting.await.is_ok(),
            "one that never lets go holds up the answer of another command"
        );
    }
}
