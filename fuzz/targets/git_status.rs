//! What `git status --porcelain=v2 -z` says, or something like it.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = boxd::git::porcelain(bytes);
});
