//! What a streamed operation is once it is started: a command, a file that is read, or a file that is written piece by
//! piece. Each ends by sealing its log and completing its op; `opstream` starts them.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::link::Link;
use super::op::{Op, Running};
use super::op_events;
use super::opstream::Asked;
use super::upload;
use crate::error::Error;
use crate::exec::{Limits, Output};
use crate::fs::{Arrived, OpenFile, Pieces};
use crate::ops::{self, Call, Outcome, Reply};
use crate::stream::{Channel, Keep, Log};
use crate::wire::opstream::{self, Failure, FileEnd};
use crate::wire::proto::op_start::Op as StartOp;
use crate::wire::proto::{FsWriteBegin, OpExit};
use crate::wire::request;

/// What one op may keep, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes in all.
    pub(super) capacity: u64,
    /// Bytes of one record.
    pub(super) record: usize,
    /// Time that is left; `None` for as long as it takes.
    pub(super) left: Option<Duration>,
}

/// Starts what was asked for.
pub(super) async fn run(
    link: &Arc<Link>,
    op: &Arc<Op>,
    asked: Asked,
    record_limit: usize,
) -> Result<(), Error> {
    let Asked {
        call, start, limits, ..
    } = asked;
    let spool = Arc::clone(link.door.rooms.engine().spool());
    let capacity = tokio::task::spawn_blocking(move || spool.allowance()).await;
    let capacity = capacity.map_err(|panic| Error::Internal {
        reason: format!("a look at the spool panicked: {panic}"),
    })?;
    let bounds = Bounds {
        capacity,
        record: record_limit,
        left: deadline(start.deadline_ms),
    };
    if let (None, Some(extension)) = (&start.op, &start.ext) {
        return op_events::stream(link, op, &call, extension, bounds).await;
    }
    match start.op {
        Some(StartOp::Exec(_)) if bounds.left == Some(Duration::ZERO) => {
            stillborn(link, op);
            Ok(())
        }
        Some(StartOp::Exec(exec)) => {
            let create = request::streamed_exec(exec, bounds.left, bounds.capacity, bounds.record)?;
            let create = request::limited(create, limits)?;
            run_command(link, op, &call, create, bounds).await
        }
        Some(StartOp::FsRead(read)) => {
            let read = request::limited(request::fs_read(read), limits)?;
            read_file(link, op, &call, read, bounds).await
        }
        Some(StartOp::FsWrite(_)) if limits != Limits::default() => Err(Error::Unsupported {
            what: "resource_policy for fs_write".into(),
            why: "it starts no process that could be limited".into(),
            fix: Some("send the request without resource_policy".into()),
        }),
        Some(StartOp::FsWrite(begin)) => write_file(link, op, &call, begin, bounds).await,
        None => Err(Error::Protocol {
            reason: "the start names no operation that this version knows".into(),
        }),
    }
}

/// How much time is left until a moment in unix milliseconds; zero when it has passed, `None` when it is 0: there is none.
fn deadline(at_ms: i64) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // What lies before 1970 has passed.
    let at = Duration::from_millis(u64::try_from(at_ms).unwrap_or(0));
    (at_ms != 0).then(|| at.saturating_sub(now))
}

/// A command whose time was over before it was asked for.
fn stillborn(link: &Link, op: &Op) {
    let output = Output::in_memory(Keep::all());
    let (seq, totals) = output.seal(|seq, totals| (seq, totals));
    op.run(Running {
        output,
        capacity: 0,
        process: None,
        upload: None,
    });
    link.ops.complete(op, seq, opstream::stillborn_exit(&totals));
}

