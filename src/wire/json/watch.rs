//! Watching a tree: what is asked and what changed.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::file_requests::path;
use super::search::Globs;
use super::text::readable;
use crate::error::Error;
use crate::ops::{self, Watched};
use crate::watch::{Change, Event, Kind};

/// How long changes may be gathered, in milliseconds: the least, when absent, the most.
const WINDOW: (u64, u64, u64) = (1, 20, 10_000);
/// The longest wait of one answer, in milliseconds.
const WAIT: u64 = 60_000;

/// Watch a directory or a file.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = FsWatchRequest)]
pub struct WatchArguments {
    /// The directory or file; the workspace root when absent.
    pub path: Option<String>,
    /// Its exact bytes, base64, instead of `path`.
    #[serde(rename = "pathB64")]
    pub path_b64: Option<String>,
    /// What is below it too; true when absent.
    pub recursive: Option<bool>,
    /// Only what one of these globs names, wherever it lies; with `!` in front, not that and nothing below it.
    pub glob: Option<Globs>,
    /// How long changes are gathered, in milliseconds: 1 to 10000, 20 when absent.
    #[schema(minimum = 1, maximum = 10_000)]
    pub window_ms: Option<u64>,
    /// The id of an event, or of an answer: only what comes behind it.
    pub since: Option<String>,
    /// As one answer: how long to wait for changes, in milliseconds, up to 60000; 0 when absent.
    #[schema(maximum = 60_000)]
    pub wait_ms: Option<u64>,
}

impl WatchArguments {
    /// How long one answer waits.
    pub fn wait(&self) -> Result<Duration, Error> {
        within("waitMs", self.wait_ms.unwrap_or(0), 0, WAIT)
    }

    /// The watch; no path is the workspace root.
    pub fn into_watch(self) -> Result<ops::Watch, Error> {
        let (least, usual, most) = WINDOW;
        let globs = self.glob.map(|globs| globs.into_vec("glob")).transpose()?;
        Ok(ops::Watch {
            path: path(("path", "pathB64"), self.path, self.path_b64.as_deref())?.unwrap_or_default(),
            recursive: self.recursive.unwrap_or(true),
            globs: globs.unwrap_or_default(),
            window: within("windowMs", self.window_ms.unwrap_or(usual), least, most)?,
            since: self.since,
        })
    }
}

fn within(field: &'static str, value: u64, least: u64, most: u64) -> Result<Duration, Error> {
    if (least..=most).contains(&value) {
        return Ok(Duration::from_millis(value));
    }
    Err(Error::Invalid {
        field,
        reason: format!("is {value}, must be from {least} to {most}"),
    })
}

/// A watch stands.
#[derive(Debug, Serialize)]
pub struct WatchReady<'a> {
    /// What to resume behind.
    pub id: &'a str,
}

/// One event of a watch.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FsWatchEvent)]
pub struct WatchEvent {
    /// `created`, `modified`, `removed`, `renamed`, `overflow`, `rescanned`, `gap` or `gone`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The rest.
    #[serde(flatten)]
    pub body: WatchChange,
}

/// What changed.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FsWatchChange)]
pub struct WatchChange {
    /// What to resume behind.
    pub id: String,
    /// From 1, without holes.
    pub sequence: u64,
    /// Absolute path; of a rename, where it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Its exact bytes, base64, when they are not UTF-8.
    #[serde(rename = "pathB64", skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<String>,
    /// Of a rename, where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Its exact bytes, base64, when they are not UTF-8.
    #[serde(rename = "fromB64", skip_serializing_if = "Option::is_none")]
    pub from_b64: Option<String>,
    /// `file`, `directory`, `symlink` or `other`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// Of an `overflow`: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of a `rescanned`: so many entries there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// Of a `gap`: the first sequence that is not kept any more. The last is that of the gap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed_from: Option<u64>,
}

impl WatchChange {
    fn at(mut self, path: &Path, kind: Option<Kind>) -> Self {
        let (text, exact) = readable(path.as_os_str());
        self.path = Some(text);
        self.path_b64 = exact;
        self.kind = kind.map(|kind| match kind {
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Symlink => "symlink",
            Kind::Other => "other",
        });
        self
    }
}

impl From<&Event> for WatchEvent {
    fn from(event: &Event) -> Self {
        let mut body = WatchChange {
            id: event.id.clone(),
            sequence: event.sequence,
            ..WatchChange::default()
        };
        let kind = match &event.change {
            Change::Created { path, kind } => {
                body = body.at(path, Some(*kind));
                "created"
            }
            Change::Modified { path, kind } => {
                body = body.at(path, Some(*kind));
                "modified"
            }
            Change::Removed { path, kind } => {
                body = body.at(path, Some(*kind));
                "removed"
            }
            Change::Renamed { from, to, kind } => {
                let (text, exact) = readable(from.as_os_str());
                body = body.at(to, Some(*kind));
                (body.from, body.from_b64) = (Some(text), exact);
                "renamed"
            }
            Change::Overflow { reason } => {
                body.reason = Some(reason.clone());
                "overflow"
            }
            Change::Rescanned { entries } => {
                body.entries = Some(*entries);
                "rescanned"
            }
            Change::Gap { from, .. } => {
                body.missed_from = Some(*from);
                "gap"
            }
            Change::Gone { path } => {
                body = body.at(path, None);
                "gone"
            }
        };
        Self { kind, body }
    }
}

/// What changed since the last answer.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FsWatchReply)]
pub struct WatchReply {
    /// Oldest first; none when nothing came while it was waited for.
    pub events: Vec<WatchEvent>,
    /// What to go on behind, as `since`.
    pub id: String,
    /// Nothing comes any more.
    pub ended: bool,
}

impl From<&Watched> for WatchReply {
    fn from(watched: &Watched) -> Self {
        Self {
            events: watched.events.iter().map(WatchEvent::from).collect(),
            id: watched.id.clone(),
            ended: watched.is_over,
        }
    }
}
