//! A birth under way, as other threads than the one that gives it see it, and how it can fail. `cradle` and the child itself
//! write it, `reap` and `engine` read it; who does not want to wait any longer gives it up here.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use super::sys;

/// Births beyond the usual ones while those hang.
pub(super) const SPARE_BIRTHS: usize = 64;

/// The step between `clone` and the running program that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// `clone` itself.
    Fork,
    /// The control groups.
    Placement,
    /// A session of its own.
    Session,
    /// The controlling terminal.
    Terminal,
    /// The working directory.
    Cwd,
    /// Standard input, output and error.
    Stdio,
    /// The limits that the daemon itself was started with, or those of the command.
    Limits,
    /// The change of user.
    User,
    /// `execve`.
    Exec,
}

/// A step that failed, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StartFailure {
    /// The step.
    pub(super) stage: Stage,
    /// Its errno.
    pub(super) errno: i32,
}

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Birth {
    /// The child's pid, written by itself before anything else; 0 until then.
    pub(super) pid: AtomicI32,
    /// The child holds no copies of the daemon's descriptors any more.
    pub(super) let_go: AtomicBool,
    /// Nobody wants the child any more.
    pub(super) given_up: AtomicBool,
    /// The program runs, or a step has failed.
    pub(super) over: AtomicBool,
}

impl Birth {
    /// Sees to it that the program is never run, however long the birth may hang; answers false when it was too late:
    /// then the birth is over, and whoever waits for its outcome gets it.
    pub(super) fn give_up(&self) -> bool {
        // The child writes its pid and then reads this; one of us sees what the other wrote.
        self.given_up.store(true, Ordering::SeqCst);
        let pid = self.pid.load(Ordering::SeqCst);
        // Opened before it is asked for: until the birth is over, nobody else has this pid.
        let child = (pid > 0).then(|| sys::open_pidfd(pid));
        if self.over.load(Ordering::SeqCst) {
            return false;
        }
        // Who hangs in a system call dies at its end at the latest, before it comes to the program. Without a descriptor
        // to spare it is left alone: it is killed when it is born.
        if let Some(Ok(child)) = child {
            let _ = sys::signal_pidfd(child.as_fd(), libc::SIGKILL);
        }
        true
    }
}

/// Births that can be under way at once.
pub(super) fn births_at_most() -> usize {
    // One more for the main command.
    usual_births() + SPARE_BIRTHS + 1
}

/// Births under way that do not hang: twice as many as processors.
pub(super) fn usual_births() -> usize {
    2 * processors()
}

/// Processors that may be used.
pub(super) fn processors() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}
