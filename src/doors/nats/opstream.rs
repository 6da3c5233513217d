//! The streamed operations of one link: started, attached to, acknowledged, cancelled and asked for by their id. They
//! belong to the link and not to a connection of it: a lost one detaches them, and they run on.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::generation::Generation;
use super::link::Link;
use super::op::{Op, Running};
use super::op_follow;
use super::publish::publish;
use super::subjects::{FamilyKind, is_token};
use crate::error::Error;
use crate::exec::{self, Output};
use crate::fs::OpenFile;
use crate::lifecycle::Tasks;
use crate::ops::{self, Call, Reply};
use crate::stream::{Ack, Attach, Attached, Channel, Evictions, Keep, Log, Roster, Standing, Totals};
use crate::wire::opstream::{self, FRAME_OVERHEAD, Failure};
use crate::wire::proto::op_start::Op as StartOp;
use crate::wire::proto::{OpAck, OpAttach, OpExit, OpLostReason, OpStart, OpStarted, OpStatus};
use crate::wire::request;

/// Bytes of payload of one frame.
const FRAME_BYTES: usize = 128 << 10;
/// How long an op may be detached while no more of its output can be kept.
const ABANDON: Duration = Duration::from_secs(24 * 3600);
/// How often what is over is let go.
pub(super) const COLLECT: Duration = Duration::from_secs(30);

/// The ops of a link.
#[derive(Default)]
pub(super) struct Ops {
    roster: Mutex<Roster<Arc<Op>>>,
}

/// What a start came with.
pub(super) struct Asked {
    pub(super) call: Call,
    pub(super) family: FamilyKind,
    pub(super) limits: exec::Limits,
    pub(super) start: OpStart,
}

/// What was found under the id of a start.
enum Found {
    /// An op that was begun before.
    Known(Arc<Op>),
    /// Nothing: this one was begun.
    Fresh(Arc<Op>),
    /// The answer.
    Answer(OpStarted),
}

impl Ops {
    /// How many run.
    pub(super) fn live(&self) -> usize {
        self.roster.lock().running()
    }

    /// What had to go so far.
    pub(super) fn evictions(&self) -> Evictions {
        self.roster.lock().evictions()
    }

    /// The state of an op, when it is known here.
    pub(super) fn status(&self, id: &str) -> Option<OpStatus> {
        match self.roster.lock().look_up(id) {
            Standing::Running(op) | Standing::Complete(op) => Some(op.status()),
            Standing::Evicted => Some(opstream::lost(id, OpLostReason::Evicted)),
            Standing::Tombstoned => Some(opstream::tombstoned(id)),
            Standing::Unknown => None,
        }
    }

    fn op(&self, id: &str) -> Option<Arc<Op>> {
        match self.roster.lock().look_up(id) {
            Standing::Running(op) | Standing::Complete(op) => Some(Arc::clone(op)),
            Standing::Evicted | Standing::Tombstoned | Standing::Unknown => None,
        }
    }

    /// Cancels an op; one that was never seen may not begin any more, unless it is known elsewhere.
    pub(super) fn cancel(&self, id: &str, known_elsewhere: bool) {
        match self.op(id) {
            Some(op) => op.cancel(),
            None if known_elsewhere => {}
            None => drop(self.roster.lock().tombstone(id, Instant::now())),
        }
    }

    /// A client tells what it has and what it can take.
    pub(super) fn acknowledge(&self, ack: &OpAck) {
        let Some(op) = self.op(&ack.op_id) else {
            return tracing::debug!(
                op = ack.op_id,
                "an acknowledgement names no operation of this link"
            );
        };
        let has_everything = op.acknowledge(Ack {
            generation: ack.attach_generation,
            acked_seq: ack.acked_seq,
            credit_bytes: ack.credit_bytes,
            is_final: ack.r#final,
        });
        if has_everything {
            self.roster.lock().acked(&ack.op_id);
        }
    }

    /// A client attaches over `generation`; the error says what it can not have any more.
    pub(super) fn attach(&self, generation: &Arc<Generation>, attach: &OpAttach) -> Result<(), Error> {
        let Some(op) = self.op(&attach.op_id) else {
            return Ok(());
        };
        let attached = op.attach(Attach {
            generation: attach.attach_generation,
            from_seq: attach.from_seq,
            window_bytes: attach.window_bytes,
        });
        match attached {
            Attached::Pump(lease) => {
                let tasks = &generation.link.door.tasks;
                drop(tasks.detach("op-publish", publish(Arc::clone(generation), op, lease)));
                Ok(())
            }
            Attached::Unchanged => Ok(()),
            Attached::Lost { first } => Err(Error::Evicted {
                key: format!("{} before frame {first}", attach.op_id),
            }),
        }
    }

