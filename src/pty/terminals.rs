//! The live terminals: for each process that has one, a grid that follows its log, who looks at it and who may write.
//!
//! ```text
//!   log --catch up--> grid --restore, at record N--> viewer, who goes on with the log behind N
//!                      `--answers, while nobody looks--> the program's input
//! ```
//!
//! A grid is one more reader of the log. Only when it falls behind so far that the log would drop what it has not seen, the
//! pump waits for it: a frame is exact or it is none.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::budget::Budget;
use super::cells::{Run, Snapshot};
use super::grid::Grid;
use super::history::{Limits, Page};
use super::scope::{Reserved, Scopes, Viewer};
use super::session::Session;
use crate::error::Error;
use crate::exec::{Process, Size};
use crate::ids::ProcessId;
use crate::lifecycle::Tasks;

/// Cells of all grids together: some 200 terminals of ordinary size with their history, or a few very large ones.
const CELLS: u64 = 16 << 20;
/// From so many bytes at a time on, output is a flood, and its screen is looked after in larger lots.
const FLOOD: u64 = 64 << 10;
/// How long a flood gathers in the log before it is emulated, while nobody asks for the screen.
const GATHER: Duration = Duration::from_millis(5);
/// The same for other output while somebody looks: nobody waits for an answer of ours then.
const WATCHED: Duration = Duration::from_millis(20);
/// How often terminals that nobody looks at are looked for, at most.
const LOOK: Duration = Duration::from_secs(30);

/// Settings of the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How long a terminal lives that nobody looks at or writes to.
    pub detach_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            detach_timeout: Duration::from_secs(3600),
        }
    }
}

/// Every live terminal.
#[derive(Debug)]
pub struct Terminals {
    budget: Arc<Budget>,
    scopes: Mutex<Scopes>,
    /// Told when the terminal of a scope has been opened, or was not.
    settled: Notify,
    sessions: Mutex<HashMap<ProcessId, Arc<Session>>>,
    look: Duration,
    tasks: Tasks,
}

/// What a scope has for who asks.
#[derive(Debug)]
pub enum Scoped {
    /// A terminal that lives.
    Live(ProcessId),
    /// None: the caller may open it.
    New(Promise),
}

/// The right to open the terminal of a scope; dropped, it goes to the next who asks.
#[derive(Debug)]
pub struct Promise {
    terminals: Arc<Terminals>,
    scope: String,
}

impl Promise {
    /// The terminal is there and everybody may find it.
    pub fn keep(self, id: ProcessId) {
        self.terminals.scopes.lock().named(id, &self.scope);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.terminals.scopes.lock().failed(&self.scope);
        self.terminals.settled.notify_waiters();
    }
}

/// A frame that redraws a screen, and where the log goes on behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// For a fresh terminal of this size.
    pub frame: Vec<u8>,
    /// Columns and rows.
    pub size: Size,
    /// Offset of the first byte of output that is not in it.
    pub offset: u64,
    /// False when output was lost before it could be emulated: then it may differ.
    pub is_exact: bool,
}

impl Terminals {
    /// None yet; the pillar ends those that nobody came back to.
    pub fn start(config: Config, tasks: &Tasks) -> Arc<Self> {
        let terminals = Arc::new(Self {
            budget: Budget::new(CELLS),
            scopes: Mutex::new(Scopes::new(config.detach_timeout)),
            sessions: Mutex::default(),
            settled: Notify::new(),
            look: LOOK.min(config.detach_timeout.max(Duration::from_millis(100))),
            tasks: tasks.clone(),
        });
        tasks.pillar("terminals", Arc::clone(&terminals).end_abandoned());
        terminals
    }

    /// A blank screen for a terminal that is about to be opened.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`] when the screens there are leave no room for it.
    pub fn screen(&self, size: Size) -> Result<Grid, Error> {
        Grid::open(size, Limits::default(), &self.budget)
    }

    /// The terminal of a scope, or the right to open it, as soon as nobody else is opening it. Cancel-safe.
    pub async fn reserve(self: &Arc<Self>, scope: &str) -> Scoped {
        loop {
            let settled = self.settled.notified();
            match self.scopes.lock().reserve(scope) {
                Reserved::Live(id) => return Scoped::Live(id),
                Reserved::New => {
                    return Scoped::New(Promise {
                        terminals: Arc::clone(self),
                        scope: scope.to_owned(),
                    });
                }
                Reserved::Opening => {}
            }
            settled.await;
        }
    }

