//! Birth: `clone` with `CLONE_VM | CLONE_VFORK`, which is what `posix_spawn` does inside, with the steps between birth
//! and `execve` in our hands.
//!
//! Like `posix_spawn` it copies no page tables, so its cost does not grow with the daemon's heap. Unlike it, the
//! child can restore limits, take a controlling terminal, enter a control group or change its user without losing
//! that, it tells which step failed with which errno, and the parent gets a pidfd from the same system call.
//!
//! Between `clone` and `execve` the child shares the parent's memory while the calling thread is suspended: the child
//! therefore allocates nothing, takes no lock, touches no thread-local state but `errno`, makes only plain system calls
//! (the C library's own `setuid` would tell the parent's threads of it), and runs with every signal blocked until all
//! handlers are back at their defaults.

#![expect(
    unsafe_code,
    reason = "clone, and the system calls of the child before execve, have no safe wrapper"
)]

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

use super::birth::{Birth, Stage, StartFailure};
use super::sys;
use super::user::Credentials;

/// Bytes of stack for the child until `execve`; it uses a few hundred.
const STACK: usize = 64 * 1024;
/// Signals that exist on Linux.
const SIGNALS: c_int = 64;
/// How often a program that is open for writing is tried again, and how long after the time before. A program that was
/// just written is that while anybody's child, forked meanwhile, has not executed yet.
const BUSY_TRIES: u32 = 100;
static BUSY_PAUSE: libc::timespec = libc::timespec {
    tv_sec: 0,
    tv_nsec: 1_000_000,
};

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
    /// The control groups that it is to be in before anything else.
    pub(super) placement: &'a Placement,
    /// Whether standard input is to be its controlling terminal.
    pub(super) terminal: bool,
    /// Who it is to be, where that is not who the daemon is.
    pub(super) user: Option<&'a Credentials>,
    /// `RLIMIT_NOFILE` (soft, hard).
    pub(super) nofile: Option<(u64, u64)>,
    /// Text for `/proc/self/oom_score_adj`.
    pub(super) oom_score_adj: Option<&'a CStr>,
    /// Its nice value, where that is not the daemon's.
    pub(super) nice: Option<i32>,
    /// What others may know of the birth while it lasts.
    pub(super) birth: &'a Birth,
}

/// Control groups for a newborn.
#[derive(Debug, Default)]
pub(super) struct Placement {
    /// A group of the unified hierarchy, where it can be born.
    pub(super) home: Option<Home>,
    /// Files of other groups that it enters by writing "0".
    pub(super) doors: Vec<OwnedFd>,
}

/// A group of the unified hierarchy.
#[derive(Debug)]
pub(super) struct Home {
    /// Its directory.
    pub(super) directory: OwnedFd,
    /// Its `cgroup.procs`, for a kernel that lets nobody be born elsewhere. Entering a group that way waits for all
    /// processors, which takes ten milliseconds.
    pub(super) door: OwnedFd,
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
    /// The first one is that of the home.
    doors: Vec<RawFd>,
    born_at_home: bool,
    terminal: bool,
    user: Option<*const Credentials>,
    nofile: Option<libc::rlimit64>,
    oom_score_adj: Option<(*const c_char, usize)>,
    nice: Option<i32>,
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
        doors: (plan.placement.home.iter().map(|home| &home.door))
            .chain(&plan.placement.doors)
            .map(AsRawFd::as_raw_fd)
            .collect(),
        born_at_home: false,
        terminal: plan.terminal,
        user: plan.user.map(std::ptr::from_ref),
        nofile: plan.nofile.map(|(soft, hard)| libc::rlimit64 {
            rlim_cur: soft,
            rlim_max: hard,
        }),
        oom_score_adj: plan
            .oom_score_adj
            .map(|text| (text.as_ptr(), text.to_bytes().len())),
        nice: plan.nice,
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
        clone_child(stack, &mut shared, plan.placement.home.as_ref())
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
    sys::wait_for_end(born.pidfd.as_fd());
    Err(failure)
}

