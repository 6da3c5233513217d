//! The ledger: a request with an idempotency key runs at most once per principal, whatever is repeated.
//!
//! ```text
//!            begin                 finish                 memory short          10 minutes
//!   (none) --------> running ---------------> done(result) ----------> evicted ----------> (none)
//!                       \--- not started ---> (none)
//!                       \--- started, and its end not known ---> lost
//!   journal of an earlier daemon: every key begun in the last 10 minutes ---> lost
//! ```
//!
//! The key is written to the journal before the room is asked, so after a crash a repeat is told that its outcome is
//! lost instead of running again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use super::journal::{Journal, Key, Unsynced};
use super::remembered::Remembered;
use crate::error::Error;
use crate::exec::Finished;
use crate::ids::ProcessId;

/// How long an outcome is remembered after it was reached.
const REMEMBER: Duration = Duration::from_secs(600);
/// Bytes of outcomes kept per principal.
const BYTES: usize = 64 * 1024 * 1024;
/// Outcomes kept per principal: many small ones must not fill the memory of an idle daemon.
const OUTCOMES: usize = 16 * 1024;

/// Where the ledger keeps its journal.
#[derive(Debug, Clone, Default)]
pub struct LedgerConfig {
    /// Directory of the journal; `None` (no writable state directory) forgets at a crash.
    pub directory: Option<PathBuf>,
    /// Force each key to the disk, so that it survives power loss too.
    pub fsync: bool,
}

/// Remembers what was begun and what came of it.
#[derive(Debug, Clone)]
pub struct Ledger {
    shared: Arc<Mutex<Shared>>,
    /// Told whenever the work on a key is over.
    settled: Arc<Notify>,
}

#[derive(Debug)]
struct Shared {
    principals: HashMap<Arc<str>, Pages>,
    journal: Option<Journal>,
    /// What an earlier daemon began.
    lost: HashSet<Key>,
    /// When those are forgotten.
    lost_until: Instant,
    /// When the journal was last told what still runs.
    renewed: Instant,
}

/// What one principal began. Keys are kept as 128-bit hashes: there may be many.
#[derive(Debug, Default)]
struct Pages {
    entries: HashMap<Key, Entry>,
    /// Ended entries, oldest first, for forgetting.
    ended: VecDeque<(Instant, Key)>,
    /// Done entries whose result is still kept, oldest first, for eviction.
    kept: VecDeque<Key>,
    kept_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    fingerprint: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Running,
    Done(Remembered),
    Evicted,
    Lost,
}

/// What came of a key.
#[derive(Debug, Clone)]
pub enum Product {
    /// A command ran to its end.
    Ran(Arc<Finished>),
    /// A process was made; it is asked for by its id.
    Made(ProcessId),
}

/// What is known of a key without beginning it.
#[derive(Debug)]
pub enum Outcome {
    /// Never begun here, or forgotten.
    Unknown,
    /// Being worked on.
    Running,
    /// It ran: this came of it.
    Done(Product),
    /// It ran, its outcome had to be dropped.
    Evicted,
    /// It may have run, its outcome was lost with an earlier daemon.
    Lost,
}

/// What [`Ledger::begin`] found.
#[derive(Debug)]
pub(super) enum Begin {
    /// Never seen: run it and tell the guard.
    Fresh(Guard),
    /// It ran: this is its outcome.
    Replay(Product),
}

/// A key that is being worked on.
#[derive(Debug)]
pub(super) struct Guard {
    ledger: Ledger,
    principal: Arc<str>,
    key: Key,
    stage: Stage,
}

/// How far the work on a key has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing runs yet.
    Begun,
    /// The command runs or ran: from here on the key is never free again.
    Started,
    /// Its outcome is stored.
    Finished,
}

impl Ledger {
    /// Opens the journal and takes every key in it as lost.
    pub fn open(config: LedgerConfig) -> Result<Self, Error> {
        let (journal, lost) = match config.directory {
            None => (None, HashSet::new()),
            Some(directory) => {
                let (journal, begun) = Journal::open(&directory, config.fsync, REMEMBER)?;
                (Some(journal), begun)
            }
        };
        let now = Instant::now();
        let shared = Shared {
            principals: HashMap::new(),
            journal,
            lost,
            lost_until: now + REMEMBER,
            renewed: now,
        };
        Ok(Self {
            shared: Arc::new(Mutex::new(shared)),
            settled: Arc::default(),
        })
    }

    /// What is known of `name`.
    pub(super) fn outcome(&self, principal: &str, name: &str) -> Outcome {
        let (key, mut shared) = (hash(principal, name), self.shared.lock());
        if shared.is_lost(&key, Instant::now()) {
            return Outcome::Lost;
        }
        let entry = shared
            .principals
            .get(principal)
            .and_then(|pages| pages.entries.get(&key));
        match entry.map(|entry| &entry.state) {
            None => Outcome::Unknown,
            Some(State::Running) => Outcome::Running,
            Some(State::Done(outcome)) => outcome.product().map_or(Outcome::Evicted, Outcome::Done),
            Some(State::Evicted) => Outcome::Evicted,
            Some(State::Lost) => Outcome::Lost,
        }
    }

