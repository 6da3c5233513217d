//! Waiting for a file to appear, by the kernel's announcement of it.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::PATIENCE;
use super::group::Group;

/// A directory that is watched from before the writer starts, so that nothing is missed.
pub(crate) struct Watch {
    inotify: Inotify,
    directory: PathBuf,
}

impl Watch {
    /// Begins to watch `directory`.
    pub(crate) fn new(directory: &Path) -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
        let flags = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(directory, flags).unwrap();
        Self {
            inotify,
            directory: directory.to_path_buf(),
        }
    }

    /// Waits until `find` is content with the directory. Panics when the writer ends or takes too long.
    #[track_caller]
    pub(crate) fn wait<T>(&self, writer: &mut Group, mut find: impl FnMut(&Path) -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            if let Some(found) = find(&self.directory) {
                return found;
            }
            if let Some(status) = writer.ended() {
                panic!(
                    "{} ended with {status} before it was ready\n{}",
                    writer.name(),
                    writer.log_tail()
                );
            }
            let late = begin.elapsed() > PATIENCE;
            assert!(
                !late,
                "{} was not ready within {PATIENCE:?}
{}",
                writer.name(),
                writer.log_tail()
            );
            // The time limit is for noticing that the writer died, which inotify does not tell.
            let mut events = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
            if poll(&mut events, PollTimeout::from(50_u8)).unwrap() > 0 {
                let _ = self.inotify.read_events();
            }
        }
    }
}
