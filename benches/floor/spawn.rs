//! The floor of every command: `posix_spawn`, two pipes read to their end, `waitpid`, and nothing else. Called in the floor
//! processes only, so that its address space is as small as a daemon's.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::fcntl::OFlag;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};

/// Runs one program without arguments to its end and returns what it printed on both streams.
///
/// # Errors
/// The program cannot be started, or does not exit with 0.
pub(crate) fn run(program: &str) -> Result<(Vec<u8>, Vec<u8>)> {
    let (stdout, stdout_of_child) = pipe2(OFlag::O_CLOEXEC)?;
    let (stderr, stderr_of_child) = pipe2(OFlag::O_CLOEXEC)?;
    let mut actions = PosixSpawnFileActions::init()?;
    let null = std::fs::File::open("/dev/null")?;
    actions.add_dup2(null.as_raw_fd(), 0)?;
    actions.add_dup2(stdout_of_child.as_raw_fd(), 1)?;
    actions.add_dup2(stderr_of_child.as_raw_fd(), 2)?;
    // A group of its own and default signals are part of the work: nobody starts a command without them.
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
    )?;
    attributes.set_pgroup(Pid::from_raw(0))?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_sigdefault(&SigSet::all())?;
    let program = CString::new(program)?;
    let child = posix_spawn(
        program.as_c_str(),
        &actions,
        &attributes,
        &[&program],
        &[c"PATH=/usr/bin:/bin"],
    )?;
    drop((stdout_of_child, stderr_of_child));
    let (mut printed, mut complained) = (Vec::new(), Vec::new());
    std::fs::File::from(stdout).read_to_end(&mut printed)?;
    std::fs::File::from(stderr).read_to_end(&mut complained)?;
    let status = waitpid(child, None)?;
    ensure!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    Ok((printed, complained))
}

/// Runs the program `count` times from each of `threads` threads.
///
/// # Errors
/// Any of the runs failed.
pub(crate) fn run_many(program: &str, threads: usize, count: usize) -> Result<(Duration, Vec<Duration>)> {
    let one_thread = || -> Result<Vec<Duration>> {
        let mut latencies = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            run(program)?;
            latencies.push(start.elapsed());
        }
        Ok(latencies)
    };
    let start = Instant::now();
    let latencies = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(one_thread)).collect();
        let mut latencies = Vec::new();
        for thread in running {
            latencies.extend(
                thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a spawning thread panicked"))??,
            );
        }
        anyhow::Ok(latencies)
    })?;
    Ok((start.elapsed(), latencies))
}
