//! What a program writes, as it comes: a test waits for words and not for time.

use std::io::Read;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// The output of a program.
pub(crate) struct Heard {
    chunks: Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

impl Heard {
    /// Listens from now on.
    pub(crate) fn from(mut source: impl Read + Send + 'static) -> Self {
        let (sender, chunks) = channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            // A terminal whose program is gone fails to be read, which is its end.
            while let Ok(read @ 1..) = source.read(&mut buffer) {
                if sender.send(buffer[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            chunks,
            seen: Vec::new(),
        }
    }

    /// Waits for `words`, and answers what came up to them and with them.
    #[track_caller]
    pub(crate) fn until(&mut self, words: &str) -> Vec<u8> {
        let begin = Instant::now();
        loop {
            let found = end_of(&self.seen, words.as_bytes());
            if let Some(end) = found {
                return self.seen.drain(..end).collect();
            }
            let left = PATIENCE.saturating_sub(begin.elapsed());
            match self.chunks.recv_timeout(left) {
                Ok(chunk) => self.seen.extend(chunk),
                Err(why) => panic!(
                    "{words:?} was not heard ({why}), only {:?}",
                    String::from_utf8_lossy(&self.seen)
                ),
            }
        }
    }

    /// Whether `words` come within `limit`; what came up to them is taken when they do.
    pub(crate) fn hears(&mut self, words: &str, limit: Duration) -> bool {
        let begin = Instant::now();
        loop {
            if let Some(end) = end_of(&self.seen, words.as_bytes()) {
                self.seen.drain(..end);
                return true;
            }
            match self.chunks.recv_timeout(limit.saturating_sub(begin.elapsed())) {
                Ok(chunk) => self.seen.extend(chunk),
                Err(_) => return false,
            }
        }
    }

    /// The next line, without its end, if it comes within `limit`.
    pub(crate) fn line(&mut self, limit: Duration) -> Option<String> {
        let begin = Instant::now();
        loop {
            if let Some(end) = end_of(&self.seen, b"\n") {
                let line: Vec<u8> = self.seen.drain(..end).collect();
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            let left = limit.saturating_sub(begin.elapsed());
            self.seen.extend(self.chunks.recv_timeout(left).ok()?);
        }
    }

    /// What came since and was not waited for.
    pub(crate) fn rest_so_far(&mut self) -> Vec<u8> {
        self.seen.extend(self.chunks.try_iter().flatten());
        std::mem::take(&mut self.seen)
    }

    /// Everything that is still to come, to the end.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        loop {
            match self.chunks.recv_timeout(3 * PATIENCE) {
                Ok(chunk) => self.seen.extend(chunk),
                Err(RecvTimeoutError::Disconnected) => return std::mem::take(&mut self.seen),
                Err(RecvTimeoutError::Timeout) => panic!("the output does not end"),
            }
        }
    }
}

/// Where `words` end in `text`.
fn end_of(text: &[u8], words: &[u8]) -> Option<usize> {
    let at = text.windows(words.len()).position(|window| window == words)?;
    Some(at + words.len())
}
