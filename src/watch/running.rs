//! A watch on its way: hints are gathered for the length of its window, looked at on the blocking pool, and reported.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ignore::overrides::Override;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::Request;
use super::event::Change;
use super::limits::{ENTRIES, HALF, LINGER, POLL, POLL_SLOWEST};
use super::ring::Ring;
use super::scan;
use super::source::{Hints, Source};
use super::tree::{ROOT, Tree};
use super::update::{Filter, Outcome, Places, Update};
use crate::error::Error;
use crate::lifecycle::Tasks;

/// How soon what could not be looked at is looked at again.
const AGAIN: Duration = Duration::from_millis(20);
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
    /// When what has no watch of the kernel is looked at next, and how long that took.
    poll: Duration,
}

/// What is known of the tree.
#[derive(Debug)]
struct State {
    tree: Tree,
    filter: Filter,
    descriptor: OwnedFd,
    /// What is to be looked at again, because its directory was just being moved.
    rest: Places,
}

/// Looks at everything once; from then on every change is reported.
pub(super) async fn begin(request: Request, globs: Override) -> Result<Watch, Error> {
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
    let source = Source::open().map_err(failed)?;
    let descriptor = source.duplicate().map_err(failed)?;
    let window = request.window;
    let first = blocking(move || {
        let mut state = root(&request, globs, descriptor)?;
        let outcome =
            Update::new(&mut state.tree, &state.filter, state.descriptor.as_fd()).rescan(vec![ROOT]);
        Ok((state, outcome))
    });
    let (state, outcome) = first.await??;
    if outcome.is_too_large {
        return Err(Error::Overloaded {
            what: "the size of a watched tree",
            reason: format!(
                "it has more than {ENTRIES} entries; watch a part of it, or leave parts out by glob"
            ),
        });
    }
    let ring = Ring::new();
    if let Some(errno) = outcome.unwatched {
        ring.push(vec![Change::Overflow {
            reason: why_unwatched(errno),
        }]);
    }
    Ok(Watch {
        ring,
        source,
        state: Some(Box::new(state)),
        window,
        poll: POLL,
    })
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
            recursive: request.recursive && only.is_none(),
            globs,
            only,
        },
        descriptor,
        rest: Places::new(),
    })
}

async fn blocking<T, F>(work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|panic| Error::Internal {
            reason: format!("a look at a tree panicked: {panic}"),
        })
}

/// Why a directory has no watch of the kernel, and what helps.
fn why_unwatched(errno: Errno) -> String {
    match errno {
        Errno::NOSPC => {
            "the kernel allows no more watches, so a part of the tree is looked at from time to time \
                         instead: raise fs.inotify.max_user_watches"
                .into()
        }
        errno => format!(
            "a part of the tree cannot be watched and is looked at from time to time instead: {}",
            io::Error::from(errno)
        ),
    }
}

impl Watch {
    pub(super) fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// Runs until nobody follows any more, what is watched is gone, or the daemon stops.
    pub(super) async fn run(mut self, tasks: &Tasks) {
        let ended = tokio::select! {
            () = tasks.stopping() => Ok(()),
            ended = self.report() => ended,
        };
        if let Err(error) = ended {
            tracing::warn!(%error, "a watch ends");
        }
        self.ring.end();
    }

    async fn report(&mut self) -> Result<(), Error> {
        let mut alone_since: Option<Instant> = None;
        let mut hints = Hints::default();
        let mut next_poll = Instant::now() + self.poll;
        loop {
            let state = self.state.as_ref();
            let polls = state.is_some_and(|state| !state.tree.unwatched().is_empty());
            let has_rest = state.is_some_and(|state| !state.rest.is_empty());
            let mut pause = LOOK_AROUND;
            if polls {
                pause = pause.min(next_poll.saturating_duration_since(Instant::now()));
            }
            if has_rest {
                pause = pause.min(AGAIN);
            }
            match tokio::time::timeout(pause, self.source.gather(&mut hints)).await {
                Ok(gathered) => gathered.map_err(lost)?,
                Err(_) if polls && Instant::now() >= next_poll => {
                    self.poll().await?;
                    next_poll = Instant::now() + self.poll;
                }
                // It may have been moved with a directory that it lies in, which no hint tells.
                Err(_) if self.is_gone() => return Ok(()),
                Err(_) => {}
            }
            if (has_rest || !hints.is_empty()) && !self.settle(&mut hints).await? {
                return Ok(());
            }
            if self.ring.is_followed() {
                alone_since = None;
            } else if alone_since.get_or_insert_with(Instant::now).elapsed() >= LINGER {
                return Ok(());
            }
        }
    }

