//! Rows of the NATS door. One client process, one broker; the floor is a responder on the same broker: one that does
//! nothing for ping, and one that reads or replaces a file without any of the daemon's care for the file rows. Requests
//! to floor and daemon are the same encoded messages.

use std::cell::Cell;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use async_nats::Client;
use boxd::wire::proto::{
    ControlRequest, ControlResponse, ExecRequest, FsReadRequest, FsWriteRequest, PingRequest,
    control_request::Op,
};
use bytes::Bytes;
use futures_util::future::try_join_all;
use prost::Message;

use crate::guest::{AGENT_ID, Daemon, Floor, Lab, WORKSPACE_ID};
use crate::responders::{BLOCK_FILE, ECHO, SINK, SOURCE, SPAWN, SPAWN_MANY};
use crate::table::{Bar, Row, Table, Unit, interleave, median_microseconds};

/// The block that the file rows read and write, in bytes.
pub(crate) const FILE_BLOCK: usize = 512 * 1024;
/// What the exec rows run.
pub(crate) const PROGRAM: &str = "/bin/true";
/// Requests in flight in the rows that say so.
pub(crate) const IN_FLIGHT: usize = 32;
const ROUNDS: usize = 9;

/// A client of one broker that counts its requests.
pub(crate) struct Caller {
    client: Client,
    run: String,
    count: Cell<u64>,
}

impl Caller {
    pub(crate) async fn connect(lab: &Lab) -> Result<Self> {
        let client = async_nats::connect(&lab.nats_url).await?;
        let run = uuid::Uuid::new_v4().to_string();
        Ok(Self {
            client,
            run,
            count: Cell::new(0),
        })
    }

    /// A subscription that is known to the broker when this returns.
    pub(crate) async fn listen(&self, subject: String) -> Result<async_nats::Subscriber> {
        let subscriber = self.client.subscribe(subject).await?;
        self.client.flush().await?;
        Ok(subscriber)
    }

    /// One request that has not been made before: exec answers a repeated id from its journal.
    fn encode(&self, op: Op) -> Bytes {
        self.count.set(self.count.get() + 1);
        let request_id = format!("{}-{:08}", self.run, self.count.get());
        ControlRequest {
            request_id,
            op: Some(op),
            ..Default::default()
        }
        .encode_to_vec()
        .into()
    }

    /// One exchange, and whether its answer is one: an error answer of the daemon fails the bench.
    async fn exchange(&self, responder: &Responder, op: Op) -> Result<()> {
        let reply = self
            .client
            .request(responder.subject.clone(), self.encode(op))
            .await?;
        ensure!(
            reply.payload.len() >= responder.reply_at_least,
            "a reply of {} bytes",
            reply.payload.len()
        );
        if responder.answers_in_protobuf {
            let response = ControlResponse::decode(reply.payload)?;
            if let Some(error) = response.error {
                anyhow::bail!("the daemon answered {:?}: {}", error.code(), error.message);
            }
            ensure!(response.result.is_some(), "an answer without a result");
        }
        Ok(())
    }

    /// Median latency of exchanges one after the other, in microseconds.
    async fn one_by_one(&self, responder: &Responder, count: usize, op: impl Fn() -> Op) -> Result<f64> {
        let mut latencies = Vec::with_capacity(count);
        for _ in 0..count {
            let op = op();
            let start = Instant::now();
            self.exchange(responder, op).await?;
            latencies.push(start.elapsed());
        }
        Ok(median_microseconds(&latencies))
    }

    /// Exchanges per second with [`IN_FLIGHT`] outstanding.
    async fn many_at_once(&self, responder: &Responder, each: usize, op: impl Fn() -> Op) -> Result<f64> {
        let op = &op;
        let start = Instant::now();
        let worker = |_| async move {
            for _ in 0..each {
                self.exchange(responder, op()).await?;
            }
            anyhow::Ok(())
        };
        try_join_all((0..IN_FLIGHT).map(worker)).await?;
        Ok((IN_FLIGHT * each) as f64 / start.elapsed().as_secs_f64())
    }

