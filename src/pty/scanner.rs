//! Cuts a terminal's output into text, control characters and whole escape sequences, wherever the chunks end.
//!
//! ```text
//!            ESC                  [                 final byte
//!   ground -------> escape ---------------> csi ----------------> sequence, ground
//!                      |  ]                         BEL, ESC \
//!                      +--------> osc ---------------------------> sequence, ground
//!                      |  P, X, ^, _                ESC \
//!                      +--------> string ------------------------> sequence, ground
//!                      |  any other final byte
//!                      +-----------------------------------------> sequence, ground
//! ```
//!
//! The emulator behind it never sees half a sequence or half a character, so what it holds does not depend on how the
//! bytes were cut, and [`Scanner::unfinished`] is exactly what a second terminal has to be told to follow the stream
//! from here. A sequence that grows beyond [`LONGEST`] is not kept: a program may send as much as it likes between
//! `ESC ]` and its end.

/// Bytes of a sequence that are kept; a longer one is passed over. Titles and links are far below.
pub(super) const LONGEST: usize = 4096;

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;
const CANCEL: u8 = 0x18;
const SUBSTITUTE: u8 = 0x1a;

/// Who is told what was found.
pub(super) trait Sink {
    /// Printable characters and control characters other than escape, in order.
    fn text(&mut self, text: &str);
    /// A control character inside of a sequence, which takes effect at once.
    fn control(&mut self, byte: u8);
    /// A whole sequence, from `ESC` to its last byte.
    fn sequence(&mut self, bytes: &[u8]);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Ground,
    Escape,
    /// After `ESC` and at least one byte of 0x20..=0x2f.
    EscapeIntermediate,
    Csi,
    Osc,
    /// DCS, SOS, PM or APC.
    String,
}

/// Where in the stream it is.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    state: State,
    /// The sequence so far, or the bytes of a character that is not complete.
    held: Vec<u8>,
    is_too_long: bool,
}

impl Scanner {
    /// What was read of a sequence or character that is not complete.
    pub(super) fn unfinished(&self) -> &[u8] {
        &self.held
    }

