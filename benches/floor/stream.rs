//! Rows of what is streamed: the op stream beside frames that are published as fast as the broker takes them, and how late
//! a follower of a log learns of a line. What many live processes cost is reported without a bar.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::{ExecRequest, OpAck, OpFrame, OpStart, op_frame, op_start};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use prost::Message;
use serde_json::json;

use crate::daemon::resident;
use crate::guest::{AGENT_ID, Daemon, Floor, Lab, WORKSPACE_ID};
use crate::http;
use crate::nats::Caller;
use crate::responders::FRAMES;
use crate::table::{Bar, Row, Table, Unit, interleave, median};

/// What the op prints, bytes.
pub(crate) const OUTPUT: usize = 256 * 1000 * 1000;
/// Payload of one frame, bytes.
pub(crate) const FRAME: usize = 128 * 1024;
/// The client's window, bytes.
const WINDOW: u64 = 8 << 20;
/// Acknowledged at least this often, bytes.
const ACK_EVERY: u64 = 1 << 20;
const ROUNDS: usize = 5;
/// Live processes in the row that counts them.
const PROCESSES: usize = 1000;

/// Measures all rows of streams.
///
/// # Errors
/// The daemon answered with an error, or a process is gone.
pub(crate) async fn rows(lab: &Lab, daemon: &Daemon, table: &mut Table) -> Result<()> {
    let _responder = Floor::start("nats", &[&lab.nats_url, lab.memory_path()?])?;
    let caller = Caller::connect(lab).await?;
    let rounds = interleave(
        ROUNDS,
        async || published(&caller).await,
        async || streamed(&caller).await,
    )
    .await?;
    let ours = rounds.ours;
    table.add(Row::of(
        "op stream, 256 MB of output",
        &rounds,
        Unit::MegabytesPerSecond,
        Bar::NotUnder(0.6),
    ));
    table.add(Row::at_least(
        "op stream, 256 MB of output",
        ours,
        Unit::MegabytesPerSecond,
        150.0,
    ));
    followed(daemon, table).await?;
    crowd(daemon, &caller, table).await
}

/// Megabytes per second of frames that a bare publisher sends.
async fn published(caller: &Caller) -> Result<f64> {
    let inbox = format!("floor-frames.{}", uuid::Uuid::new_v4().simple());
    let mut frames = caller.listen(inbox.clone()).await?;
    let start = Instant::now();
    caller.publish(FRAMES.to_owned(), inbox.into()).await?;
    let mut received = 0;
    while received < OUTPUT {
        let frame = tokio::time::timeout(Duration::from_secs(20), frames.next()).await;
        received += frame
            .context("the floor fell silent")?
            .context("no broker")?
            .payload
            .len();
    }
    Ok(OUTPUT as f64 / 1e6 / start.elapsed().as_secs_f64())
}

/// Megabytes per second of an op that prints as much.
async fn streamed(caller: &Caller) -> Result<f64> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let base = format!("agent.{WORKSPACE_ID}.{AGENT_ID}");
    let mut frames = caller.listen(format!("{base}.op.{id}")).await?;
    let exec = ExecRequest {
        command: ["head", "-c", &OUTPUT.to_string(), "/dev/zero"]
            .map(str::to_owned)
            .into(),
        ..ExecRequest::default()
    };
    let op = OpStart {
        op: Some(op_start::Op::Exec(exec)),
        window_bytes: WINDOW,
        ..OpStart::default()
    };
    let start = Instant::now();
    caller.daemon(&id, Op::OpStart(op)).await?;
    let (mut received, mut acked) = (0_u64, 0);
    loop {
        let message = tokio::time::timeout(Duration::from_secs(20), frames.next()).await;
        let message = message.context("the op fell silent")?.context("no broker")?;
        let frame = OpFrame::decode(message.payload)?;
        let ended = match frame.body {
            Some(op_frame::Body::Data(data)) => {
                received += data.bytes.len() as u64;
                false
            }
            Some(op_frame::Body::Exit(exit)) => {
                ensure!(exit.exit_code == 0, "{exit:?}");
                true
            }
            _ => false,
        };
        if ended || received - acked >= ACK_EVERY {
            acked = received;
            let ack = OpAck {
                op_id: id.clone(),
                acked_seq: frame.seq,
                credit_bytes: 0,
                r#final: ended,
                attach_generation: 1,
            };
            caller
                .publish(format!("{base}.ack"), ack.encode_to_vec().into())
                .await?;
        }
        if ended {
            break;
        }
    }
    ensure!(received == OUTPUT as u64, "{received} bytes came");
    Ok(OUTPUT as f64 / 1e6 / start.elapsed().as_secs_f64())
}

