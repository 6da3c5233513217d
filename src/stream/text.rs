//! Lines out of the bytes of a channel, whatever pieces they come in. Pure.
//!
//! A character that is split across two pieces is whole again in its line; bytes that are no UTF-8 become U+FFFD. With
//! `collapse` the line is as a person would see it in a terminal at its end: escape sequences are gone, and what a carriage
//! return or a backspace took back is too, so that a progress bar is one line and not a thousand.

/// Bytes of a line that are shown at most; the rest of it is counted.
const LINE_LIMIT: usize = 16 * 1024;

/// A line without its line feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What it says.
    pub text: String,
    /// Bytes at its end that are left out because it is too long.
    pub cut: u64,
    /// Bytes that the program wrote for it, its line feed among them.
    pub written: u64,
}

/// Makes lines of the bytes of one channel.
#[derive(Debug, Default)]
pub struct Lines {
    collapse: bool,
    bytes: Vec<u8>,
    cut: u64,
    written: u64,
    escape: Escape,
    /// A carriage return came; it takes the line back unless a line feed follows.
    returned: bool,
}

/// How far an escape sequence has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Escape {
    /// There is none.
    #[default]
    None,
    /// The escape character itself.
    Begun,
    /// Behind the escape character and something that is to be followed by one more.
    Short,
    /// A control sequence: ends with a letter.
    Control,
    /// A string: ends with a bell or with escape and backslash.
    String,
    /// The escape in a string, which ends it.
    StringEnding,
}

impl Lines {
    /// With `collapse`, lines as they look at their end.
    pub fn new(collapse: bool) -> Self {
        Self {
            collapse,
            ..Self::default()
        }
    }

    /// Takes the next bytes in; tells each line that they end.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Line)) {
        if self.collapse {
            for byte in bytes {
                self.written += 1;
                if let Some(line) = self.see(*byte) {
                    each(line);
                }
            }
            return;
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.written += piece.len() as u64;
            let (text, ends) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let fits = text.len().min(LINE_LIMIT - self.bytes.len());
            self.bytes.extend_from_slice(&text[..fits]);
            self.cut += (text.len() - fits) as u64;
            if ends {
                each(self.take());
            }
        }
    }

    /// What stands behind the last line feed, when anything does.
    pub fn finish(&mut self) -> Option<Line> {
        (self.written > 0).then(|| self.take())
    }

    fn take(&mut self) -> Line {
        let mut bytes = std::mem::take(&mut self.bytes);
        let mut cut = std::mem::take(&mut self.cut);
        if cut > 0 {
            // A character that the limit split is left out whole.
            let whole = whole(&bytes);
            cut += (bytes.len() - whole) as u64;
            bytes.truncate(whole);
        }
        self.escape = Escape::None;
        self.returned = false;
        Line {
            text: match String::from_utf8(bytes) {
                Ok(text) => text,
                Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
            },
            cut,
            written: std::mem::take(&mut self.written),
        }
    }

    /// One byte as a terminal sees it; answers the line that it ends.
    fn see(&mut self, byte: u8) -> Option<Line> {
        if byte == b'\n' {
            return Some(self.take());
        }
        self.escape = match (self.escape, byte) {
            (Escape::String, _) => in_string(byte),
            (Escape::StringEnding, b'\x1b') => Escape::Begun,
            (Escape::StringEnding, _) => Escape::None,
            (_, b'\x1b') => Escape::Begun,
            (Escape::Begun, b'[') => Escape::Control,
            (Escape::Begun, b']' | b'P' | b'X' | b'^' | b'_') => Escape::String,
            (Escape::Begun | Escape::Short, 0x20..=0x2f) => Escape::Short,
            (Escape::Control, 0x20..=0x3f) => self.escape,
            (Escape::Begun | Escape::Short | Escape::Control, 0x20..=0x7e) => Escape::None,
            // Outside of a sequence; or a control character, or no ASCII at all, and then it was none.
            (Escape::None | Escape::Begun | Escape::Short | Escape::Control, _) => {
                self.show(byte);
                Escape::None
            }
        };
        None
    }

    fn show(&mut self, byte: u8) {
        match byte {
            b'\r' => self.returned = true,
            b'\x08' => self.take_back(),
            b'\t' | 0x20..=0x7e | 0x80.. => {
                if std::mem::take(&mut self.returned) {
                    self.bytes.clear();
                    self.cut = 0;
                }
                if self.bytes.len() < LINE_LIMIT {
                    self.bytes.push(byte);
                } else {
                    self.cut += 1;
                }
            }
            _ => {}
        }
    }

    /// Takes the last character back.
    fn take_back(&mut self) {
        while let Some(last) = self.bytes.pop() {
            if last & 0xc0 != 0x80 {
                break;
            }
        }
    }
}

