//! What a new file takes over from the file it replaces: owner, permission bits and extended attributes, but never
//! what gives rights to whoever runs it (setuid, setgid, file capabilities), as write(2) drops those too.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::buffer::spare_capacity;
use rustix::fs::{
    Gid, Mode, Stat, Uid, XattrFlags, fchmod, fchown, fgetxattr, flistxattr, fremovexattr, fsetxattr, fstat,
};
use rustix::io::Errno;

/// Attributes that speak about the old content or grant rights; they end with it.
const DROPPED: [&[u8]; 3] = [b"security.capability", b"security.ima", b"security.evm"];

/// Makes `new` look like `old`, whose metadata is `stat`. An error means that a new file can not stand for the old
/// one (another owner, attributes that may not be set).
pub(super) fn carry_over(old: BorrowedFd<'_>, stat: &Stat, new: BorrowedFd<'_>) -> Result<(), Errno> {
    let fresh = fstat(new)?;
    if fresh.st_uid != stat.st_uid || fresh.st_gid != stat.st_gid {
        fchown(
            new,
            Some(Uid::from_raw(stat.st_uid)),
            Some(Gid::from_raw(stat.st_gid)),
        )?;
    }
    fchmod(new, Mode::from_raw_mode(stat.st_mode & 0o1777))?;
    attributes(old, new)
}

/// Gives `new` exactly the extended attributes of `old`, but for those that are dropped.
pub(super) fn attributes(old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> Result<(), Errno> {
    let wanted = attribute_names(old)?;
    for name in attribute_names(new)? {
        // What the directory's default ACL gave it must go; security labels are the kernel's own.
        if !wanted.contains(&name) && !name.to_bytes().starts_with(b"security.") {
            fremovexattr(new, name.as_c_str())?;
        }
    }
    for name in wanted {
        if DROPPED.contains(&name.to_bytes()) {
            continue;
        }
        let value = attribute_value(old, &name)?;
        if attribute_value(new, &name).is_ok_and(|present| present == value) {
            continue;
        }
        fsetxattr(new, name.as_c_str(), &value, XattrFlags::empty())?;
    }
    Ok(())
}

/// The names of all extended attributes.
pub(super) fn attribute_names(file: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut list: Vec<u8> = Vec::with_capacity(256);
    loop {
        match flistxattr(file.as_fd(), spare_capacity(&mut list)) {
            Ok(_) => break,
            Err(Errno::RANGE) => list = Vec::with_capacity(list.capacity() * 4),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        }
    }
    let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.filter_map(|name| CString::new(name).ok()).collect())
}

/// What one of them says.
pub(super) fn attribute_value(file: BorrowedFd<'_>, name: &CString) -> Result<Vec<u8>, Errno> {
    let mut value: Vec<u8> = Vec::with_capacity(256);
    loop {
        match fgetxattr(file.as_fd(), name.as_c_str(), spare_capacity(&mut value)) {
            Ok(_) => return Ok(value),
            Err(Errno::RANGE) if value.capacity() < 1 << 20 => {
                value = Vec::with_capacity(value.capacity() * 8);
            }
            Err(errno) => return Err(errno),
        }
    }
}
