//! The watch room: what changes in a tree, as numbered events that can be resumed.
//!
//! The kernel's events (inotify) are only hints where to look: what is reported is the difference between the disk and
//! what was reported before, so that an event that was lost, doubled or overtaken changes nothing. Where hints are missing
//! (its queue ran over, or no more directories may be watched) an `overflow` says so, and the exact difference follows
//! from looking at all of it.
//!
//! ```text
//!   source.rs (inotify) --hints--> running.rs --batch--> update.rs: disk against tree.rs --changes--> ring.rs --> followers
//! ```
//!
//! A directory that comes into the tree is watched first and read then, so that nothing in it is missed; its content is
//! reported with it. A rename inside the tree is one event, and speaks for everything below it. Links are entries and not
//! followed. A watch belongs to the caller who asked for it; callers' followers of the same request share it, and it
//! lives on for a minute without any, so that whoever was cut off goes on behind the last event it saw.
//!
//! It speaks to inotify itself and not through a library that keys watches by path: a directory that is replaced by
//! another of the same name would lose its watch there, and one that is renamed would be called by its old name.
//!
//! # What followers see
//!
//! | event | says |
//! |---|---|
//! | `created` | something is there that was not; a directory that comes with content is followed by an event for each entry in it, parents first |
//! | `modified` | its content or what the file system says of it (mode, owner, times) changed, or another file took its place; once for all that happens in one window |
//! | `removed` | it is not there any more; what was below a directory comes before it |
//! | `renamed` | it has another name in the same tree, and everything below it with it; what had that name before is gone. An editor that writes a temporary file and renames it is this |
//! | `overflow` | hints are missing: the kernel's queue ran over, or it allows no more watches; the reason names the limit to raise |
//! | `rescanned` | everything was looked at: all differences since the `overflow` came before this |
//! | `gap` | events that this follower has not seen are not kept any more: list the tree to know what is there |
//! | `gone` | the watched directory was removed or moved away, with whatever is known below it: the last event |
//!
//! What is moved out of the tree is removed with everything below it, and what is moved in is created with it. Where a glob
//! names a path and not a name alone, a directory that is renamed is told as removed and created, since its place decides
//! what of it is watched. So is what was renamed while hints were missing and is not the same file for certain.
//!
//! **Resuming.** Who was cut off asks for the same thing again behind the last id it saw, within 60 seconds after the last
//! follower left (or after `gone`). An id of a watch that is not known any more, of another caller or of another request is
//! [`Error::NotFound`]: what changed meanwhile cannot be told, so list the tree and watch anew.
//!
//! **Limits.** The newest 65,536 events of a watch are kept, in at most 32 MiB; a tree has at most 2,000,000 entries, and a
//! watch whose tree grows beyond ends. Where the kernel allows no more watches, directories without one are looked at every
//! half a second, less often where that takes long: their changes come late and not never. What is mounted over a watched
//! directory is told only when that directory is looked at again.

mod event;
#[cfg(test)]
mod life_tests;
mod limits;
mod ring;
mod running;
mod scan;
mod source;
mod tell;
#[cfg(test)]
mod tests;
mod tree;
mod update;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ignore::overrides::OverrideBuilder;
use parking_lot::Mutex;

use crate::capability::Capability;
use crate::error::Error;
use crate::lifecycle::Tasks;

pub use event::{Change, Event, Kind};
pub use ring::Follower;

use limits::LINGER;
use ring::Ring;

/// Watches of one caller at once.
const WATCHES: usize = 32;

/// What is to be watched.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Request {
    /// Whose watch it is.
    pub owner: Arc<str>,
    /// A directory, or one file; absolute.
    pub path: PathBuf,
    /// What is below it too.
    pub recursive: bool,
    /// Only what one of these globs names, wherever it lies; with `!` in front, not that and nothing below it.
    pub globs: Vec<String>,
    /// How long changes are gathered before they are reported.
    pub window: Duration,
}

/// The watch room.
#[derive(Debug)]
pub struct Watches {
    running: Mutex<HashMap<Request, Arc<Ring>>>,
    tasks: Tasks,
    /// How long a watch stands without a follower.
    linger: Duration,
}

impl Watches {
    /// The room; its watches end with `tasks`.
    pub fn new(tasks: Tasks) -> Self {
        Self {
            running: Mutex::default(),
            tasks,
            linger: LINGER,
        }
    }

    /// What works here.
    pub fn capabilities(&self) -> Vec<Capability> {
        vec![Capability::available("fs.watch")]
    }

    /// Follows what `request` watches, from now on, or behind the event `since` of the same watch. From the moment that
    /// this is answered every change is reported.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the watch that `since` names has ended: what changed meanwhile is not known, so list the
    /// tree and watch anew. [`Error::Overloaded`] when there are too many watches, or the tree is too large.
    pub async fn follow(self: &Arc<Self>, request: Request, since: Option<&str>) -> Result<Follower, Error> {
        if let Some(since) = since {
            let known = self.running.lock().get(&request).cloned();
            return known.map_or_else(|| Err(ring::ended(since)), |ring| ring.resume(since));
        }
        if let Some(joined) = join(&self.running.lock(), &request)? {
            return Ok(joined);
        }
        let mut globs = OverrideBuilder::new("");
        let invalid = |error: ignore::Error| Error::Invalid {
            field: "glob",
            reason: error.to_string(),
        };
        for glob in &request.globs {
            globs.add(glob).map_err(invalid)?;
        }
        let globs = globs.build().map_err(invalid)?;
        let begun = running::begin(request.clone(), globs, self.linger).await?;
        let ring = Arc::clone(begun.ring());
        let follower = {
            let mut running = self.running.lock();
            // Others may have come meanwhile.
            if let Some(joined) = join(&running, &request)? {
                return Ok(joined);
            }
            running.insert(request.clone(), Arc::clone(&ring));
            ring.begin()
        };
        let (watches, tasks) = (Arc::clone(self), self.tasks.clone());
        drop(self.tasks.detach("watch", async move {
            begun.run(&tasks).await;
            watches.forget(&request, &ring);
        }));
        Ok(follower)
    }

    fn forget(&self, request: &Request, ring: &Arc<Ring>) {
        let mut running = self.running.lock();
        // The place may be another watch's by now.
        if running.get(request).is_some_and(|now| Arc::ptr_eq(now, ring)) {
            running.remove(request);
        }
    }
}

/// A follower of the watch that stands for `request`; `None` when there is none, and another one may begin.
fn join(running: &HashMap<Request, Arc<Ring>>, request: &Request) -> Result<Option<Follower>, Error> {
    if let Some(joined) = running.get(request).and_then(Ring::join) {
        return Ok(Some(joined));
    }
    let stands = |(other, ring): &(&Request, &Arc<Ring>)| other.owner == request.owner && !ring.is_over();
    let count = running.iter().filter(stands).count();
    if count < WATCHES {
        return Ok(None);
    }
    Err(Error::Overloaded {
        what: "the number of watches of one caller",
        reason: format!("{count} stand, {WATCHES} may; one ends a minute after its last follower"),
    })
}
