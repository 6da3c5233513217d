//! The floors' side of each exchange, each in a process of its own: this program again, with `role:NAME` as first argument.
//! A role prints one line when it is ready (a port, or `ready`) and ends when its standard input does, so that none
//! outlives the bench.

use std::io::{BufRead, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use anyhow::{Context, Result, bail};
use axum::Json;
use axum::routing::{get, post};
use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response::Result as Outcome;
use boxd::wire::proto::{ControlRequest, ControlResponse, ExecResponse};
use bytes::Bytes;
use futures_util::StreamExt;
use prost::Message;
use serde_json::{Value, json};

use crate::http::{self, BODY_BUFFER};
use crate::spawn;
use crate::stream::{FRAME, OUTPUT};
use crate::table::median_microseconds;

/// Replies with what came in.
pub(crate) const ECHO: &str = "floor.echo";
/// Replies with the block that is in the file.
pub(crate) const SOURCE: &str = "floor.source";
/// Puts the block that came into a file of its own and that in the place of the old one.
pub(crate) const SINK: &str = "floor.sink";
/// Runs the program that came in, then replies.
pub(crate) const SPAWN: &str = "floor.spawn";
/// The same on a thread of its own, for many at once.
pub(crate) const SPAWN_MANY: &str = "floor.spawn_many";
/// Publishes frames of the op stream's size to the subject that came in.
pub(crate) const FRAMES: &str = "floor.frames";
/// The file that both sides of the read row read, in the lab's directory in memory.
pub(crate) const BLOCK_FILE: &str = "block";

/// Plays one role until standard input ends.
///
/// # Errors
/// The role is unknown or its sockets fail.
pub(crate) fn play(role: &str, arguments: &[String]) -> Result<()> {
    let argument = |at: usize| {
        arguments
            .get(at)
            .with_context(|| format!("role {role} needs an argument"))
    };
    match role {
        "nats" => nats(argument(0)?, Path::new(argument(1)?)),
        "http" => http(),
        "upload" => upload(argument(0)?),
        "spawn" => spawn_loop(argument(0)?),
        unknown => bail!("no role {unknown:?}"),
    }
}

/// Ends the process with its parent: the other end of standard input is held by nobody else.
#[expect(clippy::exit, reason = "a floor process has nothing to put in order")]
fn end_with_standard_input() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
}

fn say(line: impl std::fmt::Display) -> Result<()> {
    println!("{line}");
    Ok(std::io::stdout().flush()?)
}

#[tokio::main(flavor = "current_thread")]
async fn nats(url: &str, directory: &Path) -> Result<()> {
    end_with_standard_input();
    let client = async_nats::connect(url).await?;
    let mut requests = client.subscribe("floor.*").await?;
    client.flush().await?;
    say("ready")?;
    while let Some(request) = requests.next().await {
        if request.subject.as_str() == FRAMES {
            publish_frames(&client, &request.payload).await?;
        }
        let Some(reply) = request.reply else { continue };
        let answer = match request.subject.as_str() {
            SOURCE => std::fs::read(directory.join(BLOCK_FILE))?.into(),
            SINK => replace(directory, &request.payload)?,
            SPAWN => run_program(&request.payload)?,
            SPAWN_MANY => {
                let client = client.clone();
                tokio::spawn(async move {
                    let ran = tokio::task::spawn_blocking(move || run_program(&request.payload)).await;
                    // A floor that fails answers nothing, and its caller runs out of patience.
                    if let Ok(Ok(answer)) = ran {
                        let _ = client.publish(reply, answer).await;
                    }
                });
                continue;
            }
            _ => request.payload,
        };
        client.publish(reply, answer).await?;
    }
    Ok(())
}

