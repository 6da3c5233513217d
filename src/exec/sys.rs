//! The system calls of a process's life that have no safe wrapper: birth, signals by pidfd, the wait.
//!
//! Birth is `clone` with `CLONE_VM | CLONE_VFORK`, which is what `posix_spawn` does inside, with the
//! steps between birth and `execve` in our hands.
//!
//! Like `posix_spawn` it copies no page tables, so its cost does not grow with the daemon's heap. Unlike it, the
//! child can restore limits, take a controlling terminal or drop privileges without losing that, it tells which step
//! failed with which errno, and the parent gets a pidfd from the same system call.
//!
//! This is the one file with unsafe code on the path of a process. Between `clone` and `execve` the child shares the
//! parent's memory while the calling thread is suspended: the child therefore allocates nothing, takes no lock,
//! touches no thread-local state but `errno`, makes only plain system calls, and runs with every signal blocked until
//! all handlers are back at their defaults.

#![expect(
    unsafe_code,
    reason = "clone, and the system calls of the child before execve, have no safe wrapper"
)]

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::birth::{Birth, Stage, StartFailure};
use super::spec::Exit;

/// Bytes of stack for the child until `execve`; it uses a few hundred.
const STACK: usize = 64 * 1024;
/// Signals that exist on Linux.
const SIGNALS: c_int = 64;

/// Everything the child does, prepared so that it need not allocate.
pub(super) struct Plan<'a> {
    /// Paths to try in order, as `execvp` does.
    pub(super) candidates: &'a [CString],
    /// Arguments, the first one being the program's name.
    pub(super) arguments: &'a [CString],
    /// `NAME=value` strings.
    pub(super) environment: &'a [Arc<CStr>],
    /// The working directory, opened by the parent.
    pub(super) cwd: BorrowedFd<'a>,
    /// What becomes descriptors 0, 1 and 2; none of them is 0, 1 or 2 here.
    pub(super) stdio: [BorrowedFd<'a>; 3],
    /// The child gets no copies of descriptors from this number on, where all of the above are below it.
    pub(super) end: Option<RawFd>,
    /// `RLIMIT_NOFILE` (soft, hard) to go back to.
    pub(super) nofile: Option<(u64, u64)>,
    /// Text for `/proc/self/oom_score_adj`.
    pub(super) oom_score_adj: Option<&'a CStr>,
    /// What others may know of the birth while it lasts.
    pub(super) birth: &'a Birth,
}

/// A child that runs its program.
#[derive(Debug)]
pub(super) struct Born {
    /// Its process id, valid until it is waited for.
    pub(super) pid: i32,
    /// A descriptor that always means this process and no other.
    pub(super) pidfd: OwnedFd,
}

/// What the child needs, as raw pointers into the parent's memory, and where it reports.
struct Shared {
    candidates: Vec<*const c_char>,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    cwd: RawFd,
    stdio: [RawFd; 3],
    end: Option<RawFd>,
    nofile: Option<libc::rlimit64>,
    oom_score_adj: Option<(*const c_char, usize)>,
    birth: *const Birth,
    failure: Option<StartFailure>,
}

thread_local! {
    /// One stack per thread that spawns: the thread is suspended while its child uses it. The element type aligns its
    /// end for the calling convention.
    static CHILD_STACK: RefCell<Vec<u128>> = const { RefCell::new(Vec::new()) };
}

/// Starts the child of `plan`. Blocks the calling thread until the program runs or a step has failed; a child whose
/// step failed has been waited for then.
pub(super) fn spawn(plan: &Plan<'_>) -> Result<Born, StartFailure> {
    let mut shared = Shared {
        candidates: plan.candidates.iter().map(|path| path.as_ptr()).collect(),
        arguments: null_terminated(plan.arguments),
        environment: null_terminated(plan.environment),
        cwd: plan.cwd.as_raw_fd(),
        stdio: plan.stdio.map(|fd| fd.as_raw_fd()),
        end: plan.end,
        nofile: plan.nofile.map(|(soft, hard)| libc::rlimit64 {
            rlim_cur: soft,
            rlim_max: hard,
        }),
        oom_score_adj: plan
            .oom_score_adj
            .map(|text| (text.as_ptr(), text.to_bytes().len())),
        birth: std::ptr::from_ref(plan.birth),
        failure: None,
    };
    let fork_failure = |errno| StartFailure {
        stage: Stage::Fork,
        errno,
    };
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))
        .map_err(|errno| fork_failure(errno as c_int))?;
    let cloned = CHILD_STACK.with_borrow_mut(|stack| {
        stack.resize(STACK / size_of::<u128>(), 0);
        clone_child(stack, &mut shared)
    });
    plan.birth.over.store(true, Ordering::SeqCst);
    // The old mask was valid a moment ago, so setting it again cannot fail.
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    let born = cloned.map_err(fork_failure)?;
    // SAFETY: the child wrote this field, if at all, before the parent was resumed.
    let failure = unsafe { std::ptr::read_volatile(&raw const shared.failure) };
    let Some(failure) = failure else {
        return Ok(born);
    };
    // It is past everything that could hold it up.
    let _ended = waitid(libc::P_PIDFD, born.pidfd.as_raw_fd() as libc::id_t, 0);
    Err(failure)
}

