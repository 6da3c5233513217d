//! What git says while it works, line by line: progress apart from the rest. Pure.

/// How far something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, as git calls it: `Receiving objects`.
    pub phase: String,
    /// Of a hundred.
    pub percent: u8,
    /// So many are done.
    pub done: u64,
    /// Of so many.
    pub total: u64,
}

/// Bytes of a line that is not over yet.
const LINE: usize = 64 << 10;
/// Bytes of everything that is no progress.
const REST: usize = 256 << 10;

/// Takes standard error apart.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
    rest: Vec<u8>,
}

impl Lines {
    /// Takes bytes as they come; answers what of them is progress.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Progress> {
        let mut found = Vec::new();
        for piece in bytes.split_inclusive(|byte| matches!(byte, b'\r' | b'\n')) {
            self.begun.extend_from_slice(piece);
            if matches!(piece.last(), Some(b'\r' | b'\n')) || self.begun.len() > LINE {
                found.extend(self.line());
            }
        }
        found
    }

    /// Everything that was no progress.
    pub(super) fn finish(mut self) -> Vec<u8> {
        drop(self.line());
        self.rest
    }

    fn line(&mut self) -> Option<Progress> {
        let line = std::mem::take(&mut self.begun);
        let progress = parse(&String::from_utf8_lossy(&line));
        if progress.is_none() && self.rest.len() < REST {
            self.rest.extend_from_slice(&line);
        }
        progress
    }
}

/// `remote: Counting objects:  45% (450/1000), 1.20 MiB | 2.00 MiB/s`.
fn parse(line: &str) -> Option<Progress> {
    let line = line.trim();
    let line = line.strip_prefix("remote: ").unwrap_or(line);
    let (phase, figures) = line.split_once(": ")?;
    let (percent, rest) = figures.trim_start().split_once("% (")?;
    let (done, rest) = rest.split_once('/')?;
    let (total, _) = rest.split_once(')')?;
    Some(Progress {
        phase: phase.to_owned(),
        percent: percent.parse().ok()?,
        done: done.parse().ok()?,
        total: total.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn progress_is_told_apart() {
        let mut lines = Lines::default();
        let said = b"Cloning into 'x'...\nremote: Counting objects:  45% (450/1000)\rReceiving obj";
        let first = lines.push(said);
        let more = lines.push(b"ects: 100% (3/3), 1.20 MiB | 2.00 MiB/s, done.\nwarning: odd: 5% of it\n");
        let phases: Vec<_> = first
            .iter()
            .chain(&more)
            .map(|one| (one.phase.as_str(), one.percent))
            .collect();
        assert_eq!(phases, [("Counting objects", 45), ("Receiving objects", 100)]);
        assert_eq!((first[0].done, first[0].total), (450, 1000));
        let rest = String::from_utf8(lines.finish()).unwrap();
        assert_eq!(rest, "Cloning into 'x'...\nwarning: odd: 5% of it\n");
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut lines = Lines::default();
            let _ = lines.push(&bytes);
            let _ = lines.finish();
        }
    }
}
