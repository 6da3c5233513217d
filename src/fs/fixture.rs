//! What the tests of this room share: a room over a directory of its own, and requests with the usual values.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::TempDir;

use super::{
    Body, Config, Durability, Files, InPlace, List, Listing, Mkdir, Move, Moved, Reach, Read, Remove, Select,
    Unpack, UnpackLimits, Unpacked, Write, Written,
};
use crate::error::Error;
use crate::workspace::Workspace;

/// A room whose workspace root is `root/work`, with `root/outside` beside it.
pub(super) struct Room {
    pub(super) files: Files,
    directory: TempDir,
    pub(super) reach: Reach,
}

impl Room {
    pub(super) fn new() -> Self {
        Self::with(
            Config {
                durability: Durability::None,
                ..Config::default()
            },
            Reach::Machine,
        )
    }

    pub(super) fn confined() -> Self {
        Self::with(
            Config {
                durability: Durability::None,
                ..Config::default()
            },
            Reach::Confined,
        )
    }

    pub(super) fn limited(unpack: UnpackLimits) -> Self {
        Self::with(
            Config {
                durability: Durability::None,
                unpack,
                ..Config::default()
            },
            Reach::Machine,
        )
    }

    pub(super) fn with(config: Config, reach: Reach) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["work", "outside"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        let workspace = Workspace {
            root: directory.path().join("work"),
            home: None,
        };
        Self {
            files: Files::new(config, workspace),
            directory,
            reach,
        }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.directory.path().join("work")
    }

    pub(super) fn outside(&self) -> PathBuf {
        self.directory.path().join("outside")
    }

    /// A path in the workspace.
    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root().join(path)
    }

    pub(super) async fn write(&self, path: impl AsRef<Path>, content: &str) -> Result<Written, Error> {
        self.files.write(self.reach, write(path, content)).await
    }

    pub(super) async fn send(&self, request: Write) -> Result<Written, Error> {
        self.files.write(self.reach, request).await
    }

    pub(super) async fn read(&self, path: impl AsRef<Path>) -> Result<Bytes, Error> {
        self.read_range(path, 0, None).await
    }

    pub(super) async fn read_range(
        &self,
        path: impl AsRef<Path>,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Bytes, Error> {
        let request = Read {
            path: path.as_ref().into(),
            offset,
            length,
        };
        self.files
            .open(self.reach, request)
            .await?
            .read_all(64 << 20)
            .await
    }

    pub(super) async fn list(&self, path: impl AsRef<Path>, recursive: bool) -> Result<Listing, Error> {
        self.choose(path, recursive, Select::default()).await
    }

    pub(super) async fn choose(
        &self,
        path: impl AsRef<Path>,
        recursive: bool,
        select: Select,
    ) -> Result<Listing, Error> {
        let path = path.as_ref().into();
        let request = List {
            path,
            recursive,
            select,
        };
        self.files.list(self.reach, request).await
    }

    pub(super) async fn remove(&self, path: impl AsRef<Path>, recursive: bool) -> Result<PathBuf, Error> {
        self.files
            .remove(
                self.reach,
                Remove {
                    path: path.as_ref().into(),
                    recursive,
                },
            )
            .await
    }

    pub(super) async fn mkdir(
        &self,
        path: impl AsRef<Path>,
        parents: bool,
        mode: Option<u32>,
    ) -> Result<PathBuf, Error> {
        self.files
            .mkdir(
                self.reach,
                Mkdir {
                    path: path.as_ref().into(),
                    parents,
                    mode,
                },
            )
            .await
    }

    pub(super) async fn rename(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
        overwrite: bool,
    ) -> Result<Moved, Error> {
        let request = Move {
            from: from.as_ref().into(),
            to: to.as_ref().into(),
            overwrite,
        };
        self.files.rename(self.reach, request).await
    }

    pub(super) async fn unpack(&self, path: impl AsRef<Path>, archive: Vec<u8>) -> Result<Unpacked, Error> {
        let request = Unpack {
            path: path.as_ref().into(),
            body: Body::Bytes(archive.into()),
        };
        self.files.unpack(self.reach, request).await
    }

    /// What a file in the workspace holds.
    pub(super) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.at(name)).unwrap()
    }

    /// The names in the workspace, below its root, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        names(&self.root())
    }
}

/// A write of `content` with the usual values.
pub(super) fn write(path: impl AsRef<Path>, content: &str) -> Write {
    Write {
        path: path.as_ref().into(),
        create_parents: false,
        append: false,
        mode: None,
        in_place: InPlace::Allow,
        base: None,
        body: Body::Bytes(Bytes::copy_from_slice(content.as_bytes())),
    }
}

/// A body that arrives in these pieces.
pub(super) fn pieces(pieces: Vec<Result<Bytes, Error>>) -> Body {
    Body::Stream(Box::pin(futures_util::stream::iter(pieces)))
}

/// The names directly in `directory`, sorted.
pub(super) fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