fn null_terminated<T: Deref<Target = CStr>>(strings: &[T]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|text| text.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

fn clone_child(stack: &mut [u128], shared: &mut Shared) -> Result<Born, c_int> {
    let mut pidfd: RawFd = -1;
    // SAFETY: the stack grows down from its end and outlives the child's use of it, because CLONE_VFORK suspends this
    // thread until the child has called execve or _exit; `shared` lives on this thread's own stack for as long.
    let pid = unsafe {
        let top = stack.as_mut_ptr_range().end.cast::<c_void>();
        // With the table of descriptors shared, the child copies for itself what it is to have of it.
        let files = shared.end.map_or(0, |_| libc::CLONE_FILES);
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | files | libc::SIGCHLD;
        libc::clone(
            child,
            top,
            flags,
            std::ptr::from_mut(shared).cast(),
            &raw mut pidfd,
        )
    };
    if pid < 0 {
        return Err(errno());
    }
    // SAFETY: the kernel stored a new descriptor here when clone succeeded; nobody else owns it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Born { pid, pidfd })
}

fn errno() -> c_int {
    nix::errno::Errno::last_raw()
}

/// The child's life until `execve`. Runs in the parent's memory: see the rules at the top of the file.
extern "C" fn child(argument: *mut c_void) -> c_int {
    // SAFETY: the parent passed a valid `Shared` and is suspended, so this is the only reference in use.
    let shared = unsafe { &mut *argument.cast::<Shared>() };
    // SAFETY: this outlives the birth, and all of it is atomic.
    let birth = unsafe { &*shared.birth };
    // SAFETY: a plain system call.
    birth.pid.store(unsafe { libc::getpid() }, Ordering::SeqCst);
    if birth.given_up.load(Ordering::SeqCst) {
        // SAFETY: ends this task at once, without running any destructor of the parent's.
        unsafe { libc::_exit(127) }
    }
    let failure = prepare(shared).err().unwrap_or_else(|| execute(shared));
    // SAFETY: as above; volatile because the parent's compiler cannot see this write.
    unsafe { std::ptr::write_volatile(&raw mut shared.failure, Some(failure)) };
    // SAFETY: ends this task at once, without running any destructor of the parent's.
    unsafe { libc::_exit(127) }
}

fn prepare(shared: &Shared) -> Result<(), StartFailure> {
    /// Where the working directory is kept while everything above it is closed.
    const CWD: RawFd = 3;
    let step = |stage, result: c_int| {
        if result < 0 {
            Err(StartFailure {
                stage,
                errno: errno(),
            })
        } else {
            Ok(())
        }
    };
    // SAFETY: plain system calls on descriptors and values that the parent prepared and keeps alive.
    unsafe {
        if let Some(end) = shared.end {
            // Nothing may touch a descriptor before: until here they are the daemon's own.
            let own = libc::syscall(libc::SYS_close_range, end, u32::MAX, libc::CLOSE_RANGE_UNSHARE);
            step(Stage::Fork, own as c_int)?;
        }
        for (target, source) in (0..).zip(shared.stdio) {
            step(Stage::Stdio, libc::dup2(source, target))?;
        }
        step(Stage::Cwd, libc::dup2(shared.cwd, CWD))?;
        // Our own descriptors all close on exec; this is for those that whoever started the daemon left open, and for
        // the pipes of commands that are being started beside this one: they must not stay open for as long as the
        // rest takes. A kernel without the call (before 5.9) leaves them until exec.
        libc::syscall(libc::SYS_close_range, CWD + 1, u32::MAX, 0_u32);
        (*shared.birth).let_go.store(true, Ordering::Release);
        reset_signal_dispositions();
        step(Stage::Session, libc::setsid())?;
        // A dead file system may hold this up.
        step(Stage::Cwd, libc::fchdir(CWD))?;
        libc::close(CWD);
        if let Some(limit) = &shared.nofile {
            step(Stage::Limits, libc::setrlimit64(libc::RLIMIT_NOFILE, limit))?;
        }
        if let Some((text, length)) = shared.oom_score_adj {
            let fd = libc::open(
                c"/proc/self/oom_score_adj".as_ptr(),
                libc::O_WRONLY | libc::O_CLOEXEC,
            );
            if fd >= 0 {
                libc::write(fd, text.cast(), length);
                libc::close(fd);
            }
        }
        let none = std::mem::zeroed::<libc::sigset_t>();
        step(
            Stage::Session,
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()),
        )
    }
}

