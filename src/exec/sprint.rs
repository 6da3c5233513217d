//! The first milliseconds of a command, on the thread that bore it. Most commands are over by then, and a thread that
//! simply waits for one is told sooner, and costs less, than a task that has to be woken for each of its events.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::pump::Pump;
use super::reap::Child;

/// How long a thread stays. Long enough for what most commands do, short enough for a thread to be lent.
pub(super) const LENGTH: Duration = Duration::from_millis(5);

/// Blocks until the child has ended, or until `until`: then it goes on elsewhere. Nothing is lost in between: what was
/// read is in the log.
pub(super) fn sprint(child: &mut Child, pump: &mut Pump, until: Instant) {
    pump.stdin.write_now();
    // What does not fit into the pipe waits for the program: that takes more than a sprint.
    if !pump.stdin.ended() {
        return;
    }
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // What may not be read now, or is too much for memory, takes more than a sprint.
        if left.is_zero() || pump.output.room_now() == 0 || !something_happened(child, pump, left) {
            return;
        }
        pump.read_now();
        if pump.output.is_over() {
            return;
        }
        // What keeps us from asking keeps whoever accompanies it from it, too, and is reported there.
        if child.has_exited().unwrap_or(true) {
            return;
        }
    }
}

/// Waits for output, an end of file or the end of the child.
fn something_happened(child: &Child, pump: &Pump, limit: Duration) -> bool {
    let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let outputs = pump.taps.each_ref().map(|tap| tap.reader.open());
    let mut watched: Vec<_> = outputs
        .into_iter()
        .flatten()
        .chain([child.as_fd()])
        .map(readable)
        .collect();
    // Rounded down to whole milliseconds; an interrupted wait is looked at like an event.
    let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO);
    !matches!(poll(&mut watched, timeout), Ok(0))
}
