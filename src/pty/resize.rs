//! Another size for the screen: what the library does about it, and what it leaves undone.

use alacritty_terminal::Term;
use alacritty_terminal::event::VoidListener;
use alacritty_terminal::grid::Dimensions;
use alacritty_terminal::index::{Column, Line};
use alacritty_terminal::term::cell::Flags;

use super::screen::{Cells, Dimension, Screen, WIDE, is_default_tab, line_text, mend_row};
use crate::exec::Size;

impl Screen {
    /// Changes the size. The main screen's lines are wrapped anew, the alternate one's are cut or filled.
    pub(super) fn resize(&mut self, size: Size) {
        let dimension = Dimension(size);
        let (rows, cols) = (dimension.screen_lines(), dimension.columns());
        if (rows, cols) == (self.rows(), self.cols()) {
            return;
        }
        let alternate = self.is_alternate().then(|| {
            let mut cells = self.term.grid().clone();
            cells.resize(false, rows, cols);
            cells.truncate();
            cells
        });
        let scrolled = self.with_main(|term| {
            if cols < 2 {
                drop_wide(term.grid_mut());
            }
            resize_main(term, &dimension)
        });
        for line in scrolled {
            self.history.push(&line);
        }
        match alternate {
            Some(cells) => *self.term.grid_mut() = cells,
            None => self.renew_alternate(),
        }
        self.region = 0..rows;
        self.has_just_printed = false;
        let known = self.tabs.len();
        self.tabs.truncate(cols);
        self.tabs.extend((known..cols).map(is_default_tab));
        self.with_main(|term| mend_all(term.grid_mut()));
        mend_all(self.term.grid_mut());
        self.end_waiting_row();
        if self.term.grid().cursor.input_needs_wrap && self.col() + 1 < cols {
            // It waited behind a column that is no longer the last.
            self.move_to(self.row(), self.col() + 1);
        }
    }

    /// The library gives a screen that grows a thousand rows in reserve; the alternate one needs none.
    fn renew_alternate(&mut self) {
        let (rows, cols) = (self.rows(), self.cols());
        let saved = self.term.grid().saved_cursor.clone();
        self.term.swap_alt();
        *self.term.grid_mut() = Cells::new(rows, cols, 0);
        self.term.swap_alt();
        self.term.grid_mut().saved_cursor = saved;
    }
}

fn mend_all(cells: &mut Cells) {
    let rows = cells.screen_lines();
    for row in 0..rows {
        mend_row(&mut cells[Line(row as i32)]);
    }
    let last = cells.columns() - 1;
    cells[Line(rows as i32 - 1)][Column(last)]
        .flags
        .remove(Flags::WRAPLINE);
}

/// Blanks for characters that need more columns than there will be; wrapping them would never end.
fn drop_wide(cells: &mut Cells) {
    for row in 0..cells.screen_lines() {
        for cell in &mut cells[Line(row as i32)] {
            if cell.flags.intersects(WIDE) {
                cell.clear_wide();
                cell.flags.remove(WIDE);
            }
        }
    }
}

/// Resizes while the main screen is shown; the lines that no longer fit above.
fn resize_main(term: &mut Term<VoidListener>, dimension: &Dimension) -> Vec<String> {
    // As history, so that they can be read before they are let go.
    let room = term.screen_lines() * term.columns() + dimension.screen_lines();
    term.grid_mut().update_history(room);
    term.resize(Dimension(dimension.0));
    let grid = term.grid_mut();
    let above = grid.history_size() as i32;
    let lines = (1..=above).rev().map(|line| line_text(&grid[Line(-line)]));
    let lines = lines.collect();
    grid.update_history(0);
    grid.truncate();
    lines
}
