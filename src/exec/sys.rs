//! The system calls of a process's life that have no safe wrapper: signals by pidfd, the wait, reads into spare room.
//! Its birth is in `cradle`.

#![expect(unsafe_code, reason = "these system calls have no safe wrapper")]

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigHandler, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::spec::Exit;

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

/// Reaps the child that `pidfd` means, however long its end takes.
pub(super) fn wait_for_end(pidfd: BorrowedFd<'_>) {
    // It is nobody else's to wait for.
    let _ended = waitid(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, 0);
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

/// Bytes of a page of memory.
pub(super) fn page_size() -> u64 {
    // SAFETY: asks for a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
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

/// Reads at most `most` bytes once into the room that `buffer` has behind its bytes, without filling that room with zeros
/// first.
pub(super) fn read_into(fd: BorrowedFd<'_>, buffer: &mut BytesMut, most: usize) -> io::Result<usize> {
    let room = buffer.spare_capacity_mut();
    let length = room.len().min(most);
    loop {
        // SAFETY: the kernel writes at most `length` bytes to where `room` is.
        let read = unsafe { libc::read(fd.as_raw_fd(), room.as_mut_ptr().cast(), length) };
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

/// Whether a child can be left without descriptors: not before Linux 5.9, nor where it is forbidden.
pub(super) fn knows_close_range() -> bool {
    // SAFETY: nothing has this number, so nothing is closed.
    unsafe { libc::syscall(libc::SYS_close_range, u32::MAX, u32::MAX, 0_u32) == 0 }
}