    /// Lets go of what is over, and ends what nobody came back for.
    pub(super) fn collect(&self, now: Instant) {
        let (old, ops) = {
            let mut roster = self.roster.lock();
            (
                roster.collect(now),
                roster.ops().map(Arc::clone).collect::<Vec<_>>(),
            )
        };
        drop(old);
        ops.iter().for_each(|op| op.look_after(now, ABANDON));
    }

    /// What is known of the id; what is not known begins here.
    fn find(&self, id: &str, family: FamilyKind) -> Found {
        let mut roster = self.roster.lock();
        let answer = |accepted, status| {
            Found::Answer(OpStarted {
                accepted,
                status: Some(status),
            })
        };
        match roster.look_up(id) {
            Standing::Running(op) | Standing::Complete(op) => Found::Known(Arc::clone(op)),
            Standing::Evicted => answer(true, opstream::lost(id, OpLostReason::Evicted)),
            Standing::Tombstoned => answer(false, opstream::tombstoned(id)),
            Standing::Unknown => {
                let op = Op::new(id.to_owned(), family);
                // It was unknown a moment ago, under the same lock.
                let _ = roster.begin(id, Arc::clone(&op));
                Found::Fresh(op)
            }
        }
    }
}

/// Starts an op, or tells what became of the one that was started under this id.
pub(super) async fn start(generation: &Arc<Generation>, id: &str, asked: Asked) -> Result<OpStarted, Error> {
    if !is_token(id) {
        return Err(Error::Protocol {
            reason: format!(
                "{id:.80?} cannot be the id of an operation: it is to be one token of a NATS subject"
            ),
        });
    }
    let link = &generation.link;
    loop {
        match link.ops.find(id, asked.family) {
            Found::Answer(answer) => return Ok(answer),
            Found::Known(op) => {
                if op.has_started().await {
                    return Ok(accepted(op.status()));
                }
            }
            Found::Fresh(op) => return begin(generation, op, asked).await,
        }
    }
}

fn accepted(status: OpStatus) -> OpStarted {
    OpStarted {
        accepted: true,
        status: Some(status),
    }
}

async fn begin(generation: &Arc<Generation>, op: Arc<Op>, asked: Asked) -> Result<OpStarted, Error> {
    let link = Arc::clone(&generation.link);
    let window_bytes = asked.start.window_bytes;
    let record_limit = FRAME_BYTES.min(generation.max_payload.saturating_sub(FRAME_OVERHEAD));
    let (beginning, starting) = (Arc::clone(&op), Arc::clone(&link));
    // In a task of its own: who asked may go away half way.
    let begun = link.door.tasks.spawn("op-start", async move {
        let outcome = run(&starting, &beginning, asked, record_limit).await;
        if outcome.is_err() {
            starting.ops.roster.lock().withdraw(&beginning.id);
            beginning.give_up();
        }
        outcome
    });
    let begun = begun.await.map_err(|panic| Error::Internal {
        reason: format!("the start of an operation panicked: {panic}"),
    })?;
    match begun {
        Ok(()) => {}
        Err(Error::Lost { .. }) => return Ok(accepted(opstream::lost(&op.id, OpLostReason::AgentRestarted))),
        Err(Error::Evicted { .. }) => return Ok(accepted(opstream::lost(&op.id, OpLostReason::Evicted))),
        Err(error) => return Err(error),
    }
    let first = OpAttach {
        op_id: op.id.clone(),
        from_seq: 0,
        attach_generation: 1,
        window_bytes,
    };
    link.ops.attach(generation, &first)?;
    Ok(accepted(op.status()))
}

async fn run(link: &Arc<Link>, op: &Arc<Op>, asked: Asked, record_limit: usize) -> Result<(), Error> {
    let Asked {
        call, start, limits, ..
    } = asked;
    let left = deadline(start.deadline_ms);
    let spool = link.door.rooms.engine().spool();
    let looking = Arc::clone(spool);
    let capacity = tokio::task::spawn_blocking(move || looking.allowance()).await;
    let capacity = capacity.map_err(|panic| Error::Internal {
        reason: format!("a look at the spool panicked: {panic}"),
    })?;
    let bounds = Bounds {
        capacity,
        record: record_limit,
    };
    if let (None, Some(extension)) = (&start.op, &start.ext) {
        return op_follow::stream(link, op, &call, extension, bounds).await;
    }
    match start.op {
        Some(StartOp::Exec(_)) if left == Some(Duration::ZERO) => {
            stillborn(link, op);
            Ok(())
        }
        Some(StartOp::Exec(exec)) => {
            let create = request::streamed_exec(exec, left, bounds.capacity, bounds.record)?;
            let create = request::limited(create, limits)?;
            run_command(link, op, &call, create, bounds.capacity).await
        }
        Some(StartOp::FsRead(read)) => {
            let read = request::limited(request::fs_read(read), limits)?;
            read_file(link, op, &call, read, bounds).await
        }
        Some(StartOp::FsWrite(_)) => Err(unsupported("fs_write")),
        None => Err(Error::Protocol {
            reason: "the start names no operation that this version knows".into(),
        }),
    }
}

