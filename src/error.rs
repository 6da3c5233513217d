//! The one error type of the house, its stable codes and its advice on retrying.
//!
//! Rooms build an [`Error`] with the subject in it (which path, which program); doors map its [`Code`] to their
//! protocol exactly once, each in its own `error.rs`; `main` maps it to an exit code. Nothing classifies an error by
//! matching its text.

mod errno;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that can go wrong, one variant per [`Code`], each naming its subject.
///
/// Messages are lower case, have no full stop and read well after "failed to".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field of the request has a value that cannot be used.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field as the caller spelled it.
        field: &'static str,
        /// What is wrong with it and what would be right.
        reason: String,
    },
    /// A path, program, user, process or other named thing does not exist.
    #[error("{what} {name:?} not found")]
    NotFound {
        /// The kind of thing: `file`, `program`, `working directory`.
        what: &'static str,
        /// Its name as the caller gave it.
        name: String,
    },
    /// The target exists and the request did not allow replacing it.
    #[error("{what} {name:?} already exists")]
    AlreadyExists {
        /// The kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The path is of another kind than the operation needs (a directory where a file is read).
    #[error("{path:?} is {found}, expected {expected}")]
    WrongKind {
        /// The path.
        path: PathBuf,
        /// What it is, with its article: `a directory`.
        found: &'static str,
        /// What is needed: `a regular file`.
        expected: &'static str,
        /// The errno a POSIX call gives for this: `EISDIR` or `ENOTDIR`.
        errno: i32,
    },
    /// A directory still has entries, and the request did not allow taking them with it.
    #[error("directory {path:?} is not empty")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The operating system refused: `EACCES`, `EPERM` or `EROFS`, or a confinement rule of ours.
    #[error("{doing}: permission denied")]
    Denied {
        /// The operation and its subject: `open "/etc/shadow"`.
        doing: String,
        /// The errno.
        errno: i32,
    },
    /// The state of the thing does not allow the operation now.
    #[error("{what}: {reason}")]
    Conflict {
        /// The thing.
        what: String,
        /// Why it cannot be done in this state.
        reason: String,
    },
    /// The thing is not what the caller believes it is, so that what it asks for would undo somebody else's change.
    #[error("{what}: {reason}")]
    Stale {
        /// The thing.
        what: String,
        /// How it differs.
        reason: String,
    },
    /// The same idempotency key is being worked on right now.
    #[error("request {key:?} is already running")]
    DuplicateInFlight {
        /// The idempotency key.
        key: String,
    },
    /// The outcome of an earlier attempt is unknown because the daemon ended in between; it is not run again.
    #[error("the outcome of request {key:?} was lost when the daemon restarted; it was not run again")]
    Lost {
        /// The idempotency key.
        key: String,
    },
    /// The stored outcome of an earlier attempt had to be dropped; it is not run again.
    #[error("the stored result of request {key:?} was evicted; it was not run again")]
    Evicted {
        /// The idempotency key.
        key: String,
    },
    /// Real capacity (descriptors, processes, memory) is exhausted.
    #[error("{what} is at its limit: {reason}")]
    Overloaded {
        /// What ran out.
        what: &'static str,
        /// The figures.
        reason: String,
    },
    /// The daemon is stopping or updating and takes no new work.
    #[error("the daemon is stopping and takes no new work")]
    Stopping,
    /// The deadline passed.
    #[error("{what} timed out after {after:?}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// Work that changes something did not end in time: a part of it may be done, or all.
    #[error("{what} did not end within {after:?}: look what is done before it is tried again")]
    Unfinished {
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// A body, reply or output is larger than it may be.
    #[error("{what} is {size} bytes, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes (at least; counting may have stopped early for request bodies).
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The byte range lies outside the file.
    #[error("range starts at {offset}, the file has {total} bytes")]
    Range {
        /// First byte asked for.
        offset: u64,
        /// Size of the file in bytes.
        total: u64,
    },
    /// The disk or the quota is full; what was there before is untouched.
    #[error("{doing}: no space left, {free} bytes free")]
    StorageFull {
        /// The operation and its subject.
        doing: String,
        /// Bytes free on that file system.
        free: u64,
        /// `ENOSPC` or `EDQUOT`.
        errno: i32,
    },
    /// This build, machine or state cannot do it; the reason says why and what would change that.
    #[error("{what} is not available here: {why}")]
    Unsupported {
        /// The operation or feature.
        what: String,
        /// Why not.
        why: String,
        /// What would make it available, where something would.
        fix: Option<String>,
    },
    /// The owner of the machine has not consented to this.
    #[error("{what} needs the owner's consent")]
    ConsentRequired {
        /// What was asked for.
        what: &'static str,
    },
    /// No credential, or one that is not valid (any more).
    #[error("{reason}")]
    Unauthenticated {
        /// What was wrong with the credential, without repeating it.
        reason: &'static str,
    },
    /// The credential is valid but does not allow this.
    #[error("{reason}")]
    Forbidden {
        /// What is missing.
        reason: String,
    },
    /// What came is not what was signed, or not what was asked for.
    #[error("{what} is not to be trusted: {reason}")]
    Untrusted {
        /// What came.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The peer broke the protocol.
    #[error("{reason}")]
    Protocol {
        /// What it did and what was expected.
        reason: String,
    },
    /// The machine's owner moved on: the request carries an older epoch than the one held.
    #[error("request epoch {request} is older than the held epoch {held}")]
    Fenced {
        /// Epoch of the request.
        request: u32,
        /// Epoch held by this link.
        held: u32,
    },
    /// The configuration cannot be used; every problem is listed.
    #[error("configuration: {}", .problems.join("; "))]
    Config {
        /// One sentence per problem.
        problems: Vec<String>,
    },
    /// Another instance holds the state directory.
    #[error("another boxd (pid {pid}) uses {path:?}")]
    AlreadyRunning {
        /// Its process id, 0 when it could not be read.
        pid: u32,
        /// The locked file.
        path: PathBuf,
    },
    /// A service that is needed cannot be reached.
    #[error("{what} cannot be reached: {reason}")]
    Unavailable {
        /// The service.
        what: String,
        /// Why.
        reason: String,
    },
    /// An operating system call failed in a way no other variant names.
    #[error("{doing}: {source}")]
    Io {
        /// The operation and its subject, never empty.
        doing: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A bug in boxd.
    #[error("internal error: {reason}")]
    Internal {
        /// What was found to be impossible.
        reason: String,
    },
}

/// The closed set of stable codes; the snake-case strings cross every door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each names the variant of Error that it stands for")]
pub enum Code {
    Invalid,
    NotFound,
    AlreadyExists,
    WrongKind,
    Denied,
    Conflict,
    DuplicateInFlight,
    Lost,
    Evicted,
    Overloaded,
    Stopping,
    Timeout,
    TooLarge,
    Range,
    StorageFull,
    Unsupported,
    ConsentRequired,
    Unauthenticated,
    Forbidden,
    Protocol,
    Fenced,
    Config,
    AlreadyRunning,
    Unavailable,
    Io,
    Internal,
}

/// Whether sending the same request again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same request will fail the same way.
    Never,
    /// The request had no effect and may be sent again.
    Safe,
    /// The request had no effect and may be sent again after this time.
    After(Duration),
}

impl Code {
    /// Every code, in the order of [`Error`]'s variants.
    pub const ALL: [Self; 26] = [
        Self::Invalid,
        Self::NotFound,
        Self::AlreadyExists,
        Self::WrongKind,
        Self::Denied,
        Self::Conflict,
        Self::DuplicateInFlight,
        Self::Lost,
        Self::Evicted,
        Self::Overloaded,
        Self::Stopping,
        Self::Timeout,
        Self::TooLarge,
        Self::Range,
        Self::StorageFull,
        Self::Unsupported,
        Self::ConsentRequired,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::Protocol,
        Self::Fenced,
        Self::Config,
        Self::AlreadyRunning,
        Self::Unavailable,
        Self::Io,
        Self::Internal,
    ];

    /// The stable string that crosses the doors.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid_request",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::WrongKind => "wrong_kind",
            Self::Denied => "permission_denied",
            Self::Conflict => "conflict",
            Self::DuplicateInFlight => "duplicate_in_flight",
            Self::Lost => "lost",
            Self::Evicted => "result_evicted",
            Self::Overloaded => "overloaded",
            Self::Stopping => "stopping",
            Self::Timeout => "timeout",
            Self::TooLarge => "too_large",
            Self::Range => "range",
            Self::StorageFull => "storage_full",
            Self::Unsupported => "unsupported",
            Self::ConsentRequired => "consent_required",
            Self::Unauthenticated => "token_invalid",
            Self::Forbidden => "forbidden",
            Self::Protocol => "protocol",
            Self::Fenced => "fenced",
            Self::Config => "configuration",
            Self::AlreadyRunning => "already_running",
            Self::Unavailable => "unavailable",
            Self::Io => "io",
            Self::Internal => "internal",
        }
    }
}

