//! Where an [`Error`] becomes an `AgentError` of the control wire: once, by an exhaustive match over its code.

use std::collections::BTreeMap;

use crate::error::{Code, Error, Retry};
use crate::wire::proto::{AgentError, ErrorCode};

/// Why admission refused; both are the backpressure detail of DRAINING.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Breaker {
    /// Too much is waiting already.
    Queue,
    /// It waited for room until it was no use to wait longer.
    Wait,
}

impl Breaker {
    fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue_breaker",
            Self::Wait => "wait_breaker",
        }
    }
}

/// The error as the wire carries it; `op` is the operation's stable name, or what the request called it.
pub(super) fn agent_error(error: &Error, op: &str) -> AgentError {
    let mut message = error.to_string();
    if let Some(hint) = error.hint() {
        message = format!("{message}; {hint}");
    }
    AgentError {
        code: wire_code(error.code()).into(),
        message,
        retryable: error.retry() != Retry::Never,
        detail: detail(error, op),
    }
}

/// The refusal of admission, which names the breaker that is open.
pub(super) fn refused(error: &Error, breaker: Breaker, op: &str) -> AgentError {
    let mut refusal = agent_error(error, op);
    refusal
        .detail
        .insert("backpressure".into(), breaker.as_str().into());
    refusal
}

/// Adds what extensions promise on top: the stable code, the hint and the id that the log carries.
pub(super) fn with_stable_code(mut wire: AgentError, error: &Error, id: &str) -> AgentError {
    wire.detail.insert("code".into(), error.code().as_str().into());
    wire.detail.insert("id".into(), id.into());
    wire.detail
        .insert("hint".into(), error.hint().unwrap_or_default());
    wire
}

fn wire_code(code: Code) -> ErrorCode {
    match code {
        Code::NotFound => ErrorCode::NotFound,
        Code::Invalid
        | Code::AlreadyExists
        | Code::WrongKind
        | Code::Denied
        | Code::Conflict
        | Code::Lost
        | Code::Evicted
        | Code::Range
        | Code::StorageFull
        | Code::Unauthenticated
        | Code::Forbidden
        | Code::Config
        | Code::AlreadyRunning
        | Code::Unavailable
        | Code::Io
        | Code::Internal => ErrorCode::Os,
        Code::DuplicateInFlight | Code::Overloaded | Code::Stopping => ErrorCode::Draining,
        Code::Timeout => ErrorCode::Timeout,
        Code::TooLarge => ErrorCode::PayloadTooLarge,
        Code::Unsupported => ErrorCode::Unsupported,
        Code::ConsentRequired => ErrorCode::ConsentRequired,
        Code::Protocol => ErrorCode::Protocol,
        Code::Fenced => ErrorCode::Fenced,
    }
}

fn detail(error: &Error, op: &str) -> BTreeMap<String, String> {
    let pairs: Vec<(&str, String)> = match error {
        Error::DuplicateInFlight { .. } => {
            vec![("backpressure", "duplicate_in_flight".into()), ("op", op.into())]
        }
        Error::Overloaded { .. } => vec![
            ("backpressure", Breaker::Queue.as_str().into()),
            ("op", op.into()),
        ],
        Error::Stopping => vec![("backpressure", "stopping".into()), ("op", op.into())],
        Error::Lost { .. } | Error::Evicted { .. } => vec![("reason", error.code().as_str().into())],
        Error::TooLarge { size, limit, .. } => vec![
            ("op", op.into()),
            ("encoded_bytes", size.to_string()),
            ("max_payload", limit.to_string()),
        ],
        Error::Fenced { request, held } => {
            vec![
                ("op_epoch", request.to_string()),
                ("held_epoch", held.to_string()),
            ]
        }
        Error::StorageFull { free, .. } => vec![("free_bytes", free.to_string())],
        Error::Unsupported { why, .. } => vec![("op", op.into()), ("reason", why.clone())],
        Error::ConsentRequired { .. }
        | Error::Protocol { .. }
        | Error::Timeout { .. }
        | Error::Unfinished { .. } => {
            vec![("op", op.into())]
        }
        _ => Vec::new(),
    };
    let mut detail: BTreeMap<String, String> = pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    if wire_code(error.code()) == ErrorCode::Os {
        detail.insert("context".into(), context(error, op));
        if let Some(errno) = error.errno() {
            detail.insert("errno".into(), errno.to_string());
            detail.insert(
                "errno_name".into(),
                format!("{:?}", nix::errno::Errno::from_raw(errno)),
            );
        }
    }
    detail
}

/// What was being done: the operation and its subject.
fn context(error: &Error, op: &str) -> String {
    match error {
        Error::Denied { doing, .. } | Error::StorageFull { doing, .. } | Error::Io { doing, .. } => {
            doing.clone()
        }
        Error::Invalid { field, .. } => format!("{op}: {field}"),
        Error::WrongKind { path, .. } | Error::NotEmpty { path } => format!("{op}: {}", path.display()),
        Error::AlreadyExists { name, .. } => format!("{op}: {name}"),
        _ => op.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operating_system_errors_carry_context_and_errno() {
        let error = Error::Denied {
            doing: "open \"/etc/shadow\"".into(),
            errno: libc::EACCES,
        };
        let wire = agent_error(&error, "fs.read");
        assert_eq!(wire.code(), ErrorCode::Os);
        assert!(!wire.retryable);
        assert_eq!(wire.detail["context"], "open \"/etc/shadow\"");
        assert_eq!(wire.detail["errno"], "13");
        assert_eq!(wire.detail["errno_name"], "EACCES");
    }

    #[test]
    fn retries_and_details_are_those_of_the_contract() {
        let cases = [
            (
                Error::Fenced { request: 3, held: 9 },
                ErrorCode::Fenced,
                true,
                ("held_epoch", "9"),
            ),
            (
                Error::DuplicateInFlight { key: "k".into() },
                ErrorCode::Draining,
                true,
                ("backpressure", "duplicate_in_flight"),
            ),
            (
                Error::Evicted { key: "k".into() },
                ErrorCode::Os,
                false,
                ("reason", "result_evicted"),
            ),
            (
                Error::Lost { key: "k".into() },
                ErrorCode::Os,
                false,
                ("reason", "lost"),
            ),
            (
                Error::TooLarge {
                    what: "reply",
                    size: 9,
                    limit: 4,
                },
                ErrorCode::PayloadTooLarge,
                false,
                ("encoded_bytes", "9"),
            ),
            (Error::Stopping, ErrorCode::Draining, true, ("op", "fs.read")),
        ];
        for (error, code, retryable, (key, value)) in cases {
            let wire = agent_error(&error, "fs.read");
            assert_eq!((wire.code(), wire.retryable), (code, retryable), "{error}");
            assert_eq!(wire.detail[key], value, "{error}");
        }
        let full = Error::Overloaded {
            what: "descriptors",
            reason: "none left".into(),
        };
        assert_eq!(
            refused(&full, Breaker::Wait, "fs.read").detail["backpressure"],
            "wait_breaker"
        );
    }
}
