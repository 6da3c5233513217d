//! Unified diffs, applied to the text behind the first NUL.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut halves = bytes.splitn(2, |byte| *byte == 0);
    let (diff, text) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
    boxd::fs::fuzzed_patch(text, diff);
});
