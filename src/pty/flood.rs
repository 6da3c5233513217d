//! What of a flood of text need not be looked at.
//!
//! Where every line feed moves the whole screen, a line that more than two screens and a history of lines follow leaves
//! no trace in any cell. Nor does text leave one elsewhere: it has no sequences in it, or only those that give it
//! attributes and erase the rest of its line, and of these the attributes are carried on. So between two line ends it
//! may be left out, and the screen is exactly what it would have been. That is what makes `yes` or a large listing cost
//! a search instead of an emulation. The same holds for the screen lines of one endless line of printable characters.

use std::ops::Range;

use memchr::{memchr_iter, memchr3, memmem, memrchr, memrchr_iter};

/// Below this the search costs more than it saves.
pub(super) const SHORTEST: usize = 32 * 1024;
/// Parameters of a sequence that is still taken for one that gives attributes.
const PARAMETERS: usize = 64;

/// How many of the first bytes are text, with no other sequences than `SGR` and `EL` and no shift to another character
/// set.
pub(super) fn text(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let Some(found) = memchr3(0x1b, 0x0e, 0x0f, &bytes[end..]) {
        end += found;
        match sequence(&bytes[end..]) {
            Some(sequence) => end += sequence.len(),
            None => return end,
        }
    }
    bytes.len()
}

/// The `SGR` or `EL` that begins here.
fn sequence(bytes: &[u8]) -> Option<&[u8]> {
    let parameters = bytes.strip_prefix(b"\x1b[")?;
    let mut last = parameters.iter().take(PARAMETERS);
    let last = last.position(|byte| !matches!(byte, b'0'..=b';'))?;
    matches!(parameters[last], b'm' | b'K').then(|| &bytes[..=2 + last])
}

/// What can be left out of this text when its last `lines` lines are all that is seen; begins and ends at the beginning
/// of a line.
pub(super) fn surplus(text: &[u8], lines: usize) -> Option<Range<usize>> {
    const END: &[u8] = b"\r\n";
    let seen = memrchr_iter(b'\n', text).nth(lines)?;
    // A carriage return puts the cursor into the first column, wherever it was.
    let start = memmem::find(&text[..seen], END)? + END.len();
    let end = memmem::rfind(&text[..=seen], END)? + END.len();
    (start < end).then_some(start..end)
}

/// How many of the first bytes of a line without end can be left out, when its last `lines` screen lines are all that is
/// seen: whole screen lines, so that the rest stands in the same columns. Only where long lines wrap.
pub(super) fn unbroken(text: &[u8], cols: usize, lines: usize) -> Option<usize> {
    let surplus = (text.len() / cols).checked_sub(lines + 1)?;
    let is_printable = text.iter().all(|byte| (b' '..=b'~').contains(byte));
    (is_printable && surplus > 0).then_some(surplus * cols)
}

/// The sequences in a text that decide on the attributes after it: those from the last reset on.
pub(super) fn attributes(text: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let mut end = text.len();
    while let Some(at) = memrchr(0x1b, &text[..end]) {
        end = at;
        let Some(sequence) = sequence(&text[at..]).filter(|sequence| sequence.ends_with(b"m")) else {
            continue;
        };
        found.push(sequence);
        if matches!(sequence, [_, _, b'm' | b';', ..] | [_, _, b'0', b'm' | b';', ..]) {
            break;
        }
    }
    found.reverse();
    found
}

/// Lines that end in these bytes.
pub(super) fn lines(bytes: &[u8]) -> u64 {
    memchr_iter(b'\n', bytes).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_begins_and_ends_with_a_line_and_leaves_enough() {
        let text = b"one\r\ntwo\r\nthree\nfour\r\nfive\r\nsix";
        assert_eq!(surplus(text, 1), Some(5..22), "five and six are left");
        assert_eq!(
            surplus(text, 2),
            Some(5..10),
            "a bare line feed is no line's beginning"
        );
        assert_eq!(surplus(text, 4), None);
        assert_eq!(surplus(text, 99), None);
        assert_eq!(surplus(b"\n\n\n\n\n\n", 1), None);
        assert_eq!(lines(&text[5..22]), 3);
    }

    #[test]
    fn of_an_endless_line_whole_screen_lines_are_left_out() {
        assert_eq!(unbroken(b"0123456789abcdefgh", 5, 1), Some(5));
        assert_eq!(unbroken(b"0123456789abcdefgh", 5, 2), None);
        assert_eq!(unbroken(b"0123456789abcde\tgh", 5, 1), None);
        assert_eq!(unbroken(b"", 1, 0), None);
    }

    #[test]
    fn text_ends_where_another_sequence_begins() {
        assert_eq!(text(b"abc\r\n\t\x08\x07\xff\x1b[m\x1b[1;4:3mx\x1b[K\x1b[H"), 24);
        assert_eq!(text(b"a\x0eb"), 1);
        assert_eq!(text(b"ab\x1b[1"), 2, "not complete");
        assert_eq!(text(b"ab\x1b[>4m"), 2, "not an attribute");
        assert_eq!(text(b"ab\x1b]0;\x07"), 2);
        assert_eq!(text(b""), 0);
    }

    #[test]
    fn attributes_are_those_since_the_last_reset() {
        let sequences: [&[u8]; 3] = [b"\x1b[0;31m", b"\x1b[1m", b"\x1b[4m"];
        assert_eq!(
            attributes(b"\x1b[7mx\x1b[0;31mx\x1b[K\x1b[1mx\x1b[4m\r\n"),
            sequences
        );
        assert_eq!(attributes(b"\x1b[1mx\x1b[m"), [b"\x1b[m"]);
        assert_eq!(attributes(b"\x1b[1mx\x1b[;2mx"), [b"\x1b[;2m"]);
        assert_eq!(attributes(b"\x1b[1mx\x1b[03m").len(), 2);
        assert_eq!(attributes(b"text\r\n").len(), 0);
    }
}