    /// Asks the daemon for `op` under this id.
    pub(crate) async fn daemon(&self, request_id: &str, op: Op) -> Result<()> {
        let request = ControlRequest {
            request_id: request_id.to_owned(),
            op: Some(op),
            ..Default::default()
        };
        let subject = Responder::daemon().subject;
        let reply = self
            .client
            .request(subject, request.encode_to_vec().into())
            .await?;
        match ControlResponse::decode(reply.payload)?.error {
            None => Ok(()),
            Some(error) => anyhow::bail!("the daemon answered {:?}: {}", error.code(), error.message),
        }
    }

    /// Publishes something.
    pub(crate) async fn publish(&self, subject: String, payload: Bytes) -> Result<()> {
        Ok(self.client.publish(subject, payload).await?)
    }

    /// The first exchange with a daemon that has just come up.
    pub(crate) async fn ping(&self) -> Result<()> {
        self.exchange(&Responder::daemon(), ping()).await
    }
}

/// Who answers, and what the client can tell of the answer.
struct Responder {
    subject: String,
    reply_at_least: usize,
    answers_in_protobuf: bool,
}

impl Responder {
    fn floor(subject: &str) -> Self {
        Self {
            subject: subject.to_owned(),
            reply_at_least: 1,
            answers_in_protobuf: false,
        }
    }

    fn daemon() -> Self {
        let subject = format!("agent.{WORKSPACE_ID}.{AGENT_ID}.rpc");
        Self {
            subject,
            reply_at_least: 1,
            answers_in_protobuf: true,
        }
    }

    /// A block comes back. Its length tells an answer from an error; decoding would be a copy on one side only.
    fn of_blocks(self) -> Self {
        Self {
            reply_at_least: FILE_BLOCK,
            answers_in_protobuf: false,
            ..self
        }
    }
}

fn ping() -> Op {
    Op::Ping(PingRequest { nonce: 7 })
}

fn exec() -> Op {
    Op::Exec(ExecRequest {
        command: vec![PROGRAM.to_owned()],
        ..Default::default()
    })
}

fn read() -> Op {
    Op::FsRead(FsReadRequest {
        path: BLOCK_FILE.to_owned(),
        offset: 0,
        length: FILE_BLOCK as u64,
    })
}

fn write(content: &Bytes) -> Op {
    Op::FsWrite(FsWriteRequest {
        path: "written".to_owned(),
        content: content.clone(),
        ..Default::default()
    })
}

/// Measures all rows of the NATS door.
///
/// # Errors
/// The daemon answered with an error, or a process is gone.
pub(crate) async fn rows(lab: &Lab, _daemon: &Daemon, table: &mut Table) -> Result<()> {
    let _responder = Floor::start("nats", &[&lab.nats_url, lab.memory_path()?])?;
    let caller = Caller::connect(lab).await?;
    pings(&caller, table).await?;
    execs(&caller, table).await?;
    files(lab, &caller, table).await
}

async fn pings(caller: &Caller, table: &mut Table) -> Result<()> {
    let (echo, daemon) = (Responder::floor(ECHO), Responder::daemon());
    let rounds = interleave(
        ROUNDS,
        async || caller.one_by_one(&echo, 400, ping).await,
        async || caller.one_by_one(&daemon, 400, ping).await,
    )
    .await?;
    table.add(Row::of(
        "ping over NATS, p50",
        &rounds,
        Unit::Microseconds,
        Bar::UpTo(1.25),
    ));
    let rounds = interleave(
        ROUNDS,
        async || caller.many_at_once(&echo, 400, ping).await,
        async || caller.many_at_once(&daemon, 400, ping).await,
    )
    .await?;
    table.add(Row::of(
        "ping, 32 in flight",
        &rounds,
        Unit::OperationsPerSecond,
        Bar::NotUnder(0.85),
    ));
    Ok(())
}

