//! Ending a whole tree without a cgroup; who belongs to it is found by `members`.
//!
//! ```text
//!   STOP the leader's group --> look, STOP whoever is new, look again ... nobody is new --> KILL all --> look again
//! ```
//!
//! Stopped first, because who is stopped forks no more and stays the parent of its children, by which they are found
//! also when they cleared their environment and left their session. Each victim is opened as a pidfd and looked at again
//! (start time) before it is signalled, so a stranger that took over a pid is never hit. Passes repeat until one finds
//! nobody.
//!
//! Who forks and ends faster than a look at `/proc` takes is chased by the number of the process that was born last.
//! Best effort is said: a process that cleared its environment, left its session, lost its parent and closed its output
//! before the first look is ended by the daemon's stop only.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::members::{Identity, Look, Search, Tree};
use super::proc;
use super::sys;

/// How long one pass waits for those that it has signalled.
const PASS: Duration = Duration::from_millis(100);
/// How long members are stopped, pass after pass, before they are killed: a crowd that goes on growing is cut down.
const FREEZE: Duration = Duration::from_millis(200);
/// How long newborns are chased after a look that somebody got away from.
const CHASE: Duration = Duration::from_millis(5);
/// After this, what is still alive is in the kernel (uninterruptible sleep) and is left to it.
const GIVE_UP: Duration = Duration::from_secs(5);
/// Empty looks in a row that are believed although somebody moved meanwhile: on a busy machine somebody always does.
const QUIET_PASSES: u32 = 5;

/// What a kill did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Killed {
    /// Pids that were signalled, each once.
    pub(super) pids: Vec<i32>,
    /// Pids that would not end in time.
    pub(super) survivors: Vec<i32>,
    /// `/proc` could not be read: only the leader and its group are known to have been killed.
    pub(super) unseen: bool,
}

/// Sends `signal` once to every member alive now. Blocks for as long as it takes to read `/proc`.
pub(super) fn signal_tree(tree: &Tree, signal: i32) -> Vec<i32> {
    let mut search = Search::new(tree);
    if let Some(leader) = &tree.leader {
        leader.signal_group(signal);
    }
    let victims = search.look().unwrap_or_default().alive;
    let leader = tree.leader.as_ref().map(|leader| leader.pid);
    let others = victims.into_iter().filter(|victim| Some(victim.0) != leader);
    others
        .filter(|victim| send(victim, signal).is_some())
        .map(|victim| victim.0)
        .collect()
}

/// Kills every member until nobody is left. Blocks; bounded by [`GIVE_UP`].
///
/// The leader and its group are reached by the descriptor that is held already, so that they go also where `/proc`
/// cannot be read (no descriptor is free, or there is none in this root).
pub(super) fn kill_tree(tree: &Tree) -> Killed {
    let mut search = Search::new(tree);
    let to_the_group = |signal| {
        if let Some(leader) = &tree.leader {
            leader.signal_group(signal);
        }
    };
    to_the_group(libc::SIGSTOP);
    let (mut killed, started) = (Killed::default(), Instant::now());
    let mut quiet = 0;
    loop {
        let late = started.elapsed() > GIVE_UP;
        let look = match freeze(&mut search) {
            // Where there is no /proc at all, what could be reached has been.
            Err(error) if late || error.kind() == io::ErrorKind::NotFound => {
                to_the_group(libc::SIGKILL);
                killed.unseen = true;
                return killed;
            }
            Err(_) => {
                to_the_group(libc::SIGKILL);
                std::thread::sleep(PASS / 10);
                continue;
            }
            Ok(look) => look,
        };
        strike(&look.alive, &mut killed);
        to_the_group(libc::SIGKILL);
        if late {
            killed.survivors = look.alive.into_iter().map(|victim| victim.0).collect();
            return killed;
        }
        quiet = if look.alive.is_empty() { quiet + 1 } else { 0 };
        if quiet > 0 && (!look.moved || quiet > QUIET_PASSES) {
            return killed;
        }
        if look.moved {
            chase(&search, &mut killed);
        }
    }
}

