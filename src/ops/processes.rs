//! The operations on processes: run, create, ask, signal, forget.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::once::Begin;
use super::{Call, Create, Door, Launch, Op, ProcessConfig, ProcessConfigPatch, Product, Reply, Rooms, Run};
use crate::error::Error;
use crate::exec::{self, Process, RowKey, Scope, Signalled};
use crate::ids::ProcessId;
use crate::pty::{Promise, Scoped};
use crate::stream::Tail;

/// Processes that one principal may have running at once.
const RUNNING: usize = 4096;

impl Rooms {
    pub(super) async fn dispatch_process(&self, call: &Call, op: Op) -> Result<Reply, Error> {
        match op {
            Op::ProcessRun(run) => self.run(call, *run).await,
            Op::ProcessBatch(batch) => Ok(Reply::Batch(self.batch(call, batch).await)),
            Op::ProcessCreate(create) => self.create(call, *create).await.map(Reply::Process),
            Op::ProcessList { owner } => Ok(Reply::Processes(self.list(owner))),
            Op::ProcessGet { id } => self.processes.get(id).map(Reply::Process),
            Op::ProcessWait { id, limit } => self.wait(id, limit).await,
            Op::ProcessInput { id, bytes, holder } => self.input(id, bytes, &holder).await,
            Op::ProcessCloseStdin { id } => {
                let process = self.processes.get(id)?;
                process.close_stdin().await?;
                Ok(Reply::Process(process))
            }
            Op::ProcessSignal { id, signal, scope } => {
                let process = self.processes.get(id)?;
                let signalled = process.signal(signal, scope).await?;
                Ok(Reply::Signalled { process, signalled })
            }
            Op::ProcessStop { id, wait, kill_after } => self.stop(id, wait, kill_after).await,
            Op::ProcessKill { id, wait } => {
                let process = self.processes.get(id)?;
                let signalled = process.kill().await?;
                process.ended_within(wait).await;
                Ok(Reply::Signalled { process, signalled })
            }
            Op::ProcessResize { id, size } => {
                let process = self.processes.get(id)?;
                self.terminals.resize(&process, size).await?;
                Ok(Reply::Resized(size))
            }
            Op::ProcessSnapshot { id, request } => {
                let process = self.processes.get(id)?;
                let shown = self.terminals.snapshot(&process, request).await?;
                Ok(Reply::Shown(Box::new(shown)))
            }
            Op::ProcessDelete { id } => {
                let process = self.processes.remove(id)?;
                self.terminals.forget(id);
                Ok(Reply::Process(process))
            }
            Op::ProcessLogs(logs) => self.logs(*logs).await.map(Reply::Logs),
            Op::ProcessConfigGet => Ok(Reply::ProcessConfig(self.process_config())),
            Op::ProcessConfigSet(patch) => self.set_process_config(&patch).map(Reply::ProcessConfig),
            other => Err(Error::Internal {
                reason: format!("{} is no operation on processes", other.name()),
            }),
        }
    }

    /// Runs in a task of its own: a command outlives the connection that asked for it, and so does its entry in the
    /// ledger.
    pub(super) async fn run(&self, call: &Call, run: Run) -> Result<Reply, Error> {
        consented(call)?;
        let guard = match self.begin(call, run.fingerprint()).await? {
            Some(Begin::Replay(Product::Ran(outcome))) => return Ok(Reply::Ran(outcome)),
            Some(Begin::Replay(Product::Made(id))) => return Err(used(call, id)),
            Some(Begin::Fresh(guard)) => Some(guard),
            None => None,
        };
        let slot = self.slot(call)?;
        let only_looks = run.launch.without_filters;
        let mut spec = self.spec(run.launch, run.keep)?;
        if only_looks {
            let variables = self.git.without_filters(&spec.cwd).await?;
            spec.environment.extend(variables);
        }
        spec.stdin = exec::Stdin::Bytes(run.stdin);
        spec.retention = retention(run.keep, run.log_bytes);
        let has_log = run.log_bytes.is_some();
        let (engine, keep) = (Arc::clone(&self.engine), run.keep);
        let (processes, principal) = (Arc::clone(&self.processes), Arc::clone(&call.principal.id));
        let work = self.tasks.spawn("process.run", async move {
            let mut guard = guard;
            let started = engine.spawn(spec).await?;
            if let Some(guard) = &mut guard {
                guard.started();
            }
            let process = Arc::clone(started.process());
            let outcome = Arc::new(started.finish(keep).await?);
            let is_cut = outcome.stdout.omitted > 0 || outcome.stderr.omitted > 0;
            if has_log && (is_cut || !outcome.end.lingering.is_empty()) {
                // The answer does not hold everything, or not everybody has ended: the rest is read and stopped by the id.
                processes.insert(principal, None, process, Instant::now());
            }
            if let Some(guard) = guard {
                guard.finish(&Product::Ran(Arc::clone(&outcome)));
            }
            drop(slot);
            Ok(Reply::Ran(outcome))
        });
        work.await.map_err(|panic| panicked(&panic))?
    }

