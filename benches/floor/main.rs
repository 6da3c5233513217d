//! What the daemon costs beside what this machine can do at all: `make bench`, one run, one table.
//!
//! A floor does the same work with the same payload in the same process model, and nothing else: an echo responder in its
//! own process beside the daemon, a bare handler, `nginx`, a loop around `posix_spawn`. Floor and daemon are measured in
//! alternating rounds by the same client code, a row shows the medians, and the ratio is what counts on a noisy machine.
//!
//! The program starts itself again for the floors (`responders`, `spawn`); [`guest`] owns every process and file it makes.
//! Numbers are reported, never asserted: a missed bar does not fail the run. `floor WORD` runs the rows of one group.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program of its own, outside the daemon: it prints its table and starts floors, brokers and daemons itself"
)]

mod daemon;
mod files;
mod guest;
mod http;
mod nats;
mod relay;
mod responders;
mod spawn;
mod stream;
mod table;
mod terminal;

use anyhow::{Context, Result, bail};

use crate::guest::Lab;
use crate::table::Table;

/// What the rows are grouped by on the command line.
const GROUPS: [&str; 8] = [
    "daemon", "nats", "http", "stream", "terminal", "relay", "files", "load",
];

fn main() -> Result<()> {
    // Cargo adds `--bench`; everything else is a role or a group.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    if let Some((role, rest)) = arguments.split_first()
        && let Some(role) = role.strip_prefix("role:")
    {
        return responders::play(role, rest);
    }
    if let Some(unknown) = arguments.iter().find(|word| !GROUPS.contains(&word.as_str())) {
        bail!("no group {unknown:?}; there are {GROUPS:?}");
    }
    let wanted = |group: &str| arguments.is_empty() || arguments.iter().any(|word| word == group);
    // One thread for the client, as for the floor responders: less of the machine is taken from what is measured.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(wanted))
}

async fn measure(wanted: impl Fn(&str) -> bool) -> Result<()> {
    let lab = Lab::open()
        .await
        .context("cannot set up the broker and directories")?;
    let mut table = Table::default();
    if wanted("daemon") {
        daemon::starts_and_stops(&lab, &mut table).await?;
    }
    let daemon = lab.daemon().await?;
    if wanted("daemon") {
        daemon::idle(&daemon, &mut table)?;
    }
    if wanted("nats") {
        nats::rows(&lab, &daemon, &mut table).await?;
    }
    if wanted("http") {
        http::rows(&lab, &daemon, &mut table).await?;
    }
    if wanted("stream") {
        stream::rows(&lab, &daemon, &mut table).await?;
    }
    if wanted("terminal") {
        terminal::rows(&daemon, &mut table).await?;
    }
    if wanted("relay") {
        relay::rows(&lab, &mut table).await?;
    }
    if wanted("files") {
        files::rows(&lab, &daemon, &mut table).await?;
    }
    if wanted("load") {
        daemon::after_load(&daemon, &mut table)?;
    }
    table.print();
    Ok(())
}
