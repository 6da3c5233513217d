//! Answers to what programs ask their terminal, as xterm gives them. Collected whether or not somebody else answers:
//! a viewer's terminal answers by itself, so the caller sends these only while there is no viewer.

use alacritty_terminal::term::TermMode;
use alacritty_terminal::vte::ansi::{NamedColor, Rgb};

use super::screen::Screen;

/// Bytes of answers that wait to be taken; a program that asks without listening gets no more.
const MOST: usize = 4096;
/// The number of the xterm that we behave like.
const XTERM: u16 = 276;
const FOREGROUND: Rgb = Rgb {
    r: 0xff,
    g: 0xff,
    b: 0xff,
};
const BACKGROUND: Rgb = Rgb { r: 0, g: 0, b: 0 };
/// xterm's first sixteen colors.
const NAMED: [u32; 16] = [
    0x00_0000, 0xcd_0000, 0x00_cd00, 0xcd_cd00, 0x00_00ee, 0xcd_00cd, 0x00_cdcd, 0xe5_e5e5, 0x7f_7f7f,
    0xff_0000, 0x00_ff00, 0xff_ff00, 0x5c_5cff, 0xff_00ff, 0x00_ffff, 0xff_ffff,
];

/// What a program will read, in order.
#[derive(Debug, Default)]
pub(super) struct Answers {
    waiting: Vec<u8>,
}

impl Answers {
    fn add(&mut self, answer: &str) {
        if self.waiting.len() + answer.len() <= MOST {
            self.waiting.extend_from_slice(answer.as_bytes());
        }
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.waiting)
    }
}

impl Screen {
    /// Questions that the library does not know; says whether this was one.
    pub(super) fn answer_sequence(&mut self, sequence: &[u8]) -> bool {
        let answer = match sequence {
            b"\x1b[=c" | b"\x1b[=0c" => "\x1bP!|00000000\x1b\\".to_owned(),
            b"\x1b[>q" | b"\x1b[>0q" => format!("\x1bP>|boxd({})\x1b\\", env!("CARGO_PKG_VERSION")),
            b"\x1b[?6n" => {
                let (row, col) = self.reported_position();
                format!("\x1b[?{row};{col}R")
            }
            _ => return false,
        };
        self.answers.add(&answer);
        true
    }

    /// `DECRQSS`: the setting that a sequence with this ending would change.
    pub(super) fn answer_string(&mut self, content: &[u8]) {
        let Some(asked) = content.strip_prefix(b"$q") else {
            return;
        };
        let answer = match asked {
            b"r" => format!("\x1bP1$r{};{}r\x1b\\", self.region.start + 1, self.region.end),
            b" q" => format!("\x1bP1$r{} q\x1b\\", self.modes.cursor_style),
            b"m" => {
                let attributes = super::restore::attributes(&self.term.grid().cursor.template);
                format!("\x1bP1$r{attributes}m\x1b\\")
            }
            _ => "\x1bP0$r\x1b\\".to_owned(),
        };
        self.answers.add(&answer);
    }

    pub(super) fn answer_identity(&mut self, kind: Option<char>) {
        match kind {
            None => self.answers.add("\x1b[?1;2c"),
            Some('>') => self.answers.add(&format!("\x1b[>0;{XTERM};0c")),
            Some(_) => {}
        }
    }

    pub(super) fn answer_status(&mut self, kind: usize) {
        match kind {
            5 => self.answers.add("\x1b[0n"),
            6 => {
                let (row, col) = self.reported_position();
                self.answers.add(&format!("\x1b[{row};{col}R"));
            }
            _ => {}
        }
    }

    /// From 1, and from the margin with `DECOM`.
    fn reported_position(&self) -> (usize, usize) {
        let origin = if self.has(TermMode::ORIGIN) {
            self.region.start
        } else {
            0
        };
        (self.row() - origin.min(self.row()) + 1, self.col() + 1)
    }

    pub(super) fn answer_mode(&mut self, mode: u16) {
        let state = match mode {
            4 => Some(self.modes.insert),
            20 => Some(self.has(TermMode::LINE_FEED_NEW_LINE)),
            _ => None,
        };
        self.answers.add(&format!("\x1b[{mode};{}$y", number(state)));
    }

    pub(super) fn answer_private_mode(&mut self, mode: u16) {
        let state = match mode {
            1 => Some(self.has(TermMode::APP_CURSOR)),
            6 => Some(self.has(TermMode::ORIGIN)),
            7 => Some(self.has(TermMode::LINE_WRAP)),
            25 => Some(self.has(TermMode::SHOW_CURSOR)),
            47 | 1047 | 1049 => Some(self.is_alternate()),
            9 | 1000..=1003 => Some(self.modes.mouse == Some(mode)),
            1005 | 1006 | 1015 | 1016 => Some(self.modes.mouse_encoding == Some(mode)),
            1004 => Some(self.has(TermMode::FOCUS_IN_OUT)),
            2004 => Some(self.has(TermMode::BRACKETED_PASTE)),
            12 => Some(self.modes.other(12).unwrap_or(self.modes.cursor_style % 2 == 1)),
            _ => None,
        };
        self.answers.add(&format!("\x1b[?{mode};{}$y", number(state)));
    }

    pub(super) fn answer_color(&mut self, prefix: &str, index: usize, end: &str) {
        let color = self.term.colors()[index].or_else(|| default_color(index));
        if let Some(Rgb { r, g, b }) = color {
            self.answers.add(&format!(
                "\x1b]{prefix};rgb:{r:02x}{r:02x}/{g:02x}{g:02x}/{b:02x}{b:02x}{end}"
            ));
        }
    }

    pub(super) fn answer_size(&mut self) {
        let answer = format!("\x1b[8;{};{}t", self.rows(), self.cols());
        self.answers.add(&answer);
    }
}

/// As `DECRPM` says it.
fn number(state: Option<bool>) -> u8 {
    match state {
        None => 0,
        Some(true) => 1,
        Some(false) => 2,
    }
}

fn default_color(index: usize) -> Option<Rgb> {
    /// The six steps of each primary in the cube of 216 colors.
    const STEPS: [u8; 6] = [0, 95, 135, 175, 215, 255];
    match index {
        0..16 => {
            let [_, r, g, b] = NAMED[index].to_be_bytes();
            Some(Rgb { r, g, b })
        }
        16..232 => {
            let index = index - 16;
            Some(Rgb {
                r: STEPS[index / 36],
                g: STEPS[index / 6 % 6],
                b: STEPS[index % 6],
            })
        }
        232..256 => {
            let grey = (index - 232) as u8 * 10 + 8;
            Some(Rgb {
                r: grey,
                g: grey,
                b: grey,
            })
        }
        _ if index == NamedColor::Background as usize => Some(BACKGROUND),
        _ if index == NamedColor::Foreground as usize || index == NamedColor::Cursor as usize => {
            Some(FOREGROUND)
        }
        _ => None,
    }
}
