//! From the scanner to the screen: most sequences go through the library's parser to [`Screen`]'s handler; here are
//! those that the library does not know, or that cost more there than they may.

use alacritty_terminal::grid::Cursor;
use alacritty_terminal::vte::ansi::{
    Attr, CharsetIndex, Handler, NamedPrivateMode, Processor, StandardCharset, Timeout,
};

use super::scanner::Sink;
use super::screen::Screen;

/// The library can hold back what a program draws until it says that the picture is whole. A second terminal needs
/// what was drawn so far, so nothing is held back.
#[derive(Debug, Default)]
pub(super) struct Never;

impl Timeout for Never {
    fn set_timeout(&mut self, _: std::time::Duration) {}

    fn clear_timeout(&mut self) {}

    fn pending_timeout(&self) -> bool {
        false
    }
}

/// Takes what the scanner finds to the screen.
pub(super) struct Emulation<'a> {
    pub(super) parser: &'a mut Processor<Never>,
    pub(super) screen: &'a mut Screen,
}

impl Sink for Emulation<'_> {
    fn text(&mut self, text: &str) {
        self.screen.text(text);
    }

    fn control(&mut self, byte: u8) {
        self.screen.control(byte);
    }

    fn sequence(&mut self, bytes: &[u8]) {
        let screen = &mut *self.screen;
        screen.has_just_printed = false;
        match bytes {
            // Strings are for other machines than ours, but for one kind of question.
            [0x1b, b'P', content @ .., 0x1b, b'\\'] => screen.answer_string(content),
            [0x1b, b'P' | b'X' | b'^' | b'_', ..] => {}
            [0x1b, b'[', parameters @ .., b'b'] => screen.repeat(parameters),
            b"\x1b[!p" => screen.soft_reset(),
            [0x1b, b'[', b'?', parameters @ .., kind @ (b'J' | b'K')] => {
                let plain = [b"\x1b[", parameters, &[*kind]].concat();
                self.parser.advance(screen, &plain);
            }
            // Character sets that are nearly ASCII.
            [0x1b, set @ (b'(' | b')' | b'*' | b'+'), name] if *name != b'0' => {
                self.parser.advance(screen, &[0x1b, *set, b'B']);
            }
            _ if screen.answer_sequence(bytes) => {}
            _ => self.parser.advance(screen, bytes),
        }
    }
}

impl Screen {
    /// `REP`. At most one line of it: a few bytes must not cost the time of many.
    fn repeat(&mut self, parameters: &[u8]) {
        let Some(character) = self.last else { return };
        let count = match parameters {
            [] => 1,
            digits => match std::str::from_utf8(digits).map(str::parse::<u64>) {
                Ok(Ok(count)) => usize::try_from(count.max(1)).unwrap_or(usize::MAX),
                _ => return,
            },
        };
        for _ in 0..count.min(self.cols()) {
            self.print(character);
        }
    }

    /// `DECSTR`: the modes and margins that confuse a program that does not know of them.
    fn soft_reset(&mut self) {
        let (row, col) = (self.row(), self.col());
        for mode in [1, 6] {
            self.private_mode(mode, false);
        }
        for mode in [7, 25] {
            self.private_mode(mode, true);
        }
        self.modes.insert = false;
        self.term.unset_keypad_application_mode();
        self.region = 0..self.rows();
        self.term.set_scrolling_region(1, None);
        self.move_to(row, col);
        self.term.terminal_attribute(Attr::Reset);
        for index in [
            CharsetIndex::G0,
            CharsetIndex::G1,
            CharsetIndex::G2,
            CharsetIndex::G3,
        ] {
            self.term.configure_charset(index, StandardCharset::Ascii);
        }
        self.set_active_charset(CharsetIndex::G0);
        self.term.grid_mut().saved_cursor = Cursor::default();
    }

    pub(super) fn private_mode(&mut self, mode: u16, on: bool) {
        match mode {
            // The width of the terminal is its owner's business, and held-back pictures are none of ours.
            3 | 2026 => {}
            47 | 1047 | 1049 => self.alternate(mode, on),
            1048 if on => self.term.save_cursor_position(),
            1048 => self.restore_cursor_position(),
            9 | 1000..=1003 => self.modes.set_mouse(mode, on),
            1005 | 1006 | 1015 | 1016 => self.modes.set_mouse_encoding(mode, on),
            1 | 6 | 7 | 25 | 1004 | 2004 => {
                let Some(named) = named(mode) else { return };
                if on {
                    self.term.set_private_mode(named.into());
                } else {
                    self.term.unset_private_mode(named.into());
                }
                if mode == 6 {
                    self.term.goto(0, 0);
                }
            }
            _ => self.modes.remember(mode, on),
        }
    }
}

/// The modes that the library keeps.
fn named(mode: u16) -> Option<NamedPrivateMode> {
    Some(match mode {
        1 => NamedPrivateMode::CursorKeys,
        6 => NamedPrivateMode::Origin,
        7 => NamedPrivateMode::LineWrap,
        25 => NamedPrivateMode::ShowCursor,
        1004 => NamedPrivateMode::ReportFocusInOut,
        2004 => NamedPrivateMode::BracketedPaste,
        _ => return None,
    })
}
