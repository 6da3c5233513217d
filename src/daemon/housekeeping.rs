//! Giving memory back after each spell of work.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::lifecycle::Tasks;
use crate::memory;
use crate::ops::Rooms;

/// How long after the start, and how often afterwards, memory that is not used is looked for.
const INTERVAL: Duration = Duration::from_secs(3);

/// The pillar: gives memory back after each spell of work, until the daemon stops.
pub(super) async fn keep_small(rooms: Arc<Rooms>, tasks: Tasks) -> Result<(), Error> {
    // The start itself is the first spell.
    let (mut seen, mut owed) = (0, true);
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = tasks.stopping() => return Ok(()),
        }
        let performed = rooms.performed();
        owed |= performed != seen;
        // A spell that still goes on would take everything again.
        let quiet = performed == seen || rooms.engine().living() == 0;
        seen = performed;
        if owed && quiet {
            owed = false;
            // Only a panic could be told here, and it has been logged.
            let _ = tokio::task::spawn_blocking(memory::give_back).await;
        }
    }
}
