//! Where every child process of the daemon is born: a [`Start`] is prepared, checked and handed to `sys`.
//!
//! What can be blamed is checked first and in this order: the environment, the working directory, the program. A
//! failed start leaves nothing behind.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::unistd::pipe2;

use super::birth::{Birth, Stage, StartFailure};
use super::environment::Built;
use super::prepare::Prepared;
use super::seats::Seat;
use super::spec::Command;
use super::sys::{self, Born, Plan};
use crate::error::Error;

/// What the child's descriptors 0, 1 and 2 are, and the daemon's ends of them.
#[derive(Debug)]
pub(super) struct Pipes {
    /// The daemon's ends, which do not block: `None` for a standard input that is at its end already.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    /// The child's ends; to be closed when it is born.
    pub(super) child: [OwnedFd; 3],
}

impl Pipes {
    /// Makes them; without input the child reads `/dev/null`.
    pub(super) fn open(with_input: bool) -> Result<Self, Error> {
        let make = || pipe2(OFlag::O_CLOEXEC).map_err(|errno| out_of_descriptors("make a pipe", errno));
        let never_blocking = |end: OwnedFd| {
            let set = fcntl(&end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
            set.map(|_| end).map_err(|errno| Error::Io {
                doing: "make a pipe non-blocking".into(),
                source: errno.into(),
            })
        };
        let ((stdout, child_stdout), (stderr, child_stderr)) = (make()?, make()?);
        let (child_stdin, stdin) = if with_input {
            let (child, ours) = make()?;
            (child, Some(never_blocking(ours)?))
        } else {
            let null = match open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
                // A root without /dev: a pipe that nobody writes to is at its end just as well.
                Err(Errno::ENOENT) => make()?.0,
                opened => opened.map_err(|errno| out_of_descriptors("open /dev/null", errno))?,
            };
            (null, None)
        };
        Ok(Self {
            stdin,
            stdout: never_blocking(stdout)?,
            stderr: never_blocking(stderr)?,
            child: [child_stdin, child_stdout, child_stderr],
        })
    }
}

fn out_of_descriptors(doing: &str, errno: Errno) -> Error {
    match errno {
        Errno::EMFILE | Errno::ENFILE => Error::Overloaded {
            what: "file descriptors",
            reason: format!("{doing}: {}", errno.desc()),
        },
        other => Error::Io {
            doing: doing.into(),
            source: other.into(),
        },
    }
}

/// A child about to be born: everything looked up, nothing done.
#[derive(Debug)]
pub(super) struct Start {
    candidates: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<Arc<CStr>>,
    cwd: OwnedFd,
    /// For blame.
    program: OsString,
    directory: PathBuf,
}

impl Start {
    /// Checks the request and looks everything up. Blocks for a few system calls, or as long as a file system does.
    pub(super) fn prepare(command: &Command, directory: &Path, environment: Built) -> Result<Self, Error> {
        let cwd = open_directory(directory)?;
        let arguments = arguments(command, &environment.shell)?;
        let program = arguments.first().cloned().unwrap_or_default();
        if program.is_empty() {
            return Err(Error::Invalid {
                field: "command",
                reason: "is empty, name a program".into(),
            });
        }
        Ok(Self {
            candidates: candidates(&program, &environment.path)?,
            arguments: arguments
                .into_iter()
                .map(|text| c_string("command", text))
                .collect::<Result<_, _>>()?,
            environment: environment.strings,
            cwd,
            program,
            directory: directory.to_owned(),
        })
    }

