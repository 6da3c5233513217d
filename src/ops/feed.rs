//! Operations that say something while they go on: one stream of events, whatever makes them, which every door writes
//! down in its own framing.

use std::sync::Arc;
use std::time::Duration;

use super::logs::{Following, LogReader, Logs, LogsReply};
use super::repositories::{Underway, done};
use super::{Call, Op, Reply, Rooms};
use crate::error::Error;
use crate::exec::Process;
use crate::git;
use crate::search::{self, Said};
use crate::stream::Item;
use crate::watch;

/// An operation whose answer is a stream of events.
#[derive(Debug)]
pub enum Streamed {
    /// What a process writes.
    Follow(Box<Logs>),
    /// What a search finds, as it is found.
    Search(Box<Search>),
    /// What changes in a tree.
    Watch(Box<Watch>),
    /// How far a transfer of git is.
    Git {
        /// The repository, as the caller gave it.
        path: std::path::PathBuf,
        /// What is moved.
        transfer: Box<git::Transfer>,
    },
}

/// What is to be watched, and from where on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// The directory or file, as the caller gave it.
    pub path: std::path::PathBuf,
    /// What is below it too.
    pub recursive: bool,
    /// What of it: see [`watch::Request::globs`].
    pub globs: Vec<String>,
    /// How long changes are gathered.
    pub window: Duration,
    /// Behind the event with this id; `None` from now on.
    pub since: Option<String>,
}

/// Some events of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// The events, oldest first.
    pub events: Vec<watch::Event>,
    /// What to go on behind.
    pub id: String,
    /// Nothing comes any more.
    pub is_over: bool,
}

/// A search and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// The directory or file, as the caller gave it.
    pub path: std::path::PathBuf,
    /// What is looked for.
    pub request: search::Request,
}

/// One thing that is said.
#[derive(Debug)]
pub enum Event {
    /// A process was made for this stream.
    Started(Arc<Process>),
    /// It wrote something, or something is not there any more.
    Log(Item),
    /// It has ended.
    Exited(Arc<Process>),
    /// A search found something.
    Found(Box<search::Found>),
    /// A search has ended.
    Searched(Box<search::Summary>),
    /// A watch stands: everything from now on is reported, behind the event with this id.
    Watching(String),
    /// Something changed in a tree.
    Changed(watch::Event),
    /// How far git is.
    Progress(git::Progress),
    /// What git has done.
    Did(Box<git::Did>),
}

/// A stream of events; what makes them ends, where it ends with its reader, when this is dropped.
#[derive(Debug)]
pub struct Feed {
    source: Source,
    is_over: bool,
    _place: Following,
}

#[derive(Debug)]
enum Source {
    Log {
        reader: Box<LogReader>,
        /// The process was made for this stream, which is to be said first.
        is_new: bool,
    },
    Search(search::Running),
    Watch {
        follower: watch::Follower,
        /// That it stands is to be said first.
        is_new: bool,
    },
    Git(Underway),
}

impl Feed {
    /// The log of a process that there was before.
    pub fn of_log(reader: LogReader, place: Following) -> Self {
        Self::new(Source::log(reader, false), place)
    }

    /// The log of a process that was made for it.
    pub fn of_new_process(reader: LogReader, place: Following) -> Self {
        Self::new(Source::log(reader, true), place)
    }

    fn new(source: Source, place: Following) -> Self {
        Self {
            source,
            is_over: false,
            _place: place,
        }
    }

    /// The next events; empty behind the end. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Whatever ends it before its time; nothing comes behind that.
    pub async fn next(&mut self) -> Result<Vec<Event>, Error> {
        if self.is_over {
            return Ok(Vec::new());
        }
        let events = self.more().await;
        self.is_over |= events.is_err();
        events
    }

