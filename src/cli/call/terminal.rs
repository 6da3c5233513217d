//! The terminal that `boxd call attach` runs in: raw while somebody is attached, and as it was before when they leave.
//! What is typed, resized and signalled here is told; what becomes of it is decided in attach.rs.

use std::io::IsTerminal;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncReadExt, Stdin};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::output;
use crate::error::Error;

/// Control-]: leaves the terminal as it is.
const DETACH: u8 = 0x1d;
/// Bytes that are read ahead of what could be sent.
const AHEAD: usize = 64 << 10;
/// Undoes what a program may have left behind: the alternate screen, a scroll region, colours, line drawing, keypad and cursor
/// keys, a hidden cursor, inserting, reports of mouse and focus, bracketed paste. The cursor stays where it is: leaving an
/// alternate screen that was not entered goes to the position saved just before.
const ORDINARY: &[u8] =
    b"\x1b7\x1b[?1049l\x1b7\x1b[r\x1b8\x1b[0m\x1b(B\x0f\x1b[?1l\x1b>\x1b[?25h\x1b[?7h\x1b[4l\
    \x1b[?9l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1004l\x1b[?1006l\x1b[?2004l";

/// The terminal.
pub(super) struct Terminal {
    /// What it was like; `None` when standard input is none.
    before: Option<Termios>,
    stdin: Stdin,
    /// Whether there is more to read.
    is_open: bool,
    sizes: Signal,
    ends: [Signal; 2],
    /// What was typed and is not sent yet.
    pub(super) typed: Vec<u8>,
}

/// What happened in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happened {
    /// There are bytes to send.
    Typed,
    /// It has another size.
    Resized,
    /// The person wants to leave.
    Detached,
    /// We are to end, by the signal of this number.
    Told(i32),
}

impl Terminal {
    /// Makes the terminal raw.
    pub(super) fn open() -> Result<Self, Error> {
        let failed = |source: std::io::Error| Error::Io {
            doing: "prepare the terminal".into(),
            source,
        };
        let heard = |kind| signal(kind).map_err(failed);
        let mut terminal = Self {
            before: None,
            stdin: tokio::io::stdin(),
            is_open: true,
            sizes: heard(SignalKind::window_change())?,
            ends: [heard(SignalKind::terminate())?, heard(SignalKind::hangup())?],
            typed: Vec::new(),
        };
        if std::io::stdin().is_terminal() {
            let before = tcgetattr(std::io::stdin()).map_err(|error| failed(error.into()))?;
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).map_err(|error| failed(error.into()))?;
            terminal.before = Some(before);
        }
        Ok(terminal)
    }

    /// What happens next. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Happened, Error> {
        let mut buffer = vec![0; 16 << 10];
        let [terminate, hangup] = &mut self.ends;
        loop {
            tokio::select! {
                read = self.stdin.read(&mut buffer), if self.is_open && self.typed.len() < AHEAD => {
                    let read = read.map_err(|source| Error::Io {
                        doing: "read standard input".into(),
                        source,
                    })?;
                    let bytes = &buffer[..read];
                    self.is_open = read > 0;
                    let leave = bytes.iter().position(|byte| *byte == DETACH);
                    if let Some(leave) = leave.filter(|_| self.before.is_some()) {
                        self.typed.extend_from_slice(&bytes[..leave]);
                        return Ok(Happened::Detached);
                    }
                    self.typed.extend_from_slice(bytes);
                    if read > 0 {
                        return Ok(Happened::Typed);
                    }
                }
                Some(()) = self.sizes.recv() => return Ok(Happened::Resized),
                Some(()) = terminate.recv() => return Ok(Happened::Told(libc::SIGTERM)),
                Some(()) = hangup.recv() => return Ok(Happened::Told(libc::SIGHUP)),
                else => return std::future::pending().await,
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let Some(before) = &self.before else { return };
        // Nothing can be done about a terminal that is gone.
        if std::io::stdout().is_terminal() {
            let _ = output::answer(ORDINARY);
        }
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, before);
    }
}

/// Columns and rows of the terminal that we are in.
pub(super) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}