fn in_string(byte: u8) -> Escape {
    match byte {
        b'\x1b' => Escape::StringEnding,
        b'\x07' => Escape::None,
        _ => Escape::String,
    }
}

/// How many of the bytes are whole characters.
fn whole(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(4) {
        let byte = bytes[bytes.len() - back];
        if byte & 0xc0 != 0x80 {
            let needed = match byte {
                0xc0..=0xdf => 2,
                0xe0..=0xef => 3,
                0xf0..=0xf7 => 4,
                _ => 1,
            };
            return if needed > back {
                bytes.len() - back
            } else {
                bytes.len()
            };
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines<'a>(collapse: bool, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Line> {
        let (mut lines, mut all) = (Lines::new(collapse), Vec::new());
        for piece in pieces {
            lines.push(piece, |line| all.push(line));
        }
        all.extend(lines.finish());
        all
    }

    fn texts(collapse: bool, bytes: &[u8]) -> Vec<String> {
        lines(collapse, [bytes])
            .into_iter()
            .map(|line| line.text)
            .collect()
    }

    #[test]
    fn a_terminal_would_show_this() {
        for (written, shown) in [
            ("plain\ntext", &["plain", "text"][..]),
            ("10%\r50%\r100%\ndone\r\n", &["100%", "done"]),
            (
                "\x1b[1;31mred\x1b[0m \x1b]0;title\x07x\x1b]8;;u\x1b\\y",
                &["red xy"],
            ),
            ("ab\x08c\n", &["ac"]),
            ("ä\x08b", &["b"]),
            ("a\x1b(Bb\x1b=c\x00\x07d\te", &["abcd\te"]),
            ("\x1b[2Kstep 1\r\x1b[2Kstep 2", &["step 2"]),
            ("\x1b[\n\x1b\u{e4}x", &["", "\u{e4}x"]),
            ("", &[]),
            ("\n", &[""]),
        ] {
            assert_eq!(texts(true, written.as_bytes()), shown, "{written:?}");
        }
        assert_eq!(texts(false, b"1%\r2%\x1b[m\n"), ["1%\r2%\x1b[m"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_at_a_character_and_counted() {
        let long = format!("{}{}\nnext", "x".repeat(LINE_LIMIT - 1), "ä".repeat(10));
        for collapse in [false, true] {
            let lines = lines(collapse, [long.as_bytes()]);
            assert_eq!(lines[0].text, "x".repeat(LINE_LIMIT - 1));
            assert_eq!((lines[0].cut, lines[0].written), (20, LINE_LIMIT as u64 + 20));
            assert_eq!(lines[1].text, "next");
        }
    }

    fn output() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte]),
            "[a-z\u{e4}\u{20ac}\u{1f600}]{1,5}".prop_map(String::into_bytes),
            Just(b"\x1b[31m".to_vec()),
            Just(b"\x1b]0;t\x1b\\".to_vec()),
            Just(b"\r".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"\n".to_vec()),
        ];
        proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn the_pieces_do_not_matter(bytes in output(), size in 1_usize..7, collapse: bool) {
            prop_assert_eq!(lines(collapse, bytes.chunks(size)), lines(collapse, [&bytes[..]]));
        }

        #[test]
        fn every_byte_is_counted_once(bytes in output(), collapse: bool) {
            let written: u64 = lines(collapse, [&bytes[..]]).iter().map(|line| line.written).sum();
            prop_assert_eq!(written, bytes.len() as u64);
        }

        #[test]
        fn without_collapse_the_lines_are_the_text(text in "[a-z\r\n\u{e4}\u{1b}]{0,80}") {
            let joined = texts(false, text.as_bytes()).join("\n");
            prop_assert_eq!(joined.trim_end_matches('\n'), text.trim_end_matches('\n'));
        }

        #[test]
        fn collapsed_lines_have_no_control_characters(bytes in output()) {
            for text in texts(true, &bytes) {
                prop_assert!(!text.chars().any(|letter| letter < ' ' && letter != '\t'), "{:?}", text);
            }
        }
    }
}
