//! The state directory: its layout, its lock, the token kept in it and the ready file.
//!
//! ```text
//! <state>/            0700
//!   version           layout version, a number; a newer one is refused
//!   boxd.lock         locked for the life of the daemon, holds its pid
//!   instances         this run, and earlier ones that were killed, so that what they left running is found
//!   token             the generated bearer, 0600
//!   ready.json        what is bound and linked, while the daemon runs
//!   journal/          ids of commands, written before they start
//!   spool/            output that did not fit in memory
//!   recordings/       terminal and screen recordings
//!   tmp/              emptied at every start
//! ```
//!
//! Without a writable directory the daemon runs all the same: the token stays in memory and nothing is journalled.
//! Called by the daemon; `call` and `doctor` only read.

mod instances;
mod ready;
mod token;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::Error;
use crate::ids::InstanceId;
use instances::Instances;

pub use ready::{LinkState, Ready};

/// The layout this boxd writes.
const LAYOUT_VERSION: u32 = 1;

const JOURNAL: &str = "journal";
const SPOOL: &str = "spool";
const RECORDINGS: &str = "recordings";
const TEMPORARY: &str = "tmp";

/// The state directory of one running daemon, or the reason why there is none.
#[derive(Debug)]
pub struct State {
    root: Option<Root>,
    instances: Option<Arc<Instances>>,
    /// Why nothing can be kept, for the log and `doctor`.
    unavailable: Option<String>,
}

#[derive(Debug)]
struct Root {
    path: PathBuf,
    /// Held for the life of the daemon.
    _lock: Flock<File>,
}

/// Earlier runs that were killed; what they started may still run.
#[derive(Debug, Default)]
pub struct Earlier {
    /// Their instances, which mark every process they started.
    pub killed: Vec<InstanceId>,
    instances: Option<Arc<Instances>>,
}

impl Earlier {
    /// Nothing of them is left: they are forgotten.
    pub fn are_gone(self) -> Result<(), Error> {
        self.instances
            .map_or(Ok(()), |instances| instances.keep_own_only())
    }
}

impl State {
    /// Opens and locks the directory, making what is missing and sweeping what an earlier run left behind.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyRunning`] when another daemon holds it, [`Error::Config`] when its layout is newer than ours,
    /// [`Error::WrongKind`] or [`Error::Io`] when it is not a directory or fails. A directory that may not be
    /// written is no error: see [`State::unavailable`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        match Root::open(path) {
            Ok(root) => Ok(Self {
                root: Some(root),
                instances: None,
                unavailable: None,
            }),
            Err(error @ (Error::Denied { .. } | Error::StorageFull { .. })) => Ok(Self {
                root: None,
                instances: None,
                unavailable: Some(error.to_string()),
            }),
            Err(error) => Err(error),
        }
    }

    /// Why there is no state directory; `None` when there is one.
    pub fn unavailable(&self) -> Option<&str> {
        self.unavailable.as_deref()
    }

    /// Writes down that `instance` runs, and answers the earlier ones on this machine that were killed.
    pub fn begin(&mut self, instance: InstanceId) -> Result<Earlier, Error> {
        let begun = match &self.root {
            Some(root) => Instances::begin(&root.path, Path::new("/"), instance.0)?,
            None => None,
        };
        let Some((instances, killed)) = begun else {
            return Ok(Earlier::default());
        };
        let instances = self.instances.insert(Arc::new(instances));
        Ok(Earlier {
            killed: killed.into_iter().map(InstanceId).collect(),
            instances: Some(Arc::clone(instances)),
        })
    }

    /// Where ids of commands are journalled before they start.
    pub fn journal(&self) -> Option<PathBuf> {
        self.part(JOURNAL)
    }

    /// Where output goes that does not fit in memory.
    pub fn spool(&self) -> Option<PathBuf> {
        self.part(SPOOL)
    }

    /// Where recordings are kept.
    pub fn recordings(&self) -> Option<PathBuf> {
        self.part(RECORDINGS)
    }

    /// A directory that is emptied at every start.
    pub fn temporary(&self) -> Option<PathBuf> {
        self.part(TEMPORARY)
    }

    fn part(&self, name: &str) -> Option<PathBuf> {
        self.root.as_ref().map(|root| root.path.join(name))
    }
}

impl Drop for State {
    /// Neither the ready file nor the line of this instance outlives the daemon that it describes.
    fn drop(&mut self) {
        if let Some(ready) = self.part(Ready::FILE_NAME) {
            let _ = fs::remove_file(ready);
        }
        if let Some(instances) = &self.instances {
            instances.forget();
        }
    }
}

impl Root {
    fn open(path: &Path) -> Result<Self, Error> {
        make_directory(path)?;
        let lock = lock(&path.join("boxd.lock"))?;
        check_version(path)?;
        sweep(path)?;
        for part in [JOURNAL, SPOOL, RECORDINGS, TEMPORARY] {
            make_directory(&path.join(part))?;
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }
}

fn make_directory(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| Error::from_path_io("directory", "create", path, source))
}

