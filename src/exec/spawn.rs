//! Where every child process of the daemon is born: a [`Start`] is prepared, checked and handed to the `cradle`.
//!
//! What can be blamed is checked first and in this order: the environment, the working directory, the program. A
//! failed start leaves nothing behind.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{Gid, Uid, fchown, geteuid, pipe2};

use super::birth::{Birth, Stage, StartFailure};
use super::cradle::{self, Born, Placement, Plan};
use super::environment::Built;
use super::prepare::Prepared;
use super::seats::Seat;
use super::spec::Command;
use super::user::{Credentials, User};
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
    placement: Placement,
    terminal: bool,
    user: Option<User>,
    nofile: Option<u64>,
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
            placement: Placement::default(),
            terminal: false,
            user: None,
            nofile: None,
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
        let user = self.user.as_ref().and_then(User::credentials);
        if let Some(user) = user {
            hand_over([stdin, stdout, stderr], user).map_err(|errno| StartFailure {
                stage: Stage::User,
                errno: errno as i32,
            })?;
        }
        let born = cradle::spawn(&Plan {
            candidates: &self.candidates,
            arguments: &self.arguments,
            environment: &self.environment,
            cwd,
            stdio: [stdin, stdout, stderr],
            end: seat.as_ref().and_then(Seat::end),
            placement: &self.placement,
            terminal: self.terminal,
            user,
            nofile: self.nofile.map(|most| (most, most)).or(inherited.nofile),
            oom_score_adj: inherited.oom_score_adj.as_deref(),
            nice: inherited.nice,
            birth,
        });
        if user.is_some() && inherited.undumpable {
            // Whether memory may be dumped is decided anew when the user changes, and the memory was ours, too.
            let _ = set_dumpable(false);
        }
        born
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
            Stage::Placement => io("enter the control group of the command".into()),
            Stage::Session => io("make a session".into()),
            Stage::Terminal => io("make standard input the controlling terminal".into()),
            Stage::Cwd => directory_error(&self.directory, Errno::from_raw(errno)),
            Stage::Stdio => io("connect standard input and output".into()),
            Stage::Limits => self.blame_limit(errno),
            Stage::User => self.blame_user(errno),
            Stage::Exec => self.blame_exec(errno),
        }
    }

    fn blame_limit(&self, errno: i32) -> Error {
        match (self.nofile, errno) {
            (Some(most), libc::EPERM) => Error::Denied {
                doing: format!(
                    "allow {most} descriptors (see /proc/sys/fs/nr_open for the most that there can be)"
                ),
                errno,
            },
            _ => Error::Io {
                doing: "set the limit of descriptors".into(),
                source: std::io::Error::from_raw_os_error(errno),
            },
        }
    }

    fn blame_user(&self, errno: i32) -> Error {
        let asked = self.user.as_ref().map_or("", User::asked);
        match errno {
            libc::EPERM => Error::Denied {
                doing: format!("run as user {asked:?} (the daemon lacks the capability to change its user)"),
                errno,
            },
            libc::EINVAL => Error::Invalid {
                field: "user",
                reason: format!("{asked:?} has no number in the daemon's user namespace"),
            },
            _ => Error::Io {
                doing: format!("run as user {asked:?}"),
                source: std::io::Error::from_raw_os_error(errno),
            },
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

/// What not every command has.
impl Start {
    /// Has standard input, which must be a terminal, be the controlling terminal.
    pub(super) fn on_terminal(mut self) -> Self {
        self.terminal = true;
        self
    }

    /// Has it run as somebody else.
    pub(super) fn becoming(mut self, user: User) -> Self {
        self.user = Some(user);
        self
    }

    /// Limits the descriptors that it may open. Root may have more than the daemon itself, nobody else.
    pub(super) fn with_descriptors(mut self, most: u64) -> Result<Self, Error> {
        let hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard);
        if most > hard && !geteuid().is_root() {
            return Err(Error::Invalid {
                field: "nofile",
                reason: format!("{most} is more than the daemon itself may have, which is {hard}"),
            });
        }
        self.nofile = Some(most);
        Ok(self)
    }

    /// Has it be born in these control groups.
    pub(super) fn placed(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }
}

/// Gives the child's pipes and its terminal to the user that it becomes: programs open what they were given anew, as
/// `/dev/stderr`, which only the owner may.
fn hand_over(given: [BorrowedFd<'_>; 3], user: &Credentials) -> nix::Result<()> {
    for fd in given {
        let kind = fstat(fd)?.st_mode & SFlag::S_IFMT.bits();
        let terminal = kind == SFlag::S_IFCHR.bits() && std::io::IsTerminal::is_terminal(&fd);
        if terminal || kind == SFlag::S_IFIFO.bits() {
            fchown(fd, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
        }
    }
    Ok(())
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
        Command::LoginShell => Ok(vec![shell.to_owned(), "-l".into()]),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::exec::environment::{Base, Surroundings};
    use crate::exec::spec::Environment;

    fn start(cwd: &Path) -> Start {
        let environment =
            Base::new(Vec::new()).build(&Environment::Exact(Vec::new()), "m", Surroundings::Pipes);
        Start::prepare(&Command::Argv(vec!["true".into()]), cwd, environment.unwrap()).unwrap()
    }

    fn fail(start: &Start) -> Error {
        let pipes = Pipes::open(false).unwrap();
        let failure = start.spawn(&pipes.child, &Birth::default(), &Prepared::default());
        start.blame(failure.expect_err("this birth fails"))
    }

    fn failure(stage: Stage, errno: i32) -> StartFailure {
        StartFailure { stage, errno }
    }

    #[test]
    fn each_step_that_not_every_command_has_is_blamed_for_itself() {
        let error = fail(&start(Path::new("/")).on_terminal());
        assert_eq!(error.errno(), Some(libc::ENOTTY));
        assert!(error.to_string().contains("controlling terminal"), "{error}");
        let shut = Placement {
            home: None,
            doors: vec![std::fs::File::open("/dev/null").unwrap().into()],
        };
        let error = fail(&start(Path::new("/")).placed(shut));
        assert_eq!(error.errno(), Some(libc::EBADF));
        assert!(error.to_string().contains("control group"), "{error}");
    }

    #[test]
    fn a_directory_that_the_user_may_not_enter_is_blamed_and_not_the_program() {
        let Ok(user) = User::find("61234:61235") else {
            assert!(!geteuid().is_root(), "root can become anybody");
            return;
        };
        let closed = tempfile::tempdir().unwrap();
        std::fs::set_permissions(closed.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let start = start(closed.path()).becoming(user);
        let error = fail(&start);
        assert_eq!((error.code(), error.errno()), (Code::Denied, Some(libc::EACCES)));
        assert!(
            error.to_string().contains(closed.path().to_str().unwrap()),
            "{error}"
        );
        for (errno, code) in [
            (libc::EPERM, Code::Denied),
            (libc::EINVAL, Code::Invalid),
            (libc::ENOMEM, Code::Io),
        ] {
            let error = start.blame(failure(Stage::User, errno));
            assert_eq!(error.code(), code);
            assert!(error.to_string().contains("61234:61235"), "{error}");
        }
    }

    #[test]
    fn more_descriptors_than_there_can_be_are_refused() {
        let hard = getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
        let few = start(Path::new("/")).with_descriptors(hard);
        assert!(few.is_ok());
        // More than /proc/sys/fs/nr_open may ever say.
        let most = u64::from(u32::MAX);
        let error = match start(Path::new("/")).with_descriptors(most) {
            Err(error) => error,
            Ok(start) => fail(&start),
        };
        let code = if geteuid().is_root() {
            Code::Denied
        } else {
            Code::Invalid
        };
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(&most.to_string()), "{error}");
    }

    #[test]
    fn what_a_user_is_given_is_his_to_open_again() {
        let Ok(user) = User::find("61234:61235") else {
            assert!(!geteuid().is_root(), "root can become anybody");
            return;
        };
        let environment =
            Base::new(Vec::new()).build(&Environment::Exact(Vec::new()), "m", Surroundings::Pipes);
        let line = Command::Shell("echo again > /dev/stderr".into());
        let start = Start::prepare(&line, Path::new("/"), environment.unwrap()).unwrap();
        let pipes = Pipes::open(false).unwrap();
        let born = start
            .becoming(user)
            .spawn(&pipes.child, &Birth::default(), &Prepared::default());
        crate::exec::sys::wait_for_end(born.unwrap().pidfd.as_fd());
        let mut said = [0; 16];
        let read = nix::unistd::read(&pipes.stderr, &mut said).unwrap();
        assert_eq!(&said[..read], b"again\n");
        let null = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/dev/null").unwrap());
        assert_eq!(null, 0, "what is everybody's stays so");
    }
}
