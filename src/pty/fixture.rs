//! Terminals for the tests of this room, and what it means that two of them are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use alacritty_terminal::grid::{Cursor, Dimensions};
use alacritty_terminal::index::{Column, Line};
use alacritty_terminal::term::cell::{Cell, Flags};
use alacritty_terminal::term::color::COUNT;

use super::screen::{Cells, Screen};
use super::{Budget, Grid, Limits};
use crate::exec::Size;

pub(super) fn size(cols: u32, rows: u32) -> Size {
    Size::new(cols, rows).unwrap()
}

pub(super) fn grid(cols: u32, rows: u32) -> Grid {
    Grid::open(size(cols, rows), Limits::default(), &Budget::new(100_000_000)).unwrap()
}

pub(super) fn fed(cols: u32, rows: u32, bytes: &[u8]) -> Grid {
    let mut grid = grid(cols, rows);
    grid.feed(bytes);
    grid
}

pub(super) fn restored(original: &mut Grid) -> Grid {
    let mut copy = grid(original.size().cols().into(), original.size().rows().into());
    copy.feed(&original.restore());
    copy
}

/// Everything that later output can depend on or a viewer can see, by name.
pub(super) type State = BTreeMap<String, String>;

fn look(cell: &Cell) -> String {
    let link = cell
        .hyperlink()
        .map(|link| (link.id().to_owned(), link.uri().to_owned()));
    let line = cell.underline_color();
    let zero = cell.zerowidth().filter(|zero| !zero.is_empty());
    format!(
        "{:?} {:?}/{:?} {:?} {zero:?} {line:?} {link:?}",
        cell.c, cell.fg, cell.bg, cell.flags
    )
}

fn add_cells(state: &mut State, name: &str, cells: &Cells) {
    for row in 0..cells.screen_lines() {
        for (col, cell) in cells[Line(row as i32)].into_iter().enumerate() {
            state.insert(format!("{name} {row} {col}"), look(cell));
        }
    }
}

fn place(cursor: &Cursor<Cell>) -> String {
    format!(
        "{:?} {} {:?}",
        cursor.point,
        look(&cursor.template),
        cursor.charsets
    )
}

pub(super) fn state(grid: &mut Grid) -> State {
    let mut state = State::new();
    let mut add = |name: &str, value: &dyn Debug| state.insert(name.to_owned(), format!("{value:?}"));
    add("unfinished", &grid.unfinished());
    let screen = grid.screen();
    let cursor = &screen.term.grid().cursor;
    add("cursor", &place(cursor));
    add("waits", &cursor.input_needs_wrap);
    add("saved", &place(&screen.term.grid().saved_cursor));
    add("modes", &screen.modes);
    add("flags", screen.term.mode());
    add("charset", &screen.charset);
    add("region", &screen.region);
    add("tabs", &screen.tabs);
    add("title", &screen.title);
    add("titles", &screen.titles);
    let colors = (0..COUNT).filter_map(|index| Some((index, screen.term.colors()[index]?)));
    add("colors", &colors.collect::<Vec<_>>());
    add_cells(&mut state, "shown", screen.term.grid());
    if screen.is_alternate() {
        screen.with_main(|term| {
            add_cells(&mut state, "main", term.grid());
            state.insert("main cursor".into(), place(&term.grid().cursor));
        });
    }
    state
}

/// What is not the same in both.
pub(super) fn differences(one: &mut Grid, other: &mut Grid) -> Vec<String> {
    let (one, other) = (state(one), state(other));
    let names: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let differs = names
        .into_iter()
        .filter(|name| one.get(*name) != other.get(*name));
    differs
        .map(|name| format!("{name}: {:?}, {:?}", one.get(name), other.get(name)))
        .collect()
}

/// What `REP` repeats is whatever was drawn last, which a frame cannot choose freely: there may be no room to draw it
/// without a trace, or the cursor waits behind another character.
pub(super) fn can_say_what_to_repeat(screen: &Screen) -> bool {
    let cells = screen.term.grid();
    let rows = (0..cells.screen_lines()).map(|row| &cells[Line(row as i32)]);
    let erased = |cell: &Cell| {
        let flags = cell.flags & Flags::WRAPLINE;
        *cell
            == Cell {
                flags,
                ..Cell::from(cell.bg)
            }
    };
    let mut pairs = rows
        .flat_map(|row| (0..row.len().saturating_sub(2)).map(move |col| &row[Column(col)..Column(col + 2)]));
    screen.last.is_some()
        && !cells.cursor.input_needs_wrap
        && pairs.any(|pair| pair.iter().all(erased) && pair[0].bg == pair[1].bg)
}
