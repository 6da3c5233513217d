//! Rows of the daemon itself: how soon it answers, how soon it is gone, what it holds while idle and after load.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use nix::unistd::Pid;

use crate::guest::{AGENT_ID, Daemon, Lab, WORKSPACE_ID, until};
use crate::nats::Caller;
use crate::table::{Row, Table, Unit, median};

const STARTS: usize = 9;
/// After this long without a request the daemon counts as idle.
const IDLE: Duration = Duration::from_secs(5);

/// Starts and stops the daemon several times, once for each door in turn.
///
/// # Errors
/// It did not start, answer or stop.
pub(crate) async fn starts_and_stops(lab: &Lab, table: &mut Table) -> Result<()> {
    let caller = Caller::connect(lab).await?;
    let (mut pings, mut healths, mut stops) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STARTS {
        pings.push(milliseconds(first_ping(lab, &caller).await?));
        healths.push(milliseconds(first_health(lab).await?));
        let daemon = lab.daemon().await?;
        caller.ping().await?;
        stops.push(milliseconds(daemon.guest.stop()?));
    }
    table.add(Row::absolute(
        "start to first ping",
        median(&mut pings),
        Unit::Milliseconds,
        20.0,
    ));
    table.add(Row::absolute(
        "start to first health",
        median(&mut healths),
        Unit::Milliseconds,
        20.0,
    ));
    table.add(Row::absolute(
        "SIGTERM to exit, idle",
        median(&mut stops),
        Unit::Milliseconds,
        50.0,
    ));
    let size = std::fs::metadata(&lab.binary)?.len() as f64 / 1e6;
    table.add(Row::absolute("binary", size, Unit::Megabytes, 20.0));
    Ok(())
}

async fn first_ping(lab: &Lab, caller: &Caller) -> Result<Duration> {
    let mut hellos = caller
        .listen(format!("agent.{WORKSPACE_ID}.{AGENT_ID}.hello"))
        .await?;
    let start = Instant::now();
    let daemon = lab.daemon_on_nats()?;
    // The hello follows the subscription, so a request after it is never lost.
    tokio::time::timeout(Duration::from_secs(10), hellos.next())
        .await
        .context("no hello")?;
    caller.ping().await?;
    let took = start.elapsed();
    daemon.stop()?;
    Ok(took)
}

async fn first_health(lab: &Lab) -> Result<Duration> {
    let start = Instant::now();
    let (daemon, path) = lab.daemon_on_socket()?;
    let mut socket = until("the socket", || UnixStream::connect(&path).ok()).await?;
    socket.write_all(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    let took = start.elapsed();
    ensure!(
        answer.starts_with(b"HTTP/1.1 200"),
        "health: {}",
        String::from_utf8_lossy(&answer)
    );
    daemon.stop()?;
    Ok(took)
}

/// What the daemon holds with both doors open, some seconds after it was ready, before any load.
///
/// # Errors
/// It is gone.
pub(crate) fn idle(daemon: &Daemon, table: &mut Table) -> Result<()> {
    std::thread::sleep(IDLE);
    let pid = daemon.guest.pid();
    table.add(Row::absolute(
        "idle RSS, HTTP and NATS up",
        resident(pid)?,
        Unit::Mebibytes,
        10.0,
    ));
    table.add(Row::absolute(
        "idle threads",
        status(pid, "Threads:")?,
        Unit::Threads,
        6.0,
    ));
    Ok(())
}

/// What it holds at most ten seconds after the load of all rows before.
///
/// # Errors
/// It is gone.
pub(crate) fn after_load(daemon: &Daemon, table: &mut Table) -> Result<()> {
    const BAR: f64 = 20.0;
    let start = Instant::now();
    while resident(daemon.guest.pid())? > BAR && start.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let what = format!("RSS {:.1} s after load", start.elapsed().as_secs_f64());
    table.add(Row::absolute(
        &what,
        resident(daemon.guest.pid())?,
        Unit::Mebibytes,
        BAR,
    ));
    Ok(())
}

/// Its resident set, MiB.
pub(crate) fn resident(pid: Pid) -> Result<f64> {
    Ok(status(pid, "VmRSS:")? / 1024.0)
}

/// The number behind one key of `/proc/PID/status`.
fn status(pid: Pid, key: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .with_context(|| format!("no {key}"))?;
    Ok(line
        .split_whitespace()
        .next()
        .context("an empty value")?
        .parse()?)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
