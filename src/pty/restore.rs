//! The frame that makes a fresh terminal look and behave like this one: screen, attributes, cursor, modes, margins,
//! tab stops, title, and the bytes of a sequence that is not complete.
//!
//! Everything is drawn as a program would draw it, by sequences that every terminal of the xterm family knows. A row
//! that goes on in the next one is drawn so that it wraps, and a cursor that waits behind the last column gets there by
//! printing the last character again.

use std::fmt::Write;

use alacritty_terminal::grid::{Charsets, Cursor, Dimensions, Row};
use alacritty_terminal::index::{Column, Line};
use alacritty_terminal::term::TermMode;
use alacritty_terminal::term::cell::{Cell, Flags, Hyperlink};
use alacritty_terminal::term::color::COUNT;
use alacritty_terminal::vte::ansi::{CharsetIndex, Color, NamedColor, Rgb, StandardCharset};
use unicode_width::UnicodeWidthChar;

use super::modes::Keyboard;
use super::screen::{BLINK, Cells, Screen, is_default_tab};

/// The flags that can be seen.
const VISIBLE: Flags = Flags::INVERSE
    .union(Flags::BOLD)
    .union(Flags::ITALIC)
    .union(Flags::DIM)
    .union(Flags::HIDDEN)
    .union(Flags::STRIKEOUT)
    .union(Flags::ALL_UNDERLINES)
    .union(BLINK);
const CHARSETS: [(CharsetIndex, char); 4] = [
    (CharsetIndex::G0, '('),
    (CharsetIndex::G1, ')'),
    (CharsetIndex::G2, '*'),
    (CharsetIndex::G3, '+'),
];

/// Draws the screen; `unfinished` is what the scanner holds.
pub(super) fn frame(screen: &mut Screen, unfinished: &[u8]) -> Vec<u8> {
    let mut frame = Frame::default();
    frame.out.push_str("\x1bc");
    frame.colors(screen);
    frame.titles(screen);
    if screen.is_alternate() {
        frame.keyboard(screen.modes.keyboard(false));
        screen.with_main(|term| {
            frame.cells(term.grid());
            frame.stand(&term.grid().cursor);
        });
        // Saves the cursor too, for when the main screen comes back.
        frame.out.push_str("\x1b[?1049h");
        frame.attributes(&Cell::default());
        frame.charsets(Charsets::default());
        frame.out.push_str("\x1b[2J");
    }
    frame.cells(screen.term.grid());
    frame.repeatable(screen);
    frame.stand(&screen.term.grid().saved_cursor);
    frame.out.push_str("\x1b7");
    frame.attributes(&Cell::default());
    frame.charsets(Charsets::default());
    frame.margins(screen);
    frame.cursor(screen);
    frame.modes(screen);
    frame.last_character(screen);
    let mut bytes = frame.out.into_bytes();
    bytes.extend_from_slice(unfinished);
    bytes
}

/// The parameters of the `SGR` that sets exactly these attributes.
pub(super) fn attributes(cell: &Cell) -> String {
    let mut parameters = "0".to_owned();
    let flags = [
        (Flags::BOLD, ";1"),
        (Flags::DIM, ";2"),
        (Flags::ITALIC, ";3"),
        (Flags::UNDERLINE, ";4"),
        (Flags::DOUBLE_UNDERLINE, ";21"),
        (Flags::UNDERCURL, ";4:3"),
        (Flags::DOTTED_UNDERLINE, ";4:4"),
        (Flags::DASHED_UNDERLINE, ";4:5"),
        (BLINK, ";5"),
        (Flags::INVERSE, ";7"),
        (Flags::HIDDEN, ";8"),
        (Flags::STRIKEOUT, ";9"),
    ];
    for (flag, parameter) in flags {
        if cell.flags.contains(flag) {
            parameters.push_str(parameter);
        }
    }
    color(&mut parameters, cell.fg, 30);
    color(&mut parameters, cell.bg, 40);
    // The colon keeps a terminal that does not know this from taking the numbers for attributes.
    let _ = match cell.underline_color() {
        Some(Color::Spec(Rgb { r, g, b })) => write!(parameters, ";58:2::{r}:{g}:{b}"),
        Some(Color::Indexed(index)) => write!(parameters, ";58:5:{index}"),
        Some(Color::Named(_)) | None => Ok(()),
    };
    parameters
}