    /// The birth itself. Blocks the calling thread until the program runs: about as long as `posix_spawn`.
    pub(super) fn spawn(
        &self,
        child: &[OwnedFd; 3],
        birth: &Birth,
        prepared: &Prepared,
    ) -> Result<Born, StartFailure> {
        let Prepared { inherited, seats } = prepared;
        let [stdin, stdout, stderr] = child;
        let given = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), self.cwd.as_fd()];
        let seat = seats.take(given);
        let [stdin, stdout, stderr, cwd] = seat.as_ref().and_then(Seat::given).unwrap_or(given);
        sys::spawn(&Plan {
            candidates: &self.candidates,
            arguments: &self.arguments,
            environment: &self.environment,
            cwd,
            stdio: [stdin, stdout, stderr],
            end: seat.as_ref().and_then(Seat::end),
            nofile: inherited.nofile,
            oom_score_adj: inherited.oom_score_adj.as_deref(),
            birth,
        })
    }

    /// The error for a step that failed, naming what is to blame.
    pub(super) fn blame(&self, failure: StartFailure) -> Error {
        let errno = failure.errno;
        let io = |doing: String| Error::Io {
            doing,
            source: std::io::Error::from_raw_os_error(errno),
        };
        match failure.stage {
            Stage::Fork if matches!(errno, libc::EAGAIN | libc::ENOMEM | libc::EMFILE) => Error::Overloaded {
                what: "processes",
                reason: Errno::from_raw(errno).desc().into(),
            },
            Stage::Fork => io("create a process".into()),
            Stage::Session => io("make a session".into()),
            Stage::Cwd => directory_error(&self.directory, Errno::from_raw(errno)),
            Stage::Stdio => io("connect standard input and output".into()),
            Stage::Limits => io("restore the limits of the daemon's start".into()),
            Stage::Exec => self.blame_exec(errno),
        }
    }

    fn blame_exec(&self, errno: i32) -> Error {
        let name = || self.program.to_string_lossy().into_owned();
        match errno {
            libc::ENOENT if self.a_candidate_exists() => Error::NotFound {
                what: "interpreter or loader of program",
                name: name(),
            },
            libc::ENOENT => Error::NotFound {
                what: "program",
                name: name(),
            },
            libc::EACCES | libc::EPERM => Error::Denied {
                doing: format!("execute {:?}", self.program),
                errno,
            },
            libc::E2BIG => Error::Invalid {
                field: "command",
                reason:
                    "arguments and environment are larger than the system allows; pass data on standard input"
                        .into(),
            },
            libc::EAGAIN | libc::ENOMEM => Error::Overloaded {
                what: "processes",
                reason: Errno::from_raw(errno).desc().into(),
            },
            _ => Error::Io {
                doing: format!("execute {:?}", self.program),
                source: std::io::Error::from_raw_os_error(errno),
            },
        }
    }

    fn a_candidate_exists(&self) -> bool {
        let path = |text: &CString| self.directory.join(OsStr::from_bytes(text.to_bytes()));
        self.candidates.iter().any(|candidate| path(candidate).exists())
    }
}

/// The working directory; blame goes to it and not to the program. May block for as long as its file system does.
fn open_directory(cwd: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    match open(cwd, flags, Mode::empty()) {
        Ok(directory) => Ok(directory),
        Err(errno @ (Errno::EMFILE | Errno::ENFILE)) => {
            Err(out_of_descriptors("open the working directory", errno))
        }
        Err(errno) => Err(directory_error(cwd, errno)),
    }
}

fn directory_error(cwd: &Path, errno: Errno) -> Error {
    Error::from_path_io("working directory", "enter working directory", cwd, errno.into())
}

fn arguments(command: &Command, shell: &OsStr) -> Result<Vec<OsString>, Error> {
    match command {
        Command::Argv(argv) => Ok(argv.clone()),
        Command::Shell(line) if line.is_empty() => Err(Error::Invalid {
            field: "command",
            reason: "is empty, give a shell line".into(),
        }),
        Command::Shell(line) => Ok(vec![shell.to_owned(), "-c".into(), line.clone()]),
    }
}

/// The paths that `execvp` would try: the name itself when it has a slash, else one per directory of `PATH`, where an
/// empty one is the working directory.
fn candidates(program: &OsStr, path: &OsStr) -> Result<Vec<CString>, Error> {
    if program.as_bytes().contains(&b'/') {
        return Ok(vec![c_string("command", program.to_owned())?]);
    }
    path.as_bytes()
        .split(|byte| *byte == b':')
        .map(|directory| {
            let directory = if directory.is_empty() { b"." } else { directory };
            let mut full = directory.to_vec();
            full.push(b'/');
            full.extend_from_slice(program.as_bytes());
            c_string("command", OsString::from_vec(full))
        })
        .collect()
}

fn c_string(field: &'static str, text: OsString) -> Result<CString, Error> {
    CString::new(text.into_vec()).map_err(|_| Error::Invalid {
        field,
        reason: "contains a NUL byte".into(),
    })
}
