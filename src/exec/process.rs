//! A process as everybody else sees it: what it is, what it wrote, how it ended, and the ways to act on it. Doors attach to
//! it and none of them owns it; `run` accompanies it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::fetch;
use super::input::Input;
use super::kill;
use super::leaves::Reach;
use super::members::{Leader, Tree};
use super::output::Output;
use super::spec::{Command, EndRecord, Finished, Owner, Promise};
use super::terminal::{Size, Terminal};
use crate::error::Error;
use crate::ids::ProcessId;
use crate::stream::{Channel, Cursor, Keep, Totals};

/// Bytes kept of what descendants wrote after the end.
const AFTER_EXIT: u64 = 64 << 10;

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The process and everything that it started.
    Tree,
    /// The process alone.
    Leader,
}

/// Whom a signal reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signalled {
    /// Their pids.
    pub pids: Vec<i32>,
    /// Those who would not end.
    pub survivors: Vec<i32>,
    /// Only the process and its group could be reached: `/proc` cannot be read.
    pub unseen: bool,
    /// What a stop can promise.
    pub tree: Promise,
}

impl Signalled {
    fn nobody() -> Self {
        Self {
            pids: Vec::new(),
            survivors: Vec::new(),
            unseen: false,
            tree: Promise::BestEffort,
        }
    }
}

/// One process of the engine.
#[derive(Debug)]
pub struct Process {
    id: ProcessId,
    about: About,
    has_terminal: bool,
    held: Mutex<Held>,
    /// By what everybody of it is reached, where it has a control group.
    reach: Option<Reach>,
    /// What a stop of it can promise.
    promise: Promise,
    input: Input,
    output: Arc<Output>,
    after_exit: OnceLock<Arc<Output>>,
    control: Control,
    end: OnceLock<Arc<EndRecord>>,
}

/// What has descriptors, which are given up with the end: the record of it is kept for long.
#[derive(Debug)]
struct Held {
    tree: Tree,
    terminal: Option<Terminal>,
}

/// What it is.
#[derive(Debug, Clone)]
pub struct About {
    /// What was to be run.
    pub command: Command,
    /// Where.
    pub cwd: PathBuf,
    /// Whether its input stays open.
    pub interactive: bool,
    /// Who it belongs to.
    pub owner: Owner,
    /// What its caller knows it by.
    pub labels: BTreeMap<String, String>,
    /// When it was started.
    pub created_at: SystemTime,
    /// The pid of its leader, which may be somebody else's after the end.
    pub pid: i32,
}

/// What was asked of whoever accompanies it.
#[derive(Debug, Default)]
struct Control {
    cancel: CancellationToken,
    /// The last signal that was sent to the leader.
    sent: Mutex<Option<i32>>,
}

/// What a process is put together from.
pub(super) struct Parts {
    pub(super) id: ProcessId,
    pub(super) about: About,
    pub(super) tree: Tree,
    pub(super) reach: Option<Reach>,
    pub(super) promise: Promise,
    pub(super) input: Input,
    pub(super) terminal: Option<Terminal>,
    pub(super) output: Arc<Output>,
}