fn color(parameters: &mut String, color: Color, base: usize) {
    let _ = match color {
        Color::Named(named) => match named as usize {
            index @ 0..8 => write!(parameters, ";{}", base + index),
            index @ 8..16 => write!(parameters, ";{}", base + 60 + index - 8),
            _ => Ok(()),
        },
        Color::Indexed(index) => write!(parameters, ";{};5;{index}", base + 8),
        Color::Spec(Rgb { r, g, b }) => write!(parameters, ";{};2;{r};{g};{b}", base + 8),
    };
}

/// Whether nothing was ever drawn there, or it was erased without a color.
fn is_untouched(cell: &Cell) -> bool {
    is_erased(cell) && cell.bg == Color::Named(NamedColor::Background)
}

/// Whether erasing leaves exactly this, given its background.
fn is_erased(cell: &Cell) -> bool {
    cell.c == ' '
        && cell.fg == Color::Named(NamedColor::Foreground)
        && cell.extra.is_none()
        && (cell.flags - Flags::WRAPLINE).is_empty()
}

fn goes_on(row: &Row<Cell>) -> bool {
    row.last()
        .is_some_and(|cell| cell.flags.contains(Flags::WRAPLINE))
}

/// Columns of the character in this cell.
fn width(cell: &Cell) -> usize {
    if cell.flags.contains(Flags::WIDE_CHAR) {
        2
    } else {
        1
    }
}

/// The column of the character that ends in this one.
fn behind(row: &Row<Cell>, col: usize) -> usize {
    col - usize::from(row[Column(col)].flags.contains(Flags::WIDE_CHAR_SPACER))
}

/// The column of the character that was drawn last, when nothing came after it and drawing it again is all it takes.
fn drawn_last(screen: &Screen) -> Option<usize> {
    let cursor = &screen.term.grid().cursor;
    let row = &screen.term.grid()[cursor.point.line];
    let back = usize::from(!cursor.input_needs_wrap);
    let col = behind(row, screen.col().checked_sub(back)?);
    let (cell, template) = (&row[Column(col)], &cursor.template);
    let is_same = cursor.charsets[screen.charset].map(screen.last?) == cell.c
        && looks(cell) == looks(template)
        && col + width(cell) == screen.col() + 1 - back
        && cell.hyperlink() == template.hyperlink();
    (screen.has_just_printed && !screen.modes.insert && is_same).then_some(col)
}

/// What can be seen of the attributes, but for links.
fn looks(cell: &Cell) -> (Color, Color, Flags, Option<Color>) {
    (cell.fg, cell.bg, cell.flags & VISIBLE, cell.underline_color())
}

/// What is written, and what the terminal that reads it has set by then.
#[derive(Default)]
struct Frame {
    out: String,
    template: Cell,
    charsets: Charsets,
}

impl Frame {
    fn write(&mut self, arguments: std::fmt::Arguments<'_>) {
        let _ = self.out.write_fmt(arguments);
    }

    fn goto(&mut self, row: usize, col: usize) {
        self.write(format_args!("\x1b[{};{}H", row + 1, col + 1));
    }

    /// Sets what the next character is drawn with.
    fn attributes(&mut self, cell: &Cell) {
        if looks(cell) != looks(&self.template) {
            self.write(format_args!("\x1b[{}m", attributes(cell)));
        }
        let link = cell.hyperlink();
        if link != self.template.hyperlink() {
            self.link(link.as_ref());
        }
        self.template = cell.clone();
    }

    fn link(&mut self, link: Option<&Hyperlink>) {
        let (id, uri) = link.map_or(("", ""), |link| (link.id(), link.uri()));
        let key = if id.is_empty() { "" } else { "id=" };
        self.write(format_args!("\x1b]8;{key}{id};{uri}\x1b\\"));
    }

    fn charsets(&mut self, wanted: Charsets) {
        for (index, intermediate) in CHARSETS {
            if wanted[index] != self.charsets[index] {
                let name = match wanted[index] {
                    StandardCharset::Ascii => 'B',
                    StandardCharset::SpecialCharacterAndLineDrawing => '0',
                };
                self.write(format_args!("\x1b{intermediate}{name}"));
            }
        }
        self.charsets = wanted;
    }

