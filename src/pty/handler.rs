//! What each escape sequence that the library's parser knows does to the [`Screen`]. Most go on to its own emulation, the
//! others are explained where they are done.

use alacritty_terminal::index::Line;
use alacritty_terminal::term::cell::Cell;
use alacritty_terminal::term::cell::{Flags, Hyperlink as Link};
use alacritty_terminal::vte::ansi::{
    Attr, CharsetIndex, ClearMode, CursorShape, CursorStyle, Handler, Hyperlink, KeyboardModes,
    KeyboardModesApplyBehavior, LineClearMode, Mode, ModifyOtherKeys, NamedMode, PrivateMode, Rgb,
    StandardCharset, TabulationClearMode,
};

use super::screen::{BLINK, Screen};

/// How many titles a program can put aside, as in xterm.
const TITLES: usize = 10;
/// Characters of a title that are kept.
const TITLE: usize = 1024;

impl Screen {
    /// `CUU` and `CUD`: up to the margin when the cursor is inside of it, else to the edge.
    fn move_rows(&mut self, rows: isize, col: usize) {
        let (row, last) = (self.row(), self.rows() - 1);
        let top = if row >= self.region.start {
            self.region.start
        } else {
            0
        };
        let bottom = if row < self.region.end {
            self.region.end - 1
        } else {
            last
        };
        self.move_to(row.saturating_add_signed(rows).clamp(top, bottom), col);
    }

    fn erase_rows(&mut self, rows: std::ops::Range<usize>) {
        if !rows.is_empty() {
            let rows = Line(rows.start as i32)..Line(rows.end as i32);
            self.term.grid_mut().reset_region(rows);
        }
    }
}

/// A count as the library has it; more than a screen can hold is the same as that.
fn signed(count: usize) -> isize {
    isize::try_from(count).unwrap_or(isize::MAX)
}

impl Handler for Screen {
    fn goto(&mut self, line: i32, col: usize) {
        self.term.goto(line, col);
    }

    fn goto_line(&mut self, line: i32) {
        self.term.goto(line, self.col());
    }

    // The library counts the margin twice in these when `DECOM` is set.
    fn goto_col(&mut self, col: usize) {
        self.move_to(self.row(), col);
    }

    fn move_up(&mut self, rows: usize) {
        self.move_rows(-signed(rows), self.col());
    }

    fn move_down(&mut self, rows: usize) {
        self.move_rows(signed(rows), self.col());
    }

    fn move_up_and_cr(&mut self, rows: usize) {
        self.move_rows(-signed(rows), 0);
    }

    fn move_down_and_cr(&mut self, rows: usize) {
        self.move_rows(signed(rows), 0);
    }

    fn move_forward(&mut self, cols: usize) {
        self.move_to(self.row(), self.col().saturating_add(cols));
    }

    fn move_backward(&mut self, cols: usize) {
        self.move_to(self.row(), self.col().saturating_sub(cols));
    }

    fn insert_blank(&mut self, count: usize) {
        self.move_to(self.row(), self.col());
        self.term.insert_blank(count);
        self.mend(self.row());
    }

    fn delete_chars(&mut self, count: usize) {
        self.move_to(self.row(), self.col());
        // More than there is right of the cursor would take from its left.
        self.term.delete_chars(count.min(self.cols() - self.col()));
        self.mend(self.row());
    }

    fn erase_chars(&mut self, count: usize) {
        self.move_to(self.row(), self.col());
        self.term.erase_chars(count.min(self.cols()));
        self.mend(self.row());
    }

    fn clear_line(&mut self, mode: LineClearMode) {
        self.term.clear_line(mode);
        self.mend(self.row());
    }

    fn clear_screen(&mut self, mode: ClearMode) {
        let (row, rows) = (self.row(), self.rows());
        match mode {
            ClearMode::Below => {
                self.term.clear_line(LineClearMode::Right);
                self.erase_rows(row + 1..rows);
            }
            ClearMode::Above => {
                self.term.clear_line(LineClearMode::Left);
                self.erase_rows(0..row);
            }
            ClearMode::All => self.erase_rows(0..rows),
            ClearMode::Saved => self.history.clear(),
        }
        self.mend(row);
    }

