//! Which way a file is written.
//!
//! ```text
//!   regular or missing  -> new file beside it, renamed over it        (replace.rs)
//!   no rename possible  -> collected aside, then copied over it       (overwrite.rs), when the request allows that
//!   append              -> at the end, cut back when it fails         (append.rs)
//!   device              -> written as it comes                        (overwrite.rs)
//!   fifo                -> written without ever holding a thread      (fifo.rs)
//! ```
//!
//! Symbolic links are followed to the name they end in, and that name is what is replaced, never a link.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;

use super::append::Append;
use super::directory::make_parents;
use super::entry::{is_same, link_target};
use super::overwrite::{Device, Overwrite};
use super::path::{Location, Place};
use super::replace::{Replace, check_writable};
use super::request::{InPlace, Kind, Reach};
use super::sink::{Sink, Way};
use super::{Shared, fifo};
use crate::error::Error;

/// How many symbolic links a path may end in, as in the kernel.
const LINKS: usize = 40;
/// How often a path is looked up again when it changed in between.
const RACES: usize = 16;

/// Everything about a write but its body.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) reach: Reach,
    pub(super) path: PathBuf,
    pub(super) create_parents: bool,
    pub(super) append: bool,
    pub(super) mode: Option<u32>,
    pub(super) in_place: InPlace,
}

/// What the body goes to.
#[derive(Debug)]
pub(super) enum Plan {
    Sink(Box<Sink>),
    Fifo(PathBuf, File),
}

/// Finds the way to write and prepares it; nothing that exists is touched yet.
pub(super) fn plan(shared: &Arc<Shared>, order: &Order) -> Result<Plan, Error> {
    let location = Location::new(order.reach, &shared.workspace, &order.path)?;
    let path = location.absolute.clone();
    let followed = location.followed()?;
    let way = match followed.as_ref().map(Kind::of) {
        Some(Kind::Fifo) => return fifo::open(&location).map(|fifo| Plan::Fifo(path, fifo)),
        Some(Kind::CharDevice | Kind::BlockDevice) => Way::Device(Device::open(&location)?),
        Some(kind @ (Kind::Directory | Kind::Socket | Kind::Symlink)) => {
            return Err(kind.instead_of_file(&path));
        }
        Some(Kind::File) | None => regular(shared, order, &location)?,
    };
    Ok(Plan::Sink(Box::new(Sink::new(shared, path, way))))
}

fn regular(shared: &Shared, order: &Order, location: &Location) -> Result<Way, Error> {
    if location.names_directory {
        let reason = format!(
            "{:?} ends with a slash, which names a directory",
            location.absolute
        );
        return Err(Error::Invalid {
            field: "path",
            reason,
        });
    }
    let allowed = shared.allows_in_place(order.in_place);
    let rule = InPlaceRule {
        path: location.absolute.clone(),
        is_allowed: allowed,
    };
    let end = match find_end(location, order.create_parents)? {
        End::Named(place, present) => (place, present),
        End::Nameless(place) => {
            rule.check("it is reached through a link that names no path")?;
            let target = location.open("write", OFlags::WRONLY | OFlags::NONBLOCK)?;
            return Ok(Way::Overwrite(Overwrite::new(&place, target.into(), rule)));
        }
    };
    let (place, present) = end;
    if let Some(kind) = present.as_ref().map(Kind::of)
        && kind != Kind::File
    {
        return Err(kind.instead_of_file(&rule.path));
    }
    if order.append {
        return Append::open(&place, present.is_some(), order.mode).map(Way::Append);
    }
    let Some(stat) = present else {
        let replace = Replace::create(&place, order.mode, rule);
        return replace.map(|replace| Way::Replace(Box::new(replace)));
    };
    check_writable(&place)?;
    if stat.st_nlink > 1 {
        rule.check(&format!("it has {} hard links", stat.st_nlink))?;
        return Overwrite::open(&place, rule).map(Way::Overwrite);
    }
    match Replace::open(&place, order.mode, rule.clone()) {
        // A directory that takes no new file, with a file that can be written.
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {
            rule.check("its directory takes no new file")?;
            Overwrite::open(&place, rule).map(Way::Overwrite)
        }
        Err(errno) => Err(place.failure("file", "write", errno)),
        Ok(replace) => Ok(Way::Replace(Box::new(replace))),
    }
}

/// What a path leads to.
enum End {
    /// A name in a directory, and what has that name.
    Named(Place, Option<Stat>),
    /// A file that no name leads to: links like `/proc/self/fd/3` jump to it. The place is that of the last link.
    Nameless(Place),
}

fn find_end(location: &Location, create_parents: bool) -> Result<End, Error> {
    let mut last = None;
    for _ in 0..RACES {
        let followed = location.followed()?;
        let (place, present, is_linked) = follow_links(location.clone(), create_parents)?;
        let agree = match (&followed, &present) {
            (Some(followed), Some(present)) => is_same(followed, present),
            (None, _) => true,
            (Some(_), None) => false,
        };
        // Without a link in between, a difference only says that someone else replaced the file just now.
        if agree || !is_linked {
            return Ok(End::Named(place, present));
        }
        last = Some(place);
    }
    last.map(End::Nameless)
        .ok_or_else(|| location.failure("link", "follow", Errno::LOOP))
}

/// The place that a chain of symbolic links ends in, what is there, and whether there was a link at all.
fn follow_links(mut location: Location, create_parents: bool) -> Result<(Place, Option<Stat>, bool), Error> {
    for links in 0..LINKS {
        let place = if create_parents {
            make_parents(&location)?
        } else {
            location.place()?
        };
        let present = place.look()?;
        match present {
            Some(stat) if Kind::of(&stat) == Kind::Symlink => {
                let target = link_target(place.directory.as_fd(), &place.name)
                    .map_err(|errno| place.failure("link", "follow", errno))?;
                location = location.beside(&target)?;
            }
            present => return Ok((place, present, links > 0)),
        }
    }
    Err(location.failure("link", "follow", Errno::LOOP))
}

/// Whether this write may overwrite in place, and the path that a refusal names.
#[derive(Debug, Clone)]
pub(super) struct InPlaceRule {
    pub(super) path: PathBuf,
    is_allowed: bool,
}

impl InPlaceRule {
    /// Refuses with `reason` when in place is not allowed.
    pub(super) fn check(&self, reason: &str) -> Result<(), Error> {
        if self.is_allowed {
            return Ok(());
        }
        Err(Error::Conflict {
            what: format!("write {:?}", self.path),
            reason: format!(
                "{reason}, so only a write in place is possible, which fs.in_place does not allow"
            ),
        })
    }
}

/// The mode a new file is made with: closed until its exact mode is set, or what the umask makes of 0666.
pub(super) fn initial_mode(exact: Option<u32>) -> Mode {
    if exact.is_some() {
        Mode::RUSR | Mode::WUSR
    } else {
        Mode::from_raw_mode(0o666)
    }
}
