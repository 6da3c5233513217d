//! Puts matches and the lines around them together. Pure: lines come in their order, each once, and a line may stand
//! behind one match and before the next.

use std::collections::VecDeque;

use super::request::{Line, Place};

/// Bytes of a line that are shown.
const LINE: usize = 16 << 10;

/// The matches of one file.
#[derive(Debug)]
pub(super) struct Assembly {
    before: usize,
    after: usize,
    /// The newest lines, which may stand before a match.
    recent: VecDeque<Line>,
    matches: Vec<Place>,
    /// Bytes that they would be answered with.
    bytes: u64,
    /// The first match that waits for lines behind it.
    open: usize,
}

impl Assembly {
    pub(super) fn new(before: u64, after: u64) -> Self {
        Self {
            before: before as usize,
            after: after as usize,
            recent: VecDeque::new(),
            matches: Vec::new(),
            bytes: 0,
            open: 0,
        }
    }

    /// A line that matches, with the column of its first match from 1.
    pub(super) fn hit(&mut self, number: u64, column: u64, bytes: &[u8]) {
        let line = Line::shown(bytes);
        self.stands_behind(&line);
        let place = Place {
            number,
            column,
            text: line.clone(),
            before: self.recent.iter().cloned().collect(),
            after: Vec::new(),
        };
        self.bytes += place.size();
        self.matches.push(place);
        self.remember(line);
    }

    /// A line around a match.
    pub(super) fn context(&mut self, bytes: &[u8]) {
        let line = Line::shown(bytes);
        self.stands_behind(&line);
        self.remember(line);
    }

    /// Lines were left out here: nothing stands beside what comes next.
    pub(super) fn gap(&mut self) {
        self.recent.clear();
        self.open = self.matches.len();
    }

    /// Bytes of the matches so far, with the lines before them.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Matches so far.
    pub(super) fn count(&self) -> u64 {
        self.matches.len() as u64
    }

    pub(super) fn finish(self) -> Vec<Place> {
        self.matches
    }

    fn stands_behind(&mut self, line: &Line) {
        while let Some(place) = self.matches.get(self.open)
            && place.after.len() >= self.after
        {
            self.open += 1;
        }
        for place in &mut self.matches[self.open..] {
            place.after.push(line.clone());
            self.bytes += line.bytes.len() as u64;
        }
    }

    fn remember(&mut self, line: Line) {
        if self.before == 0 {
            return;
        }
        if self.recent.len() == self.before {
            self.recent.pop_front();
        }
        self.recent.push_back(line);
    }
}

impl Line {
    /// As much of a line as is shown, without its line end.
    fn shown(bytes: &[u8]) -> Self {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let mut end = bytes.len().min(LINE);
        // A character is not cut in two.
        while end > 0 && end < bytes.len() && bytes[end] & 0xc0 == 0x80 && bytes.len() - end < bytes.len() {
            end -= 1;
        }
        Self {
            bytes: bytes[..end].to_vec(),
            cut: (bytes.len() - end) as u64,
        }
    }
}

impl Place {
    /// Bytes of all its lines.
    pub(super) fn size(&self) -> u64 {
        let lines = self.before.iter().chain(&self.after);
        let around: usize = lines.map(|line| line.bytes.len()).sum();
        (around + self.text.bytes.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: &[Line]) -> Vec<String> {
        let text = |line: &Line| String::from_utf8(line.bytes.clone()).unwrap();
        lines.iter().map(text).collect()
    }

    #[test]
    fn a_line_stands_behind_one_match_and_before_the_next() {
        let mut assembly = Assembly::new(1, 2);
        assembly.context(b"a\n");
        assembly.hit(2, 1, b"b\r\n");
        assembly.context(b"c\n");
        assembly.hit(4, 3, b"d");
        assembly.context(b"e\n");
        assembly.context(b"f\n");
        assembly.gap();
        assembly.hit(9, 1, b"i\n");
        let bytes = assembly.bytes();
        let matches = assembly.finish();
        assert_eq!(bytes, matches.iter().map(Place::size).sum::<u64>());
        let around: Vec<_> = matches
            .iter()
            .map(|place| (text(&place.before), text(&place.after)))
            .collect();
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            around,
            [
                (owned(&["a"]), owned(&["c", "d"])),
                (owned(&["c"]), owned(&["e", "f"])),
                (owned(&[]), owned(&[])),
            ]
        );
        assert_eq!(matches[0].text.bytes, b"b");
    }

    #[test]
    fn a_long_line_says_how_much_is_cut() {
        let long = "é".repeat(LINE);
        let line = Line::shown(long.as_bytes());
        assert!(std::str::from_utf8(&line.bytes).is_ok());
        assert_eq!(line.bytes.len() as u64 + line.cut, long.len() as u64);
        assert!(line.bytes.len() <= LINE && line.bytes.len() > LINE - 4);
    }
}