    fn colors(&mut self, screen: &Screen) {
        for index in 0..COUNT {
            let Some(Rgb { r, g, b }) = screen.term.colors()[index] else {
                continue;
            };
            let what = match index {
                0..256 => format!("4;{index}"),
                _ if index == NamedColor::Foreground as usize => "10".to_owned(),
                _ if index == NamedColor::Background as usize => "11".to_owned(),
                _ if index == NamedColor::Cursor as usize => "12".to_owned(),
                _ => continue,
            };
            self.write(format_args!("\x1b]{what};rgb:{r:02x}/{g:02x}/{b:02x}\x1b\\"));
        }
    }

    fn titles(&mut self, screen: &Screen) {
        for title in &screen.titles {
            self.title(title.as_deref());
            self.out.push_str("\x1b[22;2t");
        }
        self.title(screen.title.as_deref());
    }

    fn title(&mut self, title: Option<&str>) {
        if let Some(title) = title {
            self.write(format_args!("\x1b]2;{title}\x1b\\"));
        }
    }

    /// All rows. The terminal has nothing on its screen, no margins, and wraps.
    fn cells(&mut self, cells: &Cells) {
        let mut wraps = false;
        for index in 0..cells.screen_lines() {
            let row = &cells[Line(index as i32)];
            let goes_on = goes_on(row);
            let end = if goes_on {
                row.len()
            } else {
                let drawn = row.into_iter().rposition(|cell| !is_untouched(cell));
                drawn.map_or(0, |last| last + 1).max(usize::from(wraps))
            };
            if end > 0 && !wraps {
                self.goto(index, 0);
            }
            self.row(row, end, wraps);
            wraps = goes_on;
        }
    }

    /// The first `end` cells of a row, at whose beginning the cursor is.
    fn row(&mut self, row: &Row<Cell>, end: usize, wraps: bool) {
        let cols = row.len();
        let mut col = 0;
        while col < end {
            let untouched = (col..end)
                .take_while(|col| is_untouched(&row[Column(*col)]))
                .count();
            // The cell that makes the row before wrap and the one that makes this row wrap have to be drawn.
            let skipped = untouched.min(cols - 1 - col);
            if skipped > 1 && !(col == 0 && wraps) {
                self.write(format_args!("\x1b[{skipped}C"));
                col += skipped;
                continue;
            }
            let cell = &row[Column(col)];
            self.attributes(cell);
            self.character(cell);
            col += width(cell);
        }
    }

    fn character(&mut self, cell: &Cell) {
        self.out.push(cell.c);
        self.out.extend(cell.zerowidth().unwrap_or_default());
    }

    /// Makes `REP` repeat what it would repeat here: the last character is drawn once more where it is or on an empty
    /// cell, which is then erased.
    fn repeatable(&mut self, screen: &Screen) {
        let Some(last) = screen.last else { return };
        let width = last.width().unwrap_or(1).max(1);
        let cells = screen.term.grid();
        let rows = (0..cells.screen_lines()).map(|index| (index, &cells[Line(index as i32)]));
        let mut places = rows.flat_map(|(index, row)| {
            (0..row.len().saturating_sub(width))
                .map(move |col| (index, col, &row[Column(col)..Column(col + width)]))
        });
        let shows = |cell: &Cell| cell.c == last && !cell.flags.contains(Flags::WIDE_CHAR_SPACER);
        let is_empty = |cells: &[Cell]| cells.iter().all(|cell| is_erased(cell) && cell.bg == cells[0].bg);
        let empty = places.clone().find(|(_, _, cells)| is_empty(cells));
        if let Some((row, col, [cell, ..])) = empty {
            self.goto(row, col);
            self.attributes(cell);
            self.out.push(last);
            self.goto(row, col);
            self.write(format_args!("\x1b[{width}X"));
        } else if let Some((row, col, [cell, ..])) = places.find(|(_, _, cells)| shows(&cells[0])) {
            self.goto(row, col);
            self.attributes(cell);
            self.character(cell);
        }
    }