impl Process {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            id,
            about,
            tree,
            reach,
            promise,
            input,
            terminal,
            output,
        } = parts;
        Arc::new(Self {
            id,
            about,
            has_terminal: terminal.is_some(),
            held: Mutex::new(Held { tree, terminal }),
            reach,
            promise,
            input,
            output,
            after_exit: OnceLock::new(),
            control: Control::default(),
            end: OnceLock::new(),
        })
    }

    /// Its id in this daemon.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// What it is.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// What it writes; sealed at its end.
    pub fn output(&self) -> &Arc<Output> {
        &self.output
    }

    /// What its descendants wrote after its end: the newest of it, and all of it counted.
    pub fn after_exit(&self) -> &Arc<Output> {
        self.after_exit
            .get_or_init(|| Output::in_memory(Keep::newest(AFTER_EXIT)))
    }

    /// How many bytes its descendants wrote after its end.
    pub fn after_exit_bytes(&self) -> u64 {
        let after_exit = self.after_exit.get();
        after_exit.map_or(0, |output| output.written())
    }

    /// Whether it has a terminal.
    pub fn has_terminal(&self) -> bool {
        self.has_terminal
    }

    /// How it ended, when it has.
    pub fn end(&self) -> Option<&Arc<EndRecord>> {
        self.end.get()
    }

    /// Resolves with how it ended. Cancel-safe.
    pub async fn ended(&self) -> Arc<EndRecord> {
        let mut cursor = Cursor::after(u64::MAX - 1);
        loop {
            if let Some(end) = self.end.get() {
                return Arc::clone(end);
            }
            // Nothing stands behind that cursor: it resolves at the seal, which comes after the end was set.
            if let Err(error) = self.output.next(&mut cursor, 0).await {
                tracing::debug!(%error, "the end of a process is awaited");
            }
        }
    }

    /// Writes to its standard input or terminal, all of it, and answers how many bytes that were. To be awaited to its
    /// end.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when it has ended, its input is closed, or it does not read; it says how much went.
    pub async fn write(&self, bytes: Bytes) -> Result<u64, Error> {
        self.expect_running()?;
        self.input.write(bytes).await
    }

    /// Ends its standard input; a terminal gets control-D.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when it has ended.
    pub async fn close_stdin(&self) -> Result<(), Error> {
        self.expect_running()?;
        self.input.close().await
    }

    /// Changes the size of its terminal.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when it has ended or has no terminal, [`Error::Io`] as the kernel says.
    pub fn resize(&self, size: Size) -> Result<(), Error> {
        self.expect_running()?;
        let held = self.held.lock();
        let terminal = held.terminal.as_ref().ok_or_else(|| Error::Conflict {
            what: self.id.to_string(),
            reason: if self.has_terminal {
                "it has exited"
            } else {
                "it has no terminal"
            }
            .into(),
        })?;
        terminal.resize(size)
    }

    fn expect_running(&self) -> Result<(), Error> {
        match self.end() {
            None => Ok(()),
            Some(_) => Err(Error::Conflict {
                what: self.id.to_string(),
                reason: "it has exited".into(),
            }),
        }
    }

    /// Sends a signal, also to what is left of the tree after the end.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when the leader alone is meant and has ended.
    pub async fn signal(&self, signal: i32, scope: Scope) -> Result<Signalled, Error> {
        if scope == Scope::Leader {
            self.expect_running()?;
        }
        *self.control.sent.lock() = Some(signal);
        if scope == Scope::Leader {
            let leader = self.tree().leader.filter(Leader::is_alive);
            if let Some(leader) = &leader {
                leader.signal(signal);
            }
            return Ok(Signalled {
                pids: leader.iter().map(|leader| leader.pid).collect(),
                ..Signalled::nobody()
            });
        }
        if signal == libc::SIGKILL {
            return self.kill().await;
        }
        let tree = self.tree();
        let leader = tree
            .leader
            .as_ref()
            .filter(|leader| leader.is_alive())
            .map(|leader| leader.pid);
        let signalling = tokio::task::spawn_blocking(move || kill::signal_tree(&tree, signal));
        let others = signalling.await.map_err(|panic| panicked(&panic))?;
        Ok(Signalled {
            pids: leader.into_iter().chain(others).collect(),
            tree: self.promise(),
            ..Signalled::nobody()
        })
    }

    /// Kills the whole tree, until nobody of it is left.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] only.
    pub async fn kill(&self) -> Result<Signalled, Error> {
        *self.control.sent.lock() = Some(libc::SIGKILL);
        let (tree, reach) = (self.tree(), self.reach.clone());
        let killing = tokio::task::spawn_blocking(move || {
            // Who is in the group is named before it is killed.
            let members = reach.as_ref().map(Reach::members).unwrap_or_default();
            let survivors = reach.map(|reach| reach.kill()).unwrap_or_default();
            (kill::kill_tree(&tree), members, survivors)
        });
        let (killed, members, survivors) = killing.await.map_err(|panic| panicked(&panic))?;
        let mut pids = killed.pids;
        pids.extend(
            members
                .into_iter()
                .filter(|pid| !pids.contains(pid))
                .collect::<Vec<_>>(),
        );
        Ok(Signalled {
            pids,
            survivors: killed.survivors.into_iter().chain(survivors).collect(),
            unseen: killed.unseen && self.reach.is_none(),
            tree: self.promise(),
        })
    }

    /// Ends it as cancelled: the whole tree is killed.
    pub fn cancel(&self) {
        self.control.cancel.cancel();
    }

    /// Waits for its end, at most `limit`; says whether it came.
    pub async fn ended_within(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.ended()).await.is_ok()
    }

    /// What was kept of its output for an answer; `None` before the end.
    pub fn finished(&self, keep: Keep) -> Option<Finished> {
        let end = self.end.get()?;
        Some(Finished {
            id: self.id,
            stdout: self.output.kept(Channel::Stdout, keep),
            stderr: self.output.kept(Channel::Stderr, keep),
            end: Arc::clone(end),
        })
    }

    /// What a stop of it can promise.
    pub fn promise(&self) -> Promise {
        self.promise
    }

    /// The same with what is in the spool.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] before the end, [`Error::Io`] when the spool cannot be read.
    pub(super) async fn gathered(&self, keep: Keep) -> Result<Finished, Error> {
        let end = self.end.get().ok_or_else(|| Error::Internal {
            reason: "a command that ended has no end".into(),
        })?;
        let total = |channel| end.output[channel].total;
        Ok(Finished {
            id: self.id,
            stdout: fetch::gathered(&self.output, Channel::Stdout, keep, total(Channel::Stdout)).await?,
            stderr: fetch::gathered(&self.output, Channel::Stderr, keep, total(Channel::Stderr)).await?,
            end: Arc::clone(end),
        })
    }

    pub(super) fn tree(&self) -> Tree {
        self.held.lock().tree.clone()
    }

    /// Resolves when it is to be ended as cancelled. Cancel-safe.
    pub(super) async fn cancelled(&self) {
        self.control.cancel.cancelled().await;
    }

    pub(super) fn sent_signal(&self) -> Option<i32> {
        *self.control.sent.lock()
    }

    /// Gives up what has descriptors. The one of the leader stays while somebody is left of its group, who may be killed.
    fn let_go(&self) {
        let mut held = self.held.lock();
        held.terminal = None;
        held.tree.leader.take_if(|leader| !leader.leads_anybody());
    }

    /// Keeps how it ended; everybody who waits learns it by the seal of the output. What it makes of the seal is the end
    /// record.
    pub(super) fn seal(&self, end: impl FnOnce(u64, Totals) -> EndRecord) -> Arc<EndRecord> {
        self.input.end();
        self.let_go();
        self.output
            .seal(|seq, totals| Arc::clone(self.end.get_or_init(|| Arc::new(end(seq, totals)))))
    }
}

fn panicked(panic: &tokio::task::JoinError) -> Error {
    Error::Internal {
        reason: format!("a signal panicked: {panic}"),
    }
}