    /// Takes over the screen of a process that has a terminal; `retention` is what its log keeps.
    pub fn adopt(self: &Arc<Self>, process: &Arc<Process>, grid: Grid, retention: u64) {
        let session = Arc::new(Session::new(process, grid, retention));
        let id = process.id();
        self.sessions.lock().insert(id, Arc::clone(&session));
        self.scopes.lock().opened(id, Instant::now());
        let terminals = Arc::clone(self);
        drop(self.tasks.detach("terminal", async move {
            if let Err(error) = terminals.follow(&session).await {
                tracing::warn!(%id, %error, "the screen of a terminal is not followed any more");
            }
            terminals.closed(id);
        }));
    }

    /// The process has ended: its scope is free, and nobody looks or writes any more.
    pub fn closed(&self, id: ProcessId) {
        self.scopes.lock().closed(id);
    }

    /// Forgets the screen of a process that was forgotten.
    pub fn forget(&self, id: ProcessId) {
        self.sessions.lock().remove(&id);
        self.closed(id);
    }

    /// Forgets the screens of processes that are not wanted any more.
    pub fn retain(&self, wanted: impl Fn(ProcessId) -> bool) {
        self.sessions.lock().retain(|id, _| wanted(*id));
    }

    /// Emulates output until the process has ended, and answers what the program asks while nobody else can.
    async fn follow(&self, session: &Arc<Session>) -> Result<(), Error> {
        let (output, mut seen) = (session.process.output(), 0);
        let mut offset = 0;
        while output.wait_behind(seen).await {
            let (answers, now) = {
                let mut screen = session.caught_up().await?;
                seen = screen.cursor.seq;
                (screen.grid()?.take_answers(), screen.offset)
            };
            let is_flood = now - offset > FLOOD;
            offset = now;
            let is_watched = self.viewers(session.process.id()) > 0;
            if !answers.is_empty() && !is_watched {
                let process = Arc::clone(&session.process);
                drop(self.tasks.detach("terminal answer", async move {
                    // A program that does not read does not need the answer.
                    process.write(answers.into()).await
                }));
            }
            if is_flood || is_watched {
                tokio::time::sleep(if is_flood { GATHER } else { WATCHED }).await;
            }
        }
        session.caught_up().await?.rest();
        Ok(())
    }

    fn session(&self, process: &Process) -> Result<Arc<Session>, Error> {
        let session = self.sessions.lock().get(&process.id()).map(Arc::clone);
        session.ok_or_else(|| Error::Conflict {
            what: process.id().to_string(),
            reason: "it has no terminal".into(),
        })
    }

    /// One frame that redraws the screen as it is now.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when the process has no terminal.
    pub async fn restore(&self, process: &Process) -> Result<Restored, Error> {
        let session = self.session(process)?;
        let mut screen = session.caught_up().await?;
        let (frame, size) = {
            let grid = screen.grid()?;
            (grid.restore(), grid.size())
        };
        if process.end().is_some() {
            screen.rest();
        }
        Ok(Restored {
            frame,
            size,
            offset: screen.offset,
            is_exact: screen.is_exact,
        })
    }

    /// The screen as text, its cells, and a page of what scrolled away.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when the process has no terminal.
    pub async fn snapshot(&self, process: &Process, request: SnapshotRequest) -> Result<Shown, Error> {
        let session = self.session(process)?;
        let mut screen = session.caught_up().await?;
        let is_exact = screen.is_exact;
        let grid = screen.grid()?;
        let shown = Shown {
            screen: grid.snapshot(),
            cells: request.cells.then(|| grid.cells()),
            history: request.history.map(|(from, lines)| grid.history(from, lines)),
            is_exact,
        };
        if process.end().is_some() {
            screen.rest();
        }
        Ok(shown)
    }

