//! The reply to a read, written around content that is not there yet: a door reads the file straight into it, and a
//! megabyte is not copied twice. Pure; byte for byte what the generated types write.

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

/// Field numbers of the proto.
mod field {
    pub(super) const REQUEST_ID: u32 = 1;
    pub(super) const FS_READ: u32 = 14;
    pub(super) const CONTENT: u32 = 1;
    pub(super) const TOTAL_SIZE: u32 = 2;
}

/// What stands before and after the content in a `ControlResponse`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReply {
    /// To be sent first; it has room for the content and `tail` behind it.
    pub head: Vec<u8>,
    /// To be sent last.
    pub tail: Vec<u8>,
    /// Size of the whole reply, bytes.
    pub size: usize,
}

impl FileReply {
    /// Around `length` bytes of content of a file of `total_size` bytes.
    pub fn new(request_id: &str, length: u64, total_size: u64) -> Self {
        let mut tail = Vec::new();
        if total_size > 0 {
            encode_key(field::TOTAL_SIZE, WireType::Varint, &mut tail);
            encode_varint(total_size, &mut tail);
        }
        let content = if length == 0 {
            0
        } else {
            key_len(field::CONTENT) + encoded_len_varint(length)
        };
        let inner = content as u64 + length + tail.len() as u64;
        let mut head = Vec::new();
        if !request_id.is_empty() {
            encode_key(field::REQUEST_ID, WireType::LengthDelimited, &mut head);
            encode_varint(request_id.len() as u64, &mut head);
            head.extend_from_slice(request_id.as_bytes());
        }
        encode_key(field::FS_READ, WireType::LengthDelimited, &mut head);
        encode_varint(inner, &mut head);
        if length > 0 {
            encode_key(field::CONTENT, WireType::LengthDelimited, &mut head);
            encode_varint(length, &mut head);
        }
        let size = (head.len() + tail.len()).saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        Self { head, tail, size }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::wire::proto::{ControlResponse, FsReadResponse, control_response};

    proptest! {
        #[test]
        fn it_is_what_the_generated_types_write(
            request_id in ".{0,40}",
            length in prop_oneof![Just(0usize), 1usize..300, Just(16_384), Just(70_000)],
            total_size in prop_oneof![Just(0u64), 1u64..1000, any::<u64>()],
        ) {
            let content = vec![7; length];
            let FileReply { mut head, tail, size } = FileReply::new(&request_id, length as u64, total_size);
            head.extend_from_slice(&content);
            head.extend_from_slice(&tail);
            let read = FsReadResponse { content: Bytes::from(content), total_size };
            let result = Some(control_response::Result::FsRead(read));
            let response = ControlResponse { request_id, error: None, result };
            prop_assert_eq!(size, head.len());
            prop_assert_eq!(head, response.encode_to_vec());
        }
    }
}