/// Whether a child can be left without descriptors: not before Linux 5.9, nor where it is forbidden.
pub(super) fn knows_close_range() -> bool {
    // SAFETY: nothing has this number, so nothing is closed.
    unsafe { libc::syscall(libc::SYS_close_range, u32::MAX, u32::MAX, 0_u32) == 0 }
}

/// Every signal back to its default, so that neither our handlers nor what we ignore (`SIGPIPE`) reach the program.
fn reset_signal_dispositions() {
    /// `struct kernel_sigaction` with room for every architecture; all zero is `SIG_DFL` with no flags.
    const DEFAULT: [u64; 4] = [0; 4];
    for signal in 1..=SIGNALS {
        // SAFETY: the raw call, because the C library refuses the signals it keeps for itself; SIGKILL and SIGSTOP
        // answer EINVAL, which is as good as done.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                std::ptr::null::<u64>(),
                8_usize,
            )
        };
    }
}

/// Tries each candidate; returns only when none could be executed. What `execvp` does: names that do not exist or
/// may not be executed are passed over, and a refusal is remembered above a plain "not found".
fn execute(shared: &Shared) -> StartFailure {
    let mut reported = libc::ENOENT;
    for path in &shared.candidates {
        // SAFETY: all three are null-terminated and live in the parent, which is suspended.
        unsafe { libc::execve(*path, shared.arguments.as_ptr(), shared.environment.as_ptr()) };
        match errno() {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => reported = libc::EACCES,
            other => {
                return StartFailure {
                    stage: Stage::Exec,
                    errno: other,
                };
            }
        }
    }
    StartFailure {
        stage: Stage::Exec,
        errno: reported,
    }
}

/// How a child ended, with what the kernel counted for it and the children that it waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) exit: Exit,
    /// Bytes; `None` when it is hidden behind our own peak, which the kernel hands on at `execve`.
    pub(super) peak_rss: Option<u64>,
    pub(super) user_cpu: Duration,
    pub(super) system_cpu: Duration,
}

/// The pid of some zombie child, which stays a zombie.
pub(super) fn peek_zombie() -> Option<i32> {
    let (info, _) = waitid(libc::P_ALL, 0, libc::WNOHANG | libc::WNOWAIT).ok()?;
    // SAFETY: `waitid` fills this field or leaves it 0.
    let pid = unsafe { info.si_pid() };
    (pid > 0).then_some(pid)
}

/// Reaps the zombie that has this pid; says whether there was one.
pub(super) fn bury(pid: i32) -> bool {
    // SAFETY: as above.
    waitid(libc::P_PID, pid as libc::id_t, libc::WNOHANG).is_ok_and(|(info, _)| unsafe { info.si_pid() } > 0)
}

/// Reaps the child that `pidfd` means: `WouldBlock` while it runs, `ECHILD` when somebody else has.
pub(super) fn wait(pidfd: BorrowedFd<'_>) -> io::Result<Ended> {
    let (info, usage) = waitid(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, libc::WNOHANG)?;
    // SAFETY: `waitid` fills these fields or leaves them 0.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let exit = if info.si_code == libc::CLD_EXITED {
        Exit::Code(status)
    } else {
        Exit::Signal {
            number: status,
            core_dumped: info.si_code == libc::CLD_DUMPED,
        }
    };
    Ok(Ended {
        exit,
        peak_rss: (usage.ru_maxrss > own_peak_rss()).then_some(usage.ru_maxrss as u64 * 1024),
        user_cpu: duration(usage.ru_utime),
        system_cpu: duration(usage.ru_stime),
    })
}

/// Asks for an ended child; all zero when there is none and `flags` say not to wait. The raw call, because the C
/// library keeps the usage to itself.
fn waitid(of: libc::idtype_t, id: libc::id_t, flags: c_int) -> io::Result<(libc::siginfo_t, libc::rusage)> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: the kernel fills what the two pointers mean or leaves it zeroed, and all-zero bytes are a valid value
        // of both.
        unsafe {
            let result = libc::syscall(
                libc::SYS_waitid,
                of,
                id,
                info.as_mut_ptr(),
                libc::WEXITED | flags,
                usage.as_mut_ptr(),
            );
            if result == 0 {
                return Ok((info.assume_init(), usage.assume_init()));
            }
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Kilobytes.
fn own_peak_rss() -> i64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss())
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
}

