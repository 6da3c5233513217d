//! Secrets that are given by a file.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::output;
use crate::error::Error;
use crate::telemetry::Secret;

/// Bytes of a secret that cannot be guessed: as many as HMAC-SHA256 has (RFC 2104, section 3).
const STRONG: usize = 32;

/// Its bytes without the line end at the end.
///
/// # Errors
///
/// [`Error::Io`] when it cannot be read, [`Error::Denied`] when others can, [`Error::Invalid`] when nothing is in it.
pub(super) fn read(path: &Path) -> Result<Secret<Vec<u8>>, Error> {
    let unreadable = |source| Error::Io {
        doing: format!("read {path:?}"),
        source,
    };
    let mode = std::fs::metadata(path).map_err(unreadable)?.mode();
    if mode & 0o077 != 0 {
        return Err(Error::Invalid {
            field: "secret-file",
            reason: format!("{path:?} can be read by others; chmod 600 it"),
        });
    }
    let mut bytes = std::fs::read(path).map_err(unreadable)?;
    while bytes.last().is_some_and(|last| matches!(last, b'\n' | b'\r')) {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Err(Error::Invalid {
            field: "secret-file",
            reason: format!("{path:?} is empty"),
        });
    }
    Ok(Secret::new(bytes))
}

/// What tokens are signed with: as [`read`], with a warning when it could be guessed.
pub(super) fn read_key(path: &Path) -> Result<Secret<Vec<u8>>, Error> {
    let key = read(path)?;
    let length = key.expose().len();
    if length < STRONG {
        let warning = format!(
            "boxd: the secret in {path:?} has {length} bytes, which whoever has a token may guess: use {STRONG} or more, as of \
             `openssl rand -hex 32`\n"
        );
        // It is no reason to do nothing.
        let _ = output::diagnostic(warning.as_bytes());
    }
    Ok(key)
}
