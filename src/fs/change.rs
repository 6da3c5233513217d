//! Changes of a text: an exact replacement, lines put in, a unified diff. Pure: bytes in, bytes out, all or nothing, and
//! an error that says where it was nearly right.

use std::time::Duration;

use diffy::Patch;
use similar::{DiffOp, DiffTag, TextDiff};

use super::nearest::nearest;
use crate::error::Error;

/// A change of what a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Every occurrence of `old` becomes `new`.
    Replace {
        /// What is there, exactly.
        old: Vec<u8>,
        /// What is to be there.
        new: Vec<u8>,
        /// How often `old` must be there; 0 for as often as it is, but at least once.
        count: u64,
    },
    /// `text` becomes lines of their own, the first of them the line `line`, counted from 1; one behind the last line
    /// appends.
    Insert {
        /// The number of its first line.
        line: u64,
        /// The lines; a line end is added where the last has none.
        text: Vec<u8>,
    },
    /// A unified diff of one file, every hunk of which must fit; a hunk may have moved.
    Patch(Vec<u8>),
}

/// `text` with the change, and how many places were changed.
pub(super) fn apply(text: &[u8], change: &Change) -> Result<(Vec<u8>, u64), Error> {
    match change {
        Change::Replace { old, new, count } => replace(text, old, new, *count),
        Change::Insert { line, text: lines } => insert(text, *line, lines).map(|text| (text, 1)),
        Change::Patch(diff) => patch(text, diff),
    }
}

/// Lines around a change that a diff shows.
const AROUND: usize = 3;
/// How long the smallest diff is looked for; then it is one that is right and larger.
const DIFF_TIME: Duration = Duration::from_millis(500);

/// The unified diff of two texts; `name` stands in its head.
pub(super) fn diff(before: &[u8], after: &[u8], name: &str) -> Vec<u8> {
    let (before, after) = (lines(before), lines(after));
    let diff = TextDiff::configure()
        .timeout(DIFF_TIME)
        .diff_slices(&before, &after);
    let mut text = Vec::new();
    for (index, hunk) in diff.grouped_ops(AROUND).iter().enumerate() {
        if index == 0 {
            text.extend_from_slice(format!("--- a/{name}\n+++ b/{name}\n").as_bytes());
        }
        let Some(first) = hunk.first() else { continue };
        let length = |lines: &dyn Fn(&DiffOp) -> usize| hunk.iter().map(lines).sum();
        let old = span(first.old_range().start, length(&|op| op.old_range().len()));
        let new = span(first.new_range().start, length(&|op| op.new_range().len()));
        text.extend_from_slice(format!("@@ -{old} +{new} @@\n").as_bytes());
        for op in hunk {
            if op.tag() == DiffTag::Equal {
                put(&mut text, b' ', &before[op.old_range()]);
            } else {
                put(&mut text, b'-', &before[op.old_range()]);
                put(&mut text, b'+', &after[op.new_range()]);
            }
        }
    }
    text
}

/// So many lines from `start` on, counted from 0, as the head of a hunk names them; none stand behind the line before.
fn span(start: usize, length: usize) -> String {
    match length {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        length => format!("{},{length}", start + 1),
    }
}

fn put(text: &mut Vec<u8>, sign: u8, lines: &[&[u8]]) {
    for line in lines {
        text.push(sign);
        text.extend_from_slice(line);
        if !line.ends_with(b"\n") {
            text.extend_from_slice(b"\n\\ No newline at end of file\n");
        }
    }
}

/// As patch(1) has them: a carriage return ends none.
fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}

