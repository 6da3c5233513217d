//! Trees that took more than their share of the machine's processes: killed, and remembered until their end is told.

use std::collections::HashSet;

use parking_lot::Mutex;

use super::headcount::Culprit;
use super::kill;
use super::members::Tree;

/// Markers that are remembered at most: a tree whose end nobody tells (a background child's) is not for ever.
const REMEMBERED: usize = 1024;

/// The trees that were killed for their size.
#[derive(Debug, Default)]
pub(super) struct Crowds(Mutex<HashSet<Vec<u8>>>);

impl Crowds {
    /// Kills a tree. Blocks; bounded.
    pub(super) fn punish(&self, culprit: &Culprit) {
        tracing::warn!(
            tasks = culprit.tasks,
            allowed = culprit.allowed,
            "a command has taken too many processes, its tree is killed"
        );
        {
            let mut killed = self.0.lock();
            if killed.len() >= REMEMBERED {
                killed.clear();
            }
            killed.insert(culprit.marker.clone());
        }
        kill::kill_tree(&Tree {
            leader: None,
            marker: culprit.marker.clone(),
            orphans: false,
        });
    }

    /// Whether this tree was killed for its size; it is asked once.
    pub(super) fn was_killed(&self, tree: &Tree) -> bool {
        let mut killed = self.0.lock();
        !killed.is_empty() && killed.remove(&tree.marker)
    }
}
