//! The executable on the disk: a new one is staged beside it, put in its place by one rename, and taken back by another.
//!
//! ```text
//!   boxd            what runs, or runs next
//!   .boxd.staged    a new one, not proved yet; also what a killed update left
//!   boxd.previous   the one before, for the way back
//!   .boxd.update    what is remembered (see `trial`), and .boxd.update.served, what will be when the new one serves
//!   .boxd.update.lock   held from the beginning of an update or an install to its end
//!   .boxd.update.turn   held for the moment in which any of the above changes
//!   .boxd.update.guarded   there while the code before stands guard
//! ```
//!
//! What is renamed was synced before, and the directory after, so that a power loss leaves either the old or the new one.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::error::Error;

/// How long a turn is waited for: whoever has one reads an executable and syncs a few files.
const TURN: Duration = Duration::from_secs(30);
/// How often it is asked for.
const LOOK: Duration = Duration::from_millis(20);

/// Where the executable is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    directory: PathBuf,
    name: OsString,
}

/// Held while it is not to be changed by others. The file is its owner's alone: whoever may only read the executable cannot
/// hold up its updates.
#[derive(Debug)]
pub(super) struct Held {
    _lock: Flock<File>,
}

impl Place {
    /// The place of the running program, which was started by the name `first`. Where the system does not tell it, as
    /// without `/proc`, it is where the name says.
    pub fn of_this_program(first: Option<&OsString>) -> Self {
        let path = std::env::current_exe().or_else(|error| {
            let name = first.map(Path::new).filter(|name| name.components().count() > 1);
            name.map_or(Err(error), std::path::absolute)
        });
        Self::at(&path.unwrap_or_default())
    }

    /// The place of the executable at `path`. One that was replaced under a running program is where it was.
    pub fn at(path: &Path) -> Self {
        let name = path.file_name().unwrap_or(OsStr::new("boxd"));
        let name = name.to_string_lossy();
        let name = name.strip_suffix(" (deleted)").unwrap_or(&name);
        Self {
            directory: path.parent().unwrap_or(Path::new("/")).to_owned(),
            name: name.into(),
        }
    }

    /// The place that the running program is the one before of.
    pub fn of_this_previous(first: Option<&OsString>) -> Self {
        let mut place = Self::of_this_program(first);
        let name = place.name.to_string_lossy();
        if let Some(name) = name.strip_suffix(".previous").map(OsString::from) {
            place.name = name;
        }
        place
    }

    /// The executable.
    pub fn executable(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    /// The one before.
    pub fn previous(&self) -> PathBuf {
        self.beside("", ".previous")
    }

    /// The new one before it is put in place.
    pub(super) fn staged(&self) -> PathBuf {
        self.beside(".", ".staged")
    }

    /// What is remembered.
    pub(super) fn record(&self) -> PathBuf {
        self.beside(".", ".update")
    }

    /// What will be remembered when the one on trial serves, written while there was room.
    pub(super) fn served(&self) -> PathBuf {
        self.beside(".", ".update.served")
    }

    /// Is there as long as the one on trial is under guard: to remove it needs no room.
    pub(super) fn guarded(&self) -> PathBuf {
        self.beside(".", ".update.guarded")
    }

    fn lock_of_updates(&self) -> PathBuf {
        self.beside(".", ".update.lock")
    }

    fn lock_of_turns(&self) -> PathBuf {
        self.beside(".", ".update.turn")
    }

    fn beside(&self, before: &str, behind: &str) -> PathBuf {
        let mut name = OsString::from(before);
        name.push(&self.name);
        name.push(behind);
        self.directory.join(name)
    }

    /// Nobody else updates or installs from here on. One that has been put in place may still be confirmed or taken back:
    /// what is remembered is read again in a [`Place::turn`].
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when somebody does, [`Error::Denied`] when this user may not.
    pub(super) fn hold(&self) -> Result<Held, Error> {
        let held = self.lock(&self.lock_of_updates())?;
        held.ok_or_else(|| self.busy("another update is under way"))
    }

    /// The moment in which the executable and what is remembered may be changed; what was read before is old.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when somebody has it for long, [`Error::Denied`] when this user may not.
    pub(super) fn turn(&self) -> Result<Held, Error> {
        self.turn_within(TURN)
    }

    /// The same, for who can do something about whoever has it.
    pub(super) fn turn_within(&self, limit: Duration) -> Result<Held, Error> {
        let begun = Instant::now();
        loop {
            match self.lock(&self.lock_of_turns())? {
                Some(held) => return Ok(held),
                None if begun.elapsed() < limit => std::thread::sleep(LOOK),
                None => return Err(self.busy("what is remembered of its updates is held by another process")),
            }
        }
    }

    /// `None` when somebody else has it.
    fn lock(&self, path: &Path) -> Result<Option<Held>, Error> {
        let failed = |error| Error::from_path_io("lock of updates", "hold", path, error);
        nix::unistd::access(&self.directory, nix::unistd::AccessFlags::W_OK).map_err(|errno| {
            Error::from_path_io(
                "directory of the executable",
                "change",
                &self.directory,
                errno.into(),
            )
        })?;
        let file = match self.make(path, 0o600) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => OpenOptions::new()
                .append(true)
                .custom_flags(libc::O_NOFOLLOW)
                .open(path)
                // Of a root that was killed before it could.
                .inspect(|file| self.give_to_owner(file)),
            made => made,
        };
        let lock = match Flock::lock(file.map_err(failed)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        // One that was removed meanwhile keeps nobody out.
        let (ours, there) = (lock.metadata().map_err(failed)?, fs::symlink_metadata(path));
        let is_there = there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
        Ok(is_there.then_some(Held { _lock: lock }))
    }

    /// A new file beside the executable. Root makes it for whose directory it is, who is to go on from there.
    pub(super) fn make(&self, path: &Path, mode: u32) -> io::Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        self.give_to_owner(&file);
        Ok(file)
    }

