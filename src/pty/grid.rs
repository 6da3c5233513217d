//! The emulated terminal as the room uses it: bytes in, frames, snapshots, history and answers out.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use alacritty_terminal::term::TermMode;
use alacritty_terminal::vte::ansi::Processor;

use super::budget::{Budget, CELL, Share};
use super::cells::{self, Run, Snapshot};
use super::emulation::{Emulation, Never};
use super::flood;
use super::history::{History, Limits, Page};
use super::restore;
use super::scanner::Scanner;
use super::screen::Screen;
use crate::error::Error;
use crate::exec::Size;

/// A terminal's screen and history, kept by emulating what its program writes.
///
/// How the bytes are cut makes no difference, and no bytes can make it fail. [`Grid::feed`] takes time, for much output
/// noticeable time: [`Grid::step`] takes it in portions.
pub struct Grid {
    scanner: Scanner,
    parser: Processor<Never>,
    screen: Screen,
    size: Size,
    limits: Limits,
    share: Share,
}

impl fmt::Debug for Grid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Grid")
            .field("size", &self.size)
            .field("share", &self.share)
            .finish_non_exhaustive()
    }
}

/// A terminal that nothing more comes for: the frame that redraws its screen, and its history. That takes a fraction of
/// the memory of its cells.
#[derive(Debug)]
pub struct Resting {
    frame: Vec<u8>,
    history: History,
    size: Size,
    limits: Limits,
    share: Share,
}

impl Resting {
    /// The terminal as it was. Fails with [`Error::Overloaded`] and changes nothing when the budget has no room for it.
    pub fn wake(&mut self) -> Result<Grid, Error> {
        let mut grid = Grid::open(self.size, self.limits, self.share.budget())?;
        grid.feed(&self.frame);
        // It asked nothing.
        grid.take_answers();
        let limits = grid.screen.history.limits();
        grid.screen.history = std::mem::replace(&mut self.history, History::new(limits));
        grid.screen.history.limit(limits);
        Ok(grid)
    }
}

impl Grid {
    /// Puts it to rest; what is left is blank.
    pub fn rest(&mut self) -> Resting {
        let frame = self.restore();
        let history = std::mem::replace(&mut self.screen.history, History::new(self.limits));
        let cells = (frame.len() + history.bytes()).div_ceil(CELL) as u64;
        let budget = self.share.budget();
        // Where less is left it is rested all the same: it gives back far more.
        let share = Share::up_to(budget, cells);
        Resting {
            frame,
            history,
            size: self.size,
            limits: self.limits,
            share,
        }
    }

    /// A blank one. Where the budget is short the history is; where not even the screen fits it is
    /// [`Error::Overloaded`].
    pub fn open(size: Size, limits: Limits, budget: &Arc<Budget>) -> Result<Self, Error> {
        let (needed, wanted) = cost(size, limits);
        let share = Share::take(budget, needed, wanted).map_err(|left| overloaded(size, left))?;
        let history = History::new(affordable(limits, &share, needed));
        Ok(Self {
            scanner: Scanner::default(),
            parser: Processor::new(),
            screen: Screen::new(size, history),
            size,
            limits,
            share,
        })
    }

