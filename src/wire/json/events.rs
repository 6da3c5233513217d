//! What streaming operations say, whichever they are: one event in one framing, and their requests by stable name.

use super::{
    FollowArguments, Framing, GitProgress, GitTransfer, Match, SearchEnd, SearchRequest, Unknown,
    WatchArguments, WatchEvent, WatchReady, decode, git_did,
};
use crate::error::Error;
use crate::git::Transfer;
use crate::ops::{Event, Streamed};

/// The streaming operations by their stable names; `fs.pack` streams bytes and not events.
const STREAMS: [&str; 8] = [
    "process.follow",
    "fs.search",
    "fs.watch",
    "fs.pack",
    "git.clone",
    "git.fetch",
    "git.pull",
    "git.push",
];

/// Decodes the payload of the streaming operation `name`.
///
/// [`Error::Unsupported`] when there is no such one, listing those there are.
pub fn decode_stream(name: &str, payload: &[u8]) -> Result<Streamed, Error> {
    match name {
        "process.follow" => {
            let follow: FollowArguments = decode(payload, Unknown::Refused)?;
            Ok(Streamed::Follow(Box::new(follow.into_logs()?)))
        }
        "fs.search" => {
            let search: SearchRequest = decode(payload, Unknown::Refused)?;
            Ok(Streamed::Search(Box::new(search.into_search()?)))
        }
        "fs.watch" => {
            let watch: WatchArguments = decode(payload, Unknown::Refused)?;
            Ok(Streamed::Watch(Box::new(watch.into_watch()?)))
        }
        _ if Transfer::NAMES.contains(&name) => {
            let transfer: GitTransfer = decode(payload, Unknown::Refused)?;
            let (path, transfer) = transfer.into_parts(name)?;
            Ok(Streamed::Git {
                path,
                transfer: Box::new(transfer),
            })
        }
        unknown => Err(Error::Unsupported {
            what: format!("streaming operation {unknown:?}"),
            why: format!("this build streams {}", STREAMS.join(", ")),
            fix: None,
        }),
    }
}

impl Framing {
    /// Writes one event.
    pub fn write(self, event: &Event, into: &mut Vec<u8>) -> Result<(), Error> {
        match event {
            Event::Started(process) => self.started(process, into),
            Event::Log(item) => self.item(item, into),
            Event::Exited(process) => self.exit(process, into),
            Event::Found(found) => self.event("match", None::<u64>, &Match::from(&**found), into),
            Event::Watching(id) => self.event("ready", Some(id), &WatchReady { id }, into),
            Event::Changed(event) => {
                let change = WatchEvent::from(event);
                self.event(change.kind, Some(&event.id), &change.body, into)
            }
            Event::Progress(progress) => {
                self.event("progress", None::<u64>, &GitProgress::from(progress), into)
            }
            Event::Did(did) => self.event("done", None::<u64>, &git_did(did), into),
            Event::Searched(summary) => self.event("end", None::<u64>, &SearchEnd::from(&**summary), into),
        }
    }
}
