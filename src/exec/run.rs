//! One process from its birth to its end record: feeds its input, reads its output into the log, keeps its time
//! limit, and knows when it is over.
//!
//! ```text
//!   running --leader exits--> draining --end of file, or the linger is over--> sealed
//!      |                                                                          |
//!      +-- time limit or daemon's kill: the tree is killed, then as above         +-- pipes still held: drain on
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::Either;
use tokio::time::Instant as Deadline;

use super::confine::Confinement;
use super::crowds::Counted;
use super::drain;
use super::limits::{Hit, Mechanism};
use super::members::Leader;
use super::proc;
use super::process::Process;
use super::pump::{Overflow, Pump, Tap};
use super::read::Reader;
use super::reap::{Child, Reaped};
use super::spec::{EndRecord, OnExit, Oom};
use crate::error::Error;
use crate::lifecycle::Tasks;
use crate::stream::Totals;

/// A child that runs.
pub(super) struct Running {
    pub(super) process: Arc<Process>,
    pub(super) child: Child,
    /// Knows whether it was killed for its size.
    pub(super) counted: Counted,
    /// Its limits, where it has any that need something.
    pub(super) confinement: Option<Confinement>,
    /// What keeps its other limits.
    pub(super) kept_otherwise: Option<Mechanism>,
    pub(super) timeout: Option<Duration>,
    pub(super) on_exit: OnExit,
    pub(super) linger: Duration,
    pub(super) kill_grace: Duration,
    pub(super) started: Instant,
}

/// Why the daemon itself ended the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    ByItself,
    ByLimit(Hit),
    Cancelled,
    /// The daemon stops.
    Stopped,
}

