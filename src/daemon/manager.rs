//! What the service manager is told, when there is one: ready, how the daemon is, reloading, stopping, and that it lives.
//!
//! The sign of life is sent by a task that first has another one look at the links and the processes. It proves that the
//! runtime which serves runs new tasks and lets its timers fire, and that nobody holds the locks of the links and of the
//! processes for ever. It does not prove that a disk, a broker or a listener answers: a door that ends by itself stops the
//! daemon without any of this, and a slow disk is no reason to be killed. A probe that hangs sends nothing, and when it goes
//! on again so do the signs. They go on until the process ends, so that a long stop is not taken for a hang.
//!
//! A manager that does not listen is a warning, and the daemon runs on without.

use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::config::Supervisor;
use crate::doors::nats::{LinkState, Nats};
use crate::lifecycle::Tasks;
use crate::ops::Rooms;
use crate::service::Socket;

/// The service manager that started us, or nobody.
#[derive(Debug)]
pub(super) struct Manager {
    socket: Option<Socket>,
    watchdog: Option<Duration>,
}

/// How the daemon is, for people who ask their manager.
#[derive(Debug, Clone)]
pub(super) struct Status {
    pub(super) listeners: Vec<String>,
    pub(super) nats: Arc<Nats>,
    pub(super) rooms: Arc<Rooms>,
}

impl Status {
    /// One line. Takes the locks of the links and of the processes.
    fn line(&self) -> String {
        let links = self.nats.links();
        let connected = links
            .iter()
            .filter(|link| link.state == LinkState::Connected)
            .count();
        let listeners = match self.listeners.as_slice() {
            [] => "no HTTP".to_owned(),
            some => some.join(" "),
        };
        format!(
            "{listeners}; {connected} of {} links connected; {} processes",
            links.len(),
            self.rooms.engine().living()
        )
    }
}

impl Manager {
    /// Whoever is to be told.
    pub(super) fn of(supervisor: &Supervisor) -> Self {
        let socket = supervisor.notify_socket.as_deref().and_then(|name| {
            let parsed = Socket::parse(name);
            parsed
                .inspect_err(|error| tracing::warn!(%error, "the service manager is told nothing"))
                .ok()
        });
        Self {
            socket,
            watchdog: supervisor.watchdog,
        }
    }

    /// Says that everything that was asked for is served, and shows signs of life from now on where they are wanted.
    pub(super) async fn ready(&self, status: Status, tasks: &Tasks) {
        let Some(socket) = &self.socket else { return };
        tell(socket, &format!("READY=1\nSTATUS={}", status.line())).await;
        if let Some(watchdog) = self.watchdog {
            drop(tasks.detach(
                "watchdog",
                live(socket.clone(), watchdog / 2, status, tasks.clone()),
            ));
        }
    }

    /// Says that what was configured is read again.
    pub(super) async fn reloading(&self) {
        self.tell(&format!(
            "RELOADING=1\nMONOTONIC_USEC={}",
            monotonic().as_micros()
        ))
        .await;
    }

    /// Says that it has been.
    pub(super) async fn reloaded(&self) {
        self.tell("READY=1").await;
    }

    /// Says that the daemon stops, and asks for the time that this may take.
    pub(super) async fn stopping(&self, longest: Duration) {
        let longest = longest.as_micros();
        self.tell(&format!(
            "STOPPING=1\nSTATUS=stopping\nEXTEND_TIMEOUT_USEC={longest}"
        ))
        .await;
    }

    async fn tell(&self, message: &str) {
        if let Some(socket) = &self.socket {
            tell(socket, message).await;
        }
    }
}

async fn tell(socket: &Socket, message: &str) {
    if let Err(error) = socket.send(message).await {
        tracing::warn!(%error, "the service manager was not told");
    }
}

/// Shows signs of life for as long as the runtime runs.
async fn live(socket: Socket, interval: Duration, status: Status, tasks: Tasks) {
    loop {
        let probe = status.clone();
        // A task of its own: it needs a worker that takes on new ones.
        let probed = tasks.detach("watchdog-probe", async move { probe.line() }).await;
        match probed {
            Ok(_) if tasks.is_stopping() => tell(&socket, "WATCHDOG=1").await,
            Ok(line) => tell(&socket, &format!("WATCHDOG=1\nSTATUS={line}")).await,
            Err(error) => tracing::error!(%error, "the watchdog's probe failed"),
        }
        tokio::time::sleep(interval).await;
    }
}

/// The clock that managers compare by.
fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}
