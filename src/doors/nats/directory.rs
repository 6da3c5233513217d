//! Finding connection files, and noticing that one came, changed or went. Blocking; `mod.rs` calls it on the blocking
//! pool about twice a second. A file that did not change costs one `stat`.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::config::LinkConfig;
use super::connection_file::{parse, warn_if_readable_by_others};
use crate::error::Error;

/// What identifies the content of a file without reading it.
type Identity = (u64, u64, u64, i64, i64, i64, i64);

/// The files seen so far.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    files: BTreeMap<PathBuf, File>,
}

#[derive(Debug)]
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
        }
    }

    /// The links that the files describe now. A file that cannot be used is reported when it changes, and what it
    /// described before stays in force: it may be half written.
    pub(super) fn scan(&mut self) -> Vec<LinkConfig> {
        let mut found = BTreeMap::new();
        for path in self.paths() {
            let before = self.files.remove(&path);
            match fs::metadata(&path) {
                Ok(metadata) => {
                    found.insert(path.clone(), look(&path, &metadata, before));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a connection file cannot be read");
                }
            }
        }
        self.files = found;
        self.files.values().filter_map(|file| file.link.clone()).collect()
    }

    fn paths(&self) -> Vec<PathBuf> {
        let directory = self.root.join("connections");
        let listed = fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        let mut paths: Vec<PathBuf> = listed
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect();
        paths.sort();
        paths.push(self.root.join("credentials.json"));
        paths
    }
}

fn look(path: &Path, metadata: &Metadata, before: Option<File>) -> File {
    let identity = identity(metadata);
    let link = match before {
        Some(file) if file.identity == identity => return file,
        before => before.and_then(|file| file.link),
    };
    warn_if_readable_by_others(path, metadata);
    match read(path) {
        Ok(link) => File {
            identity,
            link: Some(link),
        },
        Err(error) => {
            let kept = link.is_some();
            tracing::error!(path = %path.display(), %error, kept, "a connection file cannot be used");
            File { identity, link }
        }
    }
}

fn read(path: &Path) -> Result<LinkConfig, Error> {
    let text = fs::read_to_string(path)
        .map_err(|source| Error::from_path_io("connection file", "read", path, source))?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    parse(&stem, &text)
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

    #[test]
    fn files_come_change_and_go() {
        let root = tempfile::tempdir().unwrap();
        let mut directory = Directory::new(root.path().into());
        assert_eq!(directory.scan(), []);
        let connections = root.path().join("connections");
        fs::create_dir(&connections).unwrap();
        fs::write(connections.join("b.json"), text("b", "1")).unwrap();
        fs::write(connections.join("a.json"), text("a", "1")).unwrap();
        fs::write(connections.join("a.json.tmp"), "half").unwrap();
        fs::write(root.path().join("credentials.json"), text("c", "1")).unwrap();
        assert_eq!(agents(&directory.scan()), ["a", "b", "c"]);
        fs::write(connections.join("a.json"), text("a", "22")).unwrap();
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
        fs::write(connections.join("a.json"), text("a", "1")).unwrap();
        let mut directory = Directory::new(root.path().into());
        assert_eq!(agents(&directory.scan()), ["a"]);
        fs::write(connections.join("a.json"), "{").unwrap();
        assert_eq!(agents(&directory.scan()), ["a"]);
        fs::write(connections.join("a.json"), text("z", "1")).unwrap();
        assert_eq!(agents(&directory.scan()), ["z"]);
    }
}
