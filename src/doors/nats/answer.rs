//! The one reply to a request, and its bytes: never more of them than the broker carries.

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::error::agent_error;
use crate::error::Error;
use crate::wire::proto::control_response::Result as Outcome;
use crate::wire::proto::{AgentError, ControlResponse};

/// A reply that is ready to be encoded.
pub(super) struct Answer {
    /// Of the request; empty when that could not be decoded.
    pub(super) request_id: String,
    /// What the request called itself.
    pub(super) op: &'static str,
    /// What came of it.
    pub(super) outcome: Result<Success, AgentError>,
}

/// What came of an operation that went well.
pub(super) enum Success {
    /// A result to be encoded.
    Outcome(Outcome),
    /// The whole reply, encoded already and known to fit.
    Encoded(Bytes),
}

impl Answer {
    /// A refusal.
    pub(super) fn error(request_id: String, op: &'static str, error: &Error) -> Self {
        tracing::debug!(request_id, op, %error, "a request was refused");
        let outcome = Err(agent_error(error, op));
        Self {
            request_id,
            op,
            outcome,
        }
    }

    /// The reply as bytes, or an error that fits in its place; `None` when not even that fits.
    pub(super) fn encode(self, max_payload: usize, buffer: &mut BytesMut) -> Option<Bytes> {
        let Self {
            request_id,
            op,
            outcome,
        } = self;
        let (result, error) = match outcome {
            Ok(Success::Encoded(reply)) => return Some(reply),
            Ok(Success::Outcome(result)) => (Some(result), None),
            Err(error) => (None, Some(error)),
        };
        let mut response = ControlResponse {
            request_id,
            error,
            result,
        };
        let mut size = response.encoded_len();
        if size > max_payload {
            let (encoded, limit) = (size as u64, max_payload as u64);
            let large = Error::TooLarge {
                what: "the reply",
                size: encoded,
                limit,
            };
            response.result = None;
            response.error = Some(agent_error(&large, op));
            size = response.encoded_len();
        }
        if size > max_payload {
            tracing::warn!(
                op,
                size,
                max_payload,
                "a reply was not sent: its request id alone is too large"
            );
            return None;
        }
        buffer.reserve(size);
        // The buffer has room for exactly what was measured.
        response.encode(buffer).ok()?;
        Some(buffer.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proto::{ErrorCode, FsReadResponse};

    fn answer(request_id: &str, bytes: usize) -> Answer {
        let content = Bytes::from(vec![0; bytes]);
        let read = FsReadResponse {
            content,
            total_size: 1,
        };
        Answer {
            request_id: request_id.into(),
            op: "fs_read",
            outcome: Ok(Success::Outcome(Outcome::FsRead(read))),
        }
    }

    #[test]
    fn a_reply_that_does_not_fit_becomes_an_error_that_does() {
        let mut buffer = BytesMut::new();
        let bytes = answer("r", 2000).encode(1000, &mut buffer).unwrap();
        let response = ControlResponse::decode(bytes).unwrap();
        let error = response.error.unwrap();
        assert_eq!(
            (response.request_id.as_str(), error.code()),
            ("r", ErrorCode::PayloadTooLarge)
        );
        assert_eq!(
            (error.detail["op"].as_str(), error.detail["max_payload"].as_str()),
            ("fs_read", "1000")
        );
        assert!(error.detail["encoded_bytes"].parse::<usize>().unwrap() > 2000);
        assert!(!error.retryable);
    }

    #[test]
    fn the_limit_is_the_whole_encoded_reply() {
        let mut buffer = BytesMut::new();
        let exact = answer("r", 500).encode(usize::MAX, &mut buffer).unwrap().len();
        assert_eq!(answer("r", 500).encode(exact, &mut buffer).unwrap().len(), exact);
        let shorter = answer("r", 500).encode(exact - 1, &mut buffer).unwrap();
        assert!(ControlResponse::decode(shorter).unwrap().error.is_some());
    }

    #[test]
    fn a_request_id_larger_than_the_limit_has_no_reply() {
        assert_eq!(answer(&"r".repeat(100), 0).encode(50, &mut BytesMut::new()), None);
    }
}