/// Takes the lock without waiting and writes our pid into it.
fn lock(path: &Path) -> Result<Flock<File>, Error> {
    let io = |operation| move |source| Error::from_path_io("file", operation, path, source);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(io("open"))?;
    let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(locked) => locked,
        Err((mut file, Errno::EAGAIN)) => {
            let mut text = String::new();
            let pid = file
                .read_to_string(&mut text)
                .ok()
                .and_then(|_| text.trim().parse().ok())
                .unwrap_or(0);
            return Err(Error::AlreadyRunning {
                pid,
                path: path.to_owned(),
            });
        }
        Err((_, errno)) => return Err(io("lock")(errno.into())),
    };
    file.set_len(0).map_err(io("write"))?;
    writeln!(file, "{}", std::process::id()).map_err(io("write"))?;
    Ok(file)
}

/// Refuses a layout that a newer boxd wrote; writes our version where there is none.
fn check_version(state: &Path) -> Result<(), Error> {
    let path = state.join("version");
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(version) if version <= LAYOUT_VERSION => Ok(()),
            _ => Err(Error::Config {
                problems: vec![format!(
                    "state directory {state:?} has layout {:?} and this boxd knows up to {LAYOUT_VERSION}: update \
                     boxd, or give it another --state-dir",
                    text.trim()
                )],
            }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_atomically(&path, format!("{LAYOUT_VERSION}\n").as_bytes(), 0o600)
        }
        Err(source) => Err(Error::from_path_io("file", "read", &path, source)),
    }
}

/// Removes what an earlier run left: temporary files, half-written files and its ready file.
fn sweep(state: &Path) -> Result<(), Error> {
    let io = |source| Error::from_path_io("directory", "sweep", state, source);
    let mut swept = 0_u64;
    for entry in fs::read_dir(state).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let removed = if name == TEMPORARY {
            swept += fs::read_dir(entry.path()).map_or(0, |entries| entries.count() as u64);
            fs::remove_dir_all(entry.path())
        } else if name == Ready::FILE_NAME || name.ends_with(HALF_WRITTEN) {
            swept += 1;
            fs::remove_file(entry.path())
        } else {
            continue;
        };
        removed.map_err(|source| Error::from_path_io("file", "remove", &entry.path(), source))?;
    }
    if swept > 0 {
        tracing::info!(state = %state.display(), entries = swept, "swept what an earlier run left behind");
    }
    Ok(())
}

/// Suffix of files that are not complete yet.
const HALF_WRITTEN: &str = ".partial";

/// Writes a file whole or not at all, with exactly `mode`.
fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}{HALF_WRITTEN}", std::process::id()));
    let partial = PathBuf::from(partial);
    let io = |source| Error::from_path_io("file", "write", path, source);
    let written = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(mode)
        .open(&partial)
        .and_then(|mut file| {
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.write_all(content)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&partial, path));
    if let Err(source) = written {
        let _ = fs::remove_file(&partial);
        return Err(io(source));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused_with_the_pid_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let first = State::open(&path).unwrap();
        match State::open(&path) {
            Err(Error::AlreadyRunning { pid, .. }) => assert_eq!(pid, std::process::id()),
            other => panic!("{other:?}"),
        }
        drop(first);
        State::open(&path).unwrap();
    }

    #[test]
    fn the_directory_is_private_and_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/state");
        let state = State::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        for part in [
            state.journal(),
            state.spool(),
            state.recordings(),
            state.temporary(),
        ] {
            let part = part.unwrap();
            assert_eq!(
                fs::metadata(&part).unwrap().permissions().mode() & 0o777,
                0o700,
                "{part:?}"
            );
        }
        assert_eq!(fs::read_to_string(path.join("version")).unwrap(), "1\n");
    }

    #[test]
    fn a_newer_layout_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("version"), "2\n").unwrap();
        let error = State::open(directory.path()).unwrap_err();
        assert!(error.to_string().contains("layout \"2\""), "{error}");
        assert!(!directory.path().join(JOURNAL).exists());
    }

    #[test]
    fn leftovers_are_swept_and_everything_else_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::create_dir_all(path.join("tmp/upload")).unwrap();
        fs::create_dir_all(path.join("journal")).unwrap();
        for file in [
            "tmp/upload/x",
            "journal/kept",
            "ready.json",
            "token.77.partial",
            "token",
        ] {
            fs::write(path.join(file), "x").unwrap();
        }
        let state = State::open(path).unwrap();
        for gone in ["tmp/upload", "ready.json", "token.77.partial"] {
            assert!(!path.join(gone).exists(), "{gone}");
        }
        for kept in ["tmp", "journal/kept", "token"] {
            assert!(path.join(kept).exists(), "{kept}");
        }
        drop(state);
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(State::open(&file.join("state")).is_err());
    }
}