    /// Changes the size of screen and terminal.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when the process has no terminal or has ended, [`Error::Overloaded`] when the screens there are
    /// leave no room.
    pub async fn resize(&self, process: &Process, size: Size) -> Result<(), Error> {
        let session = self.session(process)?;
        let mut screen = session.caught_up().await?;
        let grid = screen.grid()?;
        let before = grid.size();
        grid.resize(size)?;
        process.resize(size).inspect_err(|_| {
            // It has what it had: there was room for it.
            let _ = grid.resize(before);
        })
    }

    /// Somebody looks at a terminal; by a name of its own it can hold the writer lock.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when it has ended.
    pub fn attach(self: &Arc<Self>, id: ProcessId, name: Option<&str>) -> Result<Attachment, Error> {
        let viewer = self.scopes.lock().attach(id, name)?;
        Ok(Attachment {
            terminals: Arc::clone(self),
            id,
            viewer,
        })
    }

    /// Somebody follows the log of a process, until dropped; `None` when it has no live terminal.
    pub fn follow_log(self: &Arc<Self>, id: ProcessId) -> Option<LogFollower> {
        let follows = self.scopes.lock().follow(id);
        // Made only where it follows, and not under the lock: its end is counted.
        follows.then(|| LogFollower {
            terminals: Arc::clone(self),
            id,
        })
    }

    /// How many look at it.
    pub fn viewers(&self, id: ProcessId) -> usize {
        self.scopes.lock().viewers(id)
    }

    /// Whether `name` may write to it; a process without a terminal has no lock.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] naming who holds the lock.
    pub fn check_input(&self, id: ProcessId, name: &str) -> Result<(), Error> {
        match self.scopes.lock().check_input(id, name, Instant::now()) {
            Err(Error::NotFound { .. }) => Ok(()),
            checked => checked,
        }
    }

    /// Takes the writer lock for a while, from whoever has it when `steal` is set.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when it has ended, [`Error::Conflict`] naming who holds it.
    pub fn lock(&self, id: ProcessId, name: &str, lease: Duration, steal: bool) -> Result<(), Error> {
        let (mut scopes, now) = (self.scopes.lock(), Instant::now());
        let writer = scopes.writer(id)?;
        if steal {
            return writer.steal(name, lease, now).map(|_| ());
        }
        writer.take(name, lease, now)
    }

    /// Gives the writer lock up.
    ///
    /// # Errors
    ///
    /// As [`Terminals::lock`].
    pub fn unlock(&self, id: ProcessId, name: &str) -> Result<(), Error> {
        let mut scopes = self.scopes.lock();
        scopes.writer(id)?.release(name, Instant::now())
    }

    /// The pillar.
    async fn end_abandoned(self: Arc<Self>) -> Result<(), Error> {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.look) => {}
                () = self.tasks.stopping() => return Ok(()),
            }
            let due = self.scopes.lock().due(Instant::now());
            for id in due {
                let session = self.sessions.lock().get(&id).map(Arc::clone);
                let Some(session) = session else { continue };
                tracing::info!(%id, "nobody came back to a terminal, it is ended");
                session.process.cancel();
            }
        }
    }
}

/// What of a screen is wanted besides its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotRequest {
    /// Its cells with their attributes.
    pub cells: bool,
    /// So many lines that left it, from the one with this number on.
    pub history: Option<(u64, usize)>,
}

/// What a screen shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// As text.
    pub screen: Snapshot,
    /// With attributes, when asked for.
    pub cells: Option<Vec<Vec<Run>>>,
    /// What scrolled away, when asked for.
    pub history: Option<Page>,
    /// False when output was lost before it could be emulated.
    pub is_exact: bool,
}

/// Somebody who looks at a terminal, until dropped.
#[derive(Debug)]
pub struct Attachment {
    terminals: Arc<Terminals>,
    id: ProcessId,
    viewer: Viewer,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mut scopes = self.terminals.scopes.lock();
        scopes.detach(self.id, self.viewer, Instant::now());
    }
}

/// Somebody who reads the log of a terminal, until dropped.
#[derive(Debug)]
pub struct LogFollower {
    terminals: Arc<Terminals>,
    id: ProcessId,
}

impl Drop for LogFollower {
    fn drop(&mut self) {
        self.terminals.scopes.lock().unfollow(self.id, Instant::now());
    }
}
