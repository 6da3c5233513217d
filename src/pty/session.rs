//! One terminal of the room: its process, and its screen as one more reader of the log, which rests when the process has ended.

use std::sync::Arc;

use tokio::sync::Mutex as AsyncMutex;

use super::grid::{Grid, Resting};
use crate::error::Error;
use crate::exec::{Gate, Process};
use crate::stream::{Channel, Cursor, Item};

/// Bytes of output that are looked at together: of a flood of text, most can be left out then (see `flood`).
const BATCH: u64 = 2 << 20;

/// One terminal.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) process: Arc<Process>,
    screen: AsyncMutex<Screen>,
    /// Bytes that its log keeps.
    retention: u64,
}

/// What its screen shows, and up to where that follows the log.
#[derive(Debug)]
pub(super) struct Screen {
    picture: Picture,
    pub(super) cursor: Cursor,
    /// Bytes of output that were read, those that are missing among them.
    pub(super) offset: u64,
    /// Output that was read and is not emulated yet, behind its first `emulated` bytes.
    pending: Vec<u8>,
    emulated: usize,
    /// Whether every byte was.
    pub(super) is_exact: bool,
}

/// A screen while its process runs, and afterwards.
#[derive(Debug)]
enum Picture {
    /// Followed, or looked at.
    Awake(Box<Grid>),
    /// Kept for those who come late.
    Resting(Box<Resting>),
}

impl Session {
    /// Of a process that has just begun, and its blank screen.
    pub(super) fn new(process: &Arc<Process>, grid: Grid, retention: u64) -> Self {
        Self {
            process: Arc::clone(process),
            screen: AsyncMutex::new(Screen {
                picture: Picture::Awake(Box::new(grid)),
                cursor: Cursor::start().only(&[Channel::Tty]),
                offset: 0,
                pending: Vec::new(),
                emulated: 0,
                is_exact: true,
            }),
            retention,
        }
    }

    /// Its screen after everything that is in the log.
    pub(super) async fn caught_up(&self) -> Result<tokio::sync::MutexGuard<'_, Screen>, Error> {
        let log = self.process.output();
        let mut screen = self.screen.lock().await;
        screen.emulate().await?;
        loop {
            let items = log.read(&mut screen.cursor, BATCH).await?;
            if items.is_empty() {
                return Ok(screen);
            }
            for item in items {
                match item {
                    Item::Record(record) => {
                        screen.offset = record.offset + record.bytes.len() as u64;
                        screen.pending.extend_from_slice(&record.bytes);
                    }
                    Item::Gap(gap) => {
                        screen.offset += gap.bytes;
                        screen.is_exact = false;
                    }
                }
            }
            screen.emulate().await?;
            // What the log would drop unseen waits for us.
            log.set_gate(Gate {
                after: screen.cursor.seq,
                window: self.retention.max(2) / 2,
                ..Gate::OPEN
            });
        }
    }
}

impl Screen {
    /// The grid, awake.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`] when it rests and there is no room to wake it.
    pub(super) fn grid(&mut self) -> Result<&mut Grid, Error> {
        if let Picture::Resting(resting) = &mut self.picture {
            let grid = resting.wake()?;
            self.picture = Picture::Awake(Box::new(grid));
        }
        match &mut self.picture {
            Picture::Awake(grid) => Ok(grid),
            Picture::Resting(_) => Err(Error::Internal {
                reason: "a screen does not wake".into(),
            }),
        }
    }

    /// Nothing more comes for it.
    pub(super) fn rest(&mut self) {
        if let Picture::Awake(grid) = &mut self.picture {
            let resting = grid.rest();
            self.picture = Picture::Resting(Box::new(resting));
        }
    }

    /// Emulates what is pending, and lets others have their turn now and then. Cancel-safe: what is not emulated yet stays.
    ///
    /// # Errors
    ///
    /// As [`Screen::grid`].
    async fn emulate(&mut self) -> Result<(), Error> {
        while self.emulated < self.pending.len() {
            let (pending, at) = (std::mem::take(&mut self.pending), self.emulated);
            let step = self.grid().map(|grid| grid.step(&pending[at..]));
            self.pending = pending;
            self.emulated += step?;
            tokio::task::yield_now().await;
        }
        (self.pending, self.emulated) = (Vec::new(), 0);
        Ok(())
    }
}
