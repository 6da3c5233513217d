//! Rows of terminals: a byte that is echoed, beside the same through a bare pseudo-terminal and a bare `WebSocket`; a flood, beside
//! a loop that only reads it; and what many of them cost.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use portable_pty::{CommandBuilder, PtySize, native_pty_system};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

use crate::daemon::resident;
use crate::guest::Daemon;
use crate::http::Caller;
use crate::stream::{allow, created_id};
use crate::table::{Bar, Rounds, Row, Table, Unit, interleave, median};

/// Sends back what it gets, and nothing else.
const ECHO: &str = "stty raw -echo; printf r; exec cat";
/// Writes a flood when it is told to: lines of 80 bytes, to which the terminal adds a carriage return each.
const FLOOD: &str = "stty -echo; printf r; read x; yes $(printf %079d) | head -c 197530880";
const FLOOD_BYTES: usize = 197_530_880 / 80 * 81;
const ECHOES: usize = 1000;
const ROUNDS: usize = 2;
const TERMINALS: usize = 200;

type Socket = WebSocketStream<TcpStream>;

/// Measures all rows of terminals.
///
/// # Errors
/// The daemon answered with an error, or a process is gone.
pub(crate) async fn rows(daemon: &Daemon, table: &mut Table) -> Result<()> {
    let mut echoed = echoes(daemon).await?;
    let floor = median(&mut bare_terminal()?) + median(&mut bare_socket().await?);
    echoed.sort_by(f64::total_cmp);
    let (ours, late) = (echoed[echoed.len() / 2], echoed[echoed.len() * 99 / 100]);
    let rounds = Rounds { floor, ours };
    table.add(Row::of(
        "terminal, echo, p50",
        &rounds,
        Unit::Microseconds,
        Bar::UpTo(1.5),
    ));
    table.add(Row::absolute(
        "terminal, echo, p99",
        late,
        Unit::Microseconds,
        5000.0,
    ));
    let rounds = interleave(ROUNDS, async || bare_flood(), async || flood(daemon).await).await?;
    table.add(Row::of(
        "terminal, 200 MB of output",
        &rounds,
        Unit::MegabytesPerSecond,
        Bar::NotUnder(0.7),
    ));
    many(daemon, table).await
}

/// A terminal of the daemon that runs `line`, and a viewer of it.
async fn open(daemon: &Daemon, line: &str) -> Result<(String, Socket)> {
    let mut caller = Caller::connect(daemon.port, &daemon.token).await?;
    let asked = json!({ "command": line, "shell": true, "tty": true });
    let id = created_id(&caller.post("/v1/processes", &asked).await?)?;
    let url = format!("ws://127.0.0.1:{}/v1/processes/{id}/terminal/ws", daemon.port);
    let mut request = url.into_client_request()?;
    let bearer = format!("Bearer {}", daemon.token).parse()?;
    request.headers_mut().insert("authorization", bearer);
    let mut socket = socket(daemon.port, request).await?;
    while binary(&mut socket).await? != Some(1) {}
    Ok((id, socket))
}

async fn socket(port: u16, request: impl IntoClientRequest + Unpin) -> Result<Socket> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    Ok(client_async(request, stream).await?.0)
}

/// Bytes of the next message; `None` when it is no output.
async fn binary(socket: &mut Socket) -> Result<Option<usize>> {
    let next = tokio::time::timeout(Duration::from_secs(30), socket.next()).await;
    match next
        .context("nothing comes")?
        .context("the socket was closed")??
    {
        Message::Binary(bytes) => Ok(Some(bytes.len())),
        Message::Close(_) => bail!("the socket was closed"),
        _ => Ok(None),
    }
}

async fn echo(socket: &mut Socket) -> Result<f64> {
    let start = Instant::now();
    socket.send(Message::Binary(vec![b'x'].into())).await?;
    while binary(socket).await? != Some(1) {}
    Ok(start.elapsed().as_secs_f64() * 1e6)
}

async fn echoes(daemon: &Daemon) -> Result<Vec<f64>> {
    let (_, mut socket) = open(daemon, ECHO).await?;
    let mut latencies = Vec::new();
    for _ in 0..ECHOES {
        latencies.push(echo(&mut socket).await?);
    }
    Ok(latencies)
}

