//! Editing a file: what is there is read, changed, and replaced as a whole, only while nobody else changed it.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Shared;
use super::base::{exchange, expect};
use super::blocking;
use super::change::{Change, apply, diff};
use super::config::Durability;
use super::path::Location;
use super::plan::{Order, Plan, plan};
use super::request::{Base, InPlace, Kind, Reach};
use crate::error::Error;

/// The largest file that is edited: it is held in memory whole, before and after.
const LARGEST: u64 = 32 << 20;
/// How often a change is made anew because somebody else was faster.
const RACES: usize = 16;

/// Change a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The file, as the caller gave it.
    pub path: PathBuf,
    /// What is to be changed.
    pub change: Change,
    /// What must be there now; `None` for anything that the change fits.
    pub base: Option<Base>,
    /// Say what would be changed and change nothing.
    pub dry_run: bool,
}

/// What an edit did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edited {
    /// The absolute path.
    pub path: PathBuf,
    /// What was changed, as a unified diff.
    pub diff: Vec<u8>,
    /// Places that were changed: occurrences, hunks, or one.
    pub places: u64,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// The digest of all of its content.
    pub digest: blake3::Hash,
    /// Whether a reader could only ever see the old or the new content.
    pub atomic: bool,
    /// What was made durable before this answer.
    pub durability: Durability,
}

pub(super) async fn edit(shared: Arc<Shared>, reach: Reach, edit: Edit) -> Result<Edited, Error> {
    blocking::run(move || {
        let mut races = 0;
        loop {
            match once(&shared, reach, &edit) {
                // The change may fit to what is there now just as well.
                Err(Error::Stale { .. }) if edit.base.is_none() && races < RACES => races += 1,
                outcome => return outcome,
            }
        }
    })
    .await
}

fn once(shared: &Arc<Shared>, reach: Reach, edit: &Edit) -> Result<Edited, Error> {
    let location = Location::new(reach, &shared.workspace, &edit.path)?;
    if let Some(base) = &edit.base {
        expect(&location, base)?;
    }
    let before = read(&location)?;
    let (after, places) = apply(&before, &edit.change)?;
    let base = Base::Content(blake3::hash(&before));
    let name = location
        .absolute
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut edited = Edited {
        path: location.absolute.clone(),
        diff: diff(&before, &after, &name),
        places,
        bytes: after.len() as u64,
        digest: blake3::hash(&after),
        atomic: true,
        durability: Durability::None,
    };
    if edit.dry_run || before == after {
        return Ok(edited);
    }
    let order = Order {
        reach,
        path: edit.path.clone(),
        create_parents: false,
        append: false,
        mode: None,
        in_place: InPlace::IfConfigured,
    };
    let Plan::Sink(sink) = plan(shared, &order)? else {
        return Err(Kind::Fifo.instead_of_file(&location.absolute));
    };
    let written = exchange(shared, &location, Some(&base), sink.write(&[after.into()])?)?;
    edited.atomic = written.atomic;
    edited.durability = written.durability;
    Ok(edited)
}

/// All of the regular file at `location`.
fn read(location: &Location) -> Result<Vec<u8>, Error> {
    let seen = location
        .followed()?
        .ok_or_else(|| location.failure("file", "edit", Errno::NOENT))?;
    let kind = Kind::of(&seen);
    if kind != Kind::File {
        return Err(kind.instead_of_file(&location.absolute));
    }
    let file = File::from(location.open("edit", OFlags::RDONLY | OFlags::NONBLOCK)?);
    let mut content = Vec::new();
    let read = file.take(LARGEST + 1).read_to_end(&mut content);
    read.map_err(|source| Error::from_path_io("file", "edit", &location.absolute, source))?;
    if content.len() as u64 > LARGEST {
        return Err(Error::TooLarge {
            what: "a file to be edited",
            size: (seen.st_size as u64).max(content.len() as u64),
            limit: LARGEST,
        });
    }
    Ok(content)
}
