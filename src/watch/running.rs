//! A watch on its way: hints are gathered for the length of its window, looked at on the blocking pool, and reported.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ignore::overrides::Override;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::Request;
use super::event::Change;
use super::limits::{ENTRIES, HALF, LOOKS, POLL, POLL_SLOWEST};
use super::ring::Ring;
use super::scan;
use super::source::{self, Hints, Source};
use super::tree::{ROOT, Tree};
use super::update::{Filter, Outcome, Places, Update};
use crate::error::Error;
use crate::lifecycle::Tasks;

/// How soon what could not be looked at is looked at again.
const AGAIN: Duration = Duration::from_millis(20);
/// After so many times it is not where it was, and its place is looked at.
const TRIES: u32 = 10;
/// How often it is looked whether anybody still follows.
const LOOK_AROUND: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(super) struct Watch {
    ring: Arc<Ring>,
    source: Source,
    /// What the blocking pool works with; `None` while it does.
    state: Option<Box<State>>,
    window: Duration,
    /// How long it stands without a follower.
    linger: Duration,
    /// How long after it was looked at is what has no watch of the kernel looked at again.
    pause: Duration,
    /// That a part of the tree has no watch was told.
    is_shortage_told: bool,
    /// An overflow was told, and a look at everything has not followed yet.
    owes_rescan: bool,
}

/// What is known of the tree.
#[derive(Debug)]
struct State {
    tree: Tree,
    filter: Filter,
    descriptor: OwnedFd,
    /// What is to be looked at again, because its directory was just being moved.
    rest: Places,
    /// How often in a row some of that could not be looked at.
    tries: u32,
    /// Some directory has no watch of the kernel.
    has_unwatched: bool,
}

/// Looks at everything once; from then on every change is reported.
pub(super) async fn begin(request: Request, globs: Override, linger: Duration) -> Result<Watch, Error> {
    let failed = |source: io::Error| match source.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => Error::Overloaded {
            what: "the number of inotify instances",
            reason: "the kernel allows no more: raise fs.inotify.max_user_instances".into(),
        },
        _ => Error::Io {
            doing: "open an inotify descriptor".into(),
            source,
        },
    };
    let mut source = Source::open().map_err(failed)?;
    let descriptor = source.duplicate().map_err(failed)?;
    let window = request.window;
    let first = blocking(move || {
        let mut state = root(&request, globs, descriptor)?;
        let descriptor = state.descriptor.as_fd();
        let above = source::add_above(descriptor, &state.tree.path);
        let outcome = Update::new(&mut state.tree, &state.filter, descriptor).rescan(vec![ROOT]);
        Ok((state, outcome, above))
    });
    let (mut state, outcome, above) = first.await??;
    source.set_above(above);
    if outcome.is_too_large {
        return Err(too_large());
    }
    state.has_unwatched = outcome.unwatched.is_some();
    let mut watch = Watch {
        ring: Ring::new(),
        source,
        state: Some(Box::new(state)),
        window,
        linger,
        pause: POLL,
        is_shortage_told: false,
        owes_rescan: false,
    };
    // What was found on the first look is where it begins, and no news.
    watch.tell(Outcome {
        changes: Vec::new(),
        ..outcome
    });
    Ok(watch)
}

/// The error for a tree that has grown too large.
fn too_large() -> Error {
    Error::Overloaded {
        what: "the size of a watched tree",
        reason: format!("it has more than {ENTRIES} entries; watch a part of it, or leave parts out by glob"),
    }
}

