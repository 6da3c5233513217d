//! Standard error for log lines: a reader that stopped reading must not stop the daemon.
//!
//! A pipe that polls as writable takes at least `PIPE_BUF` bytes without blocking, so lines are written in pieces of
//! that size. While it does not, lines are dropped and counted, and the count is the next line that gets through.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;
use tracing_subscriber::fmt::MakeWriter;

use super::journal;

/// Bytes that a writable pipe takes at once.
const PIECE: usize = 4096;

/// How long a reader may take before lines are dropped; once they are, nothing is waited for.
const PATIENCE: Duration = Duration::from_millis(50);

/// Makes the writers of log lines; they share the count of dropped lines.
#[derive(Debug, Clone)]
pub(super) struct Lines<T> {
    target: Arc<Mutex<Target<T>>>,
}

#[derive(Debug)]
struct Target<T> {
    stream: T,
    json: bool,
    journal: bool,
    dropped: u64,
    /// Whether the line that reading stopped at is there in part.
    cut: bool,
}

impl<T: Write + AsFd> Lines<T> {
    pub(super) fn to(stream: T, json: bool, journal: bool) -> Self {
        Self {
            target: Arc::new(Mutex::new(Target {
                stream,
                json,
                journal,
                dropped: 0,
                cut: false,
            })),
        }
    }
}

impl<'a, T: Write + AsFd + 'a> MakeWriter<'a> for Lines<T> {
    type Writer = Line<T>;

    fn make_writer(&'a self) -> Line<T> {
        Line {
            target: Arc::clone(&self.target),
        }
    }
}

/// Writes one line, which arrives in one piece.
#[derive(Debug)]
pub(super) struct Line<T> {
    target: Arc<Mutex<Target<T>>>,
}

impl<T: Write + AsFd> Write for Line<T> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.target.lock().line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<T: Write + AsFd> Target<T> {
    fn line(&mut self, line: &[u8]) {
        if self.dropped > 0 {
            let note = self.note();
            if !self.fits(Duration::ZERO) || self.stream.write_all(note.as_bytes()).is_err() {
                self.dropped += 1;
                return;
            }
            (self.dropped, self.cut) = (0, false);
        }
        for (index, piece) in line.chunks(PIECE).enumerate() {
            if !self.fits(PATIENCE) || self.stream.write_all(piece).is_err() {
                self.dropped += 1;
                self.cut = index > 0;
                return;
            }
        }
    }

    /// What the reader missed. The line that was cut when reading stopped is ended first.
    fn note(&self) -> String {
        let (dropped, message) = (self.dropped, "log lines were dropped, nobody read them");
        let end = if self.cut { "\n" } else { "" };
        let prefix = if self.journal {
            journal::prefix(tracing::Level::WARN)
        } else {
            ""
        };
        if self.json {
            format!("{end}{prefix}{{\"level\":\"WARN\",\"message\":\"{message}\",\"lines\":{dropped}}}\n")
        } else {
            format!("{end}{prefix}WARN {message} lines={dropped}\n")
        }
    }

    /// Whether a piece can be written without blocking for longer than `patience`.
    fn fits(&self, patience: Duration) -> bool {
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
        let mut streams = [PollFd::new(self.stream.as_fd(), PollFlags::POLLOUT)];
        matches!(poll(&mut streams, timeout), Ok(1..))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_reader_that_stopped_reading_delays_nothing_and_learns_what_it_missed() {
        let (mut reader, writer) = io::pipe().unwrap();
        let lines = Lines::to(writer, true, false);
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        let started = Instant::now();
        for _ in 0..10_000 {
            lines.make_writer().write_all(&line).unwrap();
        }
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "{:?}",
            started.elapsed()
        );
        let mut taken = vec![0; 32 * 1024];
        reader.read_exact(&mut taken).unwrap();
        lines.make_writer().write_all(b"at last\n").unwrap();
        drop(lines);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let kept = (taken.split(|byte| *byte == b'x').skip(1).count() + rest.matches('x').count()) / 1023;
        let dropped = 10_000 - kept as u64;
        assert!(
            rest.contains(&format!("\"lines\":{dropped}}}\nat last\n")),
            "{dropped}: {}",
            &rest[rest.len() - 200..]
        );
    }
}