    async fn more(&mut self) -> Result<Vec<Event>, Error> {
        match &mut self.source {
            Source::Log { reader, is_new } => {
                if std::mem::take(is_new) {
                    return Ok(vec![Event::Started(Arc::clone(reader.process()))]);
                }
                let items = reader.next().await?;
                self.is_over = items.is_empty();
                if self.is_over && reader.process().end().is_some() {
                    return Ok(vec![Event::Exited(Arc::clone(reader.process()))]);
                }
                Ok(items.into_iter().map(Event::Log).collect())
            }
            Source::Search(running) => {
                let said = running.next().await?;
                self.is_over = said.iter().any(|said| matches!(said, Said::Done(_)));
                Ok(said.into_iter().map(Event::from).collect())
            }
            Source::Watch { follower, is_new } => {
                if std::mem::take(is_new) {
                    return Ok(vec![Event::Watching(follower.id())]);
                }
                let events = follower.next().await;
                self.is_over = events.is_empty();
                Ok(events.into_iter().map(Event::Changed).collect())
            }
            Source::Git(underway) => {
                if let Some(progress) = underway.progress.recv().await {
                    return Ok(vec![Event::Progress(progress)]);
                }
                self.is_over = true;
                let did = done((&mut underway.work.0).await)?;
                Ok(vec![Event::Did(Box::new(did))])
            }
        }
    }
}

impl Source {
    fn log(reader: LogReader, is_new: bool) -> Self {
        Self::Log {
            reader: Box::new(reader),
            is_new,
        }
    }
}

impl From<Said> for Event {
    fn from(said: Said) -> Self {
        match said {
            Said::Found(found) => Self::Found(found),
            Said::Done(summary) => Self::Searched(summary),
        }
    }
}

impl Rooms {
    /// Starts a streaming operation for `call`, refused as [`Rooms::perform`] would refuse it.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`] when the caller follows too much already, and what the operation itself says.
    pub async fn stream(&self, call: &Call, streamed: Streamed) -> Result<Feed, Error> {
        let place = self.follow(&call.principal.id)?;
        match streamed {
            Streamed::Follow(logs) => match self.perform(call, Op::ProcessLogs(logs)).await? {
                Reply::Logs(LogsReply::Reader(reader)) => Ok(Feed::of_log(*reader, place)),
                other => Err(Error::Internal {
                    reason: format!("a log was answered as {other:?}"),
                }),
            },
            Streamed::Search(search) => {
                self.admit(call, "fs.search")?;
                let running = self.search(call, *search).await?;
                Ok(Feed::new(Source::Search(running), place))
            }
            Streamed::Git { path, transfer } => {
                let underway = self.transfer(call, &path, *transfer)?;
                Ok(Feed::new(Source::Git(underway), place))
            }
            Streamed::Watch(watch) => {
                self.admit(call, "fs.watch")?;
                let follower = self.watch(call, *watch).await?;
                Ok(Feed::new(
                    Source::Watch {
                        follower,
                        is_new: true,
                    },
                    place,
                ))
            }
        }
    }

    /// Starts a search.
    pub(super) async fn search(&self, call: &Call, search: Search) -> Result<search::Running, Error> {
        let path = self.unconfined(call, "fs.search", &search.path)?;
        self.searches.start(path, search.request).await
    }

    /// Follows a watch.
    async fn watch(&self, call: &Call, watch: Watch) -> Result<watch::Follower, Error> {
        let path = self.unconfined(call, "fs.watch", &watch.path)?;
        let request = watch::Request {
            owner: Arc::clone(&call.principal.id),
            path,
            recursive: watch.recursive,
            globs: watch.globs,
            window: watch.window,
        };
        self.watches.follow(request, watch.since.as_deref()).await
    }

    /// Waits for the next events of a watch, for so long at most.
    pub(super) async fn watch_once(
        &self,
        call: &Call,
        watch: Watch,
        wait: Duration,
    ) -> Result<Watched, Error> {
        let mut follower = self.watch(call, watch).await?;
        let events = tokio::time::timeout(wait, follower.next()).await;
        let is_over = events.as_ref().is_ok_and(Vec::is_empty);
        Ok(Watched {
            events: events.unwrap_or_default(),
            id: follower.id(),
            is_over,
        })
    }
}
