//! Pseudo-terminals: opened and sized here, with the two ends that a process and its pump need.
//!
//! Not here: the birth with a controlling terminal (`sys`), moving the bytes, and what they look like on a screen, which
//! is the business of [`crate::pty`].

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use parking_lot::Mutex;
use portable_pty::{MasterPty, PtySize, native_pty_system};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{InputModes, OptionalActions, tcgetattr, tcsetattr};

use super::sys;
use crate::error::Error;

/// How large a terminal may be in either direction.
const LARGEST: u16 = 1000;

/// Columns and rows of a terminal, each 1..=1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Size {
    cols: u16,
    rows: u16,
}

impl Size {
    /// What a terminal has when nobody says otherwise.
    pub const DEFAULT: Self = Self { cols: 80, rows: 24 };

    /// Refuses what no terminal has, naming `cols` or `rows`.
    pub fn new(cols: u32, rows: u32) -> Result<Self, Error> {
        Ok(Self {
            cols: within("cols", cols)?,
            rows: within("rows", rows)?,
        })
    }

    /// Columns.
    pub fn cols(self) -> u16 {
        self.cols
    }

    /// Rows.
    pub fn rows(self) -> u16 {
        self.rows
    }
}

fn within(field: &'static str, value: u32) -> Result<u16, Error> {
    u16::try_from(value)
        .ok()
        .filter(|value| (1..=LARGEST).contains(value))
        .ok_or_else(|| Error::Invalid {
            field,
            reason: format!("{value} is not within 1..={LARGEST}"),
        })
}

impl From<Size> for PtySize {
    fn from(size: Size) -> Self {
        Self {
            rows: size.rows,
            cols: size.cols,
            pixel_width: 0,
            pixel_height: 0,
        }
    }
}

/// An open pseudo-terminal, by which it is resized. It keeps the daemon's end open: what reads the child's end sees a
/// hang-up when this and [`Opened::master`] are dropped.
pub(super) struct Terminal {
    // The library's handle may be sent to another thread but not shared between them.
    master: Mutex<Box<dyn MasterPty + Send>>,
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Terminal").finish_non_exhaustive()
    }
}

/// What opening gives.
#[derive(Debug)]
pub(super) struct Opened {
    /// For resizing.
    pub(super) terminal: Terminal,
    /// The daemon's end: output is read from it and input written to it. Non-blocking.
    pub(super) master: OwnedFd,
    /// The child's end, for its standard input, output and error. To be closed here once the child has it, else the end
    /// of the output is never seen.
    pub(super) child: OwnedFd,
}

impl Terminal {
    /// Opens one of this size. Both ends close on exec; erasing a character of several bytes takes all of them
    /// (`IUTF8`).
    pub(super) fn open(size: Size) -> Result<Opened, Error> {
        let pair = native_pty_system()
            .openpty(size.into())
            .map_err(|error| failed(io::Error::other(error.to_string())))?;
        let number = pair
            .master
            .as_raw_fd()
            .ok_or_else(|| failed(io::ErrorKind::Unsupported.into()))?;
        let master = end_of(number).map_err(failed)?;
        let child = match ioctl_tiocgptpeer(
            &master,
            OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
        ) {
            Ok(child) => child,
            // Linux has it since 4.13; before, the name is as good unless somebody mounts another `/dev/pts` meanwhile.
            Err(error) => match pair.master.tty_name() {
                Some(name) => by_name(&name)?,
                None => return Err(failed(error.into())),
            },
        };
        let mut settings = tcgetattr(&child).map_err(|error| failed(error.into()))?;
        settings.input_modes |= InputModes::IUTF8;
        tcsetattr(&child, OptionalActions::Now, &settings).map_err(|error| failed(error.into()))?;
        Ok(Opened {
            terminal: Self {
                master: Mutex::new(pair.master),
            },
            master,
            child,
        })
    }

    /// Changes the size; the kernel tells the foreground process group by `SIGWINCH`.
    pub(super) fn resize(&self, size: Size) -> Result<(), Error> {
        self.master.lock().resize(size.into()).map_err(|error| Error::Io {
            doing: format!(
                "resize a terminal to {} columns and {} rows",
                size.cols, size.rows
            ),
            source: io::Error::other(error.to_string()),
        })
    }
}

/// The daemon's end under a number of our own, which nothing waits for.
fn end_of(number: RawFd) -> io::Result<OwnedFd> {
    let master = sys::duplicate(number)?;
    let flags = rustix::fs::fcntl_getfl(master.as_fd())?;
    rustix::fs::fcntl_setfl(master.as_fd(), flags | rustix::fs::OFlags::NONBLOCK)?;
    Ok(master)
}

fn by_name(name: &Path) -> Result<OwnedFd, Error> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(name);
    opened.map(OwnedFd::from).map_err(|source| Error::Io {
        doing: format!("open {name:?}"),
        source,
    })
}

fn failed(source: io::Error) -> Error {
    Error::Io {
        doing: "open a terminal".into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use rustix::io::{FdFlags, fcntl_getfd, read, write};
    use rustix::termios::tcgetwinsize;

    #[test]
    fn sizes_outside_the_range_are_refused_by_name() {
        for (cols, rows, field) in [
            (0, 24, "cols"),
            (80, 0, "rows"),
            (1001, 24, "cols"),
            (80, 1001, "rows"),
            (65_616, 24, "cols"),
        ] {
            let error = Size::new(cols, rows).unwrap_err();
            assert_eq!(error.code(), Code::Invalid);
            assert!(error.to_string().starts_with(field), "{error}");
        }
        for side in [1, 1000] {
            let size = Size::new(side, side).unwrap();
            assert_eq!((u32::from(size.cols()), u32::from(size.rows())), (side, side));
        }
    }

    #[test]
    fn both_ends_close_on_exec_and_only_the_daemons_does_not_wait() {
        let opened = Terminal::open(Size::DEFAULT).unwrap();
        for end in [&opened.master, &opened.child] {
            assert!(fcntl_getfd(end).unwrap().contains(FdFlags::CLOEXEC));
        }
        let waits = |end: &OwnedFd| {
            !rustix::fs::fcntl_getfl(end)
                .unwrap()
                .contains(rustix::fs::OFlags::NONBLOCK)
        };
        assert!(!waits(&opened.master));
        assert!(waits(&opened.child));
        let settings = tcgetattr(&opened.child).unwrap();
        assert!(settings.input_modes.contains(InputModes::IUTF8));
    }

    #[test]
    fn bytes_pass_and_the_size_is_what_was_asked_for() {
        let opened = Terminal::open(Size::new(132, 43).unwrap()).unwrap();
        let size = tcgetwinsize(&opened.child).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (132, 43));
        opened.terminal.resize(Size::new(1, 1000).unwrap()).unwrap();
        let size = tcgetwinsize(&opened.child).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (1, 1000));

        let mut buffer = [0; 64];
        assert_eq!(
            read(&opened.master, &mut buffer),
            Err(rustix::io::Errno::AGAIN),
            "nothing was written yet"
        );
        write(&opened.child, b"out\n").unwrap();
        let length = read(&opened.master, &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"out\r\n");
        write(&opened.master, b"in\n").unwrap();
        let length = read(&opened.child, &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"in\n");
    }

    #[test]
    fn the_child_sees_the_hang_up_when_the_daemons_end_is_gone() {
        let opened = Terminal::open(Size::DEFAULT).unwrap();
        let Opened {
            terminal,
            master,
            child,
        } = opened;
        drop(master);
        drop(terminal);
        let mut buffer = [0; 8];
        assert_eq!(read(&child, &mut buffer), Ok(0));
    }
}
