//! What of a flood of plain text need not be looked at.
//!
//! Where every line feed moves the whole screen, a line that more than a screen and a history of lines follow leaves no
//! trace: not on the screen, not in the history, not in the attributes, because plain text has no sequence in it. So
//! between two line ends it may be left out, and the screen is exactly what it would have been. That is what makes
//! `yes` or a large log cost a search for escapes instead of an emulation. The same holds for the screen lines of one
//! endless line of printable characters.

use std::ops::Range;

use memchr::{memchr_iter, memchr3, memmem, memrchr_iter};

/// Below this the search costs more than it saves.
pub(super) const SHORTEST: usize = 32 * 1024;

/// How many of the first bytes are plain text: neither an escape nor a shift to another character set.
pub(super) fn plain(bytes: &[u8]) -> usize {
    memchr3(0x1b, 0x0e, 0x0f, bytes).unwrap_or(bytes.len())
}

/// What can be left out of this plain text when its last `lines` lines are all that is seen; begins and ends at the
/// beginning of a line.
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
    fn plain_text_ends_where_a_sequence_begins() {
        assert_eq!(plain(b"abc\r\n\t\x08\x07\xff\x1b[m"), 9);
        assert_eq!(plain(b"a\x0eb"), 1);
        assert_eq!(plain(b""), 0);
    }
}