/// How long after it was written to a process a line is with a follower of its log: input, the program, output, all of it.
async fn followed(daemon: &Daemon, table: &mut Table) -> Result<()> {
    let mut caller = http::Caller::connect(daemon.port, &daemon.token).await?;
    let created = json!({ "command": "cat", "interactive": true });
    let id = created_id(&caller.post("/v1/processes", &created).await?)?;
    let mut follower = http::Caller::connect(daemon.port, &daemon.token).await?;
    let mut body = follower
        .get(&format!("/v1/processes/{id}/logs?follow=true"))
        .await?;
    let mut latencies = Vec::new();
    for round in 0..300 {
        let line = json!({ "data": format!("line {round}\n"), "encoding": "text" });
        let start = Instant::now();
        caller.post(&format!("/v1/processes/{id}/input"), &line).await?;
        loop {
            let frame = tokio::time::timeout(Duration::from_secs(10), body.frame()).await;
            let frame = frame
                .context("the follower heard nothing")?
                .context("the stream ended")??;
            let text = frame
                .data_ref()
                .map(|data| String::from_utf8_lossy(data).into_owned());
            if text.is_some_and(|text| text.contains("event: log")) {
                break;
            }
        }
        latencies.push(start.elapsed().as_secs_f64() * 1e6);
    }
    caller
        .post(&format!("/v1/processes/{id}/kill?waitMs=2000"), &json!({}))
        .await?;
    latencies.sort_by(f64::total_cmp);
    let late = latencies[latencies.len() * 99 / 100];
    table.add(Row::shown(
        "log follow, input to event, p50",
        median(&mut latencies),
        Unit::Microseconds,
    ));
    table.add(Row::shown(
        "log follow, input to event, p99",
        late,
        Unit::Microseconds,
    ));
    Ok(())
}

pub(crate) fn created_id(answer: &serde_json::Value) -> Result<String> {
    match answer["id"].as_str() {
        Some(id) => Ok(id.to_owned()),
        None => bail!("no process was made: {answer}"),
    }
}

/// Lets so many more processes run at once than usual.
pub(crate) async fn allow(caller: &mut http::Caller, processes: usize) -> Result<()> {
    let config = json!({ "maxConcurrentProcesses": processes + 64 });
    caller.post("/v1/processes/config", &config).await?;
    Ok(())
}

/// Many processes that live, each with a follower: what one costs, and how late a ping is meanwhile.
async fn crowd(daemon: &Daemon, caller: &Caller, table: &mut Table) -> Result<()> {
    let mut http = http::Caller::connect(daemon.port, &daemon.token).await?;
    allow(&mut http, PROCESSES).await?;
    let before = resident(daemon.guest.pid())?;
    let (mut ids, mut followers) = (Vec::new(), Vec::new());
    for _ in 0..PROCESSES {
        let answer = http
            .post("/v1/processes", &json!({ "command": "sleep", "args": ["300"] }))
            .await?;
        let id = created_id(&answer)?;
        let mut follower = http::Caller::connect(daemon.port, &daemon.token).await?;
        let body = follower
            .get(&format!("/v1/processes/{id}/logs?follow=true"))
            .await?;
        followers.push((follower, body));
        ids.push(id);
    }
    let each = (resident(daemon.guest.pid())? - before) * 1024.0 / PROCESSES as f64;
    table.add(Row::shown(
        "1,000 live processes with followers, each",
        each,
        Unit::Kibibytes,
    ));
    let mut pings = Vec::new();
    for _ in 0..500 {
        let start = Instant::now();
        caller.ping().await?;
        pings.push(start.elapsed().as_secs_f64() * 1e6);
    }
    pings.sort_by(f64::total_cmp);
    table.add(Row::shown(
        "ping beside them, p99",
        pings[pings.len() * 99 / 100],
        Unit::Microseconds,
    ));
    drop(followers);
    for id in ids {
        http.post(&format!("/v1/processes/{id}/kill"), &json!({})).await?;
    }
    Ok(())
}