/// What one op may keep.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes of its log.
    pub(super) capacity: u64,
    /// Bytes of one record.
    pub(super) record: usize,
}

/// How much time is left until a moment in unix milliseconds; zero when it has passed, `None` when there is none.
fn deadline(at_ms: i64) -> Option<Duration> {
    let at = u64::try_from(at_ms).ok().filter(|at| *at > 0)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(Duration::from_millis(at).saturating_sub(now))
}

/// A command whose time was over before it was asked for.
fn stillborn(link: &Arc<Link>, op: &Arc<Op>) {
    let output = Output::in_memory(Keep::all());
    let (seq, totals) = output.seal(|seq, totals| (seq, totals));
    op.run(Running {
        output,
        capacity: 0,
        process: None,
    });
    let exit = OpExit {
        exit_code: -1,
        timed_out: true,
        digests: digests(&totals),
        totals: [Channel::Stdout, Channel::Stderr]
            .map(|channel| (channel.as_str().to_owned(), 0))
            .into(),
        ..OpExit::default()
    };
    complete(link, op, seq, exit);
}

fn digests(totals: &Totals) -> std::collections::BTreeMap<String, String> {
    [Channel::Stdout, Channel::Stderr]
        .map(|channel| {
            (
                channel.as_str().to_owned(),
                totals[channel].digest.to_hex().to_string(),
            )
        })
        .into()
}

async fn run_command(
    link: &Arc<Link>,
    op: &Arc<Op>,
    call: &Call,
    create: ops::Op,
    capacity: u64,
) -> Result<(), Error> {
    let Reply::Process(process) = link.door.rooms.perform(call, create).await? else {
        return Err(unexpected());
    };
    op.run(Running {
        output: Arc::clone(process.output()),
        capacity,
        process: Some(Arc::clone(&process)),
    });
    let (link, op) = (Arc::clone(link), Arc::clone(op));
    let tasks = link.door.tasks.clone();
    drop(tasks.detach("op", async move {
        let end = process.ended().await;
        let exit = opstream::exec_exit(&end, op.failure().as_ref());
        complete(&link, &op, end.seq, exit);
    }));
    Ok(())
}

async fn read_file(
    link: &Arc<Link>,
    op: &Arc<Op>,
    call: &Call,
    read: ops::Op,
    bounds: Bounds,
) -> Result<(), Error> {
    let Reply::File(file) = link.door.rooms.perform(call, read).await? else {
        return Err(unexpected());
    };
    serve_content(link, op, bounds, move |output| async move {
        pour(file, &output).await
    });
    Ok(())
}

/// Has `write` write an op's content in a task of its own, to its end or until the op is cancelled.
pub(super) fn serve_content<F, Writing>(link: &Arc<Link>, op: &Arc<Op>, bounds: Bounds, write: F)
where
    F: FnOnce(Arc<Output>) -> Writing,
    Writing: Future<Output = Result<(), Error>> + Send + 'static,
{
    let log = Log::new(Keep::all()).with_record_limit(bounds.record);
    let output = Output::spooled(log, link.door.rooms.engine().spool());
    op.run(Running {
        output: Arc::clone(&output),
        capacity: bounds.capacity,
        process: None,
    });
    let (link, op, writing) = (Arc::clone(link), Arc::clone(op), write(Arc::clone(&output)));
    let tasks: Tasks = link.door.tasks.clone();
    drop(tasks.detach("op", async move {
        let started = Instant::now();
        let cancelled = tokio::select! {
            written = writing => {
                if let Err(error) = written {
                    op.fail(Failure::pipe(error.to_string()));
                }
                false
            }
            () = op.is_cancelled() => true,
            () = link.door.tasks.killing() => true,
        };
        let (seq, totals) = output.seal(|seq, totals| (seq, totals));
        let failure = op.failure();
        let exit = OpExit {
            duration_ms: started.elapsed().as_millis() as u64,
            ..opstream::content_exit(&totals, cancelled && failure.is_none(), failure.as_ref())
        };
        complete(&link, &op, seq, exit);
    }));
}

/// Moves the content of a file into the log as fast as that takes it.
async fn pour(file: OpenFile, output: &Output) -> Result<(), Error> {
    use futures_util::StreamExt;

    let mut chunks = std::pin::pin!(file.into_stream());
    while let Some(chunk) = chunks.next().await {
        output.write(Channel::Content, chunk?).await;
    }
    Ok(())
}

fn complete(link: &Link, op: &Op, seq: u64, exit: OpExit) {
    op.complete(seq, exit);
    drop(link.ops.roster.lock().complete(&op.id, Instant::now()));
}

fn unsupported(name: &str) -> Error {
    Error::Unsupported {
        what: format!("streamed {name}"),
        why: "this version of boxd streams exec and fs_read".into(),
        fix: None,
    }
}

fn unexpected() -> Error {
    Error::Internal {
        reason: "the operation answered something else".into(),
    }
}
