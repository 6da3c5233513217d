//! The daemon's ends of a command's pipes: input goes in, output comes out into the numbered log.

use std::convert::Infallible;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::feed::Feeder;
use super::read::Reader;
use super::spawn::Pipes;
use crate::stream::{Channel, Keep, Log};

/// Input on its way in, output on its way out.
#[derive(Debug)]
pub(super) struct Pump {
    pub(super) log: Log,
    pub(super) stdin: Feeder,
    pub(super) stdout: Reader,
    pub(super) stderr: Reader,
}

impl Pump {
    /// Takes the daemon's ends; those of the child are closed.
    pub(super) fn new(pipes: Pipes, input: Bytes, keep: Keep) -> Self {
        Self {
            log: Log::new(keep),
            stdin: Feeder::new(pipes.stdin, input),
            stdout: Reader::new(pipes.stdout),
            stderr: Reader::new(pipes.stderr),
        }
    }

    /// Moves bytes for ever. Cancel-safe: what was read is in the log, what was written is off the input.
    pub(super) async fn run(&mut self) -> Infallible {
        loop {
            tokio::select! {
                output = next(&mut self.stdout, &mut self.stderr) => match output {
                    Some((channel, bytes)) => self.log.append(channel, bytes, now_ms()),
                    None => return self.stdin.feed().await,
                },
                never = self.stdin.feed() => match never {},
            }
        }
    }

    /// After the exit: what is readable at once, then whatever comes before both have ended or `limit` resolves.
    pub(super) async fn drain(&mut self, limit: impl Future<Output = ()>) {
        self.stdin.close();
        self.read_now();
        if self.ended() {
            return;
        }
        let rest = async {
            while let Some((channel, bytes)) = next(&mut self.stdout, &mut self.stderr).await {
                self.log.append(channel, bytes, now_ms());
            }
        };
        tokio::select! {
            biased;
            () = limit => {}
            () = rest => {}
        }
    }

    /// Whether both channels have ended.
    fn ended(&self) -> bool {
        self.stdout.ended() && self.stderr.ended()
    }

    /// At most what a full pipe holds per channel: a descendant that goes on writing is not waited for here.
    pub(super) fn read_now(&mut self) {
        for (channel, reader) in [
            (Channel::Stdout, &mut self.stdout),
            (Channel::Stderr, &mut self.stderr),
        ] {
            let log = &mut self.log;
            reader.read_now(|bytes| log.append(channel, bytes, now_ms()));
        }
    }
}

/// The next bytes of either channel, `None` when both have ended. Cancel-safe.
async fn next(stdout: &mut Reader, stderr: &mut Reader) -> Option<(Channel, Bytes)> {
    loop {
        let (channel, bytes) = tokio::select! {
            bytes = stdout.next(), if !stdout.ended() => (Channel::Stdout, bytes),
            bytes = stderr.next(), if !stderr.ended() => (Channel::Stderr, bytes),
            else => return None,
        };
        if let Some(bytes) = bytes {
            return Some((channel, bytes));
        }
    }
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_readable_at_the_exit_is_kept_also_when_no_time_is_left_for_more() {
        let pipes = Pipes::open(false).unwrap();
        nix::unistd::write(&pipes.child[1], b"last words").unwrap();
        let held = pipes.child.each_ref().map(|end| end.try_clone().unwrap());
        let mut pump = Pump::new(pipes, Bytes::new(), Keep::first(100));
        pump.drain(std::future::ready(())).await;
        drop(held);
        assert_eq!(pump.log.totals(Channel::Stdout).total, 10);
    }
}
