//! The main command of an image: a process of the engine that keeps the daemon's own standard input and output
//! instead of pipes, because whoever started the daemon reads those.

use super::crowds::Counted;
use super::kill;
use super::members::Tree;
use super::reap::Child;
use super::spec::Exit;
use crate::error::Error;
use crate::ids::ProcessId;

/// A process on the daemon's own standard input and output.
#[derive(Debug)]
pub struct Attached {
    pub(super) id: ProcessId,
    pub(super) tree: Tree,
    pub(super) child: Child,
    pub(super) _counted: Counted,
}

/// Sends signals to the leader of an [`Attached`].
#[derive(Debug, Clone)]
pub struct Handle(Tree);

impl Attached {
    /// Its id in this daemon.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// What signals are sent through while somebody waits for the end.
    pub fn handle(&self) -> Handle {
        Handle(self.tree.clone())
    }

    /// Resolves with how the leader ended. Cancel-safe.
    pub async fn exit(&mut self) -> Result<Exit, Error> {
        self.child.exited().await.map(|reaped| reaped.ended.exit)
    }
}

impl Handle {
    /// Sends `signal` to the leader alone, as an init does; nothing happens when it has ended.
    pub fn signal(&self, signal: i32) {
        if let Some(leader) = &self.0.leader {
            leader.signal(signal);
        }
    }

    /// Kills the whole tree. Blocks; bounded.
    pub fn kill(&self) {
        kill::kill_tree(&self.0);
    }
}