fn null_terminated<T: Deref<Target = CStr>>(strings: &[T]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|text| text.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

fn clone_child(stack: &mut [u128], shared: &mut Shared, home: Option<&Home>) -> Result<Born, c_int> {
    let mut pidfd: RawFd = -1;
    // With the table of descriptors shared, the child copies for itself what it is to have of it.
    let files = shared.end.map_or(0, |_| libc::CLONE_FILES);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | files;
    let mut pid = -1;
    if let Some(home) = home {
        shared.born_at_home = true;
        // SAFETY: as below.
        pid = unsafe { clone_into(home.directory.as_fd(), flags, stack, shared, &raw mut pidfd) };
        // An older kernel, or a filter that knows no `clone3`. What else there may be stops the child at the door, too.
        shared.born_at_home = pid >= 0;
    }
    if pid < 0 {
        // SAFETY: the stack grows down from its end and outlives the child's use of it, because CLONE_VFORK suspends
        // this thread until the child has called execve or _exit; `shared` lives on this thread's own stack for as long.
        pid = unsafe {
            let top = stack.as_mut_ptr_range().end.cast::<c_void>();
            let shared = std::ptr::from_mut(shared).cast();
            libc::clone(child, top, flags | libc::SIGCHLD, shared, &raw mut pidfd)
        };
    }
    if pid < 0 {
        return Err(errno());
    }
    // SAFETY: the kernel stored a new descriptor here when clone succeeded; nobody else owns it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Born { pid, pidfd })
}

/// `clone` into a control group, which only `clone3` can; the C library has no function for it. Negative when it fails.
#[cfg(target_arch = "x86_64")]
unsafe fn clone_into(
    group: BorrowedFd<'_>,
    flags: c_int,
    stack: &mut [u128],
    shared: *mut Shared,
    pidfd: *mut RawFd,
) -> i32 {
    /// `CLONE_INTO_CGROUP`, which does not fit into the flags of `clone`.
    const INTO_CGROUP: u64 = 1 << 33;
    // SAFETY: numbers, for all of which zero stands for nothing.
    let mut arguments = unsafe { std::mem::zeroed::<libc::clone_args>() };
    arguments.flags = flags as u64 | INTO_CGROUP;
    arguments.pidfd = pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.stack = stack.as_mut_ptr() as u64;
    arguments.stack_size = size_of_val(stack) as u64;
    arguments.cgroup = group.as_raw_fd() as u64;
    let mut result = libc::SYS_clone3;
    // SAFETY: the parent comes back from the system call with its registers as they were. The child comes back on the
    // stack that it was given, whose end is aligned, and calls a function that never returns.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, {shared}",
            "call {child}",
            "ud2",
            "2:",
            shared = in(reg) shared,
            child = in(reg) child as extern "C" fn(*mut c_void) -> c_int,
            inout("rax") result,
            in("rdi") &raw const arguments,
            in("rsi") size_of_val(&arguments),
            out("rcx") _,
            out("r11") _,
        );
    }
    result as i32
}

/// Elsewhere the child enters the group by its door.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn clone_into(
    _group: BorrowedFd<'_>,
    _flags: c_int,
    _stack: &mut [u128],
    _shared: *mut Shared,
    _pidfd: *mut RawFd,
) -> i32 {
    -libc::ENOSYS
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
        for door in shared.doors.iter().skip(usize::from(shared.born_at_home)) {
            let entered = libc::write(*door, c"0".as_ptr().cast(), 1);
            step(Stage::Placement, entered as c_int)?;
        }
        if let Some(end) = shared.end {
            // Nothing may change a descriptor before: until here they are the daemon's own.
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
        if shared.terminal {
            step(Stage::Terminal, libc::ioctl(0, libc::TIOCSCTTY, 0))?;
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
        if let Some(nice) = shared.nice {
            step(Stage::Limits, libc::setpriority(libc::PRIO_PROCESS, 0, nice))?;
        }
        if let Some(limit) = &shared.nofile {
            step(Stage::Limits, libc::setrlimit64(libc::RLIMIT_NOFILE, limit))?;
        }
        if let Some(user) = shared.user {
            step(Stage::User, become_user(&*user))?;
        }
        // As that user, who may not be allowed to. A dead file system may hold this up.
        step(Stage::Cwd, libc::fchdir(CWD))?;
        libc::close(CWD);
        let none = std::mem::zeroed::<libc::sigset_t>();
        step(
            Stage::Session,
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()),
        )
    }
}

