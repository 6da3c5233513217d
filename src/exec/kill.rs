//! Ending a whole tree without a cgroup: session and group, descendants by parentage, and whoever carries the
//! environment marker, which survives `setsid` and a double fork.
//!
//! Each victim is opened as a pidfd and looked at again (start time, still a member) before it is signalled, so a
//! stranger that took over a pid is never hit. Passes repeat until one finds nobody: a process that forks while it is
//! being killed leaves children that the next pass finds by parentage or marker. Best effort is said: a process that
//! cleared its environment, left its session and lost its parent before the first pass cannot be told from others.

use std::collections::{HashMap, HashSet};
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

    /// Its pid, unless it was waited for: then the number may be anybody's.
    fn current_pid(&self) -> Option<i32> {
        sys::signal_pidfd(self.pidfd.as_fd(), 0)
            .is_ok()
            .then_some(self.pid)
    }
}

/// What a kill did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Killed {
    /// Pids that were signalled, each once.
    pub(super) pids: Vec<i32>,
    /// Pids that would not end in time.
    pub(super) survivors: Vec<i32>,
}

/// A process for good: pid and start time.
type Identity = (i32, u64);

/// Sends `signal` once to every member alive now. Blocks for as long as it takes to read `/proc`.
pub(super) fn signal_tree(tree: &Tree, signal: i32) -> Vec<i32> {
    let mut known = HashSet::new();
    members(tree, &mut known)
        .into_iter()
        .filter(|victim| send(victim, signal).is_some())
        .map(|v| v.0)
        .collect()
}

/// Kills every member until nobody is left. Blocks; bounded by [`GIVE_UP`].
pub(super) fn kill_tree(tree: &Tree) -> Killed {
    let (mut known, mut killed, started) = (HashSet::new(), Killed::default(), Instant::now());
    loop {
        let victims = members(tree, &mut known);
        if victims.is_empty() {
            return killed;
        }
        if started.elapsed() > GIVE_UP {
            killed.survivors = victims.into_iter().map(|victim| victim.0).collect();
            return killed;
        }
        let mut dying = Vec::with_capacity(victims.len());
        for victim in victims {
            if let Some(pidfd) = send(&victim, libc::SIGKILL) {
                dying.push(pidfd);
                if !killed.pids.contains(&victim.0) {
                    killed.pids.push(victim.0);
                }
            }
        }
        wait_for_all(&dying);
    }
}

/// The members alive now. `known` grows by them, so that a descendant is remembered after its parent has gone.
fn members(tree: &Tree, known: &mut HashSet<Identity>) -> Vec<Identity> {
    let all = proc::snapshot();
    let own = std::process::id() as i32;
    // Asked after the snapshot: a leader that is still there now was there when the snapshot was taken.
    let leader = tree.leader.as_ref().and_then(Leader::current_pid);
    let mut found: Vec<i32> = all
        .values()
        .filter(|stat| stat.pid != own && belongs(tree, leader, known, stat))
        .map(|stat| stat.pid)
        .collect();
    add_descendants(&all, &mut found);
    let identities = found
        .iter()
        .filter_map(|pid| all.get(pid))
        .map(|stat| (stat.pid, stat.started));
    known.extend(identities);
    found
        .iter()
        .filter_map(|pid| all.get(pid))
        .filter(|stat| !stat.dead)
        .map(|stat| (stat.pid, stat.started))
        .collect()
}

fn belongs(tree: &Tree, leader: Option<i32>, known: &HashSet<Identity>, stat: &Stat) -> bool {
    let by_leader = leader.is_some_and(|pid| stat.pid == pid || stat.session == pid || stat.group == pid);
    by_leader || known.contains(&(stat.pid, stat.started)) || proc::carries(stat.pid, &tree.marker)
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
    let same = proc::stat(victim.0).is_some_and(|stat| stat.started == victim.1);
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

/// Pids of the tree that hold one of these pipes open. Blocks for as long as it takes to read `/proc`.
pub(super) fn holders(tree: &Tree, inodes: &[u64]) -> Vec<u32> {
    let mut known = HashSet::new();
    let holding = members(tree, &mut known)
        .into_iter()
        .filter(|(pid, _)| proc::holds_pipe(*pid, inodes));
    let mut pids: Vec<u32> = holding.map(|(pid, _)| pid as u32).collect();
    pids.sort_unstable();
    pids
}

/// Waits until nobody of the tree is left, at most `grace`.
pub(super) async fn ended_within(tree: &Tree, grace: Duration) {
    let deadline = tokio::time::Instant::now() + grace;
    let mut pause = Duration::from_millis(1);
    while tokio::time::Instant::now() < deadline {
        let looked_for = tree.clone();
        let left = tokio::task::spawn_blocking(move || members(&looked_for, &mut HashSet::new())).await;
        if left.is_ok_and(|left| left.is_empty()) {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
