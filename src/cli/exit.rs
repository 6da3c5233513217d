//! Exit codes, each documented in `boxd --help`; they follow `sysexits.h`.

use std::process::ExitCode;

use crate::error::{Code, Error};

/// The command line made no sense.
pub(super) const USAGE: u8 = 64;
/// `boxd call` failed by itself; everything else that it exits with is the remote command's code.
pub(super) const CALL_FAILED: u8 = 125;

/// The exit code of a verb that failed with `error`.
pub(super) fn of(error: &Error) -> ExitCode {
    ExitCode::from(number(error.code()))
}

fn number(code: Code) -> u8 {
    match code {
        Code::Invalid | Code::Unsupported => USAGE,
        Code::Unavailable | Code::Timeout | Code::Overloaded | Code::Stopping | Code::Unauthenticated => 69,
        Code::Conflict
        | Code::DuplicateInFlight
        | Code::Lost
        | Code::Evicted
        | Code::TooLarge
        | Code::Range
        | Code::Protocol
        | Code::Fenced
        | Code::Io
        | Code::Internal => 70,
        Code::NotFound | Code::AlreadyExists | Code::WrongKind | Code::StorageFull => 73,
        Code::AlreadyRunning => 75,
        Code::Denied | Code::Forbidden | Code::ConsentRequired => 77,
        Code::Config => 78,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_codes_are_the_only_ones() {
        for code in Code::ALL {
            assert!([64, 69, 70, 73, 75, 77, 78].contains(&number(code)), "{code:?}");
        }
        assert_eq!(number(Code::AlreadyRunning), 75);
        assert_eq!(number(Code::Config), 78);
        assert_eq!(number(Code::Denied), 77);
    }
}