fn replace(text: &[u8], old: &[u8], new: &[u8], count: u64) -> Result<(Vec<u8>, u64), Error> {
    let invalid = |reason: String| Error::Invalid {
        field: "replace",
        reason,
    };
    if old.is_empty() {
        return Err(invalid("\"old\" must not be empty; insert puts in lines".into()));
    }
    let places: Vec<usize> = memchr::memmem::find_iter(text, old).collect();
    let found = places.len() as u64;
    if found == 0 {
        return Err(invalid(format!(
            "\"old\" is not in the file{}",
            nearest(text, old)
        )));
    }
    if count != 0 && found != count {
        let lines: Vec<_> = places
            .iter()
            .take(5)
            .map(|at| line_of(text, *at).to_string())
            .collect();
        let reason = format!(
            "\"old\" is in the file {found} times (lines {}{}), expected {count}; give more of what is around it, or \
             \"count\": {found}",
            lines.join(", "),
            if found > 5 { ", ..." } else { "" }
        );
        return Err(invalid(reason));
    }
    let mut changed = Vec::with_capacity(text.len());
    let mut rest = 0;
    for at in places {
        changed.extend_from_slice(&text[rest..at]);
        changed.extend_from_slice(new);
        rest = at + old.len();
    }
    changed.extend_from_slice(&text[rest..]);
    Ok((changed, found))
}

/// The number of the line that byte `at` is in, from 1.
fn line_of(text: &[u8], at: usize) -> u64 {
    memchr::memchr_iter(b'\n', &text[..at]).count() as u64 + 1
}

fn insert(text: &[u8], line: u64, lines: &[u8]) -> Result<Vec<u8>, Error> {
    let starts = std::iter::once(0).chain(memchr::memchr_iter(b'\n', text).map(|at| at + 1));
    let starts: Vec<usize> = starts.filter(|at| *at < text.len()).collect();
    let count = starts.len() as u64;
    if line == 0 || line > count + 1 {
        return Err(Error::Invalid {
            field: "insert",
            reason: format!(
                "line {line} is not among 1 to {}: the file has {count} lines",
                count + 1
            ),
        });
    }
    let at = starts.get(line as usize - 1).copied().unwrap_or(text.len());
    let mut changed = text[..at].to_vec();
    if at == text.len() && changed.last().is_some_and(|last| *last != b'\n') {
        changed.push(b'\n');
    }
    changed.extend_from_slice(lines);
    if lines.last().is_some_and(|last| *last != b'\n') {
        changed.push(b'\n');
    }
    changed.extend_from_slice(&text[at..]);
    Ok(changed)
}

fn patch(text: &[u8], diff: &[u8]) -> Result<(Vec<u8>, u64), Error> {
    let invalid = |reason: String| Error::Invalid {
        field: "patch",
        reason,
    };
    let patch = Patch::from_bytes(diff).map_err(|error| invalid(format!("is no unified diff: {error}")))?;
    let hunks = patch.hunks().len() as u64;
    if hunks == 0 {
        return Err(invalid("has no hunk (\"@@ -1,2 +1,3 @@\")".into()));
    }
    let changed = diffy::apply_bytes(text, &patch).map_err(|error| {
        let failed = first_that_fails(text, &patch);
        let looked_for = failed.map(|hunk| nearest(text, &hunk)).unwrap_or_default();
        invalid(format!("nothing was changed: {error} of {hunks}{looked_for}"))
    })?;
    Ok((changed, hunks))
}

