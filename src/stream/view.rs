//! Which lines of an output somebody gets who asked for some of them, and what is left out. Pure; memory is bounded by what
//! is asked for, however long the output is.
//!
//! ```text
//!   lines --range--> --grep with context--> first lines [ .. ]  omitted { from..=to, bytes }  last lines [ .. ]
//! ```

use std::collections::VecDeque;

use regex::Regex;

use super::text::Line;

/// What somebody asked for.
#[derive(Debug, Clone)]
pub struct Select {
    /// These lines only, from 1.
    pub range: Option<(u64, u64)>,
    /// Lines that match only.
    pub grep: Option<Regex>,
    /// So many lines around each of those.
    pub context: u64,
    /// The first so many of what is left.
    pub head: Option<u64>,
    /// The last so many of it. With neither, its beginning and its end as far as `max_bytes` goes.
    pub tail: Option<u64>,
    /// Bytes of text at most.
    pub max_bytes: u64,
}

/// A part of what was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A line.
    Line {
        /// Its number, from 1.
        number: u64,
        /// Whether it is one that was looked for; else it stands around one.
        matches: bool,
        /// The line.
        line: Line,
    },
    /// Something that is said between the lines.
    Note(String),
}

/// Lines that were chosen and did not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Omitted {
    /// How many.
    pub lines: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The number of the first.
    pub first: u64,
    /// The number of the last.
    pub last: u64,
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// What stands before the omission.
    pub head: Vec<Piece>,
    /// The omission.
    pub omitted: Option<Omitted>,
    /// What stands behind it.
    pub tail: Vec<Piece>,
    /// Lines that were looked at.
    pub lines: u64,
    /// Lines that match.
    pub matches: u64,
}

/// Chooses among lines as they come.
#[derive(Debug)]
pub struct View {
    select: Select,
    lines: u64,
    matches: u64,
    /// Lines that a match may want to have before it.
    before: VecDeque<(u64, Line)>,
    /// Lines that the last match wants behind it.
    wanted: u64,
    head: Vec<Piece>,
    head_room: Room,
    tail: VecDeque<Piece>,
    tail_room: Room,
    omitted: Option<Omitted>,
}

/// What still fits.
#[derive(Debug, Clone, Copy)]
struct Room {
    lines: u64,
    bytes: u64,
}

impl Room {
    /// Takes a piece in when it fits.
    fn take(&mut self, piece: &Piece) -> bool {
        let (lines, bytes) = (u64::from(matches!(piece, Piece::Line { .. })), size(piece));
        let fits = self.lines >= lines && self.bytes >= bytes;
        if fits {
            self.lines -= lines;
            self.bytes -= bytes;
        }
        fits
    }

    fn give_back(&mut self, piece: &Piece) {
        self.lines += u64::from(matches!(piece, Piece::Line { .. }));
        self.bytes += size(piece);
    }
}

fn size(piece: &Piece) -> u64 {
    match piece {
        Piece::Line { line, .. } => line.text.len() as u64 + 1,
        Piece::Note(note) => note.len() as u64 + 1,
    }
}

impl View {
    /// Nothing yet.
    pub fn new(select: Select) -> Self {
        let bytes = select.max_bytes;
        let room = |lines, bytes| Room { lines, bytes };
        let (head_room, tail_room) = match (select.head, select.tail) {
            (Some(head), None) => (room(head, bytes), room(0, 0)),
            (None, Some(tail)) => (room(0, 0), room(tail, bytes)),
            (head, tail) => (
                room(head.unwrap_or(u64::MAX), bytes - bytes / 2),
                room(tail.unwrap_or(u64::MAX), bytes / 2),
            ),
        };
        Self {
            select,
            lines: 0,
            matches: 0,
            before: VecDeque::new(),
            wanted: 0,
            head: Vec::new(),
            head_room,
            tail: VecDeque::new(),
            tail_room,
            omitted: None,
        }
    }

    /// The next line of the output.
    pub fn line(&mut self, line: Line) {
        self.lines += 1;
        let number = self.lines;
        if let Some((from, to)) = self.select.range
            && !(from..=to).contains(&number)
        {
            return;
        }
        let Some(grep) = &self.select.grep else {
            return self.keep(number, true, line);
        };
        if grep.is_match(&line.text) {
            self.matches += 1;
            for (number, line) in std::mem::take(&mut self.before) {
                self.keep(number, false, line);
            }
            self.wanted = self.select.context;
            self.keep(number, true, line);
        } else if self.wanted > 0 {
            self.wanted -= 1;
            self.keep(number, false, line);
        } else if self.select.context > 0 {
            if self.before.len() as u64 >= self.select.context {
                self.before.pop_front();
            }
            self.before.push_back((number, line));
        }
    }

    /// Something to be said before the next line.
    pub fn note(&mut self, note: String) {
        let beyond = self.select.range.is_some_and(|(_, to)| self.lines >= to);
        let before = self.select.range.is_some_and(|(from, _)| self.lines + 1 < from);
        if !beyond && !before {
            self.place(Piece::Note(note));
        }
    }

