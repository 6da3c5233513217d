//! Where a text is nearly what somebody looks for: the lines that are most alike. Pure, and bounded in time.

use std::fmt::Write as _;

/// Lines that are compared with each place.
const LINES: usize = 64;
/// Bytes that are shown.
const SHOWN: usize = 400;
/// Bytes of the text that are looked at.
const LOOKED_AT: usize = 8 << 20;

/// Says where `text` is most like `wanted`: "; the nearest is line 3: ...", or nothing when nothing is alike.
pub(super) fn nearest(text: &[u8], wanted: &[u8]) -> String {
    let text = &text[..text.len().min(LOOKED_AT)];
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let wanted: Vec<&[u8]> = wanted.split(|byte| *byte == b'\n').take(LINES).collect();
    let Some(at) = most_alike(&lines, &wanted) else {
        return String::new();
    };
    let end = (at + wanted.len()).min(lines.len());
    let found = lines[at..end].join(&b'\n');
    let shown = &found[..found.len().min(SHOWN)];
    let mut said = format!(
        "; the nearest is line {}: {:?}",
        at + 1,
        String::from_utf8_lossy(shown)
    );
    if found.len() > SHOWN {
        let _ = write!(said, " and {} bytes more", found.len() - SHOWN);
    }
    if same_but_for_blanks(&lines[at..end], &wanted) {
        said.push_str(", which differs in blanks only");
    }
    said
}

/// The first line of the place with most lines in common, blanks at both ends aside; failing that, the line that has
/// most in common with the longest one.
fn most_alike(lines: &[&[u8]], wanted: &[&[u8]]) -> Option<usize> {
    let last = lines.len().saturating_sub(wanted.len());
    let alike = |at: usize| {
        let pairs = lines[at..].iter().zip(wanted);
        let weight = |(one, other): (&&[u8], &&[u8])| {
            let one = one.trim_ascii();
            if one == other.trim_ascii() { one.len() } else { 0 }
        };
        pairs.map(weight).sum::<usize>()
    };
    let best = (0..=last)
        .map(|at| (alike(at), at))
        .max_by_key(|(score, at)| (*score, usize::MAX - at));
    if let Some((score, at)) = best
        && score > 0
    {
        return Some(at);
    }
    let (offset, longest) = wanted
        .iter()
        .enumerate()
        .max_by_key(|(_, line)| line.trim_ascii().len())?;
    let pairs = pairs_of(longest.trim_ascii());
    if pairs.is_empty() {
        return None;
    }
    let common = |line: &[u8]| {
        let mine = pairs_of(line.trim_ascii());
        let shared = mine
            .iter()
            .filter(|pair| pairs.binary_search(pair).is_ok())
            .count();
        // Of all pairs of both: a long line is not alike because it is long.
        shared * 1000 / (mine.len() + pairs.len())
    };
    let scored = lines.iter().enumerate().map(|(at, line)| (common(line), at));
    let (score, at) = scored.max_by_key(|(score, at)| (*score, usize::MAX - at))?;
    // Less than about a third in common is chance.
    (score >= 170).then(|| at.saturating_sub(offset))
}

/// The pairs of neighbouring bytes of a line, sorted.
fn pairs_of(line: &[u8]) -> Vec<[u8; 2]> {
    let line = &line[..line.len().min(1000)];
    let mut pairs: Vec<_> = line.windows(2).map(|pair| [pair[0], pair[1]]).collect();
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

fn same_but_for_blanks(found: &[&[u8]], wanted: &[&[u8]]) -> bool {
    let bare = |lines: &[&[u8]]| {
        let bytes = lines.concat();
        bytes
            .into_iter()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect::<Vec<_>>()
    };
    bare(found) == bare(wanted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_place_with_most_in_common_is_named() {
        let text = b"one\n  two\nthree\nfour\n";
        let said = nearest(text, b"two\nthree\nFOUR");
        assert!(said.contains("line 2") && said.contains("three"), "{said}");
        let said = nearest(text, b"two\nthree");
        assert!(said.ends_with("blanks only"), "{said}");
        let said = nearest(b"alpha\nlet count = 1;\n", b"let counts = 2;");
        assert!(said.contains("line 2"), "{said}");
        assert_eq!(nearest(b"alpha\n", b"zzz"), "");
    }

    proptest! {
        #[test]
        fn nothing_panics(text in proptest::collection::vec(any::<u8>(), 0..300),
                          wanted in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = nearest(&text, &wanted);
        }
    }
}
