//! Programs that a test writes and something runs at once.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes the program `path`.
///
/// A child writes it: a child that another test forks meanwhile holds what this process has open until it executes, and
/// a file that is open for writing cannot be run (`ETXTBSY`).
#[track_caller]
pub(crate) fn write_program(path: &Path, content: impl AsRef<[u8]>) {
    let mut child = Command::new("sh")
        .args(["-c", "cat >\"$1\" && chmod 755 \"$1\"", "sh"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(content.as_ref()).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "writing {path:?}: {status}");
}