    /// Begins `name`, or answers what came of it. Where keys are to survive power loss, it waits for the disk, and holds
    /// up nobody meanwhile. When it is dropped half way the key is free again.
    pub(super) async fn begin(
        &self,
        principal: &Arc<str>,
        name: &str,
        fingerprint: u64,
    ) -> Result<Begin, Error> {
        let (begin, unsynced) = self.note(principal, name, fingerprint)?;
        if let Some(unsynced) = unsynced.filter(Unsynced::is_owed) {
            let synced = tokio::task::spawn_blocking(move || unsynced.sync()).await;
            synced.map_err(|panic| Error::Internal {
                reason: format!("the journal panicked: {panic}"),
            })??;
        }
        Ok(begin)
    }

    fn note(
        &self,
        principal: &Arc<str>,
        name: &str,
        fingerprint: u64,
    ) -> Result<(Begin, Option<Unsynced>), Error> {
        let (key, now) = (hash(principal, name), Instant::now());
        let mut shared = self.shared.lock();
        if shared.is_lost(&key, now) {
            return Err(Error::Lost { key: name.to_owned() });
        }
        let pages = shared.principals.entry(Arc::clone(principal)).or_default();
        pages.forget(now);
        if let Some(entry) = pages.entries.get(&key) {
            return Ok((entry.answer(name, fingerprint)?, None));
        }
        pages.entries.insert(
            key,
            Entry {
                fingerprint,
                state: State::Running,
            },
        );
        let noted = shared.journal.as_mut().map(|journal| journal.begin(key));
        let unsynced = match noted.transpose() {
            Ok(unsynced) => unsynced,
            Err(error) => {
                shared.forget_key(principal, &key);
                return Err(error);
            }
        };
        let guard = Guard {
            ledger: self.clone(),
            principal: Arc::clone(principal),
            key,
            stage: Stage::Begun,
        };
        Ok((Begin::Fresh(guard), unsynced))
    }
}

impl Ledger {
    /// Resolves when the work on some key is over that is being worked on when this is called. Cancel-safe.
    pub(super) fn settled(&self) -> OwnedNotified {
        Arc::clone(&self.settled).notified_owned()
    }

    /// Notes again what still runs, however long ago it was begun: should we crash, a repeat is told that it is lost. The
    /// ledger knows of the commands, `processes` are the keys of the processes that run.
    pub(super) fn renew(&self, processes: &[(Arc<str>, String)], now: Instant) -> Result<(), Error> {
        let shared = &mut *self.shared.lock();
        let Some(journal) = &mut shared.journal else {
            return Ok(());
        };
        // A key is forgotten when its record is as old as that: it is written again well before.
        if now.saturating_duration_since(shared.renewed) < REMEMBER / 3 {
            return Ok(());
        }
        shared.renewed = now;
        let entries = shared.principals.values().flat_map(|pages| &pages.entries);
        let commands = entries.filter(|(_, entry)| matches!(entry.state, State::Running));
        let processes = processes.iter().map(|(principal, name)| hash(principal, name));
        for key in commands.map(|(key, _)| *key).chain(processes) {
            journal.begin(key)?;
        }
        Ok(())
    }

    /// Forgets what is older than it needs to be, also of principals that ask nothing any more.
    pub fn forget_old(&self) {
        let (mut shared, now) = (self.shared.lock(), Instant::now());
        shared.principals.retain(|_, pages| {
            pages.forget(now);
            !pages.entries.is_empty()
        });
    }
}

impl Guard {
    /// The command runs: should its outcome be lost, a repeat is told so instead of running it again.
    pub(super) fn started(&mut self) {
        self.stage = Stage::Started;
    }

    /// Stores the outcome for repeats.
    pub(super) fn finish(mut self, outcome: &Product) {
        self.stage = Stage::Finished;
        // Those who wait are told when this is dropped, at the end.
        let mut shared = self.ledger.shared.lock();
        if let Some(pages) = shared.principals.get_mut(&self.principal) {
            pages.keep(self.key, outcome);
        }
    }
}

impl Drop for Guard {
    /// Without a start the key may be used again; after one its outcome is lost.
    fn drop(&mut self) {
        let mut shared = self.ledger.shared.lock();
        match self.stage {
            Stage::Finished => {}
            Stage::Started => shared.lose(&self.principal, self.key),
            Stage::Begun => {
                shared.forget_key(&self.principal, &self.key);
                if let Some(journal) = &mut shared.journal
                    && let Err(error) = journal.undo(self.key)
                {
                    tracing::warn!(%error, "a key that was not used stays in the journal");
                }
            }
        }
        drop(shared);
        self.ledger.settled.notify_waiters();
    }
}

impl Shared {
    fn is_lost(&mut self, key: &Key, now: Instant) -> bool {
        if now >= self.lost_until && !self.lost.is_empty() {
            self.lost = HashSet::new();
        }
        self.lost.contains(key)
    }

