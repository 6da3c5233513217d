//! Trees that took more than their share of the machine's processes: killed, and remembered until their end is told.
//!
//! The headcount names a tree by its marker. Who leads it is known here for as long as somebody accompanies it, so that
//! a kill reaches the leader and its group also where they cleared their environment, or `/proc` cannot be read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::headcount::Culprit;
use super::kill;
use super::members::{Leader, Tree};

/// Markers that are remembered at most: a tree whose end nobody tells (a background child's) is not for ever.
const REMEMBERED: usize = 1024;

/// The trees that are accompanied, and those that were killed for their size.
#[derive(Debug, Default)]
pub(super) struct Crowds {
    killed: Mutex<HashSet<Vec<u8>>>,
    leaders: Mutex<HashMap<Vec<u8>, Leader>>,
}

/// A tree that is accompanied; dropped when it no longer is.
#[derive(Debug)]
pub(super) struct Counted {
    crowds: Arc<Crowds>,
    marker: Vec<u8>,
}

impl Crowds {
    /// Knows the leader of a tree from now on.
    pub(super) fn count(self: &Arc<Self>, tree: &Tree) -> Counted {
        if let Some(leader) = &tree.leader {
            self.leaders.lock().insert(tree.marker.clone(), leader.clone());
        }
        Counted {
            crowds: Arc::clone(self),
            marker: tree.marker.clone(),
        }
    }

    /// Kills a tree. Blocks; bounded.
    pub(super) fn punish(&self, culprit: &Culprit) {
        tracing::warn!(
            tasks = culprit.tasks,
            allowed = culprit.allowed,
            "a command has taken too many processes, its tree is killed"
        );
        {
            let mut killed = self.killed.lock();
            if killed.len() >= REMEMBERED {
                killed.clear();
            }
            killed.insert(culprit.marker.clone());
        }
        let leader = self.leaders.lock().get(&culprit.marker).cloned();
        kill::kill_tree(&Tree {
            leader,
            marker: culprit.marker.clone(),
            orphans: false,
            siblings: None,
        });
    }
}

impl Counted {
    /// Whether this tree was killed for its size; it is asked once.
    pub(super) fn was_killed(&self) -> bool {
        let mut killed = self.crowds.killed.lock();
        !killed.is_empty() && killed.remove(&self.marker)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.crowds.leaders.lock().remove(&self.marker);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};

    use super::*;
    use crate::exec::sys;

    #[expect(clippy::disallowed_methods, reason = "a process that the engine did not mark")]
    #[test]
    fn a_leader_that_cleared_its_environment_is_reached_while_it_is_counted() {
        let line = "sleep 100 & sleep 100";
        let mut command = std::process::Command::new("/bin/sh");
        let mut child = command
            .args(["-c", line])
            .env_clear()
            .process_group(0)
            .spawn()
            .unwrap();
        let pid = child.id().cast_signed();
        let tree = Tree {
            leader: Some(Leader {
                pid,
                pidfd: Arc::new(sys::open_pidfd(pid).unwrap()),
            }),
            marker: b"BOXD_PROCESS=test:crowd".to_vec(),
            orphans: false,
            siblings: None,
        };
        let culprit = Culprit {
            marker: tree.marker.clone(),
            tasks: 2,
            allowed: 1,
        };
        let crowds = Arc::new(Crowds::default());
        let counted = crowds.count(&tree);
        assert!(!counted.was_killed());
        crowds.punish(&culprit);
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert!(counted.was_killed() && !counted.was_killed(), "told once");
        drop(counted);
        assert!(crowds.leaders.lock().is_empty(), "nobody accompanies it any more");
    }
}