/// Stops members until a look finds nobody new, or somebody got away meanwhile. Answers the last look.
fn freeze(search: &mut Search) -> io::Result<Look> {
    let (mut stopped, started) = (HashSet::new(), Instant::now());
    loop {
        let mut look = search.look()?;
        let mut news = 0;
        for member in look.alive.iter().filter(|member| stopped.insert(**member)) {
            news += 1;
            look.moved |= send(member, libc::SIGSTOP).is_none();
        }
        if news == 0 || look.moved || started.elapsed() > FREEZE {
            return Ok(look);
        }
    }
}

/// Kills who is born now, if it is recognised: somebody who forks, leaves and ends all the time is not there any more
/// when a look comes to its number, but the last number that was given out is its, or near. Goes on as long as somebody
/// is caught now and then.
fn chase(search: &Search, killed: &mut Killed) {
    /// Numbers before the last one that are tried.
    const BEFORE: i32 = 3;
    let started = Instant::now();
    let (mut caught_at, mut last) = (started, 0);
    while caught_at.elapsed() < CHASE && started.elapsed() < PASS {
        let Ok(newest) = proc::newest() else { return };
        for pid in (newest - BEFORE..=newest).rev().filter(|pid| *pid > last) {
            // Opened first: when the signal arrives, it was this process that was recognised.
            let caught = sys::open_pidfd(pid).ok().filter(|_| search.recognises(pid));
            let caught = caught.is_some_and(|pidfd| sys::signal_pidfd(pidfd.as_fd(), libc::SIGKILL).is_ok());
            // One that was caught before has ended and was not waited for yet.
            if caught && !killed.pids.contains(&pid) {
                killed.pids.push(pid);
                caught_at = Instant::now();
            }
        }
        last = newest;
    }
}

/// Sends KILL to all of them and waits a moment for their end. The youngest first: the end of a parent can leave a
/// stopped group without anybody to wake it, and then the kernel does.
fn strike(victims: &[Identity], killed: &mut Killed) {
    let mut dying = Vec::with_capacity(victims.len());
    let mut victims = victims.to_vec();
    victims.sort_unstable_by_key(|(pid, started)| std::cmp::Reverse((*started, *pid)));
    for victim in &victims {
        if let Some(pidfd) = send(victim, libc::SIGKILL) {
            dying.push(pidfd);
            if !killed.pids.contains(&victim.0) {
                killed.pids.push(victim.0);
            }
        }
    }
    wait_for_all(&dying);
}

/// Signals the process if it is still the one that was seen; answers its pidfd.
fn send(victim: &Identity, signal: i32) -> Option<OwnedFd> {
    let pidfd = sys::open_pidfd(victim.0).ok()?;
    let same = proc::stat(victim.0).is_ok_and(|stat| stat.is_some_and(|stat| stat.started == victim.1));
    (same && sys::signal_pidfd(pidfd.as_fd(), signal).is_ok()).then_some(pidfd)
}

fn wait_for_all(dying: &[OwnedFd]) {
    let deadline = Instant::now() + PASS;
    for pidfd in dying {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        // An interrupted or timed-out wait only means that the next pass looks earlier.
        let _ = poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout);
    }
}

/// Waits until nobody of the tree is left, at most `grace`.
pub(super) async fn ended_within(tree: &Tree, grace: Duration) {
    let deadline = tokio::time::Instant::now() + grace;
    let mut pause = Duration::from_millis(1);
    while tokio::time::Instant::now() < deadline {
        let looked_for = tree.clone();
        let look = move || Search::new(&looked_for).look();
        let left = tokio::task::spawn_blocking(look).await;
        if left.is_ok_and(|left| left.is_ok_and(|left| left.alive.is_empty())) {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
