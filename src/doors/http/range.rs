//! Conditional and partial requests for a file: RFC 9110, sections 13 and 14. Pure.

use axum::http::HeaderMap;
use axum::http::header::{IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE};

/// What of a file is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it, 200.
    Whole,
    /// `length` bytes from `first` on, 206.
    Range { first: u64, length: u64 },
    /// A range that lies outside, 416: its first byte.
    Outside { first: u64 },
    /// Nothing, the caller has it: 304.
    Unchanged,
    /// Nothing, it is not the version that the caller relies on: 412.
    Changed,
}

/// What the headers ask of a file of `size` bytes with these validators.
pub(super) fn part(headers: &HeaderMap, size: u64, etag: &str, modified: Option<&str>) -> Part {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &axum::http::HeaderValue| value.to_str().ok())
    };
    if text(IF_MATCH).is_some_and(|tags| !names(tags, etag)) {
        return Part::Changed;
    }
    if text(IF_NONE_MATCH).is_some_and(|tags| matches(tags, etag)) {
        return Part::Unchanged;
    }
    let Some(range) = text(RANGE) else {
        return Part::Whole;
    };
    // A range of another version would be glued to bytes that it does not belong to: then the whole is answered. A
    // date counts only when it is exactly ours, and a weak tag never does.
    if let Some(version) = text(IF_RANGE)
        && version != etag
        && Some(version) != modified
    {
        return Part::Whole;
    }
    parse(range, size)
}

/// Whether an `If-Match` list names `etag`; strong comparison.
fn names(tags: &str, etag: &str) -> bool {
    tags.split(',')
        .map(str::trim)
        .any(|tag| tag == "*" || tag == etag)
}

/// Whether an `If-None-Match` list names `etag`; weak comparison.
fn matches(tags: &str, etag: &str) -> bool {
    tags.split(',')
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// One byte range. Several, other units and nonsense are answered whole, which the standard allows.
fn parse(range: &str, size: u64) -> Part {
    let Some((unit, set)) = range.split_once('=') else {
        return Part::Whole;
    };
    let Some((first, last)) = set
        .trim()
        .split_once('-')
        .filter(|_| unit.trim().eq_ignore_ascii_case("bytes"))
    else {
        return Part::Whole;
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // More digits than fit still mean a byte that lies beyond every file.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (first.trim(), last.trim()) {
        ("", suffix) => match number(suffix) {
            None => Part::Whole,
            Some(length) if length == 0 || size == 0 => Part::Outside { first: size },
            Some(length) => {
                let length = length.min(size);
                Part::Range {
                    first: size - length,
                    length,
                }
            }
        },
        (first, last) => {
            let end = if last.is_empty() {
                Some(u64::MAX)
            } else {
                number(last)
            };
            match (number(first), end) {
                (Some(first), Some(last)) if first > last => Part::Whole,
                (Some(first), Some(_)) if first >= size => Part::Outside { first },
                (Some(first), Some(last)) => Part::Range {
                    first,
                    length: last.min(size - 1) - first + 1,
                },
                _ => Part::Whole,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ETAG: &str = "\"v1\"";
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn asked(pairs: &[(axum::http::HeaderName, &str)]) -> Part {
        let headers = pairs
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect();
        part(&headers, 10, ETAG, Some(DATE))
    }

    #[test]
    fn ranges_follow_the_standard() {
        let range = |text| asked(&[(RANGE, text)]);
        assert_eq!(range("bytes=0-3"), Part::Range { first: 0, length: 4 });
        assert_eq!(range("bytes=4-"), Part::Range { first: 4, length: 6 });
        assert_eq!(range("bytes=-3"), Part::Range { first: 7, length: 3 });
        assert_eq!(range("bytes=-99"), Part::Range { first: 0, length: 10 });
        assert_eq!(
            range("bytes=8-99999999999999999999"),
            Part::Range { first: 8, length: 2 }
        );
        assert_eq!(range("bytes=10-"), Part::Outside { first: 10 });
        assert_eq!(range("bytes=-0"), Part::Outside { first: 10 });
        for whole in [
            "bytes=5-3",
            "bytes=a-b",
            "bytes=",
            "bytes",
            "lines=0-1",
            "bytes=0-1,4-5",
            "bytes=--1",
            "bytes=+1-2",
        ] {
            assert_eq!(range(whole), Part::Whole, "{whole}");
        }
    }

    #[test]
    fn validators_decide_first() {
        assert_eq!(asked(&[(IF_NONE_MATCH, "\"v0\", W/\"v1\"")]), Part::Unchanged);
        assert_eq!(asked(&[(IF_NONE_MATCH, "*")]), Part::Unchanged);
        for same in ["\"v0\", \"v1\"", "*"] {
            assert_eq!(asked(&[(IF_MATCH, same)]), Part::Whole);
        }
        for other in ["\"v0\"", "W/\"v1\"", ""] {
            assert_eq!(asked(&[(IF_MATCH, other), (RANGE, "bytes=0-0")]), Part::Changed);
        }
        assert_eq!(asked(&[(IF_NONE_MATCH, "\"v0\"")]), Part::Whole);
        let range = Part::Range { first: 0, length: 1 };
        assert_eq!(asked(&[(RANGE, "bytes=0-0"), (IF_RANGE, ETAG)]), range);
        assert_eq!(asked(&[(RANGE, "bytes=0-0"), (IF_RANGE, DATE)]), range);
        assert_eq!(asked(&[(RANGE, "bytes=0-0"), (IF_RANGE, "\"v0\"")]), Part::Whole);
        assert_eq!(
            asked(&[(RANGE, "bytes=0-0"), (IF_RANGE, "W/\"v1\"")]),
            Part::Whole
        );
    }

    proptest! {
        #[test]
        fn a_range_is_always_within_the_file(text in "bytes=[0-9]{0,22}-[0-9]{0,22}", size in 0_u64..100) {
            if let Part::Range { first, length } = parse(&text, size) {
                prop_assert!(length > 0 && first + length <= size);
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[ -~]{0,40}", size: u64) {
            parse(&text, size);
        }
    }
}
