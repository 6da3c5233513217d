//! The streamed operations of one link: started, attached to, acknowledged, cancelled and asked for by their id. They
//! belong to the link and not to a connection of it: a lost one detaches them, and they run on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::generation::Generation;
use super::op::Op;
use super::publish::publish;
use super::source;
use super::subjects::{FamilyKind, is_token};
use super::upload;
use crate::error::Error;
use crate::exec;
use crate::ops::Call;
use crate::stream::{Ack, Attach, Attached, Evictions, RECORD_LIMIT, Roster, Standing, frame_limit};
use crate::wire::opstream::{self, FRAME_OVERHEAD};
use crate::wire::proto::{
    OpAck, OpAttach, OpExit, OpLostReason, OpStart, OpStarted, OpStatus, WriteChunk, WriteChunkAck,
};

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

    /// Whether an op runs or ran under this id.
    pub(super) fn knows(&self, id: &str) -> bool {
        self.op(id).is_some()
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

    /// A piece of a file that is uploaded; answered once it is in the unfinished file.
    pub(super) async fn take_chunk(&self, chunk: WriteChunk) -> Result<WriteChunkAck, Error> {
        let Some(op) = self.op(&chunk.op_id) else {
            return Err(Error::NotFound {
                what: "operation",
                name: chunk.op_id,
            });
        };
        // A start and its first pieces may come side by side.
        op.has_started().await;
        let pieces = op.running().and_then(|running| running.upload.as_ref());
        let failed = op.exit().is_some_and(|exit| exit.message.exit_code != 0);
        let refused = |reason: &str| Error::Conflict {
            what: format!("operation {:?}", op.id),
            reason: reason.into(),
        };
        match pieces {
            None => Err(refused("it takes no file")),
            Some(_) if failed => Err(refused("it has ended, and its file was not written")),
            Some(pieces) => upload::take(pieces, chunk).await,
        }
    }

    /// An op has ended.
    pub(super) fn complete(&self, op: &Op, seq: u64, exit: OpExit) {
        op.complete(seq, exit);
        drop(self.roster.lock().complete(&op.id, Instant::now()));
    }

    /// Lets go of what is over, and ends what nobody came back for although its output is full since `abandon`.
    pub(super) fn collect(&self, now: Instant, abandon: Duration) {
        let (old, ops) = {
            let mut roster = self.roster.lock();
            (
                roster.collect(now),
                roster.ops().map(Arc::clone).collect::<Vec<_>>(),
            )
        };
        drop(old);
        for op in ops {
            op.look_after(now, abandon);
        }
    }

    /// Resolves when every client that is attached was sent how its op ended.
    pub(super) async fn have_told(&self) {
        let ops: Vec<_> = self.roster.lock().ops().map(Arc::clone).collect();
        for op in ops {
            op.has_told().await;
        }
    }

    /// What is known of the id; what is not known begins here.
    fn find(&self, id: &str, family: FamilyKind, frame_bytes: usize) -> Found {
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
                let op = Op::new(id.to_owned(), family, frame_bytes);
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
    let fits = generation.max_payload.saturating_sub(FRAME_OVERHEAD);
    let most = link.door.config.op.frame_bytes.min(fits).min(RECORD_LIMIT);
    let frame_bytes = frame_limit(most, asked.start.window_bytes);
    loop {
        match link.ops.find(id, asked.family, frame_bytes) {
            Found::Answer(answer) => return Ok(answer),
            Found::Known(op) => {
                if op.has_started().await {
                    return Ok(accepted(op.status()));
                }
            }
            Found::Fresh(op) => return begin(generation, op, asked, frame_bytes).await,
        }
    }
}

fn accepted(status: OpStatus) -> OpStarted {
    OpStarted {
        accepted: true,
        status: Some(status),
    }
}

async fn begin(
    generation: &Arc<Generation>,
    op: Arc<Op>,
    asked: Asked,
    frame_bytes: usize,
) -> Result<OpStarted, Error> {
    let link = Arc::clone(&generation.link);
    let window_bytes = asked.start.window_bytes;
    let (beginning, starting) = (Arc::clone(&op), Arc::clone(&link));
    // In a task of its own: who asked may go away half way.
    let begun = link.door.tasks.spawn("op-start", async move {
        let outcome = source::run(&starting, &beginning, asked, frame_bytes).await;
        if outcome.is_err() {
            starting.ops.roster.lock().withdraw(&beginning.id);
            beginning.give_up();
        }
        outcome
    });
    let begun = begun.await.unwrap_or_else(|panic| {
        link.ops.roster.lock().withdraw(&op.id);
        op.give_up();
        Err(Error::Internal {
            reason: format!("the start of an operation panicked: {panic}"),
        })
    });
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