    /// Whether nothing is unfinished.
    pub(super) fn is_between(&self) -> bool {
        self.held.is_empty()
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8], sink: &mut impl Sink) {
        while !bytes.is_empty() {
            let taken = match self.state {
                State::Ground => self.ground(bytes, sink),
                State::Osc | State::String => self.inside_string(bytes, sink),
                State::Escape | State::EscapeIntermediate | State::Csi => {
                    self.inside_sequence(bytes[0], sink);
                    1
                }
            };
            bytes = &bytes[taken..];
        }
    }

    /// Text up to the next escape.
    fn ground(&mut self, bytes: &[u8], sink: &mut impl Sink) -> usize {
        if !self.held.is_empty() {
            return self.finish_character(bytes[0], sink);
        }
        let end = memchr::memchr(ESC, bytes).unwrap_or(bytes.len());
        let mut text = &bytes[..end];
        while !text.is_empty() {
            let error = match std::str::from_utf8(text) {
                Ok(text) => {
                    sink.text(text);
                    break;
                }
                Err(error) => error,
            };
            let (valid, rest) = text.split_at(error.valid_up_to());
            // The bytes before the error are valid, and checking some of them twice is cheap: errors are rare.
            sink.text(std::str::from_utf8(valid).unwrap_or_default());
            match error.error_len() {
                Some(wrong) => {
                    sink.text("\u{fffd}");
                    text = &rest[wrong..];
                }
                None if end < bytes.len() => {
                    sink.text("\u{fffd}");
                    break;
                }
                None => {
                    self.held.extend_from_slice(rest);
                    break;
                }
            }
        }
        if end < bytes.len() {
            self.begin();
            return end + 1;
        }
        end
    }

    /// The next byte after the beginning of a character; says whether it was taken.
    fn finish_character(&mut self, byte: u8, sink: &mut impl Sink) -> usize {
        self.held.push(byte);
        match std::str::from_utf8(&self.held) {
            Ok(character) => {
                sink.text(character);
                self.held.clear();
                1
            }
            Err(error) if error.error_len().is_none() => 1,
            Err(_) => {
                sink.text("\u{fffd}");
                self.held.clear();
                0
            }
        }
    }

    fn begin(&mut self) {
        self.held.clear();
        self.held.push(ESC);
        self.is_too_long = false;
        self.state = State::Escape;
    }

    fn abandon(&mut self) {
        self.held.clear();
        self.state = State::Ground;
    }

    fn keep(&mut self, byte: u8) {
        if self.held.len() < LONGEST {
            self.held.push(byte);
        } else {
            self.is_too_long = true;
        }
    }

    fn finish(&mut self, sink: &mut impl Sink) {
        if !self.is_too_long {
            sink.sequence(&self.held);
        }
        self.abandon();
    }

    fn inside_sequence(&mut self, byte: u8, sink: &mut impl Sink) {
        match byte {
            ESC => self.begin(),
            CANCEL | SUBSTITUTE => self.abandon(),
            ..=0x1f => sink.control(byte),
            0x7f.. => {}
            0x20..=0x2f if self.state != State::Csi => {
                self.keep(byte);
                self.state = State::EscapeIntermediate;
            }
            b'[' if self.state == State::Escape => {
                self.keep(byte);
                self.state = State::Csi;
            }
            b']' if self.state == State::Escape => {
                self.keep(byte);
                self.state = State::Osc;
            }
            b'P' | b'X' | b'^' | b'_' if self.state == State::Escape => {
                self.keep(byte);
                self.state = State::String;
            }
            0x40.. => {
                self.keep(byte);
                self.finish(sink);
            }
            _ => {
                self.keep(byte);
                if self.state != State::Csi {
                    self.finish(sink);
                }
            }
        }
    }

    fn inside_string(&mut self, bytes: &[u8], sink: &mut impl Sink) -> usize {
        let end = bytes.iter().position(|byte| *byte < 0x20).unwrap_or(bytes.len());
        let room = LONGEST.saturating_sub(self.held.len());
        self.held.extend_from_slice(&bytes[..end.min(room)]);
        self.is_too_long |= end > room;
        match bytes.get(end) {
            Some(&BEL) if self.state == State::Osc => {
                self.keep(BEL);
                self.finish(sink);
            }
            // What ends a string by `ESC \` is complete at the escape, whatever comes after it.
            Some(&ESC) => {
                self.keep(ESC);
                self.keep(b'\\');
                self.finish(sink);
                self.begin();
            }
            Some(&(CANCEL | SUBSTITUTE)) => self.abandon(),
            Some(_) => {}
            None => return end,
        }
        end + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Found {
        Text(String),
        Control(u8),
        Sequence(Vec<u8>),
    }

    #[derive(Debug, Default)]
    struct All(Vec<Found>);

    impl Sink for All {
        fn text(&mut self, text: &str) {
            match self.0.last_mut() {
                Some(Found::Text(before)) => before.push_str(text),
                _ if text.is_empty() => {}
                _ => self.0.push(Found::Text(text.to_owned())),
            }
        }

        fn control(&mut self, byte: u8) {
            self.0.push(Found::Control(byte));
        }

        fn sequence(&mut self, bytes: &[u8]) {
            self.0.push(Found::Sequence(bytes.to_vec()));
        }
    }

    fn scan(bytes: &[u8]) -> (Vec<Found>, Scanner) {
        let (mut scanner, mut all) = (Scanner::default(), All::default());
        scanner.feed(bytes, &mut all);
        (all.0, scanner)
    }

    fn text(text: &str) -> Found {
        Found::Text(text.to_owned())
    }

    fn sequence(bytes: &[u8]) -> Found {
        Found::Sequence(bytes.to_vec())
    }

    #[test]
    fn text_and_sequences_are_told_apart() {
        let (found, scanner) = scan(b"a\r\n\x1b[1;31mb\x1b(0\x1b]0;t\xc3\xa4\x07c\x1bPq#1\x1b\\\x1b7");
        let expected = [
            text("a\r\n"),
            sequence(b"\x1b[1;31m"),
            text("b"),
            sequence(b"\x1b(0"),
            sequence(b"\x1b]0;t\xc3\xa4\x07"),
            text("c"),
            sequence(b"\x1bPq#1\x1b\\"),
            sequence(b"\x1b\\"),
            sequence(b"\x1b7"),
        ];
        assert_eq!(found, expected);
        assert!(scanner.is_between());
    }

    #[test]
    fn a_sequence_may_be_broken_off_and_carry_controls() {
        let (found, _) = scan(b"\x1b[3\n1m\x1b[1\x1b[2J\x1b[3\x18x\x1b]0;t\x1ay");
        let expected = [
            Found::Control(b'\n'),
            sequence(b"\x1b[31m"),
            sequence(b"\x1b[2J"),
            text("x"),
            text("y"),
        ];
        assert_eq!(
            found[..2],
            expected[..2],
            "the control comes first and is not part of the sequence"
        );
        assert_eq!(found[2], expected[2]);
        assert_eq!(found[3], text("xy"));
    }

    #[test]
    fn what_is_no_text_becomes_a_replacement_character() {
        let (found, scanner) = scan(b"a\xffb\xe4\xb8\x1b[m\xe4\xb8x\xc3");
        let expected = [text("a\u{fffd}b\u{fffd}"), sequence(b"\x1b[m"), text("\u{fffd}x")];
        assert_eq!(found, expected);
        assert_eq!(scanner.unfinished(), b"\xc3");
    }

    #[test]
    fn a_string_without_end_takes_no_memory() {
        let (mut scanner, mut all) = (Scanner::default(), All::default());
        scanner.feed(b"\x1b]0;", &mut all);
        let block = vec![b'x'; 1 << 20];
        for _ in 0..100 {
            scanner.feed(&block, &mut all);
        }
        assert_eq!(scanner.unfinished().len(), LONGEST);
        assert!(scanner.held.capacity() <= 2 * LONGEST);
        scanner.feed(b"\x07ok\x1b[1", &mut all);
        assert_eq!(all.0, [text("ok")]);
        scanner.feed(&vec![b'1'; 1 << 20], &mut all);
        scanner.feed(b"mok", &mut all);
        assert_eq!(all.0, [text("okok")]);
    }

    /// Bytes in which sequences are likely.
    fn output() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"\x1b".to_vec()),
            Just(b"\x1b[".to_vec()),
            Just(b"\x1b]".to_vec()),
            Just(b"\x1bP".to_vec()),
            Just(b"\x1b\\".to_vec()),
            "[a-z0-9;?()\u{e4}\u{4e2d}\u{1f600}\u{7f}\\x18\\x1a\\x07\\x05 $]{0,6}"
                .prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..4),
        ];
        proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_makes_no_difference(bytes in output(), cuts in proptest::collection::vec(0..99_usize, 0..9)) {
            let (whole, at_once) = scan(&bytes);
            let (mut scanner, mut all) = (Scanner::default(), All::default());
            let mut rest = &bytes[..];
            for cut in cuts {
                let (chunk, after) = rest.split_at(cut.min(rest.len()));
                scanner.feed(chunk, &mut all);
                rest = after;
            }
            scanner.feed(rest, &mut all);
            prop_assert_eq!(&all.0, &whole);
            prop_assert_eq!(scanner.unfinished(), at_once.unfinished());
        }

        #[test]
        fn a_second_scanner_follows_from_what_is_unfinished(bytes in output(), more in output()) {
            let (_, mut first) = scan(&bytes);
            let (nothing, mut second) = scan(first.unfinished());
            prop_assert_eq!(nothing, vec![]);
            let (mut one, mut other) = (All::default(), All::default());
            first.feed(&more, &mut one);
            second.feed(&more, &mut other);
            prop_assert_eq!(one.0, other.0);
        }
    }
}