/// What is watched for `request`: a directory, or one entry of the directory that it lies in.
fn root(request: &Request, globs: Override, descriptor: OwnedFd) -> Result<State, Error> {
    let failed_io = |source| Error::from_path_io("path", "watch", &request.path, source);
    let failed = |errno: Errno| failed_io(errno.into());
    // Links on the way are followed once: it is the directory behind them that is watched.
    let path = std::fs::canonicalize(&request.path).map_err(failed_io)?;
    let (path, only) = match (path.is_dir(), path.parent(), path.file_name()) {
        (true, ..) => (path, None),
        (false, Some(parent), Some(name)) => (parent.to_owned(), Some(name.to_owned())),
        _ => return Err(failed(Errno::NOTDIR)),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = openat(CWD, &path, flags, Mode::empty()).map_err(failed)?;
    let facts = scan::of(top.as_fd()).ok_or_else(|| failed(Errno::NOENT))?;
    Ok(State {
        tree: Tree::new(path, top, facts.identity),
        filter: Filter {
            speaks_of_paths: request.globs.iter().any(|glob| names_a_path(glob)),
            recursive: request.recursive && only.is_none(),
            globs,
            only,
        },
        descriptor,
        rest: Places::new(),
        tries: 0,
        has_unwatched: false,
    })
}

/// A slash that is not the last letter binds a glob to the root.
fn names_a_path(glob: &str) -> bool {
    glob.strip_suffix('/').unwrap_or(glob).contains('/')
}

/// Does `work` on the blocking pool, of which all watches together take a part.
async fn blocking<T, F>(work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    static PLACES: Semaphore = Semaphore::const_new(LOOKS);
    let place = PLACES.acquire().await.map_err(|_| Error::Stopping)?;
    let placed = move || {
        let _until_the_end = place;
        work()
    };
    spawn_blocking(placed).await.map_err(|panic| Error::Internal {
        reason: format!("a look at a tree panicked: {panic}"),
    })
}

/// Why a directory has no watch of the kernel, and what helps.
fn why_unwatched(errno: Errno) -> String {
    let why = match errno {
        Errno::NOSPC => "the kernel allows no more watches: raise the sysctl fs.inotify.max_user_watches \
                         (in a user namespace also user.max_inotify_watches)"
            .into(),
        errno => std::io::Error::from(errno).to_string(),
    };
    format!("a part of the tree has no watch of the kernel and is looked at from time to time instead; {why}")
}

impl Watch {
    pub(super) fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// Runs until nobody follows any more, what is watched is gone, or the daemon stops; and then for as long as somebody
    /// may ask for what was reported.
    pub(super) async fn run(mut self, tasks: &Tasks) {
        let ended = tokio::select! {
            () = tasks.stopping() => Ok(()),
            ended = self.report() => ended,
        };
        if let Err(error) = ended {
            tracing::warn!(%error, "a watch ends");
        }
        let Self {
            ring,
            source,
            state,
            linger,
            ..
        } = self;
        ring.end();
        drop(source);
        // The kernel may take its time to end many watches.
        let _freed = blocking(move || drop(state)).await;
        if ring.is_followed() {
            let _stopped = tokio::time::timeout(linger, tasks.stopping()).await;
        }
    }

    async fn report(&mut self) -> Result<(), Error> {
        let mut alone_since: Option<Instant> = None;
        let mut hints = Hints::default();
        let mut next_poll = Instant::now();
        let mut next_look = Instant::now() + LOOK_AROUND;
        loop {
            let (polls, has_rest) = self.state.as_ref().map_or((false, false), |state| {
                (state.has_unwatched, !state.rest.is_empty())
            });
            let mut until = next_look;
            if polls || self.owes_rescan {
                until = until.min(next_poll);
            }
            if let Some(since) = alone_since {
                until = until.min(since + self.linger);
            }
            let mut pause = until.saturating_duration_since(Instant::now());
            if has_rest {
                pause = pause.min(AGAIN);
            }
            if let Ok(gathered) = tokio::time::timeout(pause, self.source.gather(&mut hints)).await {
                gathered.map_err(lost)?;
            }
            if (has_rest || !hints.is_empty()) && !self.settle(&mut hints).await? {
                return Ok(());
            }
            if (polls || self.owes_rescan) && Instant::now() >= next_poll {
                if !self.poll().await? {
                    return Ok(());
                }
                next_poll = Instant::now() + self.pause;
            }
            if Instant::now() >= next_look {
                // It may have been moved with a directory that it lies in, which no hint tells.
                if self.is_gone().await? {
                    return Ok(());
                }
                next_look = Instant::now() + LOOK_AROUND;
            }
            if self.ring.is_followed() {
                alone_since = None;
            } else if alone_since.get_or_insert_with(Instant::now).elapsed() >= self.linger {
                if self.ring.end_when_alone() {
                    return Ok(());
                }
                alone_since = None;
            }
        }
    }

    /// Lets hints gather, looks, and reports; says whether the watch goes on.
    async fn settle(&mut self, hints: &mut Hints) -> Result<bool, Error> {
        tokio::time::sleep(self.window).await;
        self.source.drain(hints).map_err(lost)?;
        if hints.has_halves() {
            tokio::time::sleep(HALF).await;
            self.source.drain(hints).map_err(lost)?;
        }
        let hints = std::mem::take(hints);
        let (overflow, selves) = (hints.overflow, hints.selves);
        if overflow {
            self.ring.push(vec![Change::Overflow {
                reason: "more changed at once than the kernel's queue holds: raise the sysctl \
                         fs.inotify.max_queued_events"
                    .into(),
            }]);
        }
        let outcome = self.with(move |state| {
            let mut update = Update::new(&mut state.tree, &state.filter, state.descriptor.as_fd());
            let mut places = std::mem::take(&mut state.rest);
            state.tries = if places.is_empty() { 0 } else { state.tries + 1 };
            if state.tries > TRIES {
                let ids: Vec<_> = places.keys().copied().collect();
                update.doubt(&ids, &mut places);
            }
            update.forget_watches(&hints.ended, &mut places);
            if overflow {
                return update.rescan_all();
            }
            for ((watch, name), written) in hints.places {
                if let Some(id) = update.by_watch(watch) {
                    *places.entry(id).or_default().entry(name).or_default() |= written;
                }
            }
            update.look(places)
        });
        let outcome = outcome.await?;
        if !self.tell(outcome) {
            return Ok(false);
        }
        if overflow {
            self.tell_rescanned();
        }
        Ok(!(selves && self.is_gone().await?))
    }

    /// Looks at what the kernel does not watch, and tries to have it watched; at everything after an overflow was told.
    async fn poll(&mut self) -> Result<bool, Error> {
        let began = Instant::now();
        let everything = self.owes_rescan;
        let outcome = self.with(move |state| {
            let unwatched = state.tree.unwatched();
            let update = Update::new(&mut state.tree, &state.filter, state.descriptor.as_fd());
            if everything {
                return update.rescan_all();
            }
            update.rescan(unwatched)
        });
        let outcome = outcome.await?;
        self.pause = (began.elapsed() * 10).clamp(POLL, POLL_SLOWEST);
        if !self.tell(outcome) {
            return Ok(false);
        }
        if everything {
            self.tell_rescanned();
        }
        Ok(true)
    }

    /// Reports what came of a look; says whether the watch goes on.
    fn tell(&mut self, outcome: Outcome) -> bool {
        let mut changes = outcome.changes;
        match outcome.unwatched {
            Some(errno) if !self.is_shortage_told => {
                self.is_shortage_told = true;
                self.owes_rescan = true;
                let reason = why_unwatched(errno);
                changes.push(Change::Overflow { reason });
            }
            Some(_) => {}
            // When it comes again it is told again.
            None => self.is_shortage_told &= self.state.as_ref().is_some_and(|state| state.has_unwatched),
        }
        if outcome.is_too_large {
            changes.push(Change::Overflow {
                reason: format!("the tree has more than {ENTRIES} entries now, so the watch ends here"),
            });
        }
        self.ring.push(changes);
        !outcome.is_too_large
    }

    fn tell_rescanned(&mut self) {
        self.owes_rescan = false;
        let entries = self.state.as_ref().map_or(0, |state| state.tree.entries);
        self.ring.push(vec![Change::Rescanned { entries }]);
    }

    /// Whether what is watched is not where it was; that is reported.
    async fn is_gone(&mut self) -> Result<bool, Error> {
        let look = |state: &mut State| (!scan::is_in_place(&state.tree)).then(|| state.tree.path.clone());
        let gone = self.on_pool(look).await?;
        let is_gone = gone.is_some();
        if let Some(path) = gone {
            self.ring.push(vec![Change::Gone { path }]);
        }
        Ok(is_gone)
    }

    /// Looks at the tree on the blocking pool.
    async fn with<F>(&mut self, look: F) -> Result<Outcome, Error>
    where
        F: FnOnce(&mut State) -> Outcome + Send + 'static,
    {
        let work = move |state: &mut State| {
            let mut outcome = look(state);
            for (id, names) in std::mem::take(&mut outcome.rest) {
                state.rest.entry(id).or_default().extend(names);
            }
            state.has_unwatched = !state.tree.unwatched().is_empty();
            outcome
        };
        self.on_pool(work).await
    }

    async fn on_pool<T, F>(&mut self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut State) -> T + Send + 'static,
    {
        let mut state = self.state.take().ok_or_else(|| Error::Internal {
            reason: "a watch is looked at twice at once".into(),
        })?;
        let (state, done) = blocking(move || {
            let done = work(&mut state);
            (state, done)
        })
        .await?;
        self.state = Some(state);
        Ok(done)
    }
}

fn lost(source: io::Error) -> Error {
    Error::Io {
        doing: "read what changed".into(),
        source,
    }
}