impl Error {
    /// The stable code of this error.
    pub fn code(&self) -> Code {
        match self {
            Self::Invalid { .. } => Code::Invalid,
            Self::NotFound { .. } => Code::NotFound,
            Self::AlreadyExists { .. } => Code::AlreadyExists,
            Self::WrongKind { .. } => Code::WrongKind,
            Self::Denied { .. } => Code::Denied,
            Self::NotEmpty { .. } | Self::Conflict { .. } | Self::Stale { .. } => Code::Conflict,
            Self::DuplicateInFlight { .. } => Code::DuplicateInFlight,
            Self::Lost { .. } => Code::Lost,
            Self::Evicted { .. } => Code::Evicted,
            Self::Overloaded { .. } => Code::Overloaded,
            Self::Stopping => Code::Stopping,
            Self::Timeout { .. } | Self::Unfinished { .. } => Code::Timeout,
            Self::TooLarge { .. } => Code::TooLarge,
            Self::Range { .. } => Code::Range,
            Self::StorageFull { .. } => Code::StorageFull,
            Self::Unsupported { .. } => Code::Unsupported,
            Self::ConsentRequired { .. } => Code::ConsentRequired,
            Self::Unauthenticated { .. } => Code::Unauthenticated,
            Self::Forbidden { .. } | Self::Untrusted { .. } => Code::Forbidden,
            Self::Protocol { .. } => Code::Protocol,
            Self::Fenced { .. } => Code::Fenced,
            Self::Config { .. } => Code::Config,
            Self::AlreadyRunning { .. } => Code::AlreadyRunning,
            Self::Unavailable { .. } => Code::Unavailable,
            Self::Io { .. } => Code::Io,
            Self::Internal { .. } => Code::Internal,
        }
    }

