//! Extended attributes of one entry, which is not followed when it is a symbolic link; and making such links.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, XattrFlags, fremovexattr, fsetxattr, symlinkat};
use rustix::io::Errno;

use super::keep::{attribute_names, attribute_value};
use super::path::Location;
use super::request::Kind;
use crate::error::Error;

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Its name with its namespace: `user.origin`.
    pub name: String,
    /// What it says.
    pub value: Vec<u8>,
}

/// Set or remove an extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAttribute {
    /// The entry, as the caller gave it.
    pub path: PathBuf,
    /// Its name with its namespace.
    pub name: String,
    /// What it is to say; `None` removes it.
    pub value: Option<Vec<u8>>,
}

/// All attributes of what is at `location`, by name; those that nobody but the kernel may read are left out.
pub(super) fn read(location: &Location) -> Result<Vec<Attribute>, Error> {
    let entry = open(location)?;
    let failed = |errno| location.failure("path", "read the attributes of", errno);
    let mut attributes = Vec::new();
    for name in attribute_names(entry.as_fd()).map_err(failed)? {
        let value = match attribute_value(entry.as_fd(), &name) {
            Ok(value) => value,
            // Removed meanwhile, or not for us.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => continue,
            Err(errno) => return Err(failed(errno)),
        };
        attributes.push(Attribute {
            name: name.to_string_lossy().into_owned(),
            value,
        });
    }
    attributes.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(attributes)
}

/// Sets or removes one.
pub(super) fn write(location: &Location, request: &SetAttribute) -> Result<(), Error> {
    let name = CString::new(request.name.as_bytes()).map_err(|_| Error::Invalid {
        field: "name",
        reason: "must not contain a NUL byte".into(),
    })?;
    let entry = open(location)?;
    let done = match &request.value {
        Some(value) => fsetxattr(&entry, name.as_c_str(), value, XattrFlags::empty()),
        None => fremovexattr(&entry, name.as_c_str()),
    };
    done.map_err(|errno| match errno {
        Errno::NODATA => Error::NotFound {
            what: "attribute",
            name: request.name.clone(),
        },
        Errno::OPNOTSUPP => Error::Unsupported {
            what: format!("the attribute {:?} of {:?}", request.name, location.absolute),
            why: "this file system, or this kind of entry, does not take it".into(),
            fix: Some("names of users begin with \"user.\"".into()),
        },
        errno => location.failure("path", "set an attribute of", errno),
    })
}

fn open(location: &Location) -> Result<std::os::fd::OwnedFd, Error> {
    let place = location.place()?;
    let stat = place
        .look()?
        .ok_or_else(|| place.failure("path", "open", Errno::NOENT))?;
    let kind = Kind::of(&stat);
    // Opening anything else has effects, and they take no attributes of users.
    if !matches!(kind, Kind::File | Kind::Directory) {
        return Err(kind.instead_of_file(&place.absolute));
    }
    place
        .open(OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())
        .map_err(|errno| place.failure("path", "open", errno))
}

/// Makes a symbolic link at `location`, which must not exist, to `target`, which is not looked at.
pub(super) fn link(location: &Location, target: &Path) -> Result<(), Error> {
    let place = location.place()?;
    symlinkat(target, &place.directory, &place.name).map_err(|errno| place.failure("link", "make", errno))
}
