//! The command line as scripts and people use it: real processes, exit codes and bytes.

mod attach;
mod call;
mod configuration;
mod main_command;
mod processes;
mod secrets;
mod state;

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::harness::daemon::BOXD;

/// A `boxd` in an environment of its own, with the state directory of a test and no input.
pub(crate) fn boxd(state: &Path) -> Command {
    let mut command = Command::new(BOXD);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", state)
        .env("BOXD_STATE_DIR", state)
        .env("BOXD_CONFIG_DIR", state.join("no-config"))
        .current_dir(state)
        .stdin(Stdio::null());
    command
}

/// Runs it to its end.
#[track_caller]
pub(crate) fn run(state: &Path, arguments: &[&str]) -> Output {
    boxd(state).args(arguments).output().unwrap()
}

/// Runs `boxd call` with standard input.
#[track_caller]
pub(crate) fn call_with<A: AsRef<OsStr>>(state: &Path, arguments: &[A], input: &[u8]) -> Output {
    let mut child = boxd(state)
        .arg("call")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A call that fails at once closes its input; that is not what the test asks about.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// What was printed on standard error.
pub(crate) fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
