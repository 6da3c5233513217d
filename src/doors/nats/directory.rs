//! Finding connection files, and noticing that one came, changed or went. Blocking; `mod.rs` calls it on the blocking
//! pool about twice a second. A file that did not change costs one `stat`.
//!
//! A link ends when its file is gone, and for no other reason: a directory that cannot be read for a while (no
//! descriptors, no permission, a file system away) leaves every link as it is.

use std::collections::BTreeMap;
use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::config::LinkConfig;
use super::connection_file::{parse, private};
use crate::error::Error;

/// A connection file is about one KiB; one of more bytes than this is something else.
const LARGEST: u64 = 1 << 20;

/// What identifies the content of a file without reading it.
type Identity = (u64, u64, u64, i64, i64, i64, i64);

/// The files seen so far.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// The last complaint about the directory itself, so that it is not in the log twice a second.
    said: String,
}

#[derive(Debug, Clone)]
struct File {
    identity: Identity,
    /// The last content that could be used.
    link: Option<LinkConfig>,
}

impl Directory {
    /// The connection files below the configuration directory `root`.
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root,
            files: BTreeMap::new(),
            said: String::new(),
        }
    }

    /// The links that the files describe now. A file that cannot be used is reported when it changes, and what it
    /// described before stays in force: it may be half written.
    pub(super) fn scan(&mut self) -> Vec<LinkConfig> {
        match self.looked() {
            Ok(files) => {
                self.files = files;
                self.said.clear();
            }
            Err(error) => {
                let said = error.to_string();
                if self.said != said {
                    tracing::error!(%error, "connection files cannot be looked at, the links stay as they are");
                }
                self.said = said;
            }
        }
        self.files.values().filter_map(|file| file.link.clone()).collect()
    }

    fn looked(&self) -> Result<BTreeMap<PathBuf, File>, Error> {
        let mut found = BTreeMap::new();
        for path in self.paths()? {
            let before = self.files.get(&path);
            match fs::metadata(&path) {
                Ok(metadata) => {
                    found.insert(path.clone(), look(&path, &metadata, before)?);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(Error::from_path_io("connection file", "look at", &path, source)),
            }
        }
        Ok(found)
    }

    fn paths(&self) -> Result<Vec<PathBuf>, Error> {
        let directory = self.root.join("connections");
        let unreadable = |source| Error::from_path_io("directory", "list", &directory, source);
        let mut paths = Vec::new();
        match fs::read_dir(&directory) {
            Ok(entries) => {
                for entry in entries {
                    paths.push(entry.map_err(unreadable)?.path());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(unreadable(error)),
        }
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        paths.push(self.root.join("credentials.json"));
        Ok(paths)
    }
}

fn look(path: &Path, metadata: &Metadata, before: Option<&File>) -> Result<File, Error> {
    let identity = identity(metadata);
    let link = match before {
        Some(file) if file.identity == identity => return Ok(file.clone()),
        before => before.and_then(|file| file.link.clone()),
    };
    let link = match private(path, metadata).and_then(|()| read(path)) {
        Ok(link) => Some(link),
        Err(error) if passes(&error) => return Err(error),
        Err(error) => {
            let kept = link.is_some();
            tracing::error!(path = %path.display(), %error, kept, "a connection file cannot be used");
            link
        }
    };
    Ok(File { identity, link })
}

/// Whether the trouble is the machine's and not the file's: the file is read again although it did not change.
fn passes(error: &Error) -> bool {
    let machine = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EIO, libc::ESTALE];
    error.errno().is_some_and(|errno| machine.contains(&errno))
}

/// Neither waits (a fifo has no end until someone writes) nor takes more memory than a connection file deserves.
fn read(path: &Path) -> Result<LinkConfig, Error> {
    let failed = |source| Error::from_path_io("connection file", "read", path, source);
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => unusable(format!(
            "belongs to another user and cannot be read; chown {} to the user of this daemon",
            path.display()
        )),
        _ => failed(error),
    })?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(unusable("is not a regular file".into()));
    }
    let mut text = String::new();
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > LARGEST {
        return Err(unusable(format!("has more than {LARGEST} bytes")));
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    parse(&stem, &text)
}

