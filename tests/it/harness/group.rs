//! A child process that leads a session and a group of its own, as a service does, with its log in a file: killed with
//! its group when dropped.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// The child.
pub(crate) struct Group {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    log: PathBuf,
}

impl Group {
    /// Starts `command` with its output appended to `log`.
    #[track_caller]
    pub(crate) fn spawn(name: &str, command: &mut Command, log: &Path) -> Self {
        Self::with_input(name, command, Stdio::null(), log)
    }

    /// Starts a server that takes its connections from `listener`, which is its standard input: it can be connected to at
    /// once, at a port that nobody else has.
    #[track_caller]
    pub(crate) fn serving(name: &str, command: &mut Command, listener: OwnedFd, log: &Path) -> Self {
        Self::with_input(name, command, listener.into(), log)
    }

    #[track_caller]
    fn with_input(name: &str, command: &mut Command, input: Stdio, log: &Path) -> Self {
        super::machine::share();
        let file = File::options().create(true).append(true).open(log).unwrap();
        command
            .stdin(input)
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let child = lead_session(command)
            .spawn()
            .unwrap_or_else(|error| panic!("failed to start {name}: {error}"));
        Self {
            name: name.to_owned(),
            child,
            status: None,
            log: log.to_path_buf(),
        }
    }

    /// What it is called in messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Its exit status, when it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap();
        }
        self.status
    }

    /// Sends `signal` to the child alone.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            kill(self.pid(), signal).unwrap();
        }
    }

    /// Waits for its end, at most `limit`; panics with the log otherwise.
    #[track_caller]
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            let late = begin.elapsed() > limit;
            assert!(
                !late,
                "{} did not end within {limit:?}\n{}",
                self.name,
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Kills the whole group and waits for the child.
    pub(crate) fn kill(&mut self) {
        if self.ended().is_none() {
            // The group lives while its leader is not waited for, so the number is still ours.
            let _ = killpg(self.pid(), Signal::SIGKILL);
            self.status = self.child.wait().ok();
        }
    }

    /// Everything it wrote so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines of the log, with a heading.
    pub(crate) fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(80)..];
        format!("--- the log of {} ends with\n{}\n---", self.name, tail.join("\n"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
    }
}

#[expect(
    unsafe_code,
    reason = "what a child does before exec is in nobody's safe hands"
)]
fn lead_session(command: &mut Command) -> &mut Command {
    // SAFETY: a plain system call, which touches nothing that another thread could hold.
    unsafe { command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?)) }
}