    /// Whether sending the same request again can help.
    pub fn retry(&self) -> Retry {
        match self.code() {
            _ if matches!(self, Self::Unfinished { .. }) => Retry::Never,
            Code::Overloaded | Code::DuplicateInFlight => Retry::After(Duration::from_secs(1)),
            Code::Stopping | Code::Unavailable => Retry::After(Duration::from_secs(5)),
            Code::Timeout | Code::Fenced => Retry::Safe,
            Code::Invalid
            | Code::NotFound
            | Code::AlreadyExists
            | Code::WrongKind
            | Code::Denied
            | Code::Conflict
            | Code::Lost
            | Code::Evicted
            | Code::TooLarge
            | Code::Range
            | Code::StorageFull
            | Code::Unsupported
            | Code::ConsentRequired
            | Code::Unauthenticated
            | Code::Forbidden
            | Code::Protocol
            | Code::Config
            | Code::AlreadyRunning
            | Code::Io
            | Code::Internal => Retry::Never,
        }
    }

    /// What the caller can do about it, where there is something to say beyond the message.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unsupported { fix, .. } => fix.clone(),
            Self::DuplicateInFlight { .. } => Some("repeat the same request later to get its result".into()),
            Self::Lost { .. } | Self::Evicted { .. } => {
                Some("use a new request id to run it again on purpose".into())
            }
            Self::Overloaded { .. } => Some("try again when running commands have ended".into()),
            Self::StorageFull { .. } => {
                Some("free space on that file system, the old content was kept".into())
            }
            Self::NotEmpty { .. } => Some("say recursive to take its content with it".into()),
            Self::ConsentRequired { .. } => {
                Some("ask the machine's owner to consent and enroll again".into())
            }
            Self::AlreadyRunning { .. } => {
                Some("stop the other one, or give this one its own --state-dir".into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn codes_are_distinct_and_snake_case() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            let text = code.as_str();
            assert!(
                text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{text}"
            );
            assert!(seen.insert(text), "{text} twice");
        }
    }

    #[test]
    fn a_path_error_keeps_path_and_errno() {
        let source = io::Error::from_raw_os_error(libc::EACCES);
        let error = Error::from_path_io("file", "open", Path::new("/etc/shadow"), source);
        assert_eq!(error.code(), Code::Denied);
        assert_eq!(error.errno(), Some(libc::EACCES));
        assert!(error.to_string().contains("/etc/shadow"), "{error}");
    }
}
