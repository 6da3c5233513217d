//! Making directories: one, or every missing one of a path.
//!
//! When boxd runs as root, a directory it makes belongs to the owner of the directory it was made in, so that a user
//! whose workspace root serves can work in what was made for them.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Dir, Mode, OFlags, fchmod, fchown, fstat, mkdirat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::anchor::DIRECTORY;
use super::path::{Location, Place, failure};
use crate::error::Error;

/// Makes the directory at `location`, which must not exist unless `parents`; `mode` is exact.
pub(super) fn make(location: &Location, parents: bool, mode: Option<u32>) -> Result<(), Error> {
    if parents {
        return make_all(location, mode);
    }
    let place = location.place()?;
    if place.is_unnamed() {
        return Err(failure("directory", "make", &place.absolute, Errno::EXIST));
    }
    make_one(&place, mode).map(drop)
}

/// The parent directory and last name of `location`, after making every missing parent.
pub(super) fn make_parents(location: &Location) -> Result<Place, Error> {
    match location.place() {
        Err(Error::NotFound { .. }) => {}
        result => return result,
    }
    let (nearest, missing) = location.nearest(false)?;
    make_missing(nearest, &missing, None)?;
    location.place()
}

fn make_all(location: &Location, mode: Option<u32>) -> Result<(), Error> {
    let (nearest, missing) = location.nearest(true)?;
    make_missing(nearest, &missing, mode)
}

/// Makes `missing`, outermost first, the first of them in `nearest`; only the last gets `mode`.
fn make_missing(nearest: OwnedFd, missing: &[Location], mode: Option<u32>) -> Result<(), Error> {
    let mut directory = nearest;
    for (index, location) in missing.iter().enumerate() {
        let mode = mode.filter(|_| index + 1 == missing.len());
        directory = match location.name() {
            None => location.open("open", DIRECTORY)?,
            Some(name) => {
                let place = Place {
                    directory: Arc::new(directory),
                    name: name.to_owned(),
                    absolute: location.absolute.clone(),
                };
                match make_one(&place, mode) {
                    // Someone else made it in between, perhaps as a link to a directory.
                    Err(Error::AlreadyExists { .. }) => location.open("open", DIRECTORY)?,
                    result => result?,
                }
            }
        };
    }
    Ok(())
}

/// Makes the one directory `place` and answers its descriptor.
pub(super) fn make_one(place: &Place, mode: Option<u32>) -> Result<OwnedFd, Error> {
    let failed = |errno| place.failure("directory", "make", errno);
    // With an exact mode it is closed to others until that mode is set.
    let initial = if mode.is_some() {
        Mode::RWXU
    } else {
        Mode::from_raw_mode(0o777)
    };
    mkdirat(&place.directory, &place.name, initial).map_err(failed)?;
    // Only what is changed after has to be readable, which an unusual umask may forbid.
    let is_changed = mode.is_some() || geteuid().is_root();
    let flags = if is_changed {
        OFlags::RDONLY | OFlags::DIRECTORY
    } else {
        DIRECTORY
    };
    let made = place.open(flags, Mode::empty()).map_err(failed)?;
    give_to_owner_of_parent(place, &made).map_err(failed)?;
    if let Some(mode) = mode {
        fchmod(&made, Mode::from_raw_mode(mode & 0o7777)).map_err(failed)?;
    }
    Ok(made)
}

/// Gives the directory just made to the owner of its parent. Only when it still is the empty directory of ours: who
/// may rename in the parent could have put another directory in its place.
fn give_to_owner_of_parent(place: &Place, made: &OwnedFd) -> Result<(), Errno> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let parent = fstat(&place.directory)?;
    let stat = fstat(made)?;
    let owned_alike = parent.st_uid == stat.st_uid && parent.st_gid == stat.st_gid;
    if owned_alike || stat.st_uid != geteuid().as_raw() || !is_empty(made)? {
        return Ok(());
    }
    let owner = rustix::fs::Uid::from_raw(parent.st_uid);
    let group = rustix::fs::Gid::from_raw(parent.st_gid);
    fchown(made, Some(owner), Some(group))
}

fn is_empty(directory: &OwnedFd) -> Result<bool, Errno> {
    for entry in Dir::read_from(directory.as_fd())? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
