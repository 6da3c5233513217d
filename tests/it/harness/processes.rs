//! Looking at processes of the machine: by a word in their environment or arguments, and what `/proc` says of one.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::eventually;

/// Processes (no zombies) whose environment holds `entry`, `NAME=value` or the beginning of it.
pub(crate) fn with_environment(entry: &str) -> Vec<i32> {
    with_word("environ", |word| word.starts_with(entry.as_bytes()))
}

/// Processes (no zombies) one of whose arguments is exactly `argument`.
pub(crate) fn with_argument(argument: &str) -> Vec<i32> {
    with_word("cmdline", |word| word == argument.as_bytes())
}

fn with_word(file: &str, matches: impl Fn(&[u8]) -> bool) -> Vec<i32> {
    let has_word = |pid: &i32| {
        let words = std::fs::read(of(*pid, file)).unwrap_or_default();
        words.split(|byte| *byte == 0).any(&matches)
    };
    all().into_iter().filter(has_word).collect()
}

/// Every process id that `/proc` shows.
pub(crate) fn all() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// A file of a process.
pub(crate) fn of(pid: i32, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{file}"))
}

/// A field of `/proc/<pid>/status`.
pub(crate) fn status_field(pid: i32, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(of(pid, "status")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// The children of a process, whichever of its threads made them.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let threads = std::fs::read_dir(of(pid, "task")).into_iter().flatten().flatten();
    let texts = threads.map(|thread| std::fs::read_to_string(thread.path().join("children")));
    texts
        .flatten()
        .flat_map(|text| {
            let words = text.split_ascii_whitespace();
            words.filter_map(|word| word.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

/// Resident memory now and at its highest, bytes.
pub(crate) fn resident(pid: i32) -> (u64, u64) {
    let bytes = |name: &str| -> u64 {
        let field = status_field(pid, name).unwrap_or_default();
        field
            .split(' ')
            .next()
            .and_then(|number| number.parse::<u64>().ok())
            .unwrap_or(0)
            * 1024
    };
    (bytes("VmRSS"), bytes("VmHWM"))
}

/// Waits until no process holds `argument` any more.
#[track_caller]
pub(crate) fn wait_until_gone(argument: &str, limit: Duration) {
    eventually(
        &format!("the end of every process with argument {argument}"),
        limit,
        || with_argument(argument).is_empty().then_some(()),
    );
}

/// Asserts that no process holds `argument`.
#[track_caller]
pub(crate) fn assert_none(argument: &str) {
    let found = with_argument(argument);
    assert!(
        found.is_empty(),
        "processes with argument {argument} are left: {found:?}"
    );
}

/// Waits until a process holds `argument`, and answers it.
#[track_caller]
pub(crate) fn wait_until_there(argument: &str, limit: Duration) -> i32 {
    eventually(&format!("a process with argument {argument}"), limit, || {
        with_argument(argument).first().copied()
    })
}

/// Kills every process whose environment holds `entry`, until none is left.
pub(crate) fn sweep(entry: &str) {
    for _ in 0..100 {
        let found = with_environment(entry);
        if found.is_empty() {
            return;
        }
        for pid in found {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