/// A bare pseudo-terminal with this line in it, which has said that it is ready.
fn terminal(line: &str) -> Result<(Box<dyn Read + Send>, Box<dyn Write + Send>)> {
    let pair = native_pty_system().openpty(PtySize::default())?;
    let mut command = CommandBuilder::new("sh");
    command.args(["-c", line]);
    pair.slave.spawn_command(command)?;
    let (mut reader, writer) = (pair.master.try_clone_reader()?, pair.master.take_writer()?);
    reader.read_exact(&mut [0])?;
    Ok((reader, writer))
}

fn bare_terminal() -> Result<Vec<f64>> {
    let (mut reader, mut writer) = terminal(ECHO)?;
    let mut latencies = Vec::new();
    for _ in 0..ECHOES {
        let start = Instant::now();
        writer.write_all(b"x")?;
        reader.read_exact(&mut [0])?;
        latencies.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(latencies)
}

/// A thread that answers every message with itself.
async fn bare_socket() -> Result<Vec<f64>> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    let server = std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async move {
            let (stream, _) = TcpListener::from_std(listener)?.accept().await?;
            stream.set_nodelay(true)?;
            let mut socket = accept_async(stream).await?;
            while let Some(Ok(message @ Message::Binary(_))) = socket.next().await {
                socket.send(message).await?;
            }
            Ok(())
        })
    });
    let mut socket = socket(port, format!("ws://127.0.0.1:{port}/")).await?;
    let mut latencies = Vec::new();
    for _ in 0..ECHOES {
        latencies.push(echo(&mut socket).await?);
    }
    socket.close(None).await?;
    ensure!(
        server.join().is_ok_and(|served| served.is_ok()),
        "the bare socket failed"
    );
    Ok(latencies)
}

fn bare_flood() -> Result<f64> {
    let (mut reader, mut writer) = terminal(FLOOD)?;
    let (mut buffer, mut total, start) = (vec![0; 64 << 10], 0, Instant::now());
    writer.write_all(b"\n")?;
    while total < FLOOD_BYTES {
        let read = reader.read(&mut buffer)?;
        ensure!(read > 0, "the terminal ended after {total} bytes");
        total += read;
    }
    Ok(FLOOD_BYTES as f64 / 1e6 / start.elapsed().as_secs_f64())
}

/// The same with somebody who looks, to the end of the process.
async fn flood(daemon: &Daemon) -> Result<f64> {
    let (_, mut socket) = open(daemon, FLOOD).await?;
    let start = Instant::now();
    socket.send(Message::Binary(vec![b'\n'].into())).await?;
    loop {
        let next = socket.next().await.context("the socket was closed")??;
        match next {
            Message::Text(text) if text.contains("\"exit\"") => break,
            Message::Close(_) => bail!("the socket was closed"),
            _ => {}
        }
    }
    Ok(FLOOD_BYTES as f64 / 1e6 / start.elapsed().as_secs_f64())
}

/// Many that live, each with a viewer.
async fn many(daemon: &Daemon, table: &mut Table) -> Result<()> {
    let mut caller = Caller::connect(daemon.port, &daemon.token).await?;
    allow(&mut caller, TERMINALS).await?;
    let before = resident(daemon.guest.pid())?;
    let mut all = Vec::new();
    for _ in 0..TERMINALS {
        all.push(open(daemon, ECHO).await?);
    }
    let each = (resident(daemon.guest.pid())? - before) * 1024.0 / TERMINALS as f64;
    table.add(Row::shown(
        "200 terminals with viewers, each",
        each,
        Unit::Kibibytes,
    ));
    let mut latencies = Vec::new();
    for (_, socket) in &mut all {
        latencies.push(echo(socket).await?);
    }
    table.add(Row::shown(
        "echo in each of them, p50",
        median(&mut latencies),
        Unit::Microseconds,
    ));
    for (id, _) in all {
        caller
            .post(&format!("/v1/processes/{id}/kill?waitMs=5000"), &json!({}))
            .await?;
        // Its screen is kept for those who come late.
        caller.delete(&format!("/v1/processes/{id}")).await?;
    }
    Ok(())
}
