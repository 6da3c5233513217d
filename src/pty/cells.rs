//! A screen as plain values: lines for who reads it, runs of equal attributes for who draws it.

use alacritty_terminal::grid::{Dimensions, Row};
use alacritty_terminal::index::Line;
use alacritty_terminal::term::TermMode;
use alacritty_terminal::term::cell::{Cell, Flags};
use alacritty_terminal::vte::ansi;

use super::screen::{BLINK, Screen, line_text};
use crate::exec::Size;

/// What is on the screen, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Columns and rows.
    pub size: Size,
    /// Every row from the top, without trailing blanks.
    pub lines: Vec<String>,
    /// Where the next character goes.
    pub cursor: Cursor,
    /// The title that the program gave its window.
    pub title: Option<String>,
    /// Whether this is the alternate screen, the one of full-screen programs.
    pub is_alternate: bool,
}

/// The cursor, counted from 0 at the top left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Row.
    pub row: u16,
    /// Column; the last one also when the next character would wrap.
    pub col: u16,
    /// Whether the program shows it.
    pub is_visible: bool,
}

/// Neighbouring cells with the same attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Their characters; a cell may have combining ones.
    pub text: String,
    /// Columns that they take.
    pub cols: u16,
    /// Their attributes.
    pub style: Style,
}

/// How a cell looks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "each is the attribute of the same name")]
pub struct Style {
    pub foreground: Color,
    pub background: Color,
    pub underline: Underline,
    /// `None` is that of the text.
    pub underline_color: Option<Color>,
    pub bold: bool,
    pub dim: bool,
    pub italic: bool,
    pub blink: bool,
    pub inverse: bool,
    pub hidden: bool,
    pub strikethrough: bool,
    /// Where it leads.
    pub link: Option<String>,
}

/// A color as the program named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Color {
    /// The viewer's own.
    #[default]
    Default,
    /// One of xterm's 256; the first sixteen are the viewer's choice.
    Indexed(u8),
    /// Red, green and blue.
    Rgb(u8, u8, u8),
}

/// The line under a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Underline {
    #[default]
    None,
    Single,
    Double,
    Curly,
    Dotted,
    Dashed,
}

pub(super) fn snapshot(screen: &Screen, size: Size) -> Snapshot {
    let grid = screen.term.grid();
    let lines = (0..grid.screen_lines()).map(|row| line_text(&grid[Line(row as i32)]));
    Snapshot {
        size,
        lines: lines.collect(),
        cursor: Cursor {
            row: screen.row() as u16,
            col: screen.col() as u16,
            is_visible: screen.has(TermMode::SHOW_CURSOR),
        },
        title: screen.title.clone(),
        is_alternate: screen.is_alternate(),
    }
}

/// The runs of every row; together those of one row take all its columns.
pub(super) fn runs(screen: &Screen) -> Vec<Vec<Run>> {
    let grid = screen.term.grid();
    (0..grid.screen_lines())
        .map(|row| row_runs(&grid[Line(row as i32)]))
        .collect()
}

fn row_runs(row: &Row<Cell>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for cell in row {
        if cell.flags.contains(Flags::WIDE_CHAR_SPACER) {
            if let Some(run) = runs.last_mut() {
                run.cols += 1;
            }
            continue;
        }
        let style = style(cell);
        if runs.last().is_none_or(|run| run.style != style) {
            runs.push(Run {
                text: String::new(),
                cols: 0,
                style,
            });
        }
        if let Some(run) = runs.last_mut() {
            run.text.push(cell.c);
            run.text.extend(cell.zerowidth().unwrap_or_default());
            run.cols += 1;
        }
    }
    runs
}

fn style(cell: &Cell) -> Style {
    let has = |flag| cell.flags.contains(flag);
    Style {
        foreground: color(cell.fg),
        background: color(cell.bg),
        underline: underline(cell.flags),
        underline_color: cell.underline_color().map(color),
        bold: has(Flags::BOLD),
        dim: has(Flags::DIM),
        italic: has(Flags::ITALIC),
        blink: has(BLINK),
        inverse: has(Flags::INVERSE),
        hidden: has(Flags::HIDDEN),
        strikethrough: has(Flags::STRIKEOUT),
        link: cell.hyperlink().map(|link| link.uri().to_owned()),
    }
}

fn underline(flags: Flags) -> Underline {
    [
        (Flags::UNDERLINE, Underline::Single),
        (Flags::DOUBLE_UNDERLINE, Underline::Double),
        (Flags::UNDERCURL, Underline::Curly),
        (Flags::DOTTED_UNDERLINE, Underline::Dotted),
        (Flags::DASHED_UNDERLINE, Underline::Dashed),
    ]
    .into_iter()
    .find_map(|(flag, underline)| flags.contains(flag).then_some(underline))
    .unwrap_or_default()
}

fn color(color: ansi::Color) -> Color {
    match color {
        ansi::Color::Named(named) => u8::try_from(named as usize)
            .ok()
            .filter(|index| *index < 16)
            .map_or(Color::Default, Color::Indexed),
        ansi::Color::Indexed(index) => Color::Indexed(index),
        ansi::Color::Spec(ansi::Rgb { r, g, b }) => Color::Rgb(r, g, b),
    }
}