    fn lose(&mut self, principal: &Arc<str>, key: Key) {
        if let Some(pages) = self.principals.get_mut(principal)
            && let Some(entry) = pages.entries.get_mut(&key)
        {
            entry.state = State::Lost;
            pages.ended.push_back((Instant::now(), key));
        }
    }

    fn forget_key(&mut self, principal: &Arc<str>, key: &Key) {
        if let Some(pages) = self.principals.get_mut(principal) {
            pages.entries.remove(key);
        }
    }
}

impl Entry {
    fn answer(&self, key: &str, fingerprint: u64) -> Result<Begin, Error> {
        let key = key.to_owned();
        match &self.state {
            _ if self.fingerprint != fingerprint => Err(Error::Conflict {
                what: format!("request {key:?}"),
                reason: "its id was used for another command before".into(),
            }),
            State::Running => Err(Error::DuplicateInFlight { key }),
            State::Evicted => Err(Error::Evicted { key }),
            State::Lost => Err(Error::Lost { key }),
            State::Done(outcome) => outcome.product().map(Begin::Replay).ok_or(Error::Evicted { key }),
        }
    }
}

impl Pages {
    fn keep(&mut self, key: Key, outcome: &Product) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        let outcome = Remembered::of(outcome);
        self.kept_bytes += outcome.size();
        entry.state = State::Done(outcome);
        self.kept.push_back(key);
        self.ended.push_back((Instant::now(), key));
        while self.kept_bytes > BYTES || self.kept.len() > OUTCOMES {
            let Some(oldest) = self.kept.pop_front() else {
                break;
            };
            self.release(&oldest, State::Evicted);
        }
    }

    fn release(&mut self, key: &Key, state: State) {
        if let Some(entry) = self.entries.get_mut(key)
            && let State::Done(outcome) = std::mem::replace(&mut entry.state, state)
        {
            self.kept_bytes -= outcome.size();
        }
    }

    fn forget(&mut self, now: Instant) {
        while self
            .ended
            .front()
            .is_some_and(|(ended, _)| now.duration_since(*ended) >= REMEMBER)
        {
            let Some((_, key)) = self.ended.pop_front() else {
                break;
            };
            self.release(&key, State::Evicted);
            self.entries.remove(&key);
            if self.kept.front() == Some(&key) {
                self.kept.pop_front();
            }
        }
    }
}

fn hash(principal: &str, name: &str) -> Key {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&(principal.len() as u64).to_le_bytes())
        .update(principal.as_bytes())
        .update(name.as_bytes());
    let mut key = Key::default();
    hasher.finalize_xof().fill(&mut key);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_still_runs_is_told_as_lost_however_long_ago_it_began() {
        let directory = tempfile::tempdir().unwrap();
        let open = || {
            let directory = Some(directory.path().to_owned());
            Ledger::open(LedgerConfig {
                directory,
                fsync: false,
            })
            .unwrap()
        };
        let (ledger, principal) = (open(), Arc::<str>::from("somebody"));
        let (Begin::Fresh(mut guard), _) = ledger.note(&principal, "command", 1).unwrap() else {
            panic!("not begun")
        };
        guard.started();
        // The records of both are as if they had been written long ago.
        for name in ["once", "once.previous"] {
            let _ = std::fs::write(directory.path().join(name), "");
        }
        let running = [(Arc::clone(&principal), "process".to_owned())];
        ledger.renew(&running, Instant::now()).unwrap();
        assert!(
            matches!(open().outcome("somebody", "process"), Outcome::Unknown),
            "not yet"
        );
        ledger.renew(&running, Instant::now() + REMEMBER / 3).unwrap();
        let again = open();
        for name in ["command", "process"] {
            let outcome = again.outcome("somebody", name);
            assert!(matches!(outcome, Outcome::Lost), "{name}: {outcome:?}");
        }
        assert!(matches!(again.outcome("somebody", "other"), Outcome::Unknown));
    }

    /// The disk is as slow as can be: no thread is there to wait for it.
    #[test]
    fn who_waits_for_the_disk_holds_up_nobody() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .enable_time()
            .build()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let open = |fsync| {
            let directory = Some(directory.path().to_owned());
            Ledger::open(LedgerConfig { directory, fsync }).unwrap()
        };
        let (ledger, principal) = (open(true), Arc::<str>::from("somebody"));
        let (release, released) = std::sync::mpsc::channel::<()>();
        let busy = runtime.spawn_blocking(move || released.recv());
        runtime.block_on(async {
            let begin = ledger.begin(&principal, "key", 7);
            tokio::pin!(begin);
            let early = tokio::time::timeout(Duration::from_millis(20), &mut begin).await;
            assert!(
                early.is_err(),
                "it did not wait for the disk, or nobody else went on"
            );
            let again = ledger.begin(&principal, "key", 7).await;
            assert!(matches!(again, Err(Error::DuplicateInFlight { .. })), "{again:?}");
            release.send(()).unwrap();
            let Ok(Begin::Fresh(mut guard)) = begin.await else {
                panic!("not begun")
            };
            guard.started();
            busy.await.unwrap().unwrap();
        });
        let lost = open(false).outcome("somebody", "key");
        assert!(matches!(lost, Outcome::Lost), "{lost:?}");
    }
}
