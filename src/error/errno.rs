//! Between errors and errno: which variant a failed system call is, and which errno a variant stands for.

use std::io;
use std::path::Path;

use super::Error;

impl Error {
    /// The errno that a POSIX caller would have seen, where one caused this or stands for it.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Invalid { .. } | Self::Range { .. } => Some(libc::EINVAL),
            Self::NotFound { .. } => Some(libc::ENOENT),
            Self::AlreadyExists { .. } => Some(libc::EEXIST),
            Self::Denied { errno, .. } | Self::StorageFull { errno, .. } | Self::WrongKind { errno, .. } => {
                Some(*errno)
            }
            Self::NotEmpty { .. } => Some(libc::ENOTEMPTY),
            Self::Conflict { .. } => Some(libc::EBUSY),
            Self::Stale { .. } => Some(libc::ESTALE),
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// An [`Error`] for a failed call on `path`: picks the variant by errno, keeps the path in the message.
    ///
    /// `operation` is the verb (`open`, `rename`); `what` the kind of thing for [`Error::NotFound`].
    pub fn from_path_io(what: &'static str, operation: &'static str, path: &Path, source: io::Error) -> Self {
        let doing = format!("{operation} {path:?}");
        let errno = source.raw_os_error().unwrap_or(0);
        match errno {
            libc::ENOENT => Self::NotFound {
                what,
                name: path.to_string_lossy().into_owned(),
            },
            libc::EEXIST => Self::AlreadyExists {
                what,
                name: path.to_string_lossy().into_owned(),
            },
            libc::EACCES | libc::EPERM | libc::EROFS => Self::Denied { doing, errno },
            libc::EISDIR => Self::WrongKind {
                path: path.to_owned(),
                found: "a directory",
                expected: "something else",
                errno,
            },
            libc::ENOTDIR => Self::WrongKind {
                path: path.to_owned(),
                found: "no directory, or lies below something that is none",
                expected: "a directory",
                errno,
            },
            libc::ENOTEMPTY => Self::NotEmpty {
                path: path.to_owned(),
            },
            libc::ENOSPC | libc::EDQUOT => Self::StorageFull {
                doing,
                free: free_bytes(path),
                errno,
            },
            libc::ENAMETOOLONG => Self::Invalid {
                field: "path",
                reason: format!(
                    "{} bytes long, a name may have 255 and a path 4096",
                    path.as_os_str().len()
                ),
            },
            libc::ELOOP => Self::Invalid {
                field: "path",
                reason: format!("{path:?} has too many symbolic links"),
            },
            _ => Self::Io { doing, source },
        }
    }
}

/// Bytes free for us on the file system of `path` or of its nearest existing parent; 0 when that cannot be told.
fn free_bytes(path: &Path) -> u64 {
    path.ancestors()
        .find_map(|candidate| nix::sys::statvfs::statvfs(candidate).ok())
        .map_or(0, |stat| stat.blocks_available() * stat.fragment_size())
}
