//! Messages between the ends of a stream port and the relay between them: each is one binary `WebSocket` message, a tag byte
//! and then a protobuf message. Pure.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;

use super::proto::{DesktopInput, StreamClose, StreamFrame, StreamOpen, StreamOpenAck};
use crate::error::Error;

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The first one of either end: which channel, who, and from where on.
    Open(StreamOpen),
    /// The relay's answer to it.
    OpenAck(StreamOpenAck),
    /// Bytes of the stream.
    Frame(StreamFrame),
    /// The last one.
    Close(StreamClose),
    /// A viewer's pointer and keys.
    Input(DesktopInput),
}

impl Message {
    /// As it goes into one binary message.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Open(message) => tagged(1, message),
            Self::OpenAck(message) => tagged(2, message),
            Self::Frame(message) => tagged(3, message),
            Self::Close(message) => tagged(4, message),
            Self::Input(message) => tagged(5, message),
        }
    }

    /// Of one binary message.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when it is empty, has a tag that nobody knows, or does not hold what its tag says.
    pub fn decode(mut bytes: Bytes) -> Result<Self, Error> {
        let broken = |error: prost::DecodeError| protocol(format!("a message cannot be decoded: {error}"));
        if bytes.is_empty() {
            return Err(protocol("a message is empty".into()));
        }
        match bytes.split_to(1)[0] {
            1 => StreamOpen::decode(bytes).map(Self::Open).map_err(broken),
            2 => StreamOpenAck::decode(bytes).map(Self::OpenAck).map_err(broken),
            3 => StreamFrame::decode(bytes).map(Self::Frame).map_err(broken),
            4 => StreamClose::decode(bytes).map(Self::Close).map_err(broken),
            5 => DesktopInput::decode(bytes).map(Self::Input).map_err(broken),
            tag => Err(protocol(format!(
                "a message begins with {tag}, which is no known tag"
            ))),
        }
    }

    /// What it is, for errors and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open(_) => "StreamOpen",
            Self::OpenAck(_) => "StreamOpenAck",
            Self::Frame(_) => "StreamFrame",
            Self::Close(_) => "StreamClose",
            Self::Input(_) => "DesktopInput",
        }
    }
}

fn tagged(tag: u8, message: &impl prost::Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + message.encoded_len());
    bytes.put_u8(tag);
    // It was given the room that it needs, which is all that can fail.
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

fn protocol(reason: String) -> Error {
    Error::Protocol { reason }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Code;
    use crate::wire::proto::{StreamChannel, StreamKind, StreamRole};

    fn all() -> Vec<Message> {
        let channel = StreamChannel {
            channel_id: "pty-1".into(),
            workspace_id: "w".into(),
            agent_id: "a".into(),
            kind: StreamKind::Pty.into(),
            port: 7681,
        };
        vec![
            Message::Open(StreamOpen {
                channel: Some(channel),
                token: "ogr_x".into(),
                role: StreamRole::Agent.into(),
                resume_from_seq: 7,
            }),
            Message::OpenAck(StreamOpenAck {
                accepted: true,
                error: None,
                resume_from_seq: 7,
            }),
            Message::Frame(StreamFrame {
                channel_id: "pty-1".into(),
                seq: 3,
                data: Bytes::from_static(b"\0\xff"),
                produced_at_ms: 1,
            }),
            Message::Close(StreamClose::default()),
            Message::Input(DesktopInput::default()),
        ]
    }

    #[test]
    fn messages_come_back_as_they_went() {
        for (message, tag) in all().into_iter().zip(1..) {
            let bytes = message.encode();
            assert_eq!(bytes[0], tag, "{}", message.name());
            assert_eq!(Message::decode(bytes).unwrap(), message);
        }
    }

    #[test]
    fn what_is_no_message_is_a_protocol_error() {
        for bytes in [
            &b""[..],
            b"\0",
            b"\x06",
            b"\xff\x01",
            b"\x01\xff",
            b"\x03\x1a\x05ab",
        ] {
            let error = Message::decode(Bytes::from_static(bytes)).unwrap_err();
            assert_eq!(error.code(), Code::Protocol, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::decode(bytes.into());
        }
    }
}
