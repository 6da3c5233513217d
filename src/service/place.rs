//! Where a unit lies, and writing and removing it: whole or not at all, and never somebody else's.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{MARKER, Manager, Scope, launchd, systemd};
use crate::error::Error;

/// What users' units are found below.
#[derive(Debug, Clone, Default)]
pub struct Homes {
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub config: Option<PathBuf>,
}

/// The place of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    path: PathBuf,
}

impl Place {
    /// Where `manager` reads the unit of such a service, below `root` when that is another machine's.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a user's unit without a home.
    pub fn of(manager: Manager, scope: Scope, homes: &Homes, root: Option<&Path>) -> Result<Self, Error> {
        let home = || {
            homes.home.clone().ok_or_else(|| Error::Invalid {
                field: "--user",
                reason:
                    "HOME is not set, so that there is no place for a user's unit; give --system or set it"
                        .into(),
            })
        };
        let directory = match (manager, scope) {
            (Manager::Systemd, Scope::System) => "/etc/systemd/system".into(),
            (Manager::Systemd, Scope::User) => match &homes.config {
                Some(config) => config.join("systemd/user"),
                None => home()?.join(".config/systemd/user"),
            },
            (Manager::Launchd, Scope::System) => "/Library/LaunchDaemons".into(),
            (Manager::Launchd, Scope::User) => home()?.join("Library/LaunchAgents"),
        };
        let file = match manager {
            Manager::Systemd => systemd::UNIT.to_owned(),
            Manager::Launchd => format!("{}.plist", launchd::LABEL),
        };
        let path = directory.join(file);
        let path = match root {
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(&path)),
            None => path,
        };
        Ok(Self { path })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the unit, over an earlier one of ours, over any other only with `force`.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when somebody else wrote what is there, else as the disk says; then nothing has changed.
    pub fn write(&self, text: &str, force: bool) -> Result<(), Error> {
        if !force && self.found()? == Some(Found::Foreign) {
            return Err(self.foreign("--force writes over it"));
        }
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let made = DirBuilder::new().recursive(true).mode(0o755).create(directory);
        made.map_err(|source| Error::from_path_io("directory", "create", directory, source))?;
        let draft = directory.join(format!(".boxd-unit.{}", std::process::id()));
        let written = replace(&draft, &self.path, text);
        written.map_err(|source| {
            let _ = fs::remove_file(&draft);
            Error::from_path_io("file", "write", &self.path, source)
        })
    }

    /// Removes the unit.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is none, [`Error::Conflict`] when somebody else wrote it.
    pub fn remove(&self) -> Result<(), Error> {
        self.check_ours()?;
        fs::remove_file(&self.path)
            .map_err(|source| Error::from_path_io("file", "remove", &self.path, source))
    }

    /// Refuses what [`Place::remove`] would.
    pub fn check_ours(&self) -> Result<(), Error> {
        match self.found()? {
            Some(Found::Ours) => Ok(()),
            Some(Found::Foreign) => Err(self.foreign("remove it by hand")),
            None => Err(Error::NotFound {
                what: "unit",
                name: self.path.display().to_string(),
            }),
        }
    }

    fn foreign(&self, way_out: &str) -> Error {
        Error::Conflict {
            what: self.path.display().to_string(),
            reason: format!("was not written by boxd; {way_out}"),
        }
    }

    /// A link is not ours, wherever it leads: that is how units are masked.
    fn found(&self) -> Result<Option<Found>, Error> {
        let failed = |source| Error::from_path_io("file", "read", &self.path, source);
        let metadata = match fs::symlink_metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if !metadata.is_file() {
            return Ok(Some(Found::Foreign));
        }
        let text = fs::read(&self.path).map_err(failed)?;
        let ours = String::from_utf8_lossy(&text).contains(MARKER);
        Ok(Some(if ours { Found::Ours } else { Found::Foreign }))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Ours,
    Foreign,
}

/// Writes `text` to `draft`, has it reach the disk and puts it in the place of `path`, name and all.
fn replace(draft: &Path, path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o644)
        .open(draft)?;
    // Whatever the umask says: managers read units of others, and warn of odd modes.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(draft, path)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(manager: Manager, scope: Scope) -> String {
        let homes = Homes {
            home: Some("/home/me".into()),
            config: None,
        };
        let place = Place::of(manager, scope, &homes, Some(Path::new("/image"))).unwrap();
        place.path().display().to_string()
    }

    #[test]
    fn each_manager_reads_its_own_places() {
        assert_eq!(
            place(Manager::Systemd, Scope::System),
            "/image/etc/systemd/system/boxd.service"
        );
        assert_eq!(
            place(Manager::Systemd, Scope::User),
            "/image/home/me/.config/systemd/user/boxd.service"
        );
        assert_eq!(
            place(Manager::Launchd, Scope::System),
            "/image/Library/LaunchDaemons/boxd.plist"
        );
        assert_eq!(
            place(Manager::Launchd, Scope::User),
            "/image/home/me/Library/LaunchAgents/boxd.plist"
        );
        let configured = Homes {
            home: None,
            config: Some("/elsewhere".into()),
        };
        let configured = Place::of(Manager::Systemd, Scope::User, &configured, None).unwrap();
        assert_eq!(
            configured.path(),
            Path::new("/elsewhere/systemd/user/boxd.service")
        );
        let homeless = Place::of(Manager::Systemd, Scope::User, &Homes::default(), None);
        assert!(homeless.unwrap_err().to_string().contains("HOME"));
    }

    #[test]
    fn only_ours_is_written_over_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let place = Place::of(
            Manager::Systemd,
            Scope::System,
            &Homes::default(),
            Some(root.path()),
        )
        .unwrap();
        assert!(matches!(place.remove(), Err(Error::NotFound { .. })));
        let text = format!("# {MARKER}\n");
        place.write(&text, false).unwrap();
        place.write(&text, false).unwrap();
        let mode = fs::metadata(place.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        fs::write(place.path(), "[Unit]\n").unwrap();
        assert!(matches!(place.write(&text, false), Err(Error::Conflict { .. })));
        assert!(matches!(place.remove(), Err(Error::Conflict { .. })));
        assert_eq!(fs::read_to_string(place.path()).unwrap(), "[Unit]\n");
        place.write(&text, true).unwrap();
        place.remove().unwrap();
        // A masked unit stays masked.
        std::os::unix::fs::symlink("/dev/null", place.path()).unwrap();
        assert!(matches!(place.write(&text, false), Err(Error::Conflict { .. })));
        assert!(matches!(place.remove(), Err(Error::Conflict { .. })));
        let left = fs::read_dir(place.path().parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "no drafts");
    }
}
