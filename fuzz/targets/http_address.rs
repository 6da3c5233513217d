//! The query and the conditions of a request for a file: eight bytes of size, a line of query, the header.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((size, rest)) = bytes.split_first_chunk::<8>() else {
        return;
    };
    let mut lines = rest.splitn(2, |byte| *byte == b'\n');
    let (query, range) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    boxd::doors::http::fuzzed_address(
        &String::from_utf8_lossy(query),
        range,
        u64::from_le_bytes(*size),
    );
});
