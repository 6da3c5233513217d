//! Lines that left the screen at the top, as text: bounded by lines and by bytes, numbered from the first one ever.
//!
//! Kept apart from the cells because a line of text takes a tenth of their memory, and because it can be paged by
//! number while more lines come.

use std::collections::VecDeque;

/// How much is kept of what scrolled away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Lines.
    pub lines: usize,
    /// Bytes of their text, UTF-8.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lines: 1000,
            bytes: 256 * 1024,
        }
    }
}

/// Some lines of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Number of the first line of this page, counted from 0 for the first line that ever left the screen.
    pub first: u64,
    /// The lines, without trailing blanks.
    pub lines: Vec<String>,
    /// Lines that are no longer kept: they were cleared, or there were too many. A line that a flood pushed out unseen
    /// counts once, however often it would have wrapped.
    pub dropped: u64,
    /// Lines that ever left the screen: the next one gets this number.
    pub total: u64,
}

/// The lines in one ring of bytes, each ended by a line feed.
#[derive(Debug)]
pub(super) struct History {
    limits: Limits,
    text: VecDeque<u8>,
    lengths: VecDeque<u32>,
    dropped: u64,
}

impl History {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            text: VecDeque::new(),
            lengths: VecDeque::new(),
            dropped: 0,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.text.len() + size_of::<u32>() * self.lengths.len()
    }

    pub(super) fn push(&mut self, line: &str) {
        if self.limits.lines == 0 || line.len() > self.limits.bytes {
            self.clear();
            self.dropped += 1;
            return;
        }
        self.text.extend(line.as_bytes());
        self.lengths.push_back(line.len() as u32);
        self.trim();
    }

    /// Counts lines that went by without being looked at; they come before whatever is pushed next.
    pub(super) fn pass_over(&mut self, lines: u64) {
        if lines > 0 {
            self.clear();
            self.dropped += lines;
        }
    }

    pub(super) fn clear(&mut self) {
        self.dropped += self.lengths.len() as u64;
        self.text.clear();
        self.lengths.clear();
    }

    /// Keeps at most this much from now on.
    pub(super) fn limit(&mut self, limits: Limits) {
        self.limits = limits;
        self.trim();
        self.text.shrink_to(limits.bytes);
    }

    pub(super) fn page(&self, from: u64, lines: usize) -> Page {
        let total = self.dropped + self.lengths.len() as u64;
        let first = from.clamp(self.dropped, total);
        let skipped = (first - self.dropped) as usize;
        let mut at: usize = self.lengths.range(..skipped).map(|length| *length as usize).sum();
        let lines = self.lengths.range(skipped..).take(lines).map(|length| {
            let end = at + *length as usize;
            let line: Vec<u8> = self.text.range(at..end).copied().collect();
            at = end;
            String::from_utf8_lossy(&line).into_owned()
        });
        Page {
            first,
            lines: lines.collect(),
            dropped: self.dropped,
            total,
        }
    }

    fn trim(&mut self) {
        while self.lengths.len() > self.limits.lines || self.text.len() > self.limits.bytes {
            let Some(length) = self.lengths.pop_front() else {
                return;
            };
            self.text.drain(..length as usize);
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(lines: usize, bytes: usize) -> History {
        History::new(Limits { lines, bytes })
    }

    fn page(history: &History, from: u64, lines: usize) -> (u64, Vec<String>, u64, u64) {
        let page = history.page(from, lines);
        (page.first, page.lines, page.dropped, page.total)
    }

    fn texts(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn lines_keep_their_numbers_while_older_ones_go() {
        let mut history = history(3, 1000);
        for line in ["zero", "", "two", "drei \u{e4}\u{4e2d}", "four"] {
            history.push(line);
        }
        let all = texts(&["two", "drei \u{e4}\u{4e2d}", "four"]);
        assert_eq!(page(&history, 0, 10), (2, all, 2, 5));
        assert_eq!(page(&history, 3, 1), (3, texts(&["drei \u{e4}\u{4e2d}"]), 2, 5));
        assert_eq!(page(&history, 5, 10), (5, vec![], 2, 5));
        assert_eq!(page(&history, 99, 10), (5, vec![], 2, 5));
    }

    #[test]
    fn bytes_bound_it_too_and_what_goes_is_counted() {
        let mut history = history(100, 10);
        history.push("12345");
        history.push("67890");
        assert_eq!(page(&history, 0, 9).1.len(), 2);
        history.push("x");
        assert_eq!(page(&history, 0, 9), (1, texts(&["67890", "x"]), 1, 3));
        history.push("longer than ten");
        assert_eq!(page(&history, 0, 9), (4, vec![], 4, 4));
        history.push("a");
        history.pass_over(7);
        history.push("b");
        assert_eq!(page(&history, 0, 9), (12, texts(&["b"]), 12, 13));
        history.clear();
        assert_eq!(page(&history, 0, 9), (13, vec![], 13, 13));
    }

    #[test]
    fn none_at_all_still_counts() {
        let mut history = history(0, 100);
        history.push("a");
        history.push("b");
        assert_eq!(page(&history, 0, 9), (2, vec![], 2, 2));
    }
}