    /// Goes to where a cursor is and takes its attributes.
    fn stand(&mut self, cursor: &Cursor<Cell>) {
        self.goto(cursor.point.line.0 as usize, cursor.point.column.0);
        self.attributes(&cursor.template);
        self.charsets(cursor.charsets);
    }

    fn margins(&mut self, screen: &Screen) {
        if screen
            .tabs
            .iter()
            .enumerate()
            .any(|(col, stop)| *stop != is_default_tab(col))
        {
            self.out.push_str("\x1b[3g");
            for (col, _) in screen.tabs.iter().enumerate().filter(|(_, stop)| **stop) {
                self.goto(0, col);
                self.out.push_str("\x1bH");
            }
        }
        if !screen.scrolls_as_a_whole() {
            let (top, bottom) = (screen.region.start + 1, screen.region.end);
            self.write(format_args!("\x1b[{top};{bottom}r"));
        }
        if screen.has(TermMode::ORIGIN) {
            self.out.push_str("\x1b[?6h");
        }
    }

    fn cursor(&mut self, screen: &Screen) {
        let origin = if screen.has(TermMode::ORIGIN) {
            screen.region.start
        } else {
            0
        };
        let cursor = &screen.term.grid().cursor;
        let cells = &screen.term.grid()[cursor.point.line];
        let col = match (drawn_last(screen), cursor.input_needs_wrap) {
            (Some(last), _) => last,
            (None, true) => behind(cells, screen.col()),
            (None, false) => screen.col(),
        };
        self.goto(screen.row().saturating_sub(origin), col);
        if cursor.input_needs_wrap && drawn_last(screen).is_none() {
            self.attributes(&cells[Column(col)]);
            self.character(&cells[Column(col)]);
        }
        self.attributes(&cursor.template);
        self.charsets(cursor.charsets);
        if screen.charset == CharsetIndex::G1 {
            self.out.push('\x0e');
        }
    }

    /// Draws the last character as the very last thing, as it was here.
    fn last_character(&mut self, screen: &Screen) {
        if let (Some(col), Some(last)) = (drawn_last(screen), screen.last) {
            let row = &screen.term.grid()[screen.term.grid().cursor.point.line];
            self.out.push(last);
            self.out.extend(row[Column(col)].zerowidth().unwrap_or_default());
        }
    }

    /// What moves nothing.
    fn modes(&mut self, screen: &Screen) {
        let modes = &screen.modes;
        let switched = [
            (screen.has(TermMode::LINE_FEED_NEW_LINE), "\x1b[20h"),
            (modes.insert, "\x1b[4h"),
            (!screen.has(TermMode::LINE_WRAP), "\x1b[?7l"),
            (screen.has(TermMode::APP_CURSOR), "\x1b[?1h"),
            (screen.has(TermMode::APP_KEYPAD), "\x1b="),
            (screen.has(TermMode::BRACKETED_PASTE), "\x1b[?2004h"),
            (screen.has(TermMode::FOCUS_IN_OUT), "\x1b[?1004h"),
        ];
        for (_, sequence) in switched.iter().filter(|(is_on, _)| *is_on) {
            self.out.push_str(sequence);
        }
        if modes.cursor_style > 0 {
            self.write(format_args!("\x1b[{} q", modes.cursor_style));
        }
        for (mode, on) in modes.others() {
            self.write(format_args!("\x1b[?{mode}{}", if on { 'h' } else { 'l' }));
        }
        for mode in [modes.mouse, modes.mouse_encoding].into_iter().flatten() {
            self.write(format_args!("\x1b[?{mode}h"));
        }
        if modes.other_keys > 0 {
            self.write(format_args!("\x1b[>4;{}m", modes.other_keys));
        }
        self.keyboard(modes.keyboard(screen.is_alternate()));
        if !screen.has(TermMode::SHOW_CURSOR) {
            self.out.push_str("\x1b[?25l");
        }
    }

    fn keyboard(&mut self, keyboard: &Keyboard) {
        for (depth, flags) in keyboard.below.iter().chain([&keyboard.flags]).enumerate() {
            match (depth, flags) {
                (0, 0) => {}
                (0, flags) => self.write(format_args!("\x1b[={flags}u")),
                (_, flags) => self.write(format_args!("\x1b[>{flags}u")),
            }
        }
    }
}
