//! What the tests stand on: the real daemon, a real broker, and a client for each door.
//!
//! Everything here is a guest on the machine: own directories, port 0 read back, every child killed when its handle is
//! dropped, log tails printed when the test panics. A tool that is missing fails the test by its name.

#![allow(dead_code, unused_imports, reason = "it offers what the next test needs")]

pub(crate) mod broker;
pub(crate) mod certificates;
pub(crate) mod connection;
pub(crate) mod control;
pub(crate) mod daemon;
pub(crate) mod debian;
pub(crate) mod enrollment;
pub(crate) mod file_server;
pub(crate) mod git_daemon;
pub(crate) mod git_server;
pub(crate) mod group;
pub(crate) mod heard;
pub(crate) mod http;
pub(crate) mod hung;
pub(crate) mod installer;
mod machine;
pub(crate) mod manager;
pub(crate) mod nginx;
pub(crate) mod op;
pub(crate) mod processes;
pub(crate) mod proxy;
pub(crate) mod pty;
pub(crate) mod ready;
pub(crate) mod relay;
pub(crate) mod releases;
pub(crate) mod script;
pub(crate) mod viewer;
pub(crate) mod ways;

use std::path::PathBuf;
use std::time::{Duration, Instant};

pub(crate) use broker::NatsServer;
pub(crate) use connection::Connection;
pub(crate) use control::{ControlPlane, Family};
pub(crate) use daemon::Daemon;
pub(crate) use git_daemon::GitDaemon;
pub(crate) use git_server::{GitServer, Manner};
pub(crate) use heard::Heard;
pub(crate) use http::{Answer, Http, whole};
pub(crate) use hung::HungFileSystem;
pub(crate) use machine::{ahead, alone};
pub(crate) use nginx::Nginx;
pub(crate) use proxy::Proxy;
pub(crate) use pty::Pty;
pub(crate) use script::write_program;
pub(crate) use ways::{Request, WAYS, Way, Ways};

/// How long a test waits for something that is not a matter of speed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Has children of this process take signals that a shell ignores for what it starts in the background.
pub(crate) fn take_signals() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    for number in [Signal::SIGINT, Signal::SIGQUIT] {
        // SAFETY: the default disposition runs no code of ours.
        #[expect(unsafe_code, reason = "dispositions are set by an unsafe call")]
        unsafe { signal(number, SigHandler::SigDfl) }.unwrap();
    }
}

/// The path of a program that the test needs; its absence fails the test by name.
#[track_caller]
pub(crate) fn require(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let standard = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(standard)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("this test needs the program `{program}`, which is not in PATH"))
}

/// Waits until `holds` answers something, for changes that the machine announces to nobody (a foreign process that
/// goes away). Panics with `what` when it never does.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, limit: Duration, mut holds: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = holds() {
            return value;
        }
        assert!(
            begin.elapsed() < limit,
            "{what} did not come true within {limit:?}"
        );
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(25));
    }
}

/// The value below which `percent` of `durations` lie.
pub(crate) fn percentile(durations: &mut [Duration], percent: usize) -> Duration {
    durations.sort_unstable();
    let last = durations.len() - 1;
    durations[(durations.len() * percent / 100).min(last)]
}
