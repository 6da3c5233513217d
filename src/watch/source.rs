//! The kernel's hints: an inotify descriptor, one watch per directory.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::limits::HINTS;

/// What is asked of the kernel.
const MASK: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// Where to look.
#[derive(Debug, Default)]
pub(super) struct Hints {
    /// By watch and name: whether the content was written.
    pub(super) places: HashMap<(i32, OsString), bool>,
    /// A directory itself went away or was moved.
    pub(super) selves: bool,
    /// Watches that the kernel has ended.
    pub(super) ended: Vec<i32>,
    /// Hints are missing.
    pub(super) overflow: bool,
    /// Renames of which one half was seen.
    halves: HashSet<u32>,
}

impl Hints {
    /// Whether there is anything to look at.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty() && self.ended.is_empty() && !self.selves && !self.overflow
    }

    /// Whether the other half of a rename may still come.
    pub(super) fn has_halves(&self) -> bool {
        !self.halves.is_empty()
    }

    fn take(&mut self, event: &inotify::Event<'_>, above: Option<&Above>) {
        let flags = event.events();
        if let Some(above) = above.filter(|above| above.watch == event.wd()) {
            let name = event.file_name();
            self.selves |= name.is_some_and(|name| name.to_bytes() == above.name.as_bytes());
            return;
        }
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.overflow = true;
            return;
        }
        if flags.contains(ReadFlags::IGNORED) {
            self.ended.push(event.wd());
        }
        if flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF) {
            self.selves = true;
        }
        let Some(name) = event.file_name() else { return };
        if flags.intersects(ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO)
            && !self.halves.remove(&event.cookie())
        {
            self.halves.insert(event.cookie());
        }
        if self.places.len() >= HINTS {
            self.overflow = true;
            self.places.clear();
            return;
        }
        let name = OsString::from_vec(name.to_bytes().to_vec());
        let written = self.places.entry((event.wd(), name)).or_default();
        *written |= flags.contains(ReadFlags::MODIFY);
    }
}

/// The watch of the directory that the root lies in, which tells when the root goes: the descriptor of a directory that is
/// held keeps the kernel from telling that at the directory itself.
#[derive(Debug)]
pub(super) struct Above {
    watch: i32,
    /// The root's name there.
    name: OsString,
}

/// The descriptor.
#[derive(Debug)]
pub(super) struct Source {
    descriptor: AsyncFd<OwnedFd>,
    above: Option<Above>,
}

impl Source {
    /// Opens one; inside a runtime.
    pub(super) fn open() -> io::Result<Self> {
        let descriptor = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // SAFETY: the descriptor is owned by what is registered, and lives as long.
        #[expect(unsafe_code, reason = "registering cannot know whose a descriptor is")]
        let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
        Ok(Self {
            descriptor: registered?,
            above: None,
        })
    }

    /// The descriptor, for adding watches also from another thread.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.descriptor.get_ref().try_clone()
    }

    /// Has what the root lies in tell when it goes.
    pub(super) fn set_above(&mut self, above: Option<Above>) {
        self.above = above;
    }

    /// Waits for hints and takes what there is. Cancel-safe: what was taken is in `hints`.
    pub(super) async fn gather(&self, hints: &mut Hints) -> io::Result<()> {
        let above = self.above.as_ref();
        let mut ready = self.descriptor.readable().await?;
        match ready.try_io(|descriptor| Err::<(), _>(read(descriptor.get_ref(), hints, above))) {
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    /// Takes what there is now.
    pub(super) fn drain(&self, hints: &mut Hints) -> io::Result<()> {
        match read(self.descriptor.get_ref(), hints, self.above.as_ref()) {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            error => Err(error),
        }
    }
}

/// Reads until there is nothing more, which is an error too: `EAGAIN`.
fn read(descriptor: &OwnedFd, hints: &mut Hints, above: Option<&Above>) -> io::Error {
    let mut space = [const { MaybeUninit::uninit() }; 16 << 10];
    let mut reader = Reader::new(descriptor, &mut space);
    loop {
        match reader.next() {
            Ok(event) => hints.take(&event, above),
            Err(Errno::INTR) => {}
            Err(errno) => return errno.into(),
        }
    }
}

/// Watches the directory behind an open descriptor.
pub(super) fn add(source: BorrowedFd<'_>, directory: BorrowedFd<'_>) -> Result<i32, Errno> {
    inotify::add_watch(source, format!("/proc/self/fd/{}", directory.as_raw_fd()), MASK)
}

/// Watches the directory that `root` lies in; `None` where that cannot be watched, so that the root has to be looked at.
pub(super) fn add_above(source: BorrowedFd<'_>, root: &Path) -> Option<Above> {
    let mask = WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::ONLYDIR | WatchFlags::MASK_ADD;
    let name = root.file_name()?.to_owned();
    let watch = inotify::add_watch(source, root.parent()?, mask).ok()?;
    Some(Above { watch, name })
}

/// Ends a watch.
pub(super) fn remove(source: BorrowedFd<'_>, watch: i32) {
    // It ends by itself with its directory.
    let _gone_already = inotify::remove_watch(source, watch);
}
