//! The bearer token that is made at first start and kept beside the rest of the state.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{State, write_atomically};
use crate::error::Error;
use crate::telemetry::Secret;

const FILE_NAME: &str = "token";

/// Bytes of randomness in a generated token.
const RANDOM_BYTES: usize = 32;

impl State {
    /// The generated token and the file that holds it; made at first use. Without a state directory it is a fresh
    /// one that only this process knows.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and its kin when the file can be neither read nor written; [`Error::Config`] when it is empty.
    pub fn token(&self) -> Result<(Secret<String>, Option<PathBuf>), Error> {
        let Some(path) = self.part(FILE_NAME) else {
            return Ok((generate()?, None));
        };
        match fs::read_to_string(&path) {
            Ok(text) if text.trim().is_empty() => Err(Error::Config {
                problems: vec![format!(
                    "token file {path:?} is empty: remove it and a new token is made"
                )],
            }),
            Ok(text) => {
                warn_if_shared(&path);
                Ok((Secret::new(text.trim().to_owned()), Some(path)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let token = generate()?;
                write_atomically(&path, format!("{}\n", token.expose()).as_bytes(), 0o600)?;
                Ok((token, Some(path)))
            }
            Err(source) => Err(Error::from_path_io("file", "read", &path, source)),
        }
    }
}

/// A token that others can read opens the daemon to them; it may be meant, so it is said and not changed.
fn warn_if_shared(path: &Path) {
    let mode = fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode() & 0o777);
    if mode & 0o044 != 0 {
        let mode = format!("{mode:04o}");
        tracing::warn!(path = %path.display(), mode, "other users can read the token file");
    }
}

/// 32 random bytes of the operating system, base64url.
fn generate() -> Result<Secret<String>, Error> {
    let mut bytes = [0_u8; RANDOM_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| Error::Internal {
        reason: format!("random bytes: {error}"),
    })?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_private_and_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let (token, path) = state.token().unwrap();
        assert_eq!(
            URL_SAFE_NO_PAD.decode(token.expose()).unwrap().len(),
            RANDOM_BYTES
        );
        let mode = fs::metadata(path.unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(state);
        let (again, _) = State::open(directory.path()).unwrap().token().unwrap();
        assert_eq!(token, again);
    }

    #[test]
    fn an_empty_token_file_is_never_taken_for_a_token() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE_NAME), "\n").unwrap();
        let error = State::open(directory.path()).unwrap().token().unwrap_err();
        assert!(error.to_string().contains("is empty"), "{error}");
    }
}
