//! The JSON of every operation, chosen by the first byte: paths, patterns, limits, watches among them.

#![no_main]

use boxd::ops::{OPERATIONS, ProcessConfig};
use boxd::wire::json::decode_op;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((which, payload)) = bytes.split_first() else {
        return;
    };
    let name = OPERATIONS[usize::from(*which) % OPERATIONS.len()].name;
    let _ = decode_op(name, payload, &ProcessConfig::default());
});