async fn run_command(
    link: &Arc<Link>,
    op: &Arc<Op>,
    call: &Call,
    create: ops::Op,
    bounds: Bounds,
) -> Result<(), Error> {
    let Reply::Process(process) = link.door.rooms.perform(call, create).await? else {
        return Err(unexpected());
    };
    op.run(Running {
        output: Arc::clone(process.output()),
        capacity: bounds.capacity,
        process: Some(Arc::clone(&process)),
        upload: None,
    });
    let (link, op) = (Arc::clone(link), Arc::clone(op));
    let tasks = link.door.tasks.clone();
    drop(tasks.detach("op", async move {
        let end = process.ended().await;
        let exit = opstream::exec_exit(&end, op.failure().as_ref());
        link.ops.complete(&op, end.seq, exit);
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
    unused(link, call, op)?;
    let Reply::File(file) = link.door.rooms.perform(call, read).await? else {
        return Err(unexpected());
    };
    serve_content(link, op, bounds, move |output| async move {
        pour(file, &output).await
    });
    Ok(())
}

/// Has `write` write the content of an op in a task of its own, to its end or until the op is to end.
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
        upload: None,
    });
    let (link, op, writing) = (Arc::clone(link), Arc::clone(op), write(Arc::clone(&output)));
    let tasks = link.door.tasks.clone();
    drop(tasks.detach("op", async move {
        let started = Instant::now();
        let end = tokio::select! {
            biased;
            end = interrupted(&link, &op, bounds.left) => end,
            written = writing => {
                if let Err(error) = written {
                    op.fail(Failure::pipe(error.to_string()));
                }
                FileEnd::Whole
            }
        };
        let (seq, totals) = output.seal(|seq, totals| (seq, totals));
        let exit = opstream::content_exit(&totals, end, op.failure().as_ref());
        link.ops.complete(&op, seq, timed(exit, started));
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

async fn write_file(
    link: &Arc<Link>,
    op: &Arc<Op>,
    call: &Call,
    begin: FsWriteBegin,
    bounds: Bounds,
) -> Result<(), Error> {
    unused(link, call, op)?;
    let begin = request::fs_upload(begin)?;
    let pieces = Arc::new(Pieces::new(link.door.rooms.upload(call, begin).await?));
    // It says nothing but how it ended.
    let output = Output::in_memory(Keep::all());
    op.run(Running {
        output: Arc::clone(&output),
        capacity: bounds.capacity,
        process: None,
        upload: Some(Arc::clone(&pieces)),
    });
    let (link, op) = (Arc::clone(link), Arc::clone(op));
    let tasks = link.door.tasks.clone();
    drop(tasks.detach("op", async move {
        let started = Instant::now();
        let arrived = tokio::select! {
            biased;
            end = interrupted(&link, &op, bounds.left) => Err(end),
            arrived = pieces.arrive() => Ok(arrived),
        };
        let outcome = match arrived {
            Ok(Arrived::Whole) => upload::commit(&pieces)
                .await
                .map_err(|failure| (FileEnd::Whole, Some(failure))),
            Ok(Arrived::GivenUp) => Err((FileEnd::Cancelled, None)),
            Err(end) => Err((end, op.failure())),
        };
        // Also after a commit: whoever asks now is told that it is over.
        pieces.abort().await;
        let (seq, totals) = output.seal(|seq, totals| (seq, totals));
        let exit = match outcome {
            Ok(uploaded) => opstream::upload_exit(&uploaded.digest, uploaded.bytes),
            Err((end, failure)) => opstream::content_exit(&totals, end, failure.as_ref()),
        };
        link.ops.complete(&op, seq, timed(exit, started));
    }));
    Ok(())
}

/// Resolves when work on a file is to end before it is done. Cancel-safe.
async fn interrupted(link: &Link, op: &Op, left: Option<Duration>) -> FileEnd {
    let late = async {
        match left {
            Some(Duration::ZERO) => {}
            Some(left) => tokio::time::sleep(left).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = op.is_cancelled() => FileEnd::Cancelled,
        () = link.door.tasks.killing() => FileEnd::Cancelled,
        () = late => FileEnd::TimedOut,
    }
}

fn timed(exit: OpExit, started: Instant) -> OpExit {
    OpExit {
        duration_ms: started.elapsed().as_millis() as u64,
        ..exit
    }
}

/// An id that a command was run under is not for anything else.
fn unused(link: &Link, call: &Call, op: &Op) -> Result<(), Error> {
    match link.door.rooms.outcome(&call.principal, &op.id) {
        Outcome::Unknown => Ok(()),
        _ => Err(Error::Conflict {
            what: format!("request {:?}", op.id),
            reason: "a command was run under this id".into(),
        }),
    }
}

fn unexpected() -> Error {
    Error::Internal {
        reason: "the operation answered something else".into(),
    }
}
