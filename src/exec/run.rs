//! One process from its birth to its end record: feeds its input, reads its output into the log, keeps its time
//! limit, and knows when it is over.
//!
//! ```text
//!   running --leader exits--> draining --end of file, or the linger is over--> sealed
//!      |                                                                          |
//!      +-- time limit or daemon's kill: the tree is killed, then as above         +-- pipes still held: drain on
//! ```

use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes};
use futures_util::future::Either;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::Instant as Deadline;

use super::drain;
use super::kill::{self, Leader, Tree};
use super::proc;
use super::read::{Progress, Reader};
use super::reap::Reaped;
use super::spec::{EndRecord, Finished, Oom};
use crate::error::Error;
use crate::ids::ProcessId;
use crate::lifecycle::Tasks;
use crate::stream::{Channel, Log};

/// A child that runs.
pub(super) struct Running {
    pub(super) id: ProcessId,
    pub(super) tree: Tree,
    pub(super) exited: oneshot::Receiver<Reaped>,
    pub(super) timeout: Option<Duration>,
    pub(super) linger: Duration,
    pub(super) kill_grace: Duration,
    pub(super) started: Instant,
}

/// The daemon's ends of its pipes, and what goes through them.
pub(super) struct Pump {
    pub(super) log: Log,
    pub(super) stdout: Reader,
    pub(super) stderr: Reader,
    pub(super) stdin: Option<pipe::Sender>,
    pub(super) input: Bytes,
}

/// Why the daemon itself ended the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    ByItself,
    TimedOut,
    Cancelled,
}

impl Running {
    /// Runs to the end. Not to be dropped half way: the child would lose its reader.
    pub(super) async fn finish(mut self, mut pump: Pump, tasks: &Tasks) -> Result<Finished, Error> {
        let (reaped, ended) = self.until_exit(&mut pump, tasks).await?;
        pump.drain(self.linger).await;
        let lingering = self.hand_over_pipes(&mut pump, tasks).await;
        let end = self.end_record(&mut pump.log, &reaped, ended, lingering);
        Ok(Finished {
            id: self.id,
            stdout: pump.log.kept(Channel::Stdout),
            stderr: pump.log.kept(Channel::Stderr),
            end,
        })
    }

    /// Pumps until the leader has been reaped; its time limit and the daemon's kill are kept meanwhile.
    async fn until_exit(&mut self, pump: &mut Pump, tasks: &Tasks) -> Result<(Reaped, Ended), Error> {
        let lost = |_| Error::Internal {
            reason: "a child was reaped by somebody else".into(),
        };
        let limit = self
            .timeout
            .map(|timeout| Deadline::from_std(self.started + timeout));
        let ended = tokio::select! {
            biased;
            reaped = &mut self.exited => return reaped.map(|reaped| (reaped, Ended::ByItself)).map_err(lost),
            () = sleep_until(limit) => Ended::TimedOut,
            () = tasks.killing() => Ended::Cancelled,
            never = pump.pump() => match never {},
        };
        let killing = match ended {
            Ended::Cancelled => Either::Left(leave_in_time(self.tree.leader.clone(), self.kill_grace)),
            Ended::ByItself | Ended::TimedOut => Either::Right(kill_tree(self.tree.clone(), tasks)),
        };
        let dying = async { tokio::join!(&mut self.exited, killing).0.map_err(lost) };
        let reaped = tokio::select! {
            reaped = dying => reaped?,
            never = pump.pump() => match never {},
        };
        Ok((reaped, ended))
    }

    /// Pipes that descendants still hold are read to their end elsewhere; answers who holds them.
    async fn hand_over_pipes(&self, pump: &mut Pump, tasks: &Tasks) -> Vec<u32> {
        let open: Vec<_> = [&mut pump.stdout, &mut pump.stderr]
            .into_iter()
            .filter_map(Reader::take)
            .collect();
        if open.is_empty() {
            return Vec::new();
        }
        let inodes: Vec<u64> = open.iter().filter_map(inode).collect();
        for pipe in open {
            let stop = tasks.clone();
            tasks.detach("drain after exit", async move {
                tokio::select! {
                    () = drain::to_the_end(pipe) => {}
                    () = stop.killing() => {}
                }
            });
        }
        tokio::task::spawn_blocking(move || proc::holders(&inodes))
            .await
            .unwrap_or_default()
    }

