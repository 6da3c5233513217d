//! Moving: a rename where that is possible, else (another file system) a copy that takes its name when it is complete
//! and the removal of the source. Copying is the same without the removal.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, RenameFlags, Stat, renameat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::copy::{Rights, copy_tree};
use super::entry::is_same;
use super::path::Place;
use super::remove::{lies_in, protect_root, remove_tree};
use super::request::Kind;
use super::temp::unguessable_name;
use crate::error::Error;

/// Moves `from` to `to`. What is at `to` is replaced only when `overwrite`, then whatever it is, in one step.
pub(super) fn rename(from: &Place, to: &Place, overwrite: bool, root: &Path) -> Result<(), Error> {
    let stat = from
        .look()?
        .ok_or_else(|| from.failure("path", "move", Errno::NOENT))?;
    if Kind::of(&stat) == Kind::Directory {
        protect_root("move", from, &stat, root)?;
    }
    if to.is_unnamed() {
        return Err(Error::AlreadyExists {
            what: "directory",
            name: to.absolute.to_string_lossy().into_owned(),
        });
    }
    match exchange(from, to, overwrite, root) {
        Err(Errno::XDEV) => move_across(from, to, &stat, overwrite, root),
        Err(errno) => Err(blame(from, to, errno)),
        Ok(Outcome::Moved) => Ok(()),
        // What was replaced has the name of the source now.
        Ok(Outcome::Exchanged(replaced)) => discard(from, &replaced),
    }
}

/// Copies `from` to `to` with everything in it. What is at `to` is replaced only when `overwrite`, in one step.
pub(super) fn copy(from: &Place, to: &Place, overwrite: bool, root: &Path) -> Result<(), Error> {
    let stat = from
        .look()?
        .ok_or_else(|| from.failure("path", "copy", Errno::NOENT))?;
    if to.is_unnamed() {
        return Err(blame(from, to, Errno::EXIST));
    }
    // It would be copied into itself without end.
    if Kind::of(&stat) == Kind::Directory && lies_in(to.directory.as_fd(), &stat) {
        return Err(blame(from, to, Errno::INVAL));
    }
    if to.look()?.is_some_and(|present| is_same(&present, &stat)) {
        return Err(Error::Invalid {
            field: "to",
            reason: format!("{:?} is the same file as {:?}", to.absolute, from.absolute),
        });
    }
    copy_across(from, to, overwrite, root, Rights::Dropped)
}

enum Outcome {
    Moved,
    /// Both have changed places; what was at the destination.
    Exchanged(Stat),
}

fn exchange(from: &Place, to: &Place, overwrite: bool, root: &Path) -> Result<Outcome, Errno> {
    if !overwrite {
        return rename_new(from, to).map(|()| Outcome::Moved);
    }
    match renameat(&from.directory, &from.name, &to.directory, &to.name) {
        Ok(()) => Ok(Outcome::Moved),
        // A directory that is not empty, or one kind over the other: change places, then remove the old one.
        Err(errno @ (Errno::NOTEMPTY | Errno::EXIST | Errno::ISDIR | Errno::NOTDIR)) => {
            let replaced = rustix::fs::statat(&to.directory, &to.name, AtFlags::SYMLINK_NOFOLLOW)?;
            if Kind::of(&replaced) == Kind::Directory && protect_root("replace", to, &replaced, root).is_err()
            {
                return Err(Errno::BUSY);
            }
            match renameat_with(
                &from.directory,
                &from.name,
                &to.directory,
                &to.name,
                RenameFlags::EXCHANGE,
            ) {
                Ok(()) => Ok(Outcome::Exchanged(replaced)),
                // Without an exchange in one step the destination stays as it is.
                Err(Errno::NOSYS | Errno::OPNOTSUPP) => Err(errno),
                Err(other) => Err(other),
            }
        }
        Err(errno) => Err(errno),
    }
}

/// Renames where nothing has the new name.
fn rename_new(from: &Place, to: &Place) -> Result<(), Errno> {
    match renameat_with(
        &from.directory,
        &from.name,
        &to.directory,
        &to.name,
        RenameFlags::NOREPLACE,
    ) {
        // The file system does not know the flag, or a directory would move into itself: the plain call tells. Between
        // the look and the call another process could take the name; those file systems offer nothing better.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            match rustix::fs::statat(&to.directory, &to.name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Err(Errno::EXIST),
                Err(Errno::NOENT) => renameat(&from.directory, &from.name, &to.directory, &to.name),
                Err(errno) => Err(errno),
            }
        }
        result => result,
    }
}

/// Copies, and removes the source.
fn move_across(from: &Place, to: &Place, stat: &Stat, overwrite: bool, root: &Path) -> Result<(), Error> {
    copy_across(from, to, overwrite, root, Rights::Kept)?;
    discard(from, stat).map_err(|error| stayed(from, to, stat, overwrite, error))
}

/// Copies to a hidden name beside the destination and renames that into place.
fn copy_across(from: &Place, to: &Place, overwrite: bool, root: &Path, rights: Rights) -> Result<(), Error> {
    if !overwrite && to.look()?.is_some() {
        return Err(blame(from, to, Errno::EXIST));
    }
    let hidden = to.sibling(unguessable_name());
    let copied = copy_tree(from, &hidden, rights).and_then(|_kept_from_sweep| {
        match exchange(&hidden, to, overwrite, root) {
            Ok(Outcome::Moved) => Ok(()),
            Ok(Outcome::Exchanged(replaced)) => discard(&hidden, &replaced),
            Err(errno) => Err(blame(from, to, errno)),
        }
    });
    if copied.is_err()
        && let Ok(Some(left)) = hidden.look()
    {
        let _best_effort = discard(&hidden, &left);
    }
    copied
}

/// The error for a source that was copied and cannot be removed. A single file that replaced nothing is taken back, so
/// that nothing has happened; else both stay, which the error says.
fn stayed(from: &Place, to: &Place, stat: &Stat, overwrite: bool, error: Error) -> Error {
    if !overwrite && Kind::of(stat) != Kind::Directory && discard(to, stat).is_ok() {
        return error;
    }
    Error::Conflict {
        what: format!("move {:?}", from.absolute),
        reason: format!(
            "{:?} is a whole copy now, but not all of the source went: {error}",
            to.absolute
        ),
    }
}

/// Removes what is at `place`, which `stat` describes.
fn discard(place: &Place, stat: &Stat) -> Result<(), Error> {
    if Kind::of(stat) == Kind::Directory {
        return remove_tree(place.directory.as_fd(), &place.name, &place.absolute);
    }
    unlinkat(&place.directory, &place.name, AtFlags::empty())
        .map_err(|errno| place.failure("path", "remove", errno))
}

fn blame(from: &Place, to: &Place, errno: Errno) -> Error {
    match errno {
        Errno::INVAL => Error::Invalid {
            field: "to",
            reason: format!(
                "{:?} lies inside {:?}, which cannot go into itself",
                to.absolute, from.absolute
            ),
        },
        Errno::NOENT => from.failure("path", "move", errno),
        _ => to.failure("path", "move to", errno),
    }
}
