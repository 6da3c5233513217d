//! The control wire: any bytes are decoded, and what they stand for is an operation or an error.

#![no_main]

use boxd::wire::proto::{OpAck, OpAttach, OpStart, WriteChunk};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|bytes: &[u8]| {
    let _ = boxd::doors::nats::fuzzed_request(bytes);
    let _ = OpStart::decode(bytes);
    let _ = OpAttach::decode(bytes);
    let _ = OpAck::decode(bytes);
    let _ = WriteChunk::decode(bytes);
});