/// The raw calls: the C library's own change the user of every thread of the process, and finds them in memory that is
/// the parent's. Negative when one of them fails.
unsafe fn become_user(user: &Credentials) -> c_int {
    let Credentials { uid, gid, groups } = user;
    // SAFETY: the list lives in the parent, which is suspended.
    unsafe {
        let set = libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr());
        if set < 0 || libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid) < 0 {
            return -1;
        }
        libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid) as c_int
    }
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
        match execute_one(shared, *path) {
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

/// Answers why `path` could not be executed.
fn execute_one(shared: &Shared, path: *const c_char) -> c_int {
    let mut tries = BUSY_TRIES;
    loop {
        // SAFETY: all three are null-terminated and live in the parent, which is suspended.
        unsafe { libc::execve(path, shared.arguments.as_ptr(), shared.environment.as_ptr()) };
        let errno = errno();
        if errno != libc::ETXTBSY || tries == 0 {
            return errno;
        }
        tries -= 1;
        // SAFETY: a plain system call that reads a constant.
        unsafe { libc::nanosleep(&raw const BUSY_PAUSE, std::ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{self, Read};
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, Instant};

    use super::super::spec::Exit;

    /// What a plan has beyond the usual.
    #[derive(Default)]
    struct Wish<'a> {
        candidates: Option<&'a [CString]>,
        cwd: Option<BorrowedFd<'a>>,
        stdin: Option<BorrowedFd<'a>>,
        placement: Option<&'a Placement>,
        terminal: bool,
        user: Option<&'a Credentials>,
        nofile: Option<(u64, u64)>,
    }

    /// Runs a shell line that says its pid first; the other lines that it says, when it started.
    fn run(line: &str, wish: &Wish<'_>) -> Result<String, StartFailure> {
        let null = File::open("/dev/null").unwrap();
        let cwd = File::open("/").unwrap();
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let argv = ["sh", "-c", line].map(|text| CString::new(text).unwrap());
        let candidates = ["/nonexistent/sh", "/bin/sh"].map(|text| CString::new(text).unwrap());
        let nowhere = Placement::default();
        let plan = Plan {
            candidates: wish.candidates.unwrap_or(&candidates),
            arguments: &argv,
            environment: &[c"X=1".into()],
            cwd: wish.cwd.unwrap_or(cwd.as_fd()),
            stdio: [wish.stdin.unwrap_or(null.as_fd()), writer.as_fd(), writer.as_fd()],
            end: None,
            placement: wish.placement.unwrap_or(&nowhere),
            terminal: wish.terminal,
            user: wish.user,
            nofile: wish.nofile,
            oom_score_adj: None,
            nice: None,
            birth: &Birth::default(),
        };
        let born = spawn(&plan)?;
        drop(writer);
        let mut output = String::new();
        File::from(reader).read_to_string(&mut output).unwrap();
        let ended = loop {
            match sys::wait(born.pidfd.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                ended => break ended.unwrap(),
            }
        };
        assert_eq!(ended.exit, Exit::Code(0), "{output}");
        assert_eq!(output.lines().next(), Some(born.pid.to_string().as_str()));
        Ok(output.lines().skip(1).collect::<Vec<_>>().join(" "))
    }

    fn placed(placement: &Placement) -> Wish<'_> {
        Wish {
            placement: Some(placement),
            ..Wish::default()
        }
    }

    fn failure(stage: Stage, errno: i32) -> StartFailure {
        StartFailure { stage, errno }
    }

    #[test]
    fn a_child_runs_with_what_it_was_given() {
        assert_eq!(run("echo $$; echo $(pwd) $X", &Wish::default()), Ok("/ 1".into()));
    }

    #[test]
    fn the_failed_step_and_errno_come_back() {
        for (program, errno) in [
            (c"/nonexistent/other", libc::ENOENT),
            (c"/etc/passwd", libc::EACCES),
        ] {
            let candidates = [program.to_owned()];
            let wish = Wish {
                candidates: Some(&candidates),
                ..Wish::default()
            };
            assert_eq!(run("", &wish), Err(failure(Stage::Exec, errno)));
        }
    }

    /// A shell that is open for writing runs as soon as it is not, and is refused where it stays so.
    #[test]
    fn a_program_that_is_just_being_written_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let shell = directory.path().join("sh");
        std::fs::write(&shell, std::fs::read("/bin/sh").unwrap()).unwrap();
        std::fs::set_permissions(&shell, PermissionsExt::from_mode(0o755)).unwrap();
        let candidates = [CString::new(shell.as_os_str().as_encoded_bytes()).unwrap()];
        let wish = Wish {
            candidates: Some(&candidates),
            ..Wish::default()
        };
        let (still, begun) = (File::options().append(true).open(&shell).unwrap(), Instant::now());
        assert_eq!(run("", &wish), Err(failure(Stage::Exec, libc::ETXTBSY)));
        assert!(begun.elapsed() >= Duration::from_millis(BUSY_TRIES.into()));
        let closing = std::thread::spawn(move || drop(still));
        assert_eq!(run("echo $$; echo runs", &wish), Ok("runs".into()));
        closing.join().unwrap();
    }

    #[test]
    fn standard_input_becomes_the_controlling_terminal() {
        let master = File::options().read(true).write(true).open("/dev/ptmx").unwrap();
        // SAFETY: plain system calls; the second one answers a new descriptor that nobody owns.
        let slave = unsafe {
            let unlocked: c_int = 0;
            libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked);
            let slave = libc::ioctl(
                master.as_raw_fd(),
                libc::TIOCGPTPEER,
                libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC,
            );
            assert!(slave >= 0, "{}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(slave)
        };
        let line = "echo $$; cut -d ' ' -f 6,7 /proc/$$/stat; cat /dev/null < /dev/tty && echo has one";
        let mut wish = Wish {
            stdin: Some(slave.as_fd()),
            terminal: true,
            ..Wish::default()
        };
        let said = run(line, &wish).unwrap();
        assert!(said.ends_with(" has one") && !said.contains(" 0 "), "{said}");
        wish.stdin = None;
        assert_eq!(run("", &wish), Err(failure(Stage::Terminal, libc::ENOTTY)));
    }

    #[test]
    fn the_child_becomes_another_user_and_the_parent_does_not() {
        let user = Credentials {
            uid: 61_234,
            gid: 61_235,
            groups: vec![61_236, 61_237],
        };
        let mut wish = Wish {
            user: Some(&user),
            ..Wish::default()
        };
        let said = run("echo $$; id -u; id -g; id -G", &wish);
        if !nix::unistd::geteuid().is_root() {
            assert_eq!(said, Err(failure(Stage::User, libc::EPERM)));
            return;
        }
        assert_eq!(said, Ok("61234 61235 61235 61236 61237".into()));
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let others = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok());
        for status in others {
            assert!(status.contains("\nUid:\t0\t0\t0\t0\n"), "{status}");
        }
        let closed = tempfile::tempdir().unwrap();
        std::fs::set_permissions(closed.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let closed = File::open(closed.path()).unwrap();
        wish.cwd = Some(closed.as_fd());
        assert_eq!(run("", &wish), Err(failure(Stage::Cwd, libc::EACCES)));
        let of_too_many_groups = Credentials {
            groups: vec![0; 65_537],
            ..user.clone()
        };
        wish.user = Some(&of_too_many_groups);
        assert_eq!(run("", &wish), Err(failure(Stage::User, libc::EINVAL)));
    }

    #[test]
    fn descriptors_are_limited_for_the_child() {
        let mut wish = Wish {
            nofile: Some((33, 33)),
            ..Wish::default()
        };
        let said = run("echo $$; ulimit -Sn; ulimit -Hn", &wish);
        assert_eq!(said, Ok("33 33".into()));
        wish.nofile = Some((34, 33));
        assert_eq!(run("", &wish), Err(failure(Stage::Limits, libc::EINVAL)));
    }

    #[test]
    fn every_door_is_entered_before_anything_else() {
        let doors = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        let placement = Placement {
            home: None,
            doors: doors
                .iter()
                .map(|door| door.try_clone().unwrap().into())
                .collect(),
        };
        run("echo $$", &placed(&placement)).unwrap();
        for mut door in doors {
            let mut written = String::new();
            io::Seek::rewind(&mut door).unwrap();
            door.read_to_string(&mut written).unwrap();
            assert_eq!(written, "0");
        }
        let shut = Placement {
            home: None,
            doors: vec![File::open("/dev/null").unwrap().into()],
        };
        let wish = Wish {
            terminal: true,
            ..placed(&shut)
        };
        assert_eq!(run("", &wish), Err(failure(Stage::Placement, libc::EBADF)));
    }

    #[test]
    fn a_home_where_nobody_can_be_born_is_entered_by_its_door() {
        let door = tempfile::tempfile().unwrap();
        let no_group = tempfile::tempdir().unwrap();
        let placement = Placement {
            home: Some(Home {
                directory: File::open(no_group.path()).unwrap().into(),
                door: door.try_clone().unwrap().into(),
            }),
            doors: Vec::new(),
        };
        run("echo $$", &placed(&placement)).unwrap();
        assert_eq!(door.metadata().unwrap().len(), 1);
    }
}
