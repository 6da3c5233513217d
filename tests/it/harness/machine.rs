//! Whose turn it is on the machine: most tests share it, those that measure how late an answer is have it to themselves.

use std::cell::RefCell;
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nix::unistd::{Pid, gettid};

use super::require;

static MACHINE: RwLock<()> = RwLock::new(());

enum Turn {
    None,
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

thread_local! {
    /// Of the test on this thread; it ends with the thread.
    static TURN: RefCell<Turn> = const { RefCell::new(Turn::None) };
}

/// Shares the machine with other tests; every daemon's start asks for it, and only the first of a test waits.
pub(super) fn share() {
    TURN.with_borrow_mut(|turn| {
        if matches!(turn, Turn::None) {
            let guard = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
            *turn = Turn::Shared { _guard: guard };
        }
    });
}

/// Has the machine to itself until the test ends. To be called first of all.
pub(crate) fn alone() {
    TURN.with_borrow_mut(|turn| {
        *turn = Turn::None;
        let guard = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
        *turn = Turn::Alone { _guard: guard };
    });
}

/// Puts this thread and those of `helper` ahead of every other program for a processor, so that the lateness of an answer
/// is that of the daemon. What they start from now on queues as usual.
pub(crate) fn ahead(helper: Pid) {
    let put = |which: &[&str], id: Pid| {
        let put = Command::new(require("chrt"))
            .args(["--reset-on-fork", "--rr"])
            .args(which)
            .args(["--pid", "1", &id.to_string()])
            .output()
            .unwrap();
        assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    };
    put(&["--all-tasks"], helper);
    put(&[], gettid());
}