async fn execs(caller: &Caller, table: &mut Table) -> Result<()> {
    let (echo, daemon) = (Responder::floor(ECHO), Responder::daemon());
    let mut spawner = Floor::start("spawn", &[PROGRAM])?;
    let rounds = interleave(
        ROUNDS,
        async || Ok(spawned(&mut spawner, 1, 100)?.0 + caller.one_by_one(&echo, 100, exec).await?),
        async || caller.one_by_one(&daemon, 100, exec).await,
    )
    .await?;
    table.add(Row::of(
        "exec /bin/true over NATS, p50",
        &rounds,
        Unit::Microseconds,
        Bar::UpTo(1.35),
    ));
    let rounds = interleave(
        ROUNDS,
        async || Ok(spawned(&mut spawner, IN_FLIGHT, 16)?.1),
        async || caller.many_at_once(&daemon, 16, exec).await,
    )
    .await?;
    table.add(Row::of(
        "exec, 32 in flight",
        &rounds,
        Unit::OperationsPerSecond,
        Bar::NotUnder(0.8),
    ));
    execs_beside_a_responder(caller, table).await
}

/// The same against a responder on the same broker that decodes, spawns, waits and answers, and does nothing else: what
/// the way through a broker costs any program that starts commands, which a loop around `posix_spawn` does not show.
async fn execs_beside_a_responder(caller: &Caller, table: &mut Table) -> Result<()> {
    let answering = |subject| Responder {
        answers_in_protobuf: true,
        ..Responder::floor(subject)
    };
    let (one, many, daemon) = (answering(SPAWN), answering(SPAWN_MANY), Responder::daemon());
    let rounds = interleave(
        ROUNDS,
        async || caller.one_by_one(&one, 100, exec).await,
        async || caller.one_by_one(&daemon, 100, exec).await,
    )
    .await?;
    table.add(Row::of(
        "  beside a responder that spawns, p50",
        &rounds,
        Unit::Microseconds,
        Bar::None,
    ));
    let rounds = interleave(
        ROUNDS,
        async || caller.many_at_once(&many, 16, exec).await,
        async || caller.many_at_once(&daemon, 16, exec).await,
    )
    .await?;
    table.add(Row::of(
        "  beside one that spawns, 32 in flight",
        &rounds,
        Unit::OperationsPerSecond,
        Bar::None,
    ));
    Ok(())
}

/// Median latency in microseconds and rate of bare spawns.
fn spawned(spawner: &mut Floor, threads: usize, each: usize) -> Result<(f64, f64)> {
    let answer = spawner.ask(&format!("{threads} {each}"))?;
    let (latency, rate) = answer
        .split_once(' ')
        .context("the spawn loop answers two numbers")?;
    Ok((latency.parse()?, rate.parse()?))
}

async fn files(lab: &Lab, caller: &Caller, table: &mut Table) -> Result<()> {
    let content = Bytes::from(vec![0xa5; FILE_BLOCK]);
    std::fs::write(lab.memory.path().join(BLOCK_FILE), &content)?;
    let rate = |microseconds: f64| FILE_BLOCK as f64 / microseconds;

    let (source, daemon) = (
        Responder::floor(SOURCE).of_blocks(),
        Responder::daemon().of_blocks(),
    );
    let rounds = interleave(
        ROUNDS,
        async || Ok(rate(caller.one_by_one(&source, 60, read).await?)),
        async || Ok(rate(caller.one_by_one(&daemon, 60, read).await?)),
    )
    .await?;
    table.add(Row::of(
        "fs_read 512 KiB over NATS",
        &rounds,
        Unit::MegabytesPerSecond,
        Bar::NotUnder(0.8),
    ));

    let (sink, daemon) = (Responder::floor(SINK), Responder::daemon());
    let rounds = interleave(
        ROUNDS,
        async || Ok(rate(caller.one_by_one(&sink, 60, || write(&content)).await?)),
        async || Ok(rate(caller.one_by_one(&daemon, 60, || write(&content)).await?)),
    )
    .await?;
    table.add(Row::of(
        "fs_write 512 KiB over NATS",
        &rounds,
        Unit::MegabytesPerSecond,
        Bar::NotUnder(0.8),
    ));
    Ok(())
}