/// Sends `signal` to exactly the process that `pidfd` means; `ESRCH` when it has ended.
pub(super) fn signal_pidfd(pidfd: BorrowedFd<'_>, signal: c_int) -> io::Result<()> {
    pidfd_send_signal(pidfd, signal, 0)
}

/// Sends `signal` to the process group that the process of `pidfd` leads; `EINVAL` before Linux 6.9.
pub(super) fn signal_group(pidfd: BorrowedFd<'_>, signal: c_int) -> io::Result<()> {
    /// `PIDFD_SIGNAL_PROCESS_GROUP`.
    const PROCESS_GROUP: u32 = 1 << 2;
    pidfd_send_signal(pidfd, signal, PROCESS_GROUP)
}

fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: c_int, flags: u32) -> io::Result<()> {
    // SAFETY: a plain system call on a descriptor that is borrowed for its duration.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            flags,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Puts the disposition of `SIGCHLD` back to its default. Whoever started us may have had it ignored, which outlives
/// `execve`, and then the kernel lets children go at their end without telling anybody how they ended.
pub(super) fn stop_ignoring_children() -> io::Result<()> {
    // SAFETY: no handler of ours is replaced, and none is installed.
    let before = unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigDfl) };
    before.map(drop).map_err(io::Error::from)
}

/// A copy of a descriptor that may be one of 0, 1 and 2; the copy is above them and closes on exec.
pub(super) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; the new descriptor is owned by nobody else.
    unsafe {
        let copy = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3);
        if copy < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(OwnedFd::from_raw_fd(copy))
        }
    }
}

/// A descriptor that the runtime watches.
#[derive(Debug)]
pub(super) struct Watched(Arc<OwnedFd>);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Has the runtime watch `fd` until the answer is dropped. Fails when there are too many.
pub(super) fn watch(fd: Arc<OwnedFd>, interest: Interest) -> io::Result<AsyncFd<Watched>> {
    // SAFETY: the descriptor is owned by what is registered, and that always answers the same number.
    let watched = unsafe { AsyncFd::register_with_interest(Watched(fd), interest) };
    watched.map_err(io::Error::from)
}

/// Reads once into the room that `buffer` has behind its bytes, without filling that room with zeros first.
pub(super) fn read_into(fd: BorrowedFd<'_>, buffer: &mut BytesMut) -> io::Result<usize> {
    let room = buffer.spare_capacity_mut();
    loop {
        // SAFETY: the kernel writes at most `room.len()` bytes to where `room` is.
        let read = unsafe { libc::read(fd.as_raw_fd(), room.as_mut_ptr().cast(), room.len()) };
        if let Ok(read) = usize::try_from(read) {
            // SAFETY: the kernel has just written these bytes.
            unsafe { buffer.set_len(buffer.len() + read) };
            return Ok(read);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// A descriptor for whatever process has this pid now.
pub(super) fn open_pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; the new descriptor is owned by nobody else.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0_u32);
        if fd < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(OwnedFd::from_raw_fd(fd as RawFd))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    fn run(program: &str) -> Result<String, StartFailure> {
        let null = File::open("/dev/null").unwrap();
        let cwd = File::open("/").unwrap();
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let argv = ["sh", "-c", "echo $$ $(pwd) $X"].map(|text| CString::new(text).unwrap());
        let born = spawn(&Plan {
            candidates: &[
                CString::new("/nonexistent/sh").unwrap(),
                CString::new(program).unwrap(),
            ],
            arguments: &argv,
            environment: &[c"X=1".into()],
            cwd: cwd.as_fd(),
            stdio: [null.as_fd(), writer.as_fd(), writer.as_fd()],
            end: None,
            nofile: None,
            oom_score_adj: None,
            birth: &Birth::default(),
        })?;
        drop(writer);
        let mut output = String::new();
        File::from(reader).read_to_string(&mut output).unwrap();
        let ended = loop {
            match wait(born.pidfd.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                ended => break ended.unwrap(),
            }
        };
        assert_eq!(ended.exit, Exit::Code(0));
        assert!(output.starts_with(&born.pid.to_string()), "{output}");
        Ok(output)
    }

    #[test]
    fn a_child_runs_with_what_it_was_given() {
        assert!(run("/bin/sh").unwrap().ends_with(" / 1\n"));
    }

    #[test]
    fn the_failed_step_and_errno_come_back() {
        let missing = StartFailure {
            stage: Stage::Exec,
            errno: libc::ENOENT,
        };
        assert_eq!(run("/nonexistent/other").unwrap_err(), missing);
        let refused = StartFailure {
            stage: Stage::Exec,
            errno: libc::EACCES,
        };
        assert_eq!(run("/etc/passwd").unwrap_err(), refused);
    }
}
