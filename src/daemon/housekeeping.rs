//! What the daemon does beside its work: stopping what an earlier daemon left running when it was killed, and giving
//! memory back after each spell of work.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::exec::Engine;
use crate::lifecycle::Tasks;
use crate::memory;
use crate::ops::Rooms;
use crate::state::Earlier;

/// How long after the start, and how often afterwards, memory that is not used is looked for.
const INTERVAL: Duration = Duration::from_secs(3);
/// How often that is done after a spell: a long answer may still be on its way when its operation has ended.
const TIMES: u32 = 2;

/// Stops what killed daemons left running, then forgets them.
pub(super) async fn stop_leftovers(earlier: Earlier, engine: Arc<Engine>) {
    for instance in &earlier.killed {
        match engine.stop_leftovers(*instance).await {
            Ok(0) => {}
            Ok(processes) => {
                tracing::warn!(%instance, processes, "an earlier daemon was killed, what it left running was stopped");
            }
            Err(error) => {
                return tracing::error!(%error, "what an earlier daemon left running could not be stopped");
            }
        }
    }
    if let Err(error) = earlier.are_gone() {
        tracing::warn!(%error, "the earlier daemons could not be forgotten");
    }
}

/// The pillar: gives memory back after each spell of work, until the daemon stops.
pub(super) async fn keep_small(rooms: Arc<Rooms>, tasks: Tasks) -> Result<(), Error> {
    // The start itself is the first spell.
    let (mut seen, mut owed, mut lived) = (0, TIMES, 0);
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = tasks.stopping() => return Ok(()),
        }
        rooms.forget_old();
        let performed = rooms.performed();
        // What ends leaves something behind, too.
        let living = rooms.engine().living();
        if performed != seen || living < lived {
            owed = TIMES;
        }
        lived = living;
        // A spell that still goes on would take everything again.
        let quiet = performed == seen || living == 0;
        seen = performed;
        if owed > 0 && quiet {
            owed -= 1;
            tokio::select! {
                () = rooms.rest() => {}
                () = tasks.stopping() => return Ok(()),
            }
            // Only a panic could be told here, and it has been logged.
            let engine = Arc::clone(rooms.engine());
            let tidying = move || {
                engine.sweep();
                memory::give_back();
            };
            let _ = tokio::task::spawn_blocking(tidying).await;
        }
    }
}
