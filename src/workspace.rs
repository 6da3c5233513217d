//! What a path in a request means: the workspace root, the home directory and the rules that join them.
//!
//! Every room that takes a path resolves it here and nowhere else. Confinement is enforced where files are opened
//! (`fs/`), not by looking at the text of a path.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// The two directories that relative and `~` paths are resolved against.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// Absolute path of the workspace root.
    pub root: PathBuf,
    /// The daemon's home directory, `None` when there is none.
    pub home: Option<PathBuf>,
}

impl Workspace {
    /// Resolves a path of a request: empty and `.` are the root, absolute stays, exactly `~` or `~/x` is under the home
    /// directory, anything else is under the root. `~user` and `$VAR` are ordinary names.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf, Error> {
        let bytes = path.as_os_str().as_bytes();
        if bytes.contains(&0) {
            return Err(Error::Invalid {
                field: "path",
                reason: format!("{path:?} contains a NUL byte"),
            });
        }
        if bytes == b"~" {
            return self.home(path).map(Path::to_path_buf);
        }
        if let Some(rest) = bytes.strip_prefix(b"~/") {
            return Ok(self
                .home(path)?
                .join(OsStr::from_bytes(without_leading_slashes(rest))));
        }
        match without_here(bytes) {
            b"" => Ok(self.root.clone()),
            below => Ok(self.root.join(OsStr::from_bytes(below))),
        }
    }

    fn home(&self, path: &Path) -> Result<&Path, Error> {
        self.home.as_deref().ok_or_else(|| Error::Invalid {
            field: "path",
            reason: format!("{path:?} needs a home directory and HOME is not set"),
        })
    }
}

/// `.` and `./x` mean the root and `x`, and are called so in answers.
fn without_here(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes.strip_prefix(b"./") {
        bytes = without_leading_slashes(rest);
    }
    if bytes == b"." { b"" } else { bytes }
}

/// `~//x` means `~/x`: joining a path that begins with a slash would leave the home directory.
fn without_leading_slashes(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| *byte != b'/').unwrap_or(bytes.len());
    &bytes[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> Workspace {
        Workspace {
            root: "/work".into(),
            home: Some("/home/me".into()),
        }
    }

    #[test]
    fn paths_mean_what_the_contract_says() {
        let cases = [
            ("", "/work"),
            ("/etc/x", "/etc/x"),
            ("a/b", "/work/a/b"),
            (".", "/work"),
            ("./", "/work"),
            (".//./a/", "/work/a/"),
            ("./~", "/work/~"),
            ("../a", "/work/../a"),
            (".a", "/work/.a"),
            ("~", "/home/me"),
            ("~/x", "/home/me/x"),
            ("~//x", "/home/me/x"),
            ("~user", "/work/~user"),
            ("$HOME/x", "/work/$HOME/x"),
        ];
        for (given, expected) in cases {
            assert_eq!(
                workspace().resolve(Path::new(given)).unwrap(),
                Path::new(expected),
                "{given:?}"
            );
        }
    }

    #[test]
    fn nul_and_missing_home_are_named() {
        assert!(
            workspace()
                .resolve(Path::new("a\0b"))
                .unwrap_err()
                .to_string()
                .contains("NUL")
        );
        let homeless = Workspace {
            root: "/work".into(),
            home: None,
        };
        assert!(
            homeless
                .resolve(Path::new("~/x"))
                .unwrap_err()
                .to_string()
                .contains("HOME")
        );
    }
}