    /// Lets hints gather, looks, and reports; says whether what is watched is still there.
    async fn settle(&mut self, hints: &mut Hints) -> Result<bool, Error> {
        tokio::time::sleep(self.window).await;
        self.source.drain(hints).map_err(lost)?;
        if hints.has_halves() {
            tokio::time::sleep(HALF).await;
            self.source.drain(hints).map_err(lost)?;
        }
        let hints = std::mem::take(hints);
        if hints.overflow {
            self.ring.push(vec![Change::Overflow {
                reason: "more changed at once than could be followed".into(),
            }]);
        }
        let (overflow, selves) = (hints.overflow, hints.selves);
        let outcome = self.update(move |state| {
            let mut update = Update::new(&mut state.tree, &state.filter, state.descriptor.as_fd());
            if overflow {
                return update.rescan_all();
            }
            let mut places = std::mem::take(&mut state.rest);
            for ((watch, name), written) in hints.places {
                if let Some(id) = update.by_watch(watch) {
                    *places.entry(id).or_default().entry(name).or_default() |= written;
                }
            }
            update.forget_watches(&hints.ended, &mut places);
            update.look(places)
        });
        let (outcome, entries) = outcome.await?;
        let mut goes_on = self.push(outcome);
        if overflow {
            self.ring.push(vec![Change::Rescanned { entries }]);
        }
        if selves && goes_on {
            goes_on = !self.is_gone();
        }
        Ok(goes_on)
    }

    /// Looks at what the kernel does not watch, and tries to have it watched.
    async fn poll(&mut self) -> Result<(), Error> {
        let began = Instant::now();
        let outcome = self.update(|state| {
            let ids = state.tree.unwatched();
            Update::new(&mut state.tree, &state.filter, state.descriptor.as_fd()).rescan(ids)
        });
        let (outcome, _) = outcome.await?;
        self.poll = (began.elapsed() * 10).clamp(POLL, POLL_SLOWEST);
        self.push(Outcome {
            // It was told when it began.
            unwatched: None,
            ..outcome
        });
        Ok(())
    }

    /// Reports; says whether the watch goes on.
    fn push(&self, outcome: Outcome) -> bool {
        let mut changes = outcome.changes;
        if let Some(errno) = outcome.unwatched {
            changes.push(Change::Overflow {
                reason: why_unwatched(errno),
            });
        }
        if outcome.is_too_large {
            changes.push(Change::Overflow {
                reason: format!("the tree has more than {ENTRIES} entries now, so the watch ends here"),
            });
        }
        self.ring.push(changes);
        !outcome.is_too_large
    }

    /// Whether what is watched is not where it was; that is reported.
    fn is_gone(&self) -> bool {
        let Some(state) = &self.state else { return false };
        if scan::is_in_place(&state.tree) {
            return false;
        }
        let path = state.tree.path.clone();
        self.ring.push(vec![Change::Gone { path }]);
        true
    }

    /// Does `work` on the blocking pool; answers with how many entries there are then.
    async fn update<F>(&mut self, work: F) -> Result<(Outcome, u64), Error>
    where
        F: FnOnce(&mut State) -> Outcome + Send + 'static,
    {
        let mut state = self.state.take().ok_or_else(|| Error::Internal {
            reason: "a watch is looked at twice at once".into(),
        })?;
        let (state, outcome) = blocking(move || {
            let mut outcome = work(&mut state);
            for (id, names) in std::mem::take(&mut outcome.rest) {
                state.rest.entry(id).or_default().extend(names);
            }
            (state, outcome)
        })
        .await?;
        let entries = state.tree.entries;
        self.state = Some(state);
        Ok((outcome, entries))
    }
}

fn lost(source: io::Error) -> Error {
    Error::Io {
        doing: "read what changed".into(),
        source,
    }
}
