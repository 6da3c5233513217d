//! One process from its birth to its end record: feeds its input, reads its output into the log, keeps its time
//! limit, and knows when it is over.
//!
//! ```text
//!   running --leader exits--> draining --end of file, or the linger is over--> sealed
//!      |                                                                          |
//!      +-- time limit or daemon's kill: the tree is killed, then as above         +-- pipes still held: drain on
//! ```

use std::time::{Duration, Instant};

use futures_util::future::Either;
use tokio::time::Instant as Deadline;

use super::drain;
use super::kill;
use super::members::{Leader, Tree};
use super::proc;
use super::pump::Pump;
use super::read::Reader;
use super::reap::{Child, Reaped};
use super::spec::{EndRecord, Finished, Oom};
use crate::error::Error;
use crate::ids::ProcessId;
use crate::lifecycle::Tasks;
use crate::stream::{Channel, Log};

/// A child that runs.
pub(super) struct Running {
    pub(super) id: ProcessId,
    pub(super) tree: Tree,
    pub(super) child: Child,
    pub(super) timeout: Option<Duration>,
    pub(super) linger: Duration,
    pub(super) kill_grace: Duration,
    pub(super) started: Instant,
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
        let outcome = self.until_exit(&mut pump, tasks).await;
        let (reaped, ended) = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                // Nobody would see its end.
                kill_tree(self.tree.clone(), tasks).await;
                return Err(error);
            }
        };
        pump.drain(self.patience()).await;
        let Pump {
            mut log,
            stdout,
            stderr,
            ..
        } = pump;
        let lingering = hand_over([stdout, stderr], tasks).await;
        let end = self.end_record(&mut log, &reaped, ended, lingering);
        Ok(Finished {
            id: self.id,
            stdout: log.kept(Channel::Stdout),
            stderr: log.kept(Channel::Stderr),
            end,
        })
    }

    /// Pumps until the leader has been waited for; its time limit and the daemon's kill are kept meanwhile.
    async fn until_exit(&mut self, pump: &mut Pump, tasks: &Tasks) -> Result<(Reaped, Ended), Error> {
        let limit = self
            .timeout
            .map(|timeout| Deadline::from_std(self.started + timeout));
        let ended = tokio::select! {
            biased;
            reaped = self.child.exited() => return reaped.map(|reaped| (reaped, Ended::ByItself)),
            () = sleep_until(limit) => Ended::TimedOut,
            () = tasks.killing() => Ended::Cancelled,
            never = pump.run() => match never {},
        };
        let killing = match ended {
            Ended::Cancelled => Either::Left(leave_in_time(self.tree.leader.clone(), self.kill_grace)),
            Ended::ByItself | Ended::TimedOut => Either::Right(kill_tree(self.tree.clone(), tasks)),
        };
        let dying = async { tokio::join!(self.child.exited(), killing).0 };
        let reaped = tokio::select! {
            reaped = dying => reaped?,
            never = pump.run() => match never {},
        };
        Ok((reaped, ended))
    }

    /// How long the end of output is awaited after the exit. Newborns are no descendants.
    async fn patience(&self) {
        tokio::time::sleep(self.linger).await;
        self.child.reaper().newborns_let_go().await;
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

/// Pipes that descendants still hold are read to their end elsewhere; answers who holds them.
async fn hand_over(pipes: [Reader; 2], tasks: &Tasks) -> Vec<u32> {
    let open: Vec<_> = pipes.into_iter().filter(|pipe| !pipe.ended()).collect();
    if open.is_empty() {
        return Vec::new();
    }
    let inodes: Vec<u64> = open.iter().filter_map(Reader::inode).collect();
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

async fn sleep_until(deadline: Option<Deadline>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