/// What the first hunk that is not in `text` looks for.
fn first_that_fails(text: &[u8], patch: &Patch<'_, [u8]>) -> Option<Vec<u8>> {
    let looked_for = |hunk: &diffy::Hunk<'_, [u8]>| {
        let old = hunk.lines().iter().filter_map(|line| match line {
            diffy::Line::Context(line) | diffy::Line::Delete(line) => Some(*line),
            diffy::Line::Insert(_) => None,
        });
        old.collect::<Vec<_>>().concat()
    };
    let mut hunks = patch.hunks().iter().map(looked_for);
    hunks.find(|old| memchr::memmem::find(text, old).is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn replaced(text: &str, old: &str, new: &str, count: u64) -> Result<String, String> {
        let change = Change::Replace {
            old: old.into(),
            new: new.into(),
            count,
        };
        changed(text, &change)
    }

    fn changed(text: &str, change: &Change) -> Result<String, String> {
        match apply(text.as_bytes(), change) {
            Ok((text, _)) => Ok(String::from_utf8(text).unwrap()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_diff_of_everything_ends_in_time_and_is_right() {
        let text = |tab: &str| {
            let lines: Vec<String> = (0..40_000).map(|line| format!("{tab}line {line}\n")).collect();
            lines.concat()
        };
        let (before, after) = (text("\t"), text("    "));
        let begun = std::time::Instant::now();
        let diff = diff(before.as_bytes(), after.as_bytes(), "name");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        let (changed, _) = patch(before.as_bytes(), &diff).unwrap();
        assert_eq!(changed, after.as_bytes());
    }

    #[test]
    fn what_is_replaced_is_there_exactly_as_often_as_said() {
        assert_eq!(replaced("a b a", "b", "c", 1).unwrap(), "a c a");
        assert_eq!(replaced("a b a", "a", "", 2).unwrap(), " b ");
        assert_eq!(replaced("aaaa", "aa", "b", 0).unwrap(), "bb");
        let error = replaced("a\nb\na\n", "a", "c", 1).unwrap_err();
        assert!(error.contains("2 times (lines 1, 3), expected 1"), "{error}");
        assert!(replaced("x", "", "y", 1).unwrap_err().contains("empty"));
    }

    #[test]
    fn what_is_not_there_is_answered_with_what_is_nearly_there() {
        let error = replaced("fn one() {\n    two();\n}\n", "fn one() {\n\ttwo();\n}", "x", 1).unwrap_err();
        assert!(
            error.contains("line 1") && error.contains("    two();"),
            "{error}"
        );
    }

    #[test]
    fn lines_are_put_in_where_they_are_to_be() {
        let insert = |text: &str, line, lines: &str| {
            let change = Change::Insert {
                line,
                text: lines.into(),
            };
            changed(text, &change)
        };
        assert_eq!(insert("a\nb\n", 1, "x").unwrap(), "x\na\nb\n");
        assert_eq!(insert("a\nb\n", 2, "x\n").unwrap(), "a\nx\nb\n");
        assert_eq!(insert("a\nb", 3, "x").unwrap(), "a\nb\nx\n");
        assert_eq!(insert("", 1, "x").unwrap(), "x\n");
        let error = insert("a\n", 3, "x").unwrap_err();
        assert!(error.contains("1 to 2"), "{error}");
        assert!(insert("a\n", 0, "x").is_err());
    }

    #[test]
    fn a_diff_fits_with_all_its_hunks_or_changes_nothing() {
        let (before, after) = ("a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n", "a\nB\nc\nd\ne\nf\ng\nh\nI\nj\n");
        let diff = diff(before.as_bytes(), after.as_bytes(), "name");
        assert!(diff.starts_with(b"--- a/name\n+++ b/name\n@@"));
        let change = Change::Patch(diff);
        assert_eq!(changed(before, &change).unwrap(), after);
        let moved = format!("new\n{before}");
        assert_eq!(changed(&moved, &change).unwrap(), format!("new\n{after}"));
        let error = changed(&before.replace("i\n", "x\n"), &change).unwrap_err();
        assert!(error.contains("nothing was changed"), "{error}");
        for wrong in ["", "no diff", "--- a\n+++ b\n"] {
            assert!(changed(before, &Change::Patch(wrong.into())).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_diff_leads_from_one_text_to_the_other(
            before in proptest::collection::vec("[ab\u{e9}]{0,3}\n", 0..20),
            after in proptest::collection::vec("[ab\u{e9}]{0,3}\n", 0..20),
        ) {
            let (before, after) = (before.concat(), after.concat());
            prop_assume!(before != after);
            let change = Change::Patch(diff(before.as_bytes(), after.as_bytes(), "x"));
            prop_assert_eq!(changed(&before, &change).unwrap(), after);
        }

        #[test]
        fn nothing_panics(text in proptest::collection::vec(any::<u8>(), 0..200),
                          patch in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = apply(&text, &Change::Patch(patch.clone()));
            let _ = apply(&text, &Change::Replace { old: patch, new: Vec::new(), count: 1 });
        }
    }
}
