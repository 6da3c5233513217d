//! Who belongs to a tree: its leader's session and group, whoever carries the environment marker (which survives
//! `setsid` and a double fork), all descendants of those, and all who share a session with one of them, because every
//! session of a member was made by a member. Signals are sent by `kill`.
//!
//! A process that cleared its environment and left its session still has a parent, until that ends: then it comes to
//! us, the subreaper. Of such an orphan it is only known that it is ours; it counts as a member of everything
//! that the daemon started, and of a single tree when it holds the pipe that the leader writes to.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::proc::{self, Snapshot, Stat};
use super::reap::Reaper;
use super::sys;

/// A tree to be signalled.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    /// The leader; its pid also names session and group, for as long as it has not been waited for.
    pub(super) leader: Option<Leader>,
    /// `BOXD_PROCESS=...`, or a prefix of it that stands for many trees.
    pub(super) marker: Vec<u8>,
    /// Whether orphans that came to this daemon belong to it: when it stands for everything that we started.
    pub(super) orphans: bool,
    /// Knows the leaders of all other trees, for a tree that has one leader: they need not be looked at.
    pub(super) siblings: Option<Arc<Reaper>>,
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

    /// Whether anybody is in the group that it leads, as far as the kernel tells (from 6.9 on).
    pub(super) fn leads_anybody(&self) -> bool {
        sys::signal_group(self.pidfd.as_fd(), 0).is_ok()
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

/// A process for good: pid and start time.
pub(super) type Identity = (i32, u64);

/// The search for the members of one tree: what was learnt so far helps to recognise those who come.
#[derive(Debug)]
pub(super) struct Search {
    tree: Tree,
    own: i32,
    own_session: i32,
    /// Members ever seen: a descendant is remembered after its parent has gone.
    known: HashSet<Identity>,
    /// Sessions that members have made and that somebody is still in.
    sessions: HashSet<i32>,
    /// Who had ended at the last look, and was not waited for.
    dead: HashSet<Identity>,
    /// The pipes that the leader writes to.
    pipes: Vec<u64>,
}

/// What one look found.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// The members alive.
    pub(super) alive: Vec<Identity>,
    /// Somebody, maybe a member, went away while being looked at.
    pub(super) moved: bool,
}

impl Search {
    pub(super) fn new(tree: &Tree) -> Self {
        let own = std::process::id() as i32;
        let own_session = proc::stat(own).ok().flatten().map_or(0, |stat| stat.session);
        let pipes = |leader: &Leader| {
            let pipes = proc::output_pipes(leader.pid);
            // Asked afterwards: the pid was the leader's all the time.
            leader.is_alive().then_some(pipes)
        };
        Self {
            tree: tree.clone(),
            own,
            own_session,
            known: HashSet::new(),
            sessions: HashSet::new(),
            dead: HashSet::new(),
            pipes: tree.leader.as_ref().and_then(pipes).unwrap_or_default(),
        }
    }

    /// The members alive now.
    pub(super) fn look(&mut self) -> io::Result<Look> {
        let strangers = self.strangers();
        Ok(self.look_at(&proc::snapshot_without(&strangers)?))
    }

    /// Who leads another tree: among a thousand processes that live, a look costs what its own tree is made of.
    fn strangers(&self) -> HashSet<i32> {
        let Some(reaper) = &self.tree.siblings else {
            return HashSet::new();
        };
        let mut leaders = reaper.leaders();
        if let Some(leader) = &self.tree.leader {
            leaders.remove(&leader.pid);
        }
        leaders
    }

    /// The members alive at the moment of a snapshot that was taken after the tree's leader was born.
    pub(super) fn look_at(&mut self, snapshot: &Snapshot) -> Look {
        // Asked after the snapshot: a leader that is still there now was there when the snapshot was taken.
        let leader = self.tree.leader.as_ref().and_then(Leader::current_pid);
        let inhabited: HashSet<i32> = snapshot.all.values().map(|stat| stat.session).collect();
        self.sessions.retain(|session| inhabited.contains(session));
        self.sessions.extend(leader);
        let mut found = Found::new(snapshot, self.own);
        for stat in snapshot.all.values() {
            let led = leader.is_some_and(|pid| stat.pid == pid || stat.group == pid);
            let marked = snapshot.carries(stat.pid, &self.tree.marker);
            let known = self.known.contains(&(stat.pid, stat.started));
            if led || marked || known || self.adopts(stat) || self.holds_output(stat, snapshot) {
                found.add(stat.pid);
            }
        }
        self.close(snapshot, &mut found);
        let members = found.pids.iter().filter_map(|pid| snapshot.all.get(pid));
        self.known
            .extend(members.clone().map(|stat| (stat.pid, stat.started)));
        let alive = members.filter(|stat| !stat.dead);
        let alive = alive.map(|stat| (stat.pid, stat.started)).collect();
        Look {
            alive,
            moved: self.somebody_ended(snapshot) || snapshot.moved,
        }
    }