    /// Where root may not give it away, it stays root's.
    fn give_to_owner(&self, file: &File) {
        let Ok(owner) = fs::metadata(&self.directory) else {
            return;
        };
        let is_given = file.metadata().is_ok_and(|file| file.uid() == owner.uid());
        if nix::unistd::geteuid().is_root() && !is_given {
            let given = std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid()));
            if let Err(error) = given {
                tracing::debug!(%error, "a file of updates stays root's");
            }
        }
    }

    fn busy(&self, reason: &str) -> Error {
        Error::Conflict {
            what: format!("{:?}", self.executable()),
            reason: reason.into(),
        }
    }

    /// An empty file for the new one, over what a killed update left.
    pub(super) fn stage(&self) -> Result<File, Error> {
        let path = self.staged();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::from_path_io("staged executable", "remove", &path, error));
            }
            _ => {}
        }
        self.make(&path, 0o700)
            .map_err(|error| Error::from_path_io("staged executable", "make", &path, error))
    }

    /// What is staged is whole and may be run, as the one that it follows.
    pub(super) fn seal(&self, mut staged: File) -> Result<(), Error> {
        let mode = fs::metadata(self.executable()).map_or(0o755, |found| found.permissions().mode());
        staged
            .flush()
            .and_then(|()| staged.set_permissions(fs::Permissions::from_mode(mode & 0o777 | 0o500)))
            .and_then(|()| staged.sync_all())
            .map_err(|error| self.failed("sync the staged", error))
    }

    /// What was staged is not wanted.
    pub(super) fn discard(&self) {
        // It is in nobody's way, and overwritten by the next.
        let _ = fs::remove_file(self.staged());
    }

    /// Keeps what is there as the one before.
    pub(super) fn keep_previous(&self) -> Result<(), Error> {
        let (executable, fresh) = (self.executable(), self.beside(".", ".previous"));
        let failed = |error| self.failed("keep", error);
        let _ = fs::remove_file(&fresh);
        // A file system without hard links gets a copy.
        if fs::hard_link(&executable, &fresh).is_err() {
            fs::copy(&executable, &fresh).map_err(failed)?;
            File::open(&fresh)
                .and_then(|file| file.sync_all())
                .map_err(failed)?;
        }
        fs::rename(&fresh, self.previous()).map_err(failed)?;
        self.sync()
    }

    /// Puts what was staged in place.
    pub(super) fn replace(&self) -> Result<(), Error> {
        fs::rename(self.staged(), self.executable()).map_err(|error| self.failed("replace", error))?;
        self.sync()
    }

    /// Puts the one before in place again.
    pub(super) fn restore(&self) -> Result<(), Error> {
        let previous = self.previous();
        fs::rename(&previous, self.executable())
            .map_err(|error| Error::from_path_io("previous executable", "restore", &previous, error))?;
        self.sync()
    }

    /// Renames reach the disk.
    pub(super) fn sync(&self) -> Result<(), Error> {
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| self.failed("sync the directory of", error))
    }

    /// Whether what runs is the file that is in place; where the system does not show it, it is taken to be.
    pub(super) fn is_what_runs(&self) -> bool {
        self.is_executable_of("self").unwrap_or(true)
    }

    /// Whether a process runs the file that is in place; where that is not shown to us, as of a daemon to other processes of
    /// its user, whether there is such a process.
    pub(super) fn is_run_by(&self, pid: i32) -> bool {
        self.is_executable_of(&pid.to_string())
            .unwrap_or_else(|| lives(pid))
    }

    /// `None` where it is not shown what a process runs.
    fn is_executable_of(&self, process: &str) -> Option<bool> {
        let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
        identity(Path::new("/proc/self/exe")).ok()?;
        let running = match identity(&Path::new("/proc").join(process).join("exe")) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None,
            running => running,
        };
        let in_place = identity(&self.executable());
        Some(running.is_ok_and(|running| in_place.is_ok_and(|in_place| running == in_place)))
    }

    /// The digest of the executable, lower-case hex.
    pub(super) fn digest(&self) -> Result<String, Error> {
        Self::digest_of(&self.executable())
    }

    /// The digest of what runs, whatever is in its place by now; of that, where the system does not show it.
    pub(super) fn digest_of_running(&self) -> Result<String, Error> {
        match Self::digest_of(Path::new("/proc/self/exe")) {
            Err(Error::NotFound { .. }) => self.digest(),
            found => found,
        }
    }

    fn digest_of(path: &Path) -> Result<String, Error> {
        let failed = |error| Error::from_path_io("executable", "read", path, error);
        let mut file = File::open(path).map_err(failed)?;
        let (mut hasher, mut chunk) = (Sha256::new(), vec![0; 256 << 10]);
        loop {
            match file.read(&mut chunk).map_err(failed)? {
                0 => return Ok(format!("{:x}", hasher.finalize())),
                length => hasher.update(&chunk[..length]),
            }
        }
    }

    fn failed(&self, doing: &'static str, error: io::Error) -> Error {
        Error::from_path_io("executable", doing, &self.executable(), error)
    }
}

