//! Resolution itself: where it starts, what it must not leave, and how a walk goes down without following links.
//!
//! Only `path.rs` turns a path of a request into a descriptor; the walks of this room go on from there with
//! [`descend`], and an archive is unpacked through an [`Anchor`] on its destination.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::{Errno, retry_on_intr};

/// Flags of a descriptor that only stands for a directory.
pub(super) const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// How often a resolution that raced with a rename is tried again (`openat2` answers `EAGAIN` then).
const RACES: usize = 256;

/// Where resolution starts.
#[derive(Debug)]
pub(super) enum Anchor {
    /// The root of the file system: absolute paths, as the operating system resolves them.
    Machine,
    /// A directory that no step of a resolution may leave; absolute links and magic links are refused.
    Beneath(OwnedFd),
}

impl Anchor {
    /// Opens `path` from here; the descriptor is close-on-exec.
    pub(super) fn open(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        match self {
            Self::Machine => retry_on_intr(|| openat(CWD, path, flags, mode)),
            Self::Beneath(start) => {
                let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                resolve(start.as_fd(), or_here(path), flags, mode, beneath)
            }
        }
    }
}

/// Whether a walk enters what is mounted below its top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mounts {
    Enter,
    Refuse,
}

/// Opens the directory `relative` (no `..` in it) below `top` without following any symbolic link, in steps, so that
/// no depth is too deep for one path. Where mounts are refused a mount point answers `EXDEV`.
pub(super) fn descend(
    top: BorrowedFd<'_>,
    relative: &Path,
    flags: OFlags,
    mounts: Mounts,
) -> Result<OwnedFd, Errno> {
    const STEP: usize = 2048;
    let mut rules = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rules.set(ResolveFlags::NO_XDEV, mounts == Mounts::Refuse);
    let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at: Option<OwnedFd> = None;
    let mut step = PathBuf::new();
    for component in relative.components() {
        if step.as_os_str().len() > STEP {
            at = Some(enter(
                at.as_ref().map_or(top, AsFd::as_fd),
                &step,
                DIRECTORY | OFlags::NOFOLLOW,
                rules,
            )?);
            step.clear();
        }
        step.push(component);
    }
    enter(at.as_ref().map_or(top, AsFd::as_fd), &step, flags, rules)
}

/// One step of [`descend`]; kernels without `openat2` go name by name, which follows no link either.
fn enter(from: BorrowedFd<'_>, path: &Path, flags: OFlags, rules: ResolveFlags) -> Result<OwnedFd, Errno> {
    match resolve(from, or_here(path), flags, Mode::empty(), rules) {
        Err(Errno::NOSYS) => by_names(from, path, flags),
        result => result,
    }
}

fn by_names(from: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let (parent, name) = split(path);
    let mut at: Option<OwnedFd> = None;
    for component in parent.components() {
        let from = at.as_ref().map_or(from, AsFd::as_fd);
        at = Some(openat(
            from,
            component.as_os_str(),
            DIRECTORY | OFlags::NOFOLLOW,
            Mode::empty(),
        )?);
    }
    openat(at.as_ref().map_or(from, AsFd::as_fd), name, flags, Mode::empty())
}

/// Whether this kernel resolves paths beneath a directory.
pub(super) fn resolves_beneath() -> bool {
    resolve_beneath_here().is_ok()
}

fn resolve_beneath_here() -> Result<OwnedFd, Errno> {
    let root = openat(CWD, "/", DIRECTORY, Mode::empty())?;
    openat2(&root, ".", DIRECTORY, Mode::empty(), ResolveFlags::BENEATH)
}

fn resolve(
    from: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    rules: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    for _ in 0..RACES {
        match openat2(from, path, flags, mode, rules) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Parent and last name; what has no last name (`/`, nothing, `a/..`) is `.` in itself.
pub(super) fn split(path: &Path) -> (&Path, &OsStr) {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => (or_here(parent), name),
        _ => (or_here(path), OsStr::new(".")),
    }
}

fn or_here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_is_split_into_what_holds_it_and_its_name() {
        let cases = [
            ("/", "/", "."),
            ("/a", "/", "a"),
            ("a", ".", "a"),
            ("a/b/", "a", "b"),
            ("a/./b/.", "a", "b"),
            ("a/..", "a/..", "."),
            ("", ".", "."),
            (".", ".", "."),
        ];
        for (path, parent, name) in cases {
            let (found, last) = split(Path::new(path));
            assert_eq!((found, last), (Path::new(parent), OsStr::new(name)), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn a_split_path_joins_to_the_same_place(path in "/?(\\.\\.|\\.|[ab])(/(\\.\\.|\\.|[ab])){0,5}/?") {
            let (parent, name) = split(Path::new(&path));
            prop_assert!(name != ".." && !name.is_empty());
            let normal = |path: &Path| -> PathBuf {
                path.components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect()
            };
            prop_assert_eq!(normal(&parent.join(name)), normal(Path::new(&path)));
        }
    }

    #[test]
    fn a_walk_down_follows_no_link_and_goes_as_deep_as_it_must() {
        let top = tempfile::tempdir().unwrap();
        let long: PathBuf = std::iter::repeat_n("directory", 30).collect();
        std::fs::create_dir_all(top.path().join(&long)).unwrap();
        std::os::unix::fs::symlink("directory", top.path().join("link")).unwrap();
        let fd = openat(CWD, top.path(), DIRECTORY, Mode::empty()).unwrap();
        for mounts in [Mounts::Enter, Mounts::Refuse] {
            descend(fd.as_fd(), Path::new(""), OFlags::RDONLY, mounts).unwrap();
            descend(fd.as_fd(), &long, OFlags::RDONLY, mounts).unwrap();
            for link in ["link", "link/directory"] {
                let error = descend(fd.as_fd(), Path::new(link), OFlags::PATH, mounts).unwrap_err();
                assert!(matches!(error, Errno::LOOP | Errno::NOTDIR), "{link} {error}");
            }
        }
        by_names(fd.as_fd(), &long, OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
        by_names(
            fd.as_fd(),
            Path::new("link/directory"),
            OFlags::PATH | OFlags::DIRECTORY,
        )
        .unwrap_err();
    }
}