    /// Whether somebody has ended since the last look: maybe after it left a child, whose number was not there yet when the
    /// numbers were read.
    fn somebody_ended(&mut self, snapshot: &Snapshot) -> bool {
        let dead = snapshot.all.values().filter(|stat| stat.dead);
        let dead: HashSet<Identity> = dead.map(|stat| (stat.pid, stat.started)).collect();
        let news = !dead.is_subset(&self.dead);
        self.dead = dead;
        news
    }

    /// Adds descendants and those of the same sessions until nobody is added any more.
    fn close(&mut self, snapshot: &Snapshot, found: &mut Found) {
        loop {
            found.add_descendants();
            let members = found.pids.iter().filter_map(|pid| snapshot.all.get(pid));
            let sessions = members.map(|stat| stat.session);
            // Session 0 is outside of this process namespace.
            self.sessions
                .extend(sessions.filter(|session| ![0, self.own_session].contains(session)));
            let before = found.pids.len();
            for stat in snapshot.all.values() {
                if self.sessions.contains(&stat.session) {
                    found.add(stat.pid);
                }
            }
            if found.pids.len() == before {
                return;
            }
        }
    }

    /// Whether it is our child, and every child of ours belongs. What a script started before it became the daemon is
    /// still in our own session, and not ours: all that we start is in others. An init has nobody to leave it to.
    fn adopts(&self, stat: &Stat) -> bool {
        self.tree.orphans && stat.parent == self.own && (self.own == 1 || stat.session != self.own_session)
    }

    /// Whether it is an orphan that came to us, carries no marker and can write to the pipe of the leader.
    fn holds_output(&self, stat: &Stat, snapshot: &Snapshot) -> bool {
        let unclaimed = stat.parent == self.own && !stat.dead && !snapshot.markers.contains_key(&stat.pid);
        unclaimed && !self.pipes.is_empty() && proc::holds_pipe(stat.pid, &self.pipes)
    }

    /// Whether the process with this pid belongs, as far as that is known without a look at all others. The answer is
    /// true of whoever has the pid now; its caller holds a descriptor that tells whether it still has.
    pub(super) fn recognises(&self, pid: i32) -> bool {
        let Ok(Some(stat)) = proc::stat(pid) else {
            return false;
        };
        let of_known = || {
            let parent = proc::stat(stat.parent).ok().flatten();
            parent.is_some_and(|parent| self.known.contains(&(parent.pid, parent.started)))
        };
        pid != self.own
            && (self.sessions.contains(&stat.session)
                || proc::carries(pid, &self.tree.marker).unwrap_or(false)
                || of_known()
                || self.adopts(&stat))
    }
}

/// Members of one snapshot, each once; never this process, nor anybody only for being its child.
struct Found {
    pids: Vec<i32>,
    seen: HashSet<i32>,
    children: HashMap<i32, Vec<i32>>,
    /// Those before this one had their children added.
    next: usize,
}

impl Found {
    fn new(snapshot: &Snapshot, own: i32) -> Self {
        let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
        for stat in snapshot.all.values() {
            children.entry(stat.parent).or_default().push(stat.pid);
        }
        Self {
            pids: Vec::new(),
            seen: HashSet::from([own]),
            children,
            next: 0,
        }
    }

    fn add(&mut self, pid: i32) {
        if self.seen.insert(pid) {
            self.pids.push(pid);
        }
    }

    fn add_descendants(&mut self) {
        while let Some(pid) = self.pids.get(self.next).copied() {
            self.next += 1;
            for child in self.children.remove(&pid).unwrap_or_default() {
                self.add(child);
            }
        }
    }
}
