//! The search room: file content by regular expression or literal, names by glob or fuzzily, over a tree.
//!
//! It is built from the crates that ripgrep is built from, and means by a tree what ripgrep means: what ignore files name
//! and what is hidden is left out unless the request says otherwise, binary files are passed over and counted, symbolic
//! links are not followed. What could not be read is counted and named, never passed over in silence.
//!
//! ```text
//!   walk.rs (threads) --file--> content.rs | names.rs --Found--> bounded channel --> Running::next
//!                                  budget.rs: matches, bytes, time, and whether anybody still waits
//! ```
//!
//! A search runs on threads of its own and ends when its [`Running`] is dropped. Who may search where is the caller's
//! affair: the path is absolute and resolved.

mod budget;
mod content;
mod context;
mod ignores;
mod names;
mod report;
mod request;
mod running;
#[cfg(test)]
mod tests;
mod walk;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::capability::Capability;
use crate::error::Error;

pub use request::{Found, Kind, Line, Place, Request, Stats, Summary, Unread};
pub use running::{Answer, Running, Said};

/// Searches at once; more wait for their turn.
const AT_ONCE: usize = 8;

/// The search room.
#[derive(Debug)]
pub struct Searches {
    turns: Arc<Semaphore>,
}

impl Default for Searches {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl Searches {
    /// What works here.
    pub fn capabilities(&self) -> Vec<Capability> {
        vec![Capability::available("fs.search")]
    }

    /// Starts to search below `path`, or in it when it is a file; waits for its turn.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the pattern or a glob cannot be used, [`Error::NotFound`] and its kin when the path cannot,
    /// [`Error::Overloaded`] when its turn does not come while it may take.
    pub async fn start(&self, path: PathBuf, request: Request) -> Result<Running, Error> {
        let turn = Arc::clone(&self.turns).acquire_owned();
        let turn = tokio::time::timeout(request.time_limit, turn).await;
        let turn = turn.map_err(|_| Error::Overloaded {
            what: "the number of searches at once",
            reason: format!("{AT_ONCE} are at work"),
        })?;
        let turn = turn.map_err(|_| Error::Stopping)?;
        running::start(path, request, turn).await
    }
}