    fn move_forward_tabs(&mut self, count: u16) {
        self.tab(count);
    }

    fn move_backward_tabs(&mut self, count: u16) {
        self.back_tab(count);
    }

    fn set_horizontal_tabstop(&mut self) {
        let col = self.col();
        self.tabs[col] = true;
    }

    fn clear_tabs(&mut self, mode: TabulationClearMode) {
        let col = self.col();
        match mode {
            TabulationClearMode::Current => self.tabs[col] = false,
            TabulationClearMode::All => self.tabs.fill(false),
        }
    }

    fn set_tabs(&mut self, interval: u16) {
        let interval = usize::from(interval.max(1));
        for (col, stop) in self.tabs.iter_mut().enumerate() {
            *stop = col.is_multiple_of(interval);
        }
    }

    fn carriage_return(&mut self) {
        self.term.carriage_return();
    }

    fn linefeed(&mut self) {
        self.line_feed();
    }

    fn reverse_index(&mut self) {
        self.term.reverse_index();
        self.term.grid_mut().cursor.input_needs_wrap = false;
        self.end_last_row();
    }

    fn scroll_up(&mut self, rows: usize) {
        self.let_go(rows);
        self.term.scroll_up(rows);
        self.end_waiting_row();
    }

    fn scroll_down(&mut self, rows: usize) {
        self.term.scroll_down(rows);
        self.end_last_row();
        self.end_waiting_row();
    }

    fn insert_blank_lines(&mut self, rows: usize) {
        if self.region.contains(&self.row()) {
            self.term.insert_blank_lines(rows);
            self.term.carriage_return();
            self.end_last_row();
        }
    }

    fn delete_lines(&mut self, rows: usize) {
        if self.region.contains(&self.row()) {
            // The library would move rows that are below the margin.
            self.term.delete_lines(rows.min(self.region.end - self.row()));
            self.term.carriage_return();
        }
    }

    fn set_scrolling_region(&mut self, top: usize, bottom: Option<usize>) {
        let bottom = bottom.unwrap_or(usize::MAX).min(self.rows());
        if top < bottom {
            self.region = top - 1..bottom;
            self.term.set_scrolling_region(top, Some(bottom));
        }
    }

    fn save_cursor_position(&mut self) {
        self.term.save_cursor_position();
    }

    fn restore_cursor_position(&mut self) {
        self.term.restore_cursor_position();
        self.term.grid_mut().cursor.input_needs_wrap = false;
        self.keep_within_margins();
    }

    fn decaln(&mut self) {
        self.region = 0..self.rows();
        self.term.set_scrolling_region(1, None);
        self.move_to(0, 0);
        self.term.decaln();
    }

    fn reset_state(&mut self) {
        self.term.reset_state();
        for color in 0..alacritty_terminal::term::color::COUNT {
            self.term.reset_color(color);
        }
        self.history.clear();
        self.modes = super::modes::Modes::default();
        self.region = 0..self.rows();
        self.charset = CharsetIndex::G0;
        self.last = None;
        self.has_just_printed = false;
        self.title = None;
        self.titles.clear();
        self.set_tabs(8);
    }

    fn terminal_attribute(&mut self, attribute: Attr) {
        let flags = &mut self.term.grid_mut().cursor.template.flags;
        match attribute {
            Attr::BlinkSlow | Attr::BlinkFast => flags.insert(BLINK),
            Attr::CancelBlink => flags.remove(BLINK),
            // SGR 21 underlines twice in every terminal but the library's own.
            Attr::CancelBold => {
                flags.remove(Flags::ALL_UNDERLINES);
                flags.insert(Flags::DOUBLE_UNDERLINE);
            }
            other => self.term.terminal_attribute(other),
        }
    }

    fn set_hyperlink(&mut self, link: Option<Hyperlink>) {
        // The library would number the links that have no name, differently in every terminal.
        let link = link.map(|link| Link::new(Some(link.id.unwrap_or_default()), link.uri));
        let cost = link
            .as_ref()
            .map_or(0, |link| link.uri().len() + link.id().len() + size_of::<Cell>());
        let fits = self.may_add(cost);
        let template = &mut self.term.grid_mut().cursor.template;
        template.set_hyperlink(link.filter(|_| fits));
    }

