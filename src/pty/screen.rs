//! The emulated screen: `alacritty_terminal` where it is exact, and our own steps where it is not or keeps to itself
//! what a second terminal has to be told.
//!
//! Ours are: lines that scroll away go to [`History`] as text instead of into the library's scrollback; both halves of
//! a wide character live and die together; margins bind cursor movements; the number of tab stops, titles, combining
//! characters and links that a program can have kept is bounded. `handler` has the sequences, `modes` what changes no
//! cell, `answers` what the program asks for.

use std::ops::Range;

use alacritty_terminal::Term;
use alacritty_terminal::event::VoidListener;
use alacritty_terminal::grid::{Cursor, Dimensions, Row};
use alacritty_terminal::index::{Column, Line};
use alacritty_terminal::term::cell::{Cell, Flags};
use alacritty_terminal::term::{Config, TermMode};
use alacritty_terminal::vte::ansi::{CharsetIndex, Handler, StandardCharset};
use unicode_width::UnicodeWidthChar;

use super::answers::Answers;
use super::history::History;
use super::modes::{Keyboard, Modes};
use crate::exec::Size;

/// The cells of one screen.
pub(super) type Cells = alacritty_terminal::grid::Grid<Cell>;

/// Text that blinks: a bit that the library leaves free.
pub(super) const BLINK: Flags = Flags::from_bits_retain(0x8000);
/// Both halves of a character that takes two columns.
pub(super) const WIDE: Flags = Flags::WIDE_CHAR.union(Flags::WIDE_CHAR_SPACER);
/// Characters without a width of their own that one cell keeps.
const COMBINING: usize = 8;
/// Columns from one tab stop to the next.
const TAB: usize = 8;
/// What a cell with combining characters or a link costs beyond itself, bytes, roughly.
const EXTRA: usize = 128;
/// Bytes of those that a screen may have, or its own size again where that is more.
const EXTRAS: usize = 4 << 20;

/// The state of an emulated terminal.
pub(super) struct Screen {
    pub(super) term: Term<VoidListener>,
    pub(super) history: History,
    pub(super) modes: Modes,
    pub(super) answers: Answers,
    /// Rows between the margins.
    pub(super) region: Range<usize>,
    /// Whether there is a tab stop at each column.
    pub(super) tabs: Vec<bool>,
    pub(super) charset: CharsetIndex,
    /// What `REP` repeats.
    pub(super) last: Option<char>,
    /// Whether nothing came after it; some terminals repeat it only then.
    pub(super) has_just_printed: bool,
    pub(super) title: Option<String>,
    pub(super) titles: Vec<Option<String>>,
    /// Bytes of combining characters and links since they were last counted.
    extras: usize,
}

/// A size, as the library wants it.
pub(super) struct Dimension(pub(super) Size);

impl Dimensions for Dimension {
    fn total_lines(&self) -> usize {
        self.screen_lines()
    }

    fn screen_lines(&self) -> usize {
        self.0.rows().into()
    }

    fn columns(&self) -> usize {
        self.0.cols().into()
    }
}

impl Screen {
    pub(super) fn new(size: Size, history: History) -> Self {
        let config = Config {
            scrolling_history: 0,
            ..Config::default()
        };
        let dimension = Dimension(size);
        Self {
            term: Term::new(config, &dimension, VoidListener),
            history,
            modes: Modes::default(),
            answers: Answers::default(),
            region: 0..dimension.screen_lines(),
            tabs: (0..dimension.columns()).map(is_default_tab).collect(),
            charset: CharsetIndex::G0,
            last: None,
            has_just_printed: false,
            title: None,
            titles: Vec::new(),
            extras: 0,
        }
    }

    pub(super) fn cols(&self) -> usize {
        self.term.columns()
    }

    pub(super) fn rows(&self) -> usize {
        self.term.screen_lines()
    }

    pub(super) fn has(&self, mode: TermMode) -> bool {
        self.term.mode().contains(mode)
    }

    pub(super) fn is_alternate(&self) -> bool {
        self.has(TermMode::ALT_SCREEN)
    }

    /// Whether a line feed at the bottom moves every row: no margins.
    pub(super) fn scrolls_as_a_whole(&self) -> bool {
        self.region == (0..self.rows())
    }

