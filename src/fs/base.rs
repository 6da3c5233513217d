//! Compare and swap: a file is replaced only while it is what its writer believes it to be.
//!
//! What is there is looked at when the write begins, so that nobody sends a gigabyte in vain, and again when it ends, before
//! it takes its name. The second look and the rename happen while nobody else of this daemon exchanges a file; what
//! another program does between the two is not seen, as no file system offers a rename that compares.

use std::fs::File;

use rustix::fs::{OFlags, Stat, fstat};

use super::Shared;
use super::digest::digest;
use super::entry::is_same;
use super::path::Location;
use super::read::version;
use super::request::{Base, Kind, Written};
use super::sink::Sink;
use crate::error::Error;

/// Fails unless what is there is `base`; answers which file was looked at.
pub(super) fn expect(location: &Location, base: &Base) -> Result<Option<Stat>, Error> {
    let stale = |reason: String| Error::Stale {
        what: format!("write {:?}", location.absolute),
        reason,
    };
    if location.followed()?.is_none() {
        return match base {
            Base::Absent => Ok(None),
            Base::Content(digest) => Err(stale(format!(
                "no file is there, expected one with digest {digest}"
            ))),
            Base::Version(version) => Err(stale(format!("no file is there, expected version {version:?}"))),
        };
    }
    if *base == Base::Absent {
        return Err(there_is_one(location));
    }
    let file = File::from(location.open("read", OFlags::RDONLY | OFlags::NONBLOCK)?);
    let stat = fstat(&file).map_err(|errno| location.failure("file", "read", errno))?;
    let kind = Kind::of(&stat);
    if kind != Kind::File {
        return Err(kind.instead_of_file(&location.absolute));
    }
    match base {
        Base::Absent => {}
        Base::Version(expected) => {
            let found = version(&stat, stat.st_size as u64);
            if found != *expected {
                return Err(stale(format!(
                    "the file has version {found:?}, expected {expected:?}"
                )));
            }
        }
        Base::Content(expected) => {
            let found = digest(&file)
                .map_err(|source| Error::from_path_io("file", "read", &location.absolute, source))?;
            if found != *expected {
                return Err(stale(format!("the file has digest {found}, expected {expected}")));
            }
        }
    }
    Ok(Some(stat))
}

/// Gives what was written its name when what is there still is `base`.
pub(super) fn exchange(
    shared: &Shared,
    location: &Location,
    base: Option<&Base>,
    mut sink: Sink,
) -> Result<Written, Error> {
    // Before anybody waits for the turn.
    let seen = base.map(|base| expect(location, base)).transpose()?;
    let _turn = shared.exchange.lock();
    if let (Some(base), Some(seen)) = (base, seen)
        && !is_unchanged(seen.as_ref(), location.followed()?.as_ref())
    {
        expect(location, base)?;
    }
    let only_new = base == Some(&Base::Absent);
    sink.look_again(only_new)?;
    match sink.finish() {
        Err(Error::AlreadyExists { .. }) if only_new => Err(there_is_one(location)),
        finished => finished,
    }
}

fn there_is_one(location: &Location) -> Error {
    Error::Stale {
        what: format!("write {:?}", location.absolute),
        reason: "a file is there, expected none".into(),
    }
}

/// Whether it is the same file with the same content, as far as the file system tells.
fn is_unchanged(before: Option<&Stat>, now: Option<&Stat>) -> bool {
    let times = |stat: &Stat| {
        (
            stat.st_size,
            stat.st_mtime,
            stat.st_mtime_nsec,
            stat.st_ctime,
            stat.st_ctime_nsec,
        )
    };
    match (before, now) {
        (None, None) => true,
        (Some(before), Some(now)) => is_same(before, now) && times(before) == times(now),
        (Some(_), None) | (None, Some(_)) => false,
    }
}
