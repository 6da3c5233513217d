//! Every process that can be asked for by its id: those that run, and those that ended not too long ago. Pure but for its
//! lock; the caller passes `now`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::process::Process;
use crate::error::Error;
use crate::ids::ProcessId;

/// What is kept of processes that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistryLimits {
    /// For so long.
    pub age: Duration,
    /// So many of them.
    pub count: usize,
    /// So many bytes of their output together.
    pub bytes: u64,
}

impl Default for RegistryLimits {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(3600),
            count: 1024,
            bytes: 256 << 20,
        }
    }
}

/// The processes.
#[derive(Debug, Default)]
pub struct Registry {
    limits: RegistryLimits,
    rows: Mutex<BTreeMap<ProcessId, Row>>,
}

#[derive(Debug)]
struct Row {
    process: Arc<Process>,
    /// Who asked for it.
    principal: Arc<str>,
    /// The key under which a repeat gets it.
    key: Option<RowKey>,
    /// When it was first seen to have ended.
    ended: Option<Instant>,
}

/// The key of a request, and what makes another one the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowKey {
    /// As the caller gave it.
    pub name: String,
    /// Of what was asked for.
    pub fingerprint: u64,
}

impl Registry {
    /// An empty one.
    pub fn new(limits: RegistryLimits) -> Self {
        Self {
            limits,
            rows: Mutex::default(),
        }
    }

    /// Takes a process in.
    pub fn insert(&self, principal: Arc<str>, key: Option<RowKey>, process: Arc<Process>, now: Instant) {
        let row = Row {
            process,
            principal,
            key,
            ended: None,
        };
        let mut rows = self.rows.lock();
        rows.insert(row.process.id(), row);
        self.forget(&mut rows, now);
    }

    /// The process of that id.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is none (any more).
    pub fn get(&self, id: ProcessId) -> Result<Arc<Process>, Error> {
        let rows = self.rows.lock();
        let row = rows.get(&id).ok_or_else(|| Error::NotFound {
            what: "process",
            name: id.to_string(),
        })?;
        Ok(Arc::clone(&row.process))
    }

    /// The process that a principal made under this key, however long ago.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when something else was asked for under it.
    pub fn by_key(&self, principal: &str, key: &RowKey) -> Result<Option<Arc<Process>>, Error> {
        let rows = self.rows.lock();
        let same = |row: &&Row| {
            let name = row.key.as_ref().map(|key| &key.name);
            &*row.principal == principal && name == Some(&key.name)
        };
        match rows.values().find(same) {
            None => Ok(None),
            Some(row) if row.key.as_ref() == Some(key) => Ok(Some(Arc::clone(&row.process))),
            Some(_) => Err(Error::Conflict {
                what: format!("request {:?}", key.name),
                reason: "its id was used for another command before".into(),
            }),
        }
    }

    /// The keys of what runs, with who asked: they are to outlive the journal's memory.
    pub fn running_keys(&self) -> Vec<(Arc<str>, String)> {
        let rows = self.rows.lock();
        let running = rows.values().filter(|row| row.process.end().is_none());
        running
            .filter_map(|row| Some((Arc::clone(&row.principal), row.key.as_ref()?.name.clone())))
            .collect()
    }

    /// All of them, oldest first.
    pub fn list(&self) -> Vec<Arc<Process>> {
        let rows = self.rows.lock();
        rows.values().map(|row| Arc::clone(&row.process)).collect()
    }

    /// Moves the output of those that have ended out of memory, where that is worth it. Cancel-safe.
    pub async fn rest(&self) {
        for process in self.list() {
            process.output().rest().await;
        }
    }

    /// How many of a principal's run.
    pub fn running(&self, principal: &str) -> usize {
        let rows = self.rows.lock();
        rows.values()
            .filter(|row| &*row.principal == principal && row.process.end().is_none())
            .count()
    }

    /// Forgets a process that has ended.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is none, [`Error::Conflict`] while it runs.
    pub fn remove(&self, id: ProcessId) -> Result<Arc<Process>, Error> {
        let process = self.get(id)?;
        if process.end().is_none() {
            return Err(Error::Conflict {
                what: id.to_string(),
                reason: "it is running; stop or kill it first".into(),
            });
        }
        self.rows.lock().remove(&id);
        Ok(process)
    }

    /// Forgets what is older, or more, than is to be kept.
    pub fn forget_old(&self, now: Instant) {
        self.forget(&mut self.rows.lock(), now);
    }

    fn forget(&self, rows: &mut BTreeMap<ProcessId, Row>, now: Instant) {
        for row in rows.values_mut().filter(|row| row.process.end().is_some()) {
            row.ended.get_or_insert(now);
        }
        let age = self.limits.age;
        rows.retain(|_, row| {
            row.ended
                .is_none_or(|ended| now.saturating_duration_since(ended) < age)
        });
        let mut ended: Vec<_> = rows
            .iter()
            .filter_map(|(id, row)| Some((row.ended?, *id, row.process.output().retained())))
            .collect();
        ended.sort_unstable();
        let mut bytes: u64 = ended.iter().map(|(.., bytes)| bytes).sum();
        let mut count = ended.len();
        for (_, id, size) in ended {
            if count <= self.limits.count && bytes <= self.limits.bytes {
                return;
            }
            rows.remove(&id);
            count -= 1;
            bytes -= size;
        }
    }
}
