//! The news that memory ran out in a group of version one. There the kernel kills one process and leaves the others of
//! the tree: the daemon has to end them, and so has to hear of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use tokio::io::Interest;

use super::leaf::Leaf;
use super::watch::Watch;

/// How often it is asked for where the kernel tells nobody.
const INTERVAL: Duration = Duration::from_millis(100);

/// News of one group.
#[derive(Debug)]
pub(super) struct OomEvents(Option<Watch>);

impl OomEvents {
    /// Has the kernel tell us from now on.
    pub(super) fn of(leaf: &Leaf) -> Self {
        let subscribed = subscribe(leaf);
        if let Err(error) = &subscribed {
            tracing::debug!(%error, leaf = ?leaf.directory(), "no news of memory that runs out: it is asked for");
        }
        Self(
            subscribed
                .ok()
                .map(|events| Watch::new(events, Interest::READABLE)),
        )
    }

    /// Resolves when something may have happened. Cancel-safe.
    pub(super) async fn next(&mut self) {
        let Some(watch) = &mut self.0 else {
            return tokio::time::sleep(INTERVAL).await;
        };
        let mut count = [0; 8];
        let told = watch
            .until_ready(|fd| Ok(rustix::io::read(fd, &mut count)?))
            .await;
        if told.is_err() {
            self.0 = None;
        }
    }
}

fn subscribe(leaf: &Leaf) -> io::Result<OwnedFd> {
    let events = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let subject = File::open(leaf.directory().join("memory.oom_control"))?;
    let request = format!("{} {}", events.as_raw_fd(), subject.as_raw_fd());
    leaf.set("cgroup.event_control", &request)?;
    Ok(events)
}
