//! Writing for the person or script that called us: standard output for answers, standard error for problems.

use std::fmt::Write as _;
use std::io::{self, Write};

use crate::error::Error;

/// Writes bytes to standard output and flushes them.
pub(super) fn answer(bytes: &[u8]) -> Result<(), Error> {
    to(io::stdout().lock(), "standard output", bytes)
}

/// Writes bytes to standard error and flushes them.
pub(super) fn diagnostic(bytes: &[u8]) -> Result<(), Error> {
    to(io::stderr().lock(), "standard error", bytes)
}

/// Writes JSON for people, with a line end.
pub(super) fn json(value: &serde_json::Value) -> Result<(), Error> {
    answer(format!("{value:#}\n").as_bytes())
}

/// Whether this says that whoever reads our output (`| head`) has closed it.
fn is_closed(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

/// Whether this says that our output is gone: closed, its terminal hung up, or its disk full.
pub(super) fn is_lost(error: &Error) -> bool {
    let gone = |source: &io::Error| {
        matches!(
            source.kind(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::StorageFull
        ) || source.raw_os_error() == Some(libc::EIO)
    };
    matches!(error, Error::Io { source, .. } if gone(source))
}

/// Writes `boxd: ...` and a hint to standard error; there is nobody left to tell when that fails. Whoever closes our
/// output (`| head`) has seen enough, which is nothing to complain about; the exit code tells it.
pub(super) fn complaint(error: &Error) {
    if is_closed(error) {
        return;
    }
    let mut text = match error {
        Error::Config { problems } => {
            let lines: Vec<_> = problems.iter().map(|problem| format!("\n  {problem}")).collect();
            format!("boxd: the configuration cannot be used:{}\n", lines.concat())
        }
        other => format!("boxd: {other}\n"),
    };
    if let Some(hint) = error.hint() {
        let _ = writeln!(text, "  hint: {hint}");
    }
    let _ = diagnostic(text.as_bytes());
}

fn to(mut stream: impl Write, name: &str, bytes: &[u8]) -> Result<(), Error> {
    stream
        .write_all(bytes)
        .and_then(|()| stream.flush())
        .map_err(|source| Error::Io {
            doing: format!("write to {name}"),
            source,
        })
}
