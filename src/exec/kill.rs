//! Ending a whole tree without a cgroup: session and group, descendants by parentage, and whoever carries the
//! environment marker, which survives `setsid` and a double fork.
//!
//! Each victim is opened as a pidfd and looked at again (start time, still a member) before it is signalled, so a
//! stranger that took over a pid is never hit. Passes repeat until one finds nobody: a process that forks while it is
//! being killed leaves children that the next pass finds by parentage or marker. Best effort is said: a process that
//! cleared its environment, left its session and lost its parent before the first pass cannot be told from others.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::proc::{self, Stat};
use super::sys;

/// How long one pass waits for those that it has signalled.
const PASS: Duration = Duration::from_millis(100);
/// After this, what is still alive is in the kernel (uninterruptible sleep) and is left to it.
const GIVE_UP: Duration = Duration::from_secs(5);
/// Empty looks in a row that are believed although somebody moved meanwhile: on a busy machine somebody always does.
const QUIET_PASSES: u32 = 5;

/// A tree to be signalled.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    /// The leader; its pid also names session and group, for as long as it has not been waited for.
    pub(super) leader: Option<Leader>,
    /// `BOXD_PROCESS=...`, or a prefix of it that stands for many trees.
    pub(super) marker: Vec<u8>,
}

/// The first process of a tree.
#[derive(Debug, Clone)]
pub(super) struct Leader {
    pub(super) pid: i32,
    /// Tells whether the pid still means this process.
    pub(super) pidfd: Arc<OwnedFd>,
}

impl Leader {
    /// Sends it a signal; nothing happens when it has ended.
    pub(super) fn signal(&self, signal: i32) {
        // It may end at any moment, also between looking and sending.
        let _ = sys::signal_pidfd(self.pidfd.as_fd(), signal);
    }

    /// Sends a signal to it and to the group that it leads, by the descriptor that is held; nothing happens when they
    /// have ended.
    pub(super) fn signal_group(&self, signal: i32) {
        if sys::signal_group(self.pidfd.as_fd(), signal).is_err() {
            // Kernels before 6.9 do not know groups by descriptor; the others of the group are found in /proc.
            self.signal(signal);
        }
    }

    /// Its pid, unless it was waited for: then the number may be anybody's.
    fn current_pid(&self) -> Option<i32> {
        self.is_alive().then_some(self.pid)
    }

    /// Whether it was not waited for yet.
    pub(super) fn is_alive(&self) -> bool {
        sys::signal_pidfd(self.pidfd.as_fd(), 0).is_ok()
    }
}

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

/// A process for good: pid and start time.
type Identity = (i32, u64);

/// Sends `signal` once to every member alive now. Blocks for as long as it takes to read `/proc`.
pub(super) fn signal_tree(tree: &Tree, signal: i32) -> Vec<i32> {
    if let Some(leader) = &tree.leader {
        leader.signal_group(signal);
    }
    let (victims, _) = members(tree, &mut HashSet::new()).unwrap_or_default();
    let leader = tree.leader.as_ref().map(|leader| leader.pid);
    let others = victims.into_iter().filter(|victim| Some(victim.0) != leader);
    others
        .filter(|victim| send(victim, signal).is_some())
        .map(|victim| victim.0)
        .collect()
}

/// Kills every member until nobody is left. Blocks; bounded by [`GIVE_UP`].
///
/// The leader and its group go first and by the descriptor that is held already, so that they go also where `/proc`
/// cannot be read (no descriptor is free, or there is none in this root).
pub(super) fn kill_tree(tree: &Tree) -> Killed {
    if let Some(leader) = &tree.leader {
        leader.signal_group(libc::SIGKILL);
    }
    let (mut known, mut killed, started) = (HashSet::new(), Killed::default(), Instant::now());
    let mut quiet = 0;
    loop {
        let late = started.elapsed() > GIVE_UP;
        match members(tree, &mut known) {
            // Where there is no /proc at all, what could be reached has been.
            Err(error) if late || error.kind() == io::ErrorKind::NotFound => {
                killed.unseen = true;
                return killed;
            }
            Err(_) => std::thread::sleep(PASS / 10),
            Ok((victims, moved)) if victims.is_empty() => {
                quiet += 1;
                // Somebody who moves (forks and leaves) while being looked at is caught by looking again at once.
                if !moved || quiet > QUIET_PASSES || late {
                    return killed;
                }
            }
            Ok((victims, _)) => {
                quiet = 0;
                strike(&victims, &mut killed);
                if late {
                    killed.survivors = victims.into_iter().map(|victim| victim.0).collect();
                    return killed;
                }
            }
        }
    }
}

/// Sends KILL to all of them and waits a moment for their end.
fn strike(victims: &[Identity], killed: &mut Killed) {
    let mut dying = Vec::with_capacity(victims.len());
    for victim in victims {
        if let Some(pidfd) = send(victim, libc::SIGKILL) {
            dying.push(pidfd);
            if !killed.pids.contains(&victim.0) {
                killed.pids.push(victim.0);
            }
        }
    }
    wait_for_all(&dying);
}

/// The members alive now, and whether somebody moved meanwhile. `known` grows by them, so that a descendant is
/// remembered after its parent has gone.
fn members(tree: &Tree, known: &mut HashSet<Identity>) -> io::Result<(Vec<Identity>, bool)> {
    let snapshot = proc::snapshot(&tree.marker)?;
    let all = &snapshot.all;
    let own = std::process::id() as i32;
    // Asked after the snapshot: a leader that is still there now was there when the snapshot was taken.
    let leader = tree.leader.as_ref().and_then(Leader::current_pid);
    let belongs = |stat: &Stat| {
        leader.is_some_and(|pid| stat.pid == pid || stat.session == pid || stat.group == pid)
            || known.contains(&(stat.pid, stat.started))
            || snapshot.marked.contains(&stat.pid)
    };
    let mut found: Vec<i32> = all
        .values()
        .filter(|stat| stat.pid != own && belongs(stat))
        .map(|stat| stat.pid)
        .collect();
    add_descendants(all, &mut found);
    let found: Vec<&Stat> = found.iter().filter_map(|pid| all.get(pid)).collect();
    known.extend(found.iter().map(|stat| (stat.pid, stat.started)));
    let alive = found
        .iter()
        .filter(|stat| !stat.dead)
        .map(|stat| (stat.pid, stat.started))
        .collect();
    Ok((alive, snapshot.moved))
}

fn add_descendants(all: &HashMap<i32, Stat>, found: &mut Vec<i32>) {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for stat in all.values() {
        children.entry(stat.parent).or_default().push(stat.pid);
    }
    let mut seen: HashSet<i32> = found.iter().copied().collect();
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        for child in children.get(&pid).into_iter().flatten() {
            if seen.insert(*child) {
                found.push(*child);
            }
        }
    }
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
        let look = move || members(&looked_for, &mut HashSet::new());
        let left = tokio::task::spawn_blocking(look).await;
        if left.is_ok_and(|left| left.is_ok_and(|(left, _)| left.is_empty())) {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