    /// Row of the cursor, from 0.
    pub(super) fn row(&self) -> usize {
        self.term.grid().cursor.point.line.0 as usize
    }

    /// Column of the cursor, from 0.
    pub(super) fn col(&self) -> usize {
        self.term.grid().cursor.point.column.0
    }

    /// Moves the cursor, within the screen.
    pub(super) fn move_to(&mut self, row: usize, col: usize) {
        let (row, col) = (row.min(self.rows() - 1), col.min(self.cols() - 1));
        let cursor = &mut self.term.grid_mut().cursor;
        cursor.point.line = Line(row as i32);
        cursor.point.column = Column(col);
        cursor.input_needs_wrap = false;
    }

    pub(super) fn text(&mut self, mut text: &str) {
        while !text.is_empty() {
            let plain = text.bytes().position(|byte| !(b' '..=b'~').contains(&byte));
            let (ascii, rest) = text.split_at(plain.unwrap_or(text.len()));
            self.ascii(ascii.as_bytes());
            let mut characters = rest.chars();
            match characters.next() {
                Some(control @ ..'\u{20}') => self.control(control as u8),
                // The second set of control characters has only been trouble; every terminal of today leaves it alone.
                None | Some('\u{7f}'..='\u{9f}') => {}
                Some(character) => self.print(character),
            }
            text = characters.as_str();
        }
    }

    pub(super) fn control(&mut self, byte: u8) {
        self.has_just_printed = false;
        match byte {
            0x08 => self.term.backspace(),
            0x09 => self.tab(1),
            0x0a..=0x0c => {
                self.line_feed();
                if self.has(TermMode::LINE_FEED_NEW_LINE) {
                    self.term.carriage_return();
                }
            }
            0x0d => self.term.carriage_return(),
            0x0e => self.set_active_charset(CharsetIndex::G1),
            0x0f => self.set_active_charset(CharsetIndex::G0),
            _ => {}
        }
    }

    /// What most output is, without what only other characters need.
    fn ascii(&mut self, mut run: &[u8]) {
        let charset = self.term.grid().cursor.charsets[self.charset];
        if self.modes.insert || charset != StandardCharset::Ascii || !self.has(TermMode::LINE_WRAP) {
            for byte in run {
                self.print(char::from(*byte));
            }
            return;
        }
        while !run.is_empty() {
            if self.term.grid().cursor.input_needs_wrap {
                self.wrap();
            }
            let (row, col, cols) = (self.row(), self.col(), self.cols());
            let (now, later) = run.split_at(run.len().min(cols - col));
            let end = col + now.len();
            let grid = self.term.grid_mut();
            let template = grid.cursor.template.clone();
            let cells = &mut grid[Line(row as i32)][Column(col)..Column(end)];
            if cells.iter().any(|cell| cell.flags.intersects(WIDE)) {
                for byte in now {
                    self.print(char::from(*byte));
                }
            } else {
                for (cell, byte) in cells.iter_mut().zip(now) {
                    cell.clone_from(&template);
                    cell.c = char::from(*byte);
                }
                let cursor = &mut grid.cursor;
                cursor.point.column = Column(end.min(cols - 1));
                cursor.input_needs_wrap = end == cols;
                self.last = now.last().map(|byte| char::from(*byte));
                self.has_just_printed = true;
            }
            run = later;
        }
    }

    /// Puts one character where the cursor is.
    pub(super) fn print(&mut self, character: char) {
        match character.width() {
            None => return,
            Some(0) => return self.combine(character),
            Some(width) => {
                let wraps = self.has(TermMode::LINE_WRAP);
                if wraps && self.term.grid().cursor.input_needs_wrap {
                    self.wrap();
                }
                if width > 1 && self.col() + 1 >= self.cols() {
                    if self.cols() < 2 || !wraps {
                        return;
                    }
                    self.term.input(' ');
                    self.wrap();
                }
                if self.modes.insert {
                    self.term.insert_blank(width);
                    self.mend(self.row());
                }
                self.term.input(character);
            }
        }
        self.last = Some(character);
        self.has_just_printed = true;
    }