    /// Columns and rows.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Emulates what the program wrote.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.step(bytes)..];
        }
    }

    /// Emulates some of what the program wrote, as much as takes a few milliseconds at most; answers how much. The more it
    /// is given, the more of a flood of text it need not look at.
    pub fn step(&mut self, bytes: &[u8]) -> usize {
        let mut now = bytes.len().min(flood::SHORTEST);
        if self.may_leave_out(bytes) {
            let text = flood::text(bytes);
            if let Some((surplus, lines)) = self.surplus(&bytes[..text]) {
                self.emulate(&bytes[..surplus.start]);
                for attributes in flood::attributes(&bytes[surplus.clone()]) {
                    self.emulate(attributes);
                }
                if !self.screen.is_alternate() {
                    self.screen.history.pass_over(lines);
                }
                self.emulate(&bytes[surplus.end..text]);
                return text;
            }
            now = now.max(text);
        }
        self.emulate(&bytes[..now]);
        now
    }

    fn emulate(&mut self, bytes: &[u8]) {
        let mut emulation = Emulation {
            parser: &mut self.parser,
            screen: &mut self.screen,
        };
        self.scanner.feed(bytes, &mut emulation);
    }

    /// Whether text that begins here could be left out.
    fn may_leave_out(&self, bytes: &[u8]) -> bool {
        bytes.len() > flood::SHORTEST && self.scanner.is_between() && self.screen.scrolls_as_a_whole()
    }

    /// What of a text need not be emulated, and how many lines of history that would have been.
    fn surplus(&self, text: &[u8]) -> Option<(Range<usize>, u64)> {
        let (seen, cols) = (self.seen_lines(), self.screen.cols());
        if let Some(surplus) = flood::surplus(text, seen) {
            let lines = flood::lines(&text[surplus.clone()]);
            return Some((surplus, lines));
        }
        let wraps = self.screen.has(TermMode::LINE_WRAP) && !self.screen.modes.insert;
        let surplus = flood::unbroken(text, cols, seen).filter(|_| wraps)?;
        Some((0..surplus, (surplus / cols) as u64))
    }

    /// The last lines of a text that can be seen afterwards, on the screen and in the history. Those of another screen
    /// may have been written over what stood there.
    fn seen_lines(&self) -> usize {
        let history = if self.screen.is_alternate() {
            0
        } else {
            self.screen.history.limits().lines
        };
        2 * usize::from(self.size.rows()) + history
    }

    /// Changes the size as terminals do: the main screen wraps its lines anew. Fails with [`Error::Overloaded`] and
    /// changes nothing when the budget has no room for it.
    pub fn resize(&mut self, size: Size) -> Result<(), Error> {
        let (needed, wanted) = cost(size, self.limits);
        self.share
            .change(needed, wanted)
            .map_err(|left| overloaded(size, left))?;
        self.screen.resize(size);
        self.size = size;
        let limits = affordable(self.limits, &self.share, needed);
        self.screen.history.limit(limits);
        Ok(())
    }

    /// One frame for a fresh terminal of the same size, after which it looks the same and goes on the same with
    /// whatever the program writes next. Takes `&mut self` to look behind the alternate screen; nothing changes.
    pub fn restore(&mut self) -> Vec<u8> {
        restore::frame(&mut self.screen, self.scanner.unfinished())
    }

    /// The screen as text.
    pub fn snapshot(&self) -> Snapshot {
        cells::snapshot(&self.screen, self.size)
    }

    /// The screen with its attributes: the runs of each row.
    pub fn cells(&self) -> Vec<Vec<Run>> {
        cells::runs(&self.screen)
    }

    /// Up to `lines` lines that left the screen, from the one with this number on.
    pub fn history(&self, from: u64, lines: usize) -> Page {
        self.screen.history.page(from, lines)
    }

    /// What the program asked its terminal, answered, at most 4 KiB. Where a viewer is attached its terminal answers,
    /// and this is to be thrown away.
    pub fn take_answers(&mut self) -> Vec<u8> {
        self.screen.answers.take()
    }

    #[cfg(test)]
    pub(super) fn unfinished(&self) -> usize {
        self.scanner.unfinished().len()
    }

    #[cfg(test)]
    pub(super) fn screen(&mut self) -> &mut Screen {
        &mut self.screen
    }
}

/// Cells that a screen needs, and those that it wants with its history. There are two screens, the main and the
/// alternate one.
fn cost(size: Size, limits: Limits) -> (u64, u64) {
    let screen = 2 * u64::from(size.cols()) * u64::from(size.rows());
    (screen, screen + limits.bytes.div_ceil(CELL) as u64)
}

/// The history that is left of the share when the screen has what it needs.
fn affordable(limits: Limits, share: &Share, screen: u64) -> Limits {
    let bytes = (share.cells() - screen).saturating_mul(CELL as u64);
    Limits {
        lines: limits.lines,
        bytes: limits.bytes.min(usize::try_from(bytes).unwrap_or(usize::MAX)),
    }
}

fn overloaded(size: Size, left: u64) -> Error {
    let (needed, _) = cost(size, Limits { lines: 0, bytes: 0 });
    Error::Overloaded {
        what: "the budget of terminal cells",
        reason: format!(
            "a screen of {} columns and {} rows needs {needed}, {left} are left",
            size.cols(),
            size.rows()
        ),
    }
}
