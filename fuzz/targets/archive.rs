//! Archives: tar and gzip as a stranger made them, within the caps, and no entry outside.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = boxd::fs::fuzzed_archive(bytes);
});