async fn publish_frames(client: &async_nats::Client, subject: &[u8]) -> Result<()> {
    let subject = std::str::from_utf8(subject)?.to_owned();
    let frame = Bytes::from(vec![0; FRAME]);
    let mut left = OUTPUT;
    while left > 0 {
        let size = left.min(FRAME);
        // As an encoder does: each frame is bytes of its own.
        let payload = Bytes::copy_from_slice(&frame[..size]);
        client.publish(subject.clone(), payload).await?;
        left -= size;
    }
    Ok(client.flush().await?)
}

fn run_program(request: &[u8]) -> Result<Bytes> {
    let request = ControlRequest::decode(request)?;
    let Some(Op::Exec(exec)) = request.op else {
        bail!("not an exec");
    };
    let program = exec.command.first().context("no program")?;
    let (stdout, stderr) = spawn::run(program)?;
    let result = ExecResponse {
        stdout: stdout.into(),
        stderr: stderr.into(),
        ..Default::default()
    };
    let response = ControlResponse {
        request_id: request.request_id,
        result: Some(Outcome::Exec(result)),
        ..Default::default()
    };
    Ok(response.encode_to_vec().into())
}

/// The least that a write does which leaves the old content or the new.
fn replace(directory: &Path, content: &[u8]) -> Result<Bytes> {
    let new = directory.join("floor-new");
    std::fs::write(&new, content)?;
    std::fs::rename(new, directory.join("floor-written"))?;
    Ok(Bytes::from_static(b"written"))
}

#[tokio::main]
async fn http() -> Result<()> {
    end_with_standard_input();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    say(listener.local_addr()?.port())?;
    let router = axum::Router::new()
        .route("/v1/health", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/v1/processes/run", post(run));
    Ok(axum::serve(listener, router).await?)
}

async fn run(Json(request): Json<Value>) -> Json<Value> {
    let program = request["command"].as_str().unwrap_or_default().to_owned();
    let start = std::time::Instant::now();
    let output = tokio::task::spawn_blocking(move || spawn::run(&program)).await;
    let (exit_code, stdout, stderr) = match output {
        Ok(Ok((stdout, stderr))) => (0, stdout, stderr),
        _ => (-1, Vec::new(), Vec::new()),
    };
    Json(json!({
        "exitCode": exit_code,
        "timedOut": false,
        "stdout": String::from_utf8_lossy(&stdout),
        "stderr": String::from_utf8_lossy(&stderr),
        "stdoutTruncated": false,
        "stderrTruncated": false,
        "durationMs": start.elapsed().as_millis(),
    }))
}

/// Takes uploads one after the other: socket to file through one buffer.
fn upload(path: &str) -> Result<()> {
    end_with_standard_input();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    say(listener.local_addr()?.port())?;
    let mut buffer = vec![0; BODY_BUFFER];
    for stream in listener.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        while receive(&mut stream, path, &mut buffer)? {}
    }
    Ok(())
}

/// One upload; false when the client has closed.
fn receive(stream: &mut TcpStream, path: &str, buffer: &mut [u8]) -> Result<bool> {
    let Some(head) = http::read_head(stream, buffer)? else {
        return Ok(false);
    };
    let mut file = std::fs::File::create(path)?;
    file.write_all(&buffer[head.end..head.filled])?;
    let mut left = head.content_length - (head.filled - head.end);
    while left > 0 {
        let wanted = left.min(buffer.len());
        let count = stream.read(&mut buffer[..wanted])?;
        if count == 0 {
            bail!("the upload ended {left} bytes early");
        }
        file.write_all(&buffer[..count])?;
        left -= count;
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")?;
    Ok(true)
}

/// Answers each line `THREADS COUNT` with `P50_US OPS_PER_SECOND`.
fn spawn_loop(program: &str) -> Result<()> {
    say("ready")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (threads, count) = line.split_once(' ').context("a line is THREADS COUNT")?;
        let (elapsed, latencies) = spawn::run_many(program, threads.parse()?, count.parse()?)?;
        let rate = latencies.len() as f64 / elapsed.as_secs_f64();
        say(format!("{} {rate}", median_microseconds(&latencies)))?;
    }
    Ok(())
}