impl Running {
    /// Runs to the end, which is kept in the process. Not to be dropped half way: the child would lose its reader.
    pub(super) async fn finish(mut self, mut pump: Pump, tasks: &Tasks) -> Result<Arc<EndRecord>, Error> {
        let outcome = self.until_exit(&mut pump, tasks).await;
        let (reaped, mut ended) = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                // Nobody would see its end.
                kill_tree(&self.process, tasks).await;
                return Err(error);
            }
        };
        if ended == Ended::ByItself && self.ran_out_of_memory() {
            // The kernel may have chosen the leader alone, before its news of that were heard.
            kill_tree(&self.process, tasks).await;
        }
        pump.drain(self.patience()).await;
        if ended == Ended::ByItself && pump.output.is_over() {
            ended = Ended::from(Overflow);
            kill_tree(&self.process, tasks).await;
        }
        if self.on_exit == OnExit::KillTree && ended == Ended::ByItself {
            kill_tree(&self.process, tasks).await;
            pump.read_now();
        }
        let lingering = self.hand_over(pump.taps, tasks).await;
        let end = |seq, totals| self.end_record(seq, totals, &reaped, ended, lingering);
        Ok(self.process.seal(end))
    }

    /// Pumps until the leader has been waited for; limits, cancels and the daemon's kill are kept meanwhile.
    async fn until_exit(&mut self, pump: &mut Pump, tasks: &Tasks) -> Result<(Reaped, Ended), Error> {
        let limit = self
            .timeout
            .map(|timeout| Deadline::from_std(self.started + timeout));
        let ended = tokio::select! {
            biased;
            reaped = self.child.exited() => return reaped.map(|reaped| (reaped, Ended::ByItself)),
            () = sleep_until(limit) => Ended::ByLimit(Hit::Wall),
            () = tasks.killing() => Ended::Stopped,
            () = self.process.cancelled() => Ended::Cancelled,
            hit = breached(&mut self.confinement) => Ended::ByLimit(hit),
            overflow = pump.run() => Ended::from(overflow),
        };
        let killing = match ended {
            Ended::Stopped => Either::Left(leave_in_time(self.process.tree().leader, self.kill_grace)),
            Ended::ByItself | Ended::ByLimit(_) | Ended::Cancelled => {
                Either::Right(kill_tree(&self.process, tasks))
            }
        };
        let dying = async { tokio::join!(self.child.exited(), killing).0 };
        let pumping = async {
            // What it writes beyond its limit while it dies is not read.
            let Overflow = pump.run().await;
            std::future::pending::<std::convert::Infallible>().await
        };
        let reaped = tokio::select! {
            reaped = dying => reaped?,
            never = pumping => match never {},
        };
        Ok((reaped, ended))
    }

    /// How long the end of output is awaited after the exit. Newborns are no descendants.
    async fn patience(&self) {
        tokio::time::sleep(self.linger).await;
        self.child.reaper().newborns_let_go().await;
    }

    /// Pipes that descendants still hold are read to their end elsewhere; answers who holds them.
    async fn hand_over(&self, taps: [Tap; 2], tasks: &Tasks) -> Vec<u32> {
        let open: Vec<_> = taps.into_iter().filter(|tap| !tap.reader.ended()).collect();
        if open.is_empty() {
            return Vec::new();
        }
        let readers = open.iter().map(|tap| &tap.reader);
        let inodes: Vec<u64> = readers.filter_map(Reader::inode).collect();
        for tap in open {
            let (stop, after_exit) = (tasks.clone(), Arc::clone(self.process.after_exit()));
            tasks.detach("drain after exit", async move {
                tokio::select! {
                    () = drain::to_the_end(tap, after_exit) => {}
                    () = stop.killing() => {}
                }
            });
        }
        tokio::task::spawn_blocking(move || proc::holders(&inodes))
            .await
            .unwrap_or_default()
    }

    /// Whether the kernel killed some of it for the limit of its memory: then nobody of it is to live on.
    fn ran_out_of_memory(&self) -> bool {
        let confinement = self.confinement.as_ref();
        confinement.is_some_and(|confinement| confinement.verdict().1 == Some(Hit::Memory))
    }

    fn end_record(
        &self,
        seq: u64,
        output: Totals,
        reaped: &Reaped,
        ended: Ended,
        lingering: Vec<u32>,
    ) -> EndRecord {
        let confinement = self.confinement.as_ref();
        let (oom, met) = confinement.map_or((Oom::Unknown, None), Confinement::verdict);
        let limit = match ended {
            Ended::ByLimit(limit) => Some(limit),
            Ended::ByItself if self.counted.was_killed() => Some(Hit::Pids),
            Ended::ByItself | Ended::Cancelled | Ended::Stopped => met,
        };
        let peak = confinement.and_then(Confinement::peak_memory);
        EndRecord {
            seq,
            exit: reaped.ended.exit,
            timed_out: limit == Some(Hit::Wall),
            cancelled: matches!(ended, Ended::Cancelled | Ended::Stopped),
            sent_signal: self.process.sent_signal(),
            limit,
            mechanism: confinement
                .and_then(Confinement::mechanism)
                .or(self.kept_otherwise),
            tree: self.process.promise(),
            oom,
            peak_rss: peak.or(reaped.ended.peak_rss),
            user_cpu: reaped.ended.user_cpu,
            system_cpu: reaped.ended.system_cpu,
            wall: reaped.at.saturating_duration_since(self.started),
            output,
            lingering,
        }
    }
}

impl From<Overflow> for Ended {
    fn from(_: Overflow) -> Self {
        Self::ByLimit(Hit::Output)
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
async fn kill_tree(process: &Arc<Process>, tasks: &Tasks) {
    let process = Arc::clone(process);
    let killed = tasks
        .spawn("kill tree", async move { process.kill().await })
        .await;
    match killed {
        Ok(Ok(killed)) if killed.survivors.is_empty() && !killed.unseen => {}
        killed => tracing::warn!(?killed, "a tree whose time was over may not be gone"),
    }
}

/// Resolves when the tree is to be killed for a limit; never without one. Cancel-safe.
async fn breached(confinement: &mut Option<Confinement>) -> Hit {
    match confinement {
        Some(confinement) => confinement.breached().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Deadline>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