    fn end_record(&self, log: &mut Log, reaped: &Reaped, ended: Ended, lingering: Vec<u32>) -> EndRecord {
        EndRecord {
            seq: log.next_seq(),
            exit: reaped.ended.exit,
            timed_out: ended == Ended::TimedOut,
            cancelled: ended == Ended::Cancelled,
            oom: Oom::Unknown,
            peak_rss: reaped.ended.peak_rss,
            user_cpu: reaped.ended.user_cpu,
            system_cpu: reaped.ended.system_cpu,
            wall: reaped.at.saturating_duration_since(self.started),
            stdout: log.totals(Channel::Stdout),
            stderr: log.totals(Channel::Stderr),
            lingering,
        }
    }
}

/// The daemon stops: it sweeps all trees in one go, so here only the leader's group is asked and then killed, which
/// needs no look at `/proc`.
async fn leave_in_time(leader: Option<Leader>, grace: Duration) {
    let Some(leader) = leader else { return };
    leader.signal_group(libc::SIGTERM);
    let deadline = Deadline::now() + grace;
    let mut pause = Duration::from_millis(1);
    while leader.is_alive() && Deadline::now() < deadline {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    leader.signal_group(libc::SIGKILL);
}

/// Kills a tree whose time is over, all of it before anybody is told.
async fn kill_tree(tree: Tree, tasks: &Tasks) {
    let killing = async move { tokio::task::spawn_blocking(move || kill::kill_tree(&tree)).await };
    let killed = tasks
        .spawn("kill tree", killing)
        .await
        .ok()
        .and_then(Result::ok)
        .unwrap_or_default();
    if killed.unseen || !killed.survivors.is_empty() {
        tracing::warn!(?killed, "a tree whose time was over may not be gone");
    }
}

impl Pump {
    /// Moves bytes for ever. Cancel-safe: what was read is in the log, what was written is off the input.
    async fn pump(&mut self) -> std::convert::Infallible {
        loop {
            tokio::select! {
                bytes = self.stdout.next() => self.log.append(Channel::Stdout, bytes, now_ms()),
                bytes = self.stderr.next() => self.log.append(Channel::Stderr, bytes, now_ms()),
                () = feed(&mut self.stdin, &mut self.input) => {}
            }
        }
    }

    /// After the exit: what is readable at once, then up to `linger` for the end of file.
    async fn drain(&mut self, linger: Duration) {
        self.stdin = None;
        if self.drain_readable() == Progress::Ended {
            return;
        }
        let deadline = Deadline::now() + linger;
        while !(self.stdout.ended() && self.stderr.ended()) {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(deadline) => return,
                bytes = self.stdout.next() => self.log.append(Channel::Stdout, bytes, now_ms()),
                bytes = self.stderr.next() => self.log.append(Channel::Stderr, bytes, now_ms()),
            }
        }
    }

    /// At most what a full pipe holds: a descendant that goes on writing is not waited for here.
    fn drain_readable(&mut self) -> Progress {
        for (channel, reader) in [
            (Channel::Stdout, &mut self.stdout),
            (Channel::Stderr, &mut self.stderr),
        ] {
            let log = &mut self.log;
            reader.read_now(|bytes| log.append(channel, bytes, now_ms()));
        }
        if self.stdout.ended() && self.stderr.ended() {
            Progress::Ended
        } else {
            Progress::Waiting
        }
    }
}

/// Writes input until it is used up or nobody reads it, then closes it and never resolves again.
async fn feed(stdin: &mut Option<pipe::Sender>, input: &mut Bytes) {
    let Some(pipe) = stdin else {
        return std::future::pending().await;
    };
    while !input.is_empty() {
        if pipe.writable().await.is_err() {
            break;
        }
        match pipe.try_write(input) {
            Ok(written) => input.advance(written),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // The child closed its input: what is left of ours has no reader.
            Err(_) => break,
        }
    }
    *stdin = None;
}

/// The inode of a pipe, by which its holders are found in `/proc`.
fn inode(end: &pipe::Receiver) -> Option<u64> {
    nix::sys::stat::fstat(end.as_fd()).ok().map(|stat| stat.st_ino)
}

async fn sleep_until(deadline: Option<Deadline>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}
