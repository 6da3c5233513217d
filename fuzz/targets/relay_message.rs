//! The frames of stream ports: what is decoded is encoded again to something that says the same.

#![no_main]

use boxd::wire::relay::Message;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = Message::decode(Bytes::copy_from_slice(bytes)) else {
        return;
    };
    let again = Message::decode(message.encode()).expect("our own encoding is decoded");
    // Not compared as values: a number in them may be none.
    assert_eq!(format!("{message:?}"), format!("{again:?}"));
});