    /// Starts a process, or answers the live terminal of its scope.
    async fn create(&self, call: &Call, create: Create) -> Result<Arc<Process>, Error> {
        let Some(scope) = &create.scope else {
            return self.create_new(call, create, None).await;
        };
        // Scopes of different callers are different ones.
        let scope = format!("{}\0{scope}", call.principal.id);
        loop {
            match self.terminals.reserve(&scope).await {
                Scoped::New(promise) => return self.create_new(call, create, Some(promise)).await,
                Scoped::Live(id) => match self.processes.get(id) {
                    Ok(process) if process.end().is_none() => return Ok(process),
                    // It ended a moment ago.
                    _ => self.terminals.closed(id),
                },
            }
        }
    }

    /// Starts a process, or answers the one that was made under the same key.
    async fn create_new(
        &self,
        call: &Call,
        create: Create,
        promise: Option<Promise>,
    ) -> Result<Arc<Process>, Error> {
        consented(call)?;
        let fingerprint = create.fingerprint();
        let key = call
            .idempotency_key
            .clone()
            .map(|name| RowKey { name, fingerprint });
        let guard = loop {
            if let Some(key) = &key
                && let Some(process) = self.processes.by_key(&call.principal.id, key)?
            {
                return Ok(process);
            }
            let settled = self.ledger.settled();
            match self.begin(call, fingerprint).await {
                Ok(Some(Begin::Replay(Product::Made(id)))) => {
                    return self.processes.get(id).map_err(|_| Error::Evicted {
                        key: call.idempotency_key.clone().unwrap_or_default(),
                    });
                }
                Ok(Some(Begin::Replay(Product::Ran(outcome)))) => return Err(used(call, outcome.id)),
                Ok(Some(Begin::Fresh(guard))) => break Some(guard),
                Ok(None) => break None,
                // Somebody makes it at this moment: it is the same process, or the next one may try.
                Err(Error::DuplicateInFlight { .. }) => settled.await,
                Err(error) => return Err(error),
            }
        };
        let slot = self.slot(call)?;
        self.quota(call)?;
        let screen = create.tty.map(|size| self.terminals.screen(size)).transpose()?;
        let mut spec = self.spec(create.launch, exec::Keep::first(0))?;
        spec.stdin = create.stdin;
        spec.tty = create.tty;
        spec.retention = create.retention;
        spec.record_limit = create.record_limit;
        spec.owner = create.owner;
        spec.labels = create.labels;
        let retention = match create.retention {
            exec::Retention::DropOldest(bytes) => bytes,
            exec::Retention::Answer(_)
            | exec::Retention::Ends(_)
            | exec::Retention::Block(_)
            | exec::Retention::Fail(_) => u64::MAX,
        };
        let (engine, processes) = (Arc::clone(&self.engine), Arc::clone(&self.processes));
        let (terminals, tasks) = (Arc::clone(&self.terminals), self.tasks.clone());
        let principal = Arc::clone(&call.principal.id);
        // In a task of its own, so that who goes away half way does not leave a process that nobody knows.
        let work = self.tasks.spawn("process.create", async move {
            let process = engine.start_process(spec).await?;
            if let Some(screen) = screen {
                terminals.adopt(&process, screen, retention);
            }
            if let Some(slot) = slot {
                let running = Arc::clone(&process);
                drop(tasks.detach("process slot", async move {
                    running.ended().await;
                    drop(slot);
                }));
            }
            processes.insert(principal, key, Arc::clone(&process), Instant::now());
            if let Some(promise) = promise {
                promise.keep(process.id());
            }
            if let Some(mut guard) = guard {
                guard.started();
                guard.finish(&Product::Made(process.id()));
            }
            Ok(process)
        });
        work.await.map_err(|panic| panicked(&panic))?
    }

    async fn begin(&self, call: &Call, fingerprint: u64) -> Result<Option<Begin>, Error> {
        let Some(key) = &call.idempotency_key else {
            return Ok(None);
        };
        let begun = self.ledger.begin(&call.principal.id, key, fingerprint);
        begun.await.map(Some)
    }

    fn spec(&self, launch: Launch, keep: exec::Keep) -> Result<exec::ProcessSpec, Error> {
        Ok(exec::ProcessSpec {
            environment: launch.environment,
            timeout: launch.timeout,
            on_exit: launch.on_exit,
            limits: launch.limits,
            user: launch.user,
            ..exec::ProcessSpec::new(launch.command, self.workspace.resolve(&launch.cwd)?, keep)
        })
    }