    fn set_mode(&mut self, mode: Mode) {
        match mode {
            Mode::Named(NamedMode::Insert) => self.modes.insert = true,
            other => self.term.set_mode(other),
        }
    }

    fn unset_mode(&mut self, mode: Mode) {
        match mode {
            Mode::Named(NamedMode::Insert) => self.modes.insert = false,
            other => self.term.unset_mode(other),
        }
    }

    fn set_private_mode(&mut self, mode: PrivateMode) {
        self.private_mode(mode.raw(), true);
    }

    fn unset_private_mode(&mut self, mode: PrivateMode) {
        self.private_mode(mode.raw(), false);
    }

    fn set_keypad_application_mode(&mut self) {
        self.term.set_keypad_application_mode();
    }

    fn unset_keypad_application_mode(&mut self) {
        self.term.unset_keypad_application_mode();
    }

    fn set_active_charset(&mut self, index: CharsetIndex) {
        self.charset = index;
        self.term.set_active_charset(index);
    }

    fn configure_charset(&mut self, index: CharsetIndex, charset: StandardCharset) {
        self.term.configure_charset(index, charset);
    }

    fn set_cursor_style(&mut self, style: Option<CursorStyle>) {
        self.modes.cursor_style = style.map_or(0, |style| shape(style.shape) + u16::from(!style.blinking));
        self.modes.forget(12);
    }

    fn set_cursor_shape(&mut self, kind: CursorShape) {
        self.modes.cursor_style = shape(kind) + 1;
    }

    fn set_color(&mut self, index: usize, color: Rgb) {
        self.term.set_color(index, color);
    }

    fn reset_color(&mut self, index: usize) {
        self.term.reset_color(index);
    }

    fn set_title(&mut self, title: Option<String>) {
        let shown = |title: String| title.chars().filter(|c| !c.is_control()).take(TITLE).collect();
        self.title = title.map(shown);
    }

    fn push_title(&mut self) {
        if self.titles.len() == TITLES {
            self.titles.remove(0);
        }
        self.titles.push(self.title.clone());
    }

    fn pop_title(&mut self) {
        if let Some(title) = self.titles.pop() {
            self.title = title;
        }
    }

    fn push_keyboard_mode(&mut self, mode: KeyboardModes) {
        let is_alternate = self.is_alternate();
        self.modes.keyboard_mut(is_alternate).push(mode.bits());
    }

    fn pop_keyboard_modes(&mut self, count: u16) {
        let is_alternate = self.is_alternate();
        self.modes.keyboard_mut(is_alternate).pop(count);
    }

    fn set_keyboard_mode(&mut self, mode: KeyboardModes, how: KeyboardModesApplyBehavior) {
        let is_alternate = self.is_alternate();
        let flags = &mut self.modes.keyboard_mut(is_alternate).flags;
        match how {
            KeyboardModesApplyBehavior::Replace => *flags = mode.bits(),
            KeyboardModesApplyBehavior::Union => *flags |= mode.bits(),
            KeyboardModesApplyBehavior::Difference => *flags &= !mode.bits(),
        }
    }

    fn set_modify_other_keys(&mut self, mode: ModifyOtherKeys) {
        self.modes.other_keys = mode as u8;
    }

    fn identify_terminal(&mut self, kind: Option<char>) {
        self.answer_identity(kind);
    }

    fn device_status(&mut self, kind: usize) {
        self.answer_status(kind);
    }

    fn report_mode(&mut self, mode: Mode) {
        self.answer_mode(mode.raw());
    }

    fn report_private_mode(&mut self, mode: PrivateMode) {
        self.answer_private_mode(mode.raw());
    }

    fn dynamic_color_sequence(&mut self, prefix: String, index: usize, end: &str) {
        self.answer_color(&prefix, index, end);
    }

    fn text_area_size_chars(&mut self) {
        self.answer_size();
    }
}

/// `DECSCUSR` of the blinking cursor of that shape.
fn shape(shape: CursorShape) -> u16 {
    match shape {
        CursorShape::Underline => 3,
        CursorShape::Beam => 5,
        CursorShape::Block | CursorShape::HollowBlock | CursorShape::Hidden => 1,
    }
}
