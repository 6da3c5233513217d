//! A terminal with a program in it, as a person sits before it.

use std::io::Write;
use std::time::Duration;

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, SlavePty, native_pty_system};

use super::{Heard, PATIENCE, eventually};

/// The terminal; its program is killed when this is dropped.
pub(crate) struct Pty {
    child: Box<dyn Child + Send + Sync>,
    keyboard: Box<dyn Write + Send>,
    /// What it shows.
    pub(crate) screen: Heard,
    master: Box<dyn MasterPty + Send>,
    /// Kept so that the terminal outlives its program.
    _slave: Box<dyn SlavePty + Send>,
    before: String,
}

impl Pty {
    /// Runs `command` in a terminal of this size.
    #[track_caller]
    pub(crate) fn run(command: CommandBuilder, cols: u16, rows: u16) -> Self {
        let pair = native_pty_system().openpty(size(cols, rows)).unwrap();
        let before = modes(&*pair.master);
        let child = pair.slave.spawn_command(command).unwrap();
        Self {
            child,
            keyboard: pair.master.take_writer().unwrap(),
            screen: Heard::from(pair.master.try_clone_reader().unwrap()),
            master: pair.master,
            _slave: pair.slave,
            before,
        }
    }

    /// Types.
    #[track_caller]
    pub(crate) fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
        self.keyboard.flush().unwrap();
    }

    /// Pulls at the corner of the window.
    #[track_caller]
    pub(crate) fn resize(&self, cols: u16, rows: u16) {
        self.master.resize(size(cols, rows)).unwrap();
    }

    /// The program's process id.
    pub(crate) fn pid(&self) -> i32 {
        self.child.process_id().unwrap().cast_signed()
    }

    /// Waits until the terminal is raw.
    #[track_caller]
    pub(crate) fn until_raw(&self) {
        eventually("a raw terminal", PATIENCE, || {
            (modes(&*self.master) != self.before).then_some(())
        });
    }

    /// Waits for the end of the program: its exit code. The terminal must be as it was before.
    #[track_caller]
    pub(crate) fn ends(&mut self, limit: Duration) -> u32 {
        let status = eventually("the end of the program", limit, || self.child.try_wait().unwrap());
        assert_eq!(
            modes(&*self.master),
            self.before,
            "the modes of the terminal are not restored"
        );
        status.exit_code()
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(cols: u16, rows: u16) -> PtySize {
    PtySize {
        rows,
        cols,
        ..PtySize::default()
    }
}

fn modes(master: &(dyn MasterPty + Send)) -> String {
    format!("{:?}", master.get_termios().unwrap())
}