    fn keep(&mut self, number: u64, matches: bool, line: Line) {
        self.place(Piece::Line {
            number,
            matches,
            line,
        });
    }

    fn place(&mut self, piece: Piece) {
        if self.omitted.is_none() && self.tail.is_empty() && self.head_room.take(&piece) {
            return self.head.push(piece);
        }
        while !self.tail_room.take(&piece) {
            let Some(oldest) = self.tail.pop_front() else {
                return self.omit(&piece);
            };
            self.tail_room.give_back(&oldest);
            self.omit(&oldest);
        }
        self.tail.push_back(piece);
    }

    fn omit(&mut self, piece: &Piece) {
        let Piece::Line { number, line, .. } = piece else {
            return;
        };
        let omitted = self.omitted.get_or_insert(Omitted {
            lines: 0,
            bytes: 0,
            first: *number,
            last: *number,
        });
        omitted.lines += 1;
        omitted.bytes += line.written;
        omitted.last = *number;
    }

    /// What was chosen.
    pub fn finish(self) -> Chosen {
        Chosen {
            head: self.head,
            omitted: self.omitted,
            tail: self.tail.into(),
            lines: self.lines,
            matches: self.matches,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all() -> Select {
        Select {
            range: None,
            grep: None,
            context: 0,
            head: None,
            tail: None,
            max_bytes: 1 << 20,
        }
    }

    fn choose(select: Select, count: u64) -> Chosen {
        let mut view = View::new(select);
        for number in 1..=count {
            let text = format!("line {number}");
            let written = text.len() as u64 + 1;
            view.line(Line {
                text,
                cut: 0,
                written,
            });
        }
        view.finish()
    }

    fn numbers(pieces: &[Piece]) -> Vec<u64> {
        let numbers = pieces.iter().filter_map(|piece| match piece {
            Piece::Line { number, .. } => Some(*number),
            Piece::Note(_) => None,
        });
        numbers.collect()
    }

    #[test]
    fn head_tail_and_ranges_say_what_they_leave_out() {
        let chosen = choose(
            Select {
                head: Some(2),
                ..all()
            },
            10,
        );
        assert_eq!(numbers(&chosen.head), [1, 2]);
        let omitted = chosen.omitted.unwrap();
        assert_eq!((omitted.lines, omitted.first, omitted.last), (8, 3, 10));
        let chosen = choose(
            Select {
                tail: Some(2),
                ..all()
            },
            10,
        );
        assert_eq!(numbers(&chosen.tail), [9, 10]);
        let omitted = chosen.omitted.unwrap();
        assert_eq!(
            (omitted.lines, omitted.bytes, omitted.first, omitted.last),
            (8, 56, 1, 8)
        );
        let chosen = choose(
            Select {
                head: Some(1),
                tail: Some(1),
                ..all()
            },
            3,
        );
        assert_eq!((numbers(&chosen.head), numbers(&chosen.tail)), (vec![1], vec![3]));
        let chosen = choose(
            Select {
                range: Some((4, 6)),
                ..all()
            },
            10,
        );
        assert_eq!((numbers(&chosen.head), chosen.omitted), (vec![4, 5, 6], None));
        let chosen = choose(
            Select {
                max_bytes: 28,
                ..all()
            },
            9,
        );
        assert_eq!(
            (numbers(&chosen.head), numbers(&chosen.tail)),
            (vec![1, 2], vec![8, 9])
        );
    }

    #[test]
    fn grep_brings_its_context_once() {
        let grep = |pattern, context, count| {
            let grep = Some(Regex::new(pattern).unwrap());
            choose(
                Select {
                    grep,
                    context,
                    ..all()
                },
                count,
            )
        };
        assert_eq!(numbers(&grep("[37]$", 0, 9).head), [3, 7]);
        assert_eq!(numbers(&grep("[36]$", 1, 9).head), [2, 3, 4, 5, 6, 7]);
        let chosen = grep("[45]$", 2, 9);
        assert_eq!(numbers(&chosen.head), [2, 3, 4, 5, 6, 7]);
        assert_eq!(chosen.matches, 2);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_without_being_counted(
            count in 0_u64..60, head in proptest::option::of(1_u64..20), tail in proptest::option::of(1_u64..20),
            max_bytes in 1_u64..300,
        ) {
            let chosen = choose(Select { head, tail, max_bytes, ..all() }, count);
            let omitted = chosen.omitted.map_or(0, |omitted| omitted.lines);
            let (first, last) = (numbers(&chosen.head), numbers(&chosen.tail));
            prop_assert_eq!(first.len() as u64 + last.len() as u64 + omitted, count);
            let between: Vec<_> = chosen.omitted.iter().flat_map(|gap| gap.first..=gap.last).collect();
            let all: Vec<_> = [first, between, last].concat();
            prop_assert_eq!(all, (1..=count).collect::<Vec<_>>());
            let bytes: u64 = chosen.head.iter().chain(&chosen.tail).map(size).sum();
            prop_assert!(bytes <= max_bytes);
        }
    }
}