    /// A place among what is made over HTTP, which alone is counted; given back when dropped.
    fn slot(&self, call: &Call) -> Result<Option<Slot>, Error> {
        if call.principal.door != Door::Http {
            return Ok(None);
        }
        let limit = self.process_config().max_concurrent_processes;
        let taken = Slot(Arc::clone(&self.http_processes));
        let running = self.http_processes.fetch_add(1, Ordering::Relaxed);
        if running < limit {
            return Ok(Some(taken));
        }
        Err(Error::Conflict {
            what: "process limit".into(),
            reason: format!("{running} processes run, maxConcurrentProcesses is {limit}"),
        })
    }

    fn quota(&self, call: &Call) -> Result<(), Error> {
        let running = self.processes.running(&call.principal.id);
        if running < RUNNING {
            return Ok(());
        }
        Err(Error::Overloaded {
            what: "processes of one caller",
            reason: format!("{running} run, {RUNNING} may"),
        })
    }

    fn list(&self, owner: Option<exec::Owner>) -> Vec<Arc<Process>> {
        let mut processes = self.processes.list();
        processes.retain(|process| owner.is_none_or(|owner| process.about().owner == owner));
        processes
    }

    async fn wait(&self, id: ProcessId, limit: Option<Duration>) -> Result<Reply, Error> {
        let process = self.processes.get(id)?;
        match limit {
            None => drop(process.ended().await),
            Some(limit) => drop(process.ended_within(limit).await),
        }
        Ok(Reply::Process(process))
    }

    /// In a task of its own: input is written whole, also when who sent it goes away.
    async fn input(&self, id: ProcessId, bytes: Bytes, holder: &str) -> Result<Reply, Error> {
        let process = self.processes.get(id)?;
        self.terminals.check_input(id, holder)?;
        let mut writing = Box::pin(async move { process.write(bytes).await });
        // What is typed is taken at once; for what has to wait, a task of its own, so that who goes away does not cut it.
        let written = match futures_util::poll!(&mut writing) {
            Poll::Ready(written) => written,
            Poll::Pending => {
                let writing = self.tasks.detach("input", writing);
                writing.await.map_err(|panic| panicked(&panic))?
            }
        };
        written.map(Reply::Input)
    }

    async fn stop(
        &self,
        id: ProcessId,
        wait: Duration,
        kill_after: Option<Duration>,
    ) -> Result<Reply, Error> {
        let process = self.processes.get(id)?;
        let mut signalled = process.signal(libc::SIGTERM, Scope::Tree).await?;
        let Some(kill_after) = kill_after else {
            process.ended_within(wait).await;
            return Ok(Reply::Signalled { process, signalled });
        };
        let stopped = Arc::clone(&process);
        let escalation = self.tasks.detach("stop", async move {
            stopped.ended_within(kill_after).await;
            stopped.kill().await
        });
        // With a shorter wait it goes on without us.
        if let Ok(killed) = tokio::time::timeout(wait, escalation).await {
            merge(&mut signalled, killed.map_err(|panic| panicked(&panic))??);
        }
        Ok(Reply::Signalled { process, signalled })
    }

    fn set_process_config(&self, patch: &ProcessConfigPatch) -> Result<ProcessConfig, Error> {
        let mut config = self.process_config.write();
        let changed = config.patched(patch)?;
        *config = changed;
        Ok(changed)
    }
}

/// What is kept of a run: what is answered, and where there is a log, more of what comes last.
fn retention(answer: exec::Keep, log_bytes: Option<u64>) -> exec::Retention {
    match (log_bytes, answer.tail) {
        (Some(log), Tail::EachChannel(tail)) if log > tail => exec::Retention::Ends(exec::Keep {
            head: answer.head,
            tail: Tail::EachChannel(log),
        }),
        _ => exec::Retention::Answer(answer),
    }
}

fn merge(signalled: &mut Signalled, killed: Signalled) {
    let more = killed.pids.into_iter();
    let new: Vec<_> = more.filter(|pid| !signalled.pids.contains(pid)).collect();
    signalled.pids.extend(new);
    signalled.survivors = killed.survivors;
    signalled.unseen |= killed.unseen;
}

fn consented(call: &Call) -> Result<(), Error> {
    if call.principal.whole_machine {
        return Ok(());
    }
    Err(Error::ConsentRequired {
        what: "running commands on the whole machine",
    })
}

fn used(call: &Call, id: ProcessId) -> Error {
    Error::Conflict {
        what: format!(
            "request {:?}",
            call.idempotency_key.as_deref().unwrap_or_default()
        ),
        reason: format!("its id was used for another operation before, which made {id}"),
    }
}

fn panicked(panic: &tokio::task::JoinError) -> Error {
    Error::Internal {
        reason: format!("work on a process panicked: {panic}"),
    }
}

/// See [`Rooms::slot`].
#[derive(Debug)]
struct Slot(Arc<AtomicU64>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