fn unusable(reason: String) -> Error {
    Error::Invalid {
        field: "connection file",
        reason,
    }
}

fn identity(metadata: &Metadata) -> Identity {
    (
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(agent: &str, bearer: &str) -> String {
        format!(
            r#"{{"credentials":{{"agent_id":"{agent}","workspace_id":"w","nats_bearer":"{bearer}","nats_urls":["nats://h"]}}}}"#
        )
    }

    fn agents(links: &[LinkConfig]) -> Vec<&str> {
        links.iter().map(|link| link.agent_id.as_str()).collect()
    }

    fn written(path: impl AsRef<Path>, text: impl AsRef<[u8]>) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        fs::write(&path, text)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
    }

    #[test]
    fn files_come_change_and_go() {
        let root = tempfile::tempdir().unwrap();
        let mut directory = Directory::new(root.path().into());
        assert_eq!(directory.scan(), []);
        let connections = root.path().join("connections");
        fs::create_dir(&connections).unwrap();
        written(connections.join("b.json"), text("b", "1")).unwrap();
        written(connections.join("a.json"), text("a", "1")).unwrap();
        written(connections.join("a.json.tmp"), "half").unwrap();
        written(root.path().join("credentials.json"), text("c", "1")).unwrap();
        assert_eq!(agents(&directory.scan()), ["a", "b", "c"]);
        written(connections.join("a.json"), text("a", "22")).unwrap();
        fs::remove_file(connections.join("b.json")).unwrap();
        let links = directory.scan();
        assert_eq!(agents(&links), ["a", "c"]);
        assert_eq!(
            links[0].credential,
            super::super::config::Credential::Token("22".into())
        );
    }

    #[test]
    fn a_half_written_file_keeps_what_was_there() {
        let root = tempfile::tempdir().unwrap();
        let connections = root.path().join("connections");
        fs::create_dir(&connections).unwrap();
        written(connections.join("a.json"), text("a", "1")).unwrap();
        let mut directory = Directory::new(root.path().into());
        assert_eq!(agents(&directory.scan()), ["a"]);
        written(connections.join("a.json"), "{").unwrap();
        assert_eq!(agents(&directory.scan()), ["a"]);
        written(connections.join("a.json"), text("z", "1")).unwrap();
        assert_eq!(agents(&directory.scan()), ["z"]);
    }

    #[test]
    fn what_is_no_connection_file_is_refused_at_once_and_disturbs_no_other() {
        let root = tempfile::tempdir().unwrap();
        let connections = root.path().join("connections");
        fs::create_dir(&connections).unwrap();
        written(connections.join("good.json"), text("a", "1")).unwrap();
        nix::unistd::mkfifo(&connections.join("fifo.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::create_dir(connections.join("directory.json")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", connections.join("endless.json")).unwrap();
        std::os::unix::fs::symlink("nowhere", connections.join("dangling.json")).unwrap();
        let large = fs::File::create(connections.join("large.json")).unwrap();
        large.set_len(1 << 40).unwrap();
        let (scanned, answer) = std::sync::mpsc::channel();
        let mut directory = Directory::new(root.path().into());
        std::thread::spawn(move || scanned.send(directory.scan()));
        let links = answer
            .recv_timeout(std::time::Duration::from_secs(20))
            .expect("it waits");
        assert_eq!(agents(&links), ["a"]);
    }

    #[test]
    fn a_directory_that_cannot_be_read_for_a_while_removes_no_link() {
        let root = tempfile::tempdir().unwrap();
        let (connections, aside) = (root.path().join("connections"), root.path().join("aside"));
        fs::create_dir(&connections).unwrap();
        written(connections.join("a.json"), text("a", "1")).unwrap();
        let mut directory = Directory::new(root.path().into());
        assert_eq!(agents(&directory.scan()), ["a"]);
        fs::rename(&connections, &aside).unwrap();
        written(&connections, "not a directory").unwrap();
        assert_eq!(agents(&directory.scan()), ["a"]);
        fs::remove_file(&connections).unwrap();
        assert_eq!(directory.scan(), [], "it is gone");
        fs::rename(&aside, &connections).unwrap();
        assert_eq!(agents(&directory.scan()), ["a"]);
    }
}