    /// Adds a character without width to the one before it.
    fn combine(&mut self, character: char) {
        let grid = self.term.grid();
        let cursor = &grid.cursor;
        let back = usize::from(!cursor.input_needs_wrap);
        let row = &grid[cursor.point.line];
        let mut col = self.col().saturating_sub(back);
        if row[Column(col)].flags.contains(Flags::WIDE_CHAR_SPACER) {
            col = col.saturating_sub(1);
        }
        let there = row[Column(col)].zerowidth().map_or(0, <[char]>::len);
        if there < COMBINING && (there > 0 || self.may_add(EXTRA)) {
            self.term.input(character);
        }
    }

    /// Whether `bytes` more of combining characters and links may be kept.
    pub(super) fn may_add(&mut self, bytes: usize) -> bool {
        let most = EXTRAS.max(self.rows() * self.cols() * size_of::<Cell>());
        if self.extras + bytes > most {
            self.extras = 0;
            self.each_screen(|cells| {
                let mut extras = 0;
                for row in (0..cells.screen_lines()).map(|row| &cells[Line(row as i32)]) {
                    extras += row.into_iter().filter_map(extra).sum::<usize>();
                }
                extras
            });
        }
        let fits = self.extras + bytes <= most;
        self.extras += if fits { bytes } else { 0 };
        fits
    }

    /// Goes on in the next line and remembers that it is the same one.
    fn wrap(&mut self) {
        let row = self.row();
        self.term.grid_mut().cursor_cell().flags.insert(Flags::WRAPLINE);
        if row + 1 == self.rows() && self.region.end != self.rows() {
            // Below the margins nothing scrolls, and the line goes on over itself.
            self.term.grid_mut().cursor_cell().flags.remove(Flags::WRAPLINE);
        }
        self.line_feed();
        self.move_to(self.row(), 0);
    }

    /// One row down, or everything between the margins one row up.
    pub(super) fn line_feed(&mut self) {
        if self.row() + 1 == self.region.end {
            self.let_go(1);
        }
        self.term.linefeed();
        self.term.grid_mut().cursor.input_needs_wrap = false;
    }

    /// Puts the topmost rows, which are about to scroll away, into the history.
    pub(super) fn let_go(&mut self, rows: usize) {
        if self.region.start > 0 || self.is_alternate() {
            return;
        }
        for row in 0..rows.min(self.region.end) {
            let line = line_text(&self.term.grid()[Line(row as i32)]);
            self.history.push(&line);
        }
    }

    pub(super) fn tab(&mut self, count: u16) {
        if self.term.grid().cursor.input_needs_wrap {
            return;
        }
        let mut col = self.col();
        for _ in 0..count.min(self.cols() as u16) {
            let next = self.tabs.iter().skip(col + 1).position(|stop| *stop);
            col = next.map_or(self.cols() - 1, |next| col + 1 + next);
        }
        self.move_to(self.row(), col);
    }

    pub(super) fn back_tab(&mut self, count: u16) {
        let mut col = self.col();
        for _ in 0..count.min(self.cols() as u16) {
            col = self.tabs[..col].iter().rposition(|stop| *stop).unwrap_or(0);
        }
        self.move_to(self.row(), col);
    }

    /// After cells of a row were moved or erased: halves of wide characters that lost the other one become blanks,
    /// and only the last cell may say that the line goes on.
    pub(super) fn mend(&mut self, row: usize) {
        mend_row(&mut self.term.grid_mut()[Line(row as i32)]);
    }

    /// The last row has no next one that it could go on in.
    pub(super) fn end_last_row(&mut self) {
        let (row, col) = (self.rows() - 1, self.cols() - 1);
        self.term.grid_mut()[Line(row as i32)][Column(col)]
            .flags
            .remove(Flags::WRAPLINE);
    }

    /// Nor does a row go on while the cursor still waits behind its last column.
    pub(super) fn end_waiting_row(&mut self) {
        if self.term.grid().cursor.input_needs_wrap {
            self.term.grid_mut().cursor_cell().flags.remove(Flags::WRAPLINE);
        }
    }