/// Whether there is such a process that has not ended, whosever it is.
fn lives(pid: i32) -> bool {
    // The state comes behind the name, which may hold anything (proc_pid_stat(5)).
    if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) {
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        return !matches!(state, Some('Z' | 'X'));
    }
    let asked = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None);
    matches!(asked, Ok(()) | Err(nix::errno::Errno::EPERM))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, Place) {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::at(&directory.path().join("boxd"));
        fs::write(place.executable(), "old").unwrap();
        (directory, place)
    }

    fn stage(place: &Place, content: &str) {
        let mut staged = place.stage().unwrap();
        staged.write_all(content.as_bytes()).unwrap();
        place.seal(staged).unwrap();
    }

    #[test]
    fn a_new_one_takes_the_place_and_the_old_one_comes_back() {
        let (_directory, place) = place();
        stage(&place, "what a killed update left");
        stage(&place, "new");
        let content = |path: PathBuf| fs::read_to_string(path).unwrap();
        assert_eq!(content(place.executable()), "old");
        place.keep_previous().unwrap();
        place.replace().unwrap();
        assert_eq!(
            (content(place.executable()), content(place.previous())),
            ("new".into(), "old".into())
        );
        let mode = fs::metadata(place.executable()).unwrap().permissions().mode();
        assert_eq!(mode & 0o500, 0o500);
        place.restore().unwrap();
        assert_eq!(content(place.executable()), "old");
        assert!(!place.previous().exists() && !place.staged().exists());
    }

    #[test]
    fn one_changes_it_at_a_time() {
        let (_directory, place) = place();
        let held = place.hold().unwrap();
        assert!(matches!(place.hold(), Err(Error::Conflict { .. })));
        // What the one before does of it is done meanwhile.
        drop(place.turn().unwrap());
        drop(held);
        place.hold().unwrap();
    }

    #[test]
    fn who_may_only_read_holds_nothing_up() {
        let (directory, place) = place();
        let reader = Flock::lock(File::open(directory.path()).unwrap(), FlockArg::LockShared).unwrap();
        let (_held, _turn) = (place.hold().unwrap(), place.turn().unwrap());
        for lock in [place.lock_of_updates(), place.lock_of_turns()] {
            assert_eq!(fs::metadata(lock).unwrap().mode() & 0o777, 0o600);
        }
        drop(reader);
    }

    #[test]
    fn a_lock_that_was_removed_is_taken_anew() {
        let (_directory, place) = place();
        let _removed = place.hold().unwrap();
        fs::remove_file(place.lock_of_updates()).unwrap();
        let _held = place.hold().unwrap();
        assert!(matches!(place.hold(), Err(Error::Conflict { .. })));
    }

    #[test]
    fn a_program_that_was_replaced_is_where_it_was() {
        let place = Place::at(Path::new("/usr/bin/boxd (deleted)"));
        assert_eq!(place.executable(), Path::new("/usr/bin/boxd"));
        assert_eq!(place.staged(), Path::new("/usr/bin/.boxd.staged"));
        assert_eq!(place.previous(), Path::new("/usr/bin/boxd.previous"));
    }
}
