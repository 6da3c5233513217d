//! The daemon's ends of a command's pipes: input goes in, output comes out into the numbered log.

use std::sync::Arc;

use bytes::Bytes;

use super::feed::Feeder;
use super::output::Output;
use super::read::Reader;
use crate::stream::Channel;

/// Input on its way in, output on its way out.
#[derive(Debug)]
pub(super) struct Pump {
    pub(super) output: Arc<Output>,
    pub(super) stdin: Feeder,
    pub(super) taps: [Tap; 2],
}

/// One pipe and the channel that it is.
#[derive(Debug)]
pub(super) struct Tap {
    pub(super) channel: Channel,
    pub(super) reader: Reader,
}

/// More was written than may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overflow;

impl Pump {
    /// Moves bytes until there are too many, else for ever. Cancel-safe: what was read is in the log, what was written is
    /// off the input.
    pub(super) async fn run(&mut self) -> Overflow {
        let (output, taps) = (&self.output, &mut self.taps);
        let reading = async {
            loop {
                output.settle().await;
                if output.is_over() {
                    return Overflow;
                }
                let room = output.room(usize::MAX).await;
                match next(taps, room).await {
                    Some((channel, bytes)) => output.append(channel, bytes),
                    None => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            overflow = reading => overflow,
            never = self.stdin.feed() => match never {},
        }
    }

    /// After the exit: what is readable at once, then whatever comes before both have ended, too much was written or
    /// `limit` resolves.
    pub(super) async fn drain(&mut self, limit: impl Future<Output = ()>) {
        self.stdin.close();
        self.read_now();
        if self.output.is_over() || self.taps.iter().all(|tap| tap.reader.ended()) {
            return;
        }
        let (output, taps) = (&self.output, &mut self.taps);
        let rest = async {
            while let Some((channel, bytes)) = next(taps, usize::MAX).await {
                output.append(channel, bytes);
                if output.is_over() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = limit => {}
            () = rest => {}
        }
    }

    /// At most what a full pipe holds per channel: a descendant that goes on writing is not waited for here. What is beyond
    /// the limit of the output stays unread.
    pub(super) fn read_now(&mut self) {
        let output = &self.output;
        for Tap { channel, reader } in &mut self.taps {
            if output.is_over() {
                return;
            }
            reader.read_now(|bytes| output.append(*channel, bytes));
        }
    }
}

/// The next bytes of either channel, at most `most` of them; `None` when both have ended. Cancel-safe.
async fn next([first, second]: &mut [Tap; 2], most: usize) -> Option<(Channel, Bytes)> {
    loop {
        let (channel, bytes) = tokio::select! {
            bytes = first.reader.next(most), if !first.reader.ended() => (first.channel, bytes),
            bytes = second.reader.next(most), if !second.reader.ended() => (second.channel, bytes),
            else => return None,
        };
        if let Some(bytes) = bytes {
            return Some((channel, bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::spawn::Pipes;
    use super::*;
    use crate::stream::Keep;

    #[tokio::test]
    async fn what_is_readable_at_the_exit_is_kept_also_when_no_time_is_left_for_more() {
        let pipes = Pipes::open(false).unwrap();
        nix::unistd::write(&pipes.child[1], b"last words").unwrap();
        let held = pipes.child.each_ref().map(|end| end.try_clone().unwrap());
        let tap = |channel, pipe| Tap {
            channel,
            reader: Reader::new(pipe),
        };
        let mut pump = Pump {
            output: Output::in_memory(Keep::first(100)),
            stdin: Feeder::new(pipes.stdin, Bytes::new()),
            taps: [
                tap(Channel::Stdout, pipes.stdout),
                tap(Channel::Stderr, pipes.stderr),
            ],
        };
        pump.drain(std::future::ready(())).await;
        drop(held);
        assert_eq!(pump.output.totals()[Channel::Stdout].total, 10);
    }
}