    /// Shows the alternate screen or the main one. With 1049 the cursor comes back to where it was, with the older
    /// modes it stays.
    pub(super) fn alternate(&mut self, mode: u16, on: bool) {
        if on == self.is_alternate() {
            // Without anything to change it still saves the cursor or brings it back.
            match (mode, on) {
                (1049, true) => self.term.save_cursor_position(),
                (1049, false) => self.restore_cursor_position(),
                _ => {}
            }
            return;
        }
        self.term.grid_mut().cursor.input_needs_wrap = false;
        let cursor = self.term.grid().cursor.clone();
        self.term.swap_alt();
        let grid = self.term.grid_mut();
        if !on && mode != 1049 {
            grid.cursor = cursor;
        }
        // Each screen has a saved cursor of its own; that of the alternate one is forgotten with it.
        grid.saved_cursor = if on {
            Cursor::default()
        } else {
            grid.cursor.clone()
        };
        *self.modes.keyboard_mut(true) = Keyboard::default();
        self.keep_within_margins();
    }

    /// With `DECOM` the cursor cannot be outside of the margins.
    pub(super) fn keep_within_margins(&mut self) {
        let row = self.row().clamp(self.region.start, self.region.end - 1);
        if self.has(TermMode::ORIGIN) && row != self.row() {
            self.move_to(row, self.col());
        }
    }

    /// Calls `work` with the cells of the main screen, also while the alternate one is shown.
    pub(super) fn with_main<T>(&mut self, work: impl FnOnce(&mut Term<VoidListener>) -> T) -> T {
        if !self.is_alternate() {
            return work(&mut self.term);
        }
        // The library clears the alternate screen when it is entered.
        let alternate = self.term.grid().clone();
        self.term.swap_alt();
        let result = work(&mut self.term);
        self.term.swap_alt();
        *self.term.grid_mut() = alternate;
        result
    }

    /// Sums up over what is shown and what is behind it.
    fn each_screen(&mut self, measure: impl Fn(&Cells) -> usize) {
        let mut sum = measure(self.term.grid());
        if self.is_alternate() {
            sum += self.with_main(|term| measure(term.grid()));
        }
        self.extras = sum;
    }
}

/// Where tab stops are when nobody moved them.
pub(super) fn is_default_tab(col: usize) -> bool {
    col.is_multiple_of(TAB)
}

/// The text of a row without trailing blanks.
pub(super) fn line_text(row: &Row<Cell>) -> String {
    let cells = &row[..];
    let drawn = cells
        .iter()
        .rposition(|cell| cell.c != ' ' || cell.extra.is_some());
    let cells = &cells[..drawn.map_or(0, |last| last + 1)];
    let mut text = String::with_capacity(cells.len());
    for cell in cells {
        if !cell.flags.contains(Flags::WIDE_CHAR_SPACER) {
            text.push(cell.c);
            if let Some(combining) = cell.zerowidth() {
                text.extend(combining);
            }
        }
    }
    text.truncate(text.trim_end_matches(' ').len());
    text
}

/// Bytes that a cell has beyond itself.
fn extra(cell: &Cell) -> Option<usize> {
    cell.extra.as_ref()?;
    Some(EXTRA + cell.hyperlink().map_or(0, |link| link.uri().len()))
}

pub(super) fn mend_row(row: &mut Row<Cell>) {
    let cols = row.len();
    let is_wide = |cell: &Cell| cell.flags.contains(Flags::WIDE_CHAR);
    let is_spacer = |cell: &Cell| cell.flags.contains(Flags::WIDE_CHAR_SPACER);
    for col in 0..cols {
        let next_is_spacer = col + 1 < cols && is_spacer(&row[Column(col + 1)]);
        let after_wide = col > 0 && is_wide(&row[Column(col - 1)]);
        let cell = &mut row[Column(col)];
        if is_wide(cell) && !next_is_spacer {
            cell.clear_wide();
        } else if is_spacer(cell) && !after_wide {
            cell.flags.remove(Flags::WIDE_CHAR_SPACER);
        }
        cell.flags.remove(Flags::LEADING_WIDE_CHAR_SPACER);
        if col + 1 < cols {
            cell.flags.remove(Flags::WRAPLINE);
        }
    }
}
