//! A grid that nobody waits for: output is put down at the speed of a copy and emulated when somebody has the time.
//!
//! The pump calls [`Lazy::push`] with what it read. A task on the blocking pool calls [`Lazy::settle`] when a push said
//! so; whoever looks at the screen goes through [`Lazy::with`], which settles first. The order of the bytes is that of
//! the pushes, whoever settles.
//!
//! ```text
//!   push --copy--> backlog (bounded) --settle, with--> grid
//! ```
//!
//! The pump has to settle by itself only when the backlog is full. For text, colored or not, that costs a search (see
//! `flood`), so a flood is not slowed by its emulation; only output that moves the cursor all the time is held to the
//! emulator's speed.

use parking_lot::Mutex;

use super::grid::Grid;

/// Bytes that wait at most.
const FULL: usize = 2 << 20;
/// From here on it is worth settling in the background.
const WORTH: usize = FULL / 4;
/// A backlog that grew beyond this gives its memory back when it is empty.
const SMALL: usize = 16 * 1024;

/// What should happen after a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nothing: it waits until somebody looks.
    None,
    /// It may hold a question of the program's; while there is no viewer, settle soon and send the answers.
    Question,
    /// There is much: settle in the background, before the next push finds it full.
    Much,
    /// It is full: settle before the next push.
    Full,
}

/// A [`Grid`] and the output that it has not seen yet.
#[derive(Debug)]
pub struct Lazy {
    grid: Mutex<Grid>,
    /// Locked for a copy only. Whoever needs both locks the grid first.
    backlog: Mutex<Vec<u8>>,
}

impl Lazy {
    /// Around a grid.
    pub fn new(grid: Grid) -> Self {
        Self {
            grid: Mutex::new(grid),
            backlog: Mutex::new(Vec::new()),
        }
    }

    /// Puts output down. Never emulates and never waits for who does.
    pub fn push(&self, bytes: &[u8]) -> Urgency {
        let mut backlog = self.backlog.lock();
        backlog.extend_from_slice(bytes);
        match backlog.len() {
            FULL.. => Urgency::Full,
            WORTH.. => Urgency::Much,
            _ if memchr::memchr(0x1b, bytes).is_some() => Urgency::Question,
            _ => Urgency::None,
        }
    }

    /// Emulates all that was pushed. Blocks for as long as that takes: up to some 40 ms for a full backlog of
    /// cursor movements, a few for text.
    pub fn settle(&self) {
        self.with(|_| ());
    }

    /// Calls `work` with the grid as it is after all that was pushed.
    pub fn with<T>(&self, work: impl FnOnce(&mut Grid) -> T) -> T {
        let mut grid = self.grid.lock();
        let mut batch = std::mem::take(&mut *self.backlog.lock());
        grid.feed(&batch);
        batch.clear();
        if batch.capacity() <= SMALL {
            let mut backlog = self.backlog.lock();
            if backlog.capacity() == 0 {
                *backlog = batch;
            }
        }
        work(&mut grid)
    }
}
