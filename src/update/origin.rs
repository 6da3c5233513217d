//! What this program was started as, to start it again: the same file, arguments and environment.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::place::Place;
use crate::error::Error;

/// How a daemon was started. Arguments and environment may hold secrets.
#[derive(Clone)]
pub struct Origin {
    /// The executable.
    pub place: Place,
    /// How it is to run.
    pub start: Start,
}

/// Arguments and environment.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Start {
    /// With the name of the program first.
    pub arguments: Vec<OsString>,
    /// The whole environment.
    pub environment: Vec<(OsString, OsString)>,
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Origin")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Start {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Start").finish_non_exhaustive()
    }
}

impl Start {
    /// For the standard input of a rehearsal: secrets are in nobody's arguments or environment that way.
    pub(super) fn encode(&self) -> Result<Bytes, Error> {
        let bytes = serde_json::to_vec(self).map_err(|error| Error::Internal {
            reason: format!("the start cannot be written: {error}"),
        })?;
        Ok(bytes.into())
    }

    /// Whether a service manager starts it again when it ends: systemd, or launchd.
    pub(super) fn has_manager(&self) -> bool {
        let has = |wanted: &str| {
            let given = self.environment.iter().find(|(name, _)| name == wanted);
            given.is_some_and(|(_, value)| !value.is_empty() && value != "0")
        };
        has("NOTIFY_SOCKET") || has("XPC_SERVICE_NAME")
    }

    /// What was written for a rehearsal.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when it is something else.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(bytes).map_err(|error| Error::Protocol {
            reason: format!("standard input is no start of a daemon: {error}"),
        })
    }

    /// Becomes the program at `path`, in this very process; returns when that failed.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] as the system says.
    pub fn become_it(&self, path: &Path) -> Result<std::convert::Infallible, Error> {
        let words: Vec<CString> = self.arguments.iter().filter_map(|word| c_string(word)).collect();
        let variables: Vec<CString> = self
            .environment
            .iter()
            .filter_map(|(name, value)| {
                let mut variable = name.clone();
                variable.push("=");
                variable.push(value);
                c_string(&variable)
            })
            .collect();
        let program = c_string(path.as_os_str()).unwrap_or_default();
        let Err(errno) = nix::unistd::execve(&program, &words, &variables);
        Err(Error::from_path_io("executable", "start", path, errno.into()))
    }
}

/// What came from the kernel holds no NUL.
fn c_string(text: &OsStr) -> Option<CString> {
    CString::new(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn a_start_survives_as_the_bytes_it_is() {
        let odd = OsString::from_vec(b"\xff=\n".to_vec());
        let start = Start {
            arguments: vec!["boxd".into(), odd.clone()],
            environment: vec![(OsString::from("A"), odd)],
        };
        let again = Start::decode(&start.encode().unwrap()).unwrap();
        assert_eq!(again.arguments, start.arguments);
        assert_eq!(again.environment, start.environment);
        assert!(Start::decode(b"[]").is_err());
    }
}
