//! Files: what is answered. A `path` is for reading; where that lost bytes, `pathB64` has them. Permission bits are
//! octal strings: `"0644"`.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::text::{legible, readable, to_base64, to_cursor};
use super::time::Rfc3339;
use crate::fs::{self, Kind};

/// What the compatible contract knows of an entry: a directory, or everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = FsEntryType)]
pub enum EntryType {
    /// Anything but a directory; `kind` says what.
    File,
    /// A directory.
    Directory,
}

/// One entry, by `lstat`: symbolic links are not followed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FsEntry)]
pub struct Entry<'a> {
    /// The last component of the path.
    #[schema(value_type = String)]
    pub name: Cow<'a, str>,
    /// Its exact bytes, base64, when they are not UTF-8.
    #[serde(rename = "nameB64", skip_serializing_if = "Option::is_none")]
    pub name_b64: Option<String>,
    /// Absolute path.
    #[schema(value_type = String)]
    pub path: Cow<'a, str>,
    /// Its exact bytes, base64, when they are not UTF-8.
    #[serde(rename = "pathB64", skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<String>,
    /// Directory or not.
    pub entry_type: EntryType,
    /// Size in bytes.
    pub size: u64,
    /// Last modification of the content, RFC 3339.
    #[schema(value_type = String)]
    pub modified: Rfc3339,
    /// `file`, `directory`, `symlink`, `fifo`, `socket`, `block_device` or `char_device`.
    pub kind: &'static str,
    /// Permission bits in octal: `0644`.
    #[schema(value_type = String)]
    pub mode: Octal,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Where a symbolic link points, as it is written there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub target: Option<Cow<'a, str>>,
    /// Its exact bytes, base64, when they are not UTF-8.
    #[serde(rename = "targetB64", skip_serializing_if = "Option::is_none")]
    pub target_b64: Option<String>,
}

impl<'a> From<&'a fs::Entry> for Entry<'a> {
    fn from(entry: &'a fs::Entry) -> Self {
        let (name, name_b64) = legible(entry.name());
        let (path, path_b64) = legible(entry.path.as_os_str());
        let (target, target_b64) = match &entry.target {
            None => (None, None),
            Some(target) => {
                let (text, exact) = legible(target.as_os_str());
                (Some(text), exact)
            }
        };
        Self {
            name,
            name_b64,
            path,
            path_b64,
            entry_type: match entry.kind {
                Kind::Directory => EntryType::Directory,
                _ => EntryType::File,
            },
            size: entry.size,
            modified: Rfc3339(entry.modified),
            kind: kind_name(entry.kind),
            mode: Octal(entry.mode),
            uid: entry.uid,
            gid: entry.gid,
            target,
            target_b64,
        }
    }
}

/// Permission bits as four octal digits.
#[derive(Debug, Clone, Copy)]
pub struct Octal(u32);

impl Serialize for Octal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits = [9, 6, 3, 0].map(|shift| b'0' + (self.0 >> shift & 7) as u8);
        serializer.serialize_str(str::from_utf8(&digits).unwrap_or_default())
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::BlockDevice => "block_device",
        Kind::CharDevice => "char_device",
    }
}

/// Something that could not be read or created, and why.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Unreadable {
    /// Absolute path.
    pub path: String,
    /// Its exact bytes, base64, when they are not UTF-8.
    #[serde(rename = "pathB64", skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<String>,
    /// Why not.
    pub reason: String,
}

impl Unreadable {
    /// What is at `path`, where that is known, and why it could not be read.
    pub(super) fn new(path: Option<&Path>, reason: &str) -> Self {
        let (path, path_b64) = readable(path.map(Path::as_os_str).unwrap_or_default());
        Self {
            path,
            path_b64,
            reason: reason.to_owned(),
        }
    }
}

/// The entries of a directory, sorted by path.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Listing<'a> {
    /// The directory, absolute.
    pub path: String,
    /// Its exact bytes, base64, when they are not UTF-8.
    #[serde(rename = "pathB64", skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<String>,
    /// What could be read.
    #[schema(value_type = Vec<Entry>)]
    pub entries: Entries<'a>,
    /// There is more: the `cursor` that goes on behind the last entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// What could not be read.
    pub unreadable: Vec<Unreadable>,
}

/// Entries that are made as they are written.
#[derive(Debug, Clone, Copy)]
pub struct Entries<'a>(&'a [fs::Entry]);

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Entry::from))
    }
}

impl<'a> From<&'a fs::Listing> for Listing<'a> {
    fn from(listing: &'a fs::Listing) -> Self {
        let (path, path_b64) = readable(listing.root.as_os_str());
        Self {
            path,
            path_b64,
            entries: Entries(&listing.entries),
            next_cursor: next_cursor(listing),
            unreadable: rows(&listing.unreadable),
        }
    }
}

/// The cursor of what comes behind a listing, where there is more.
pub fn next_cursor(listing: &fs::Listing) -> Option<String> {
    let next = listing.next.as_ref()?;
    Some(to_cursor(next.as_os_str().as_bytes()))
}

/// What could not be done, row by row.
pub(super) fn rows(paths: &[(PathBuf, String)]) -> Vec<Unreadable> {
    paths
        .iter()
        .map(|(path, reason)| Unreadable::new(Some(path), reason))
        .collect()
}

/// What is at a path.
#[derive(Debug, Serialize, ToSchema)]
pub struct Stat<'a> {
    /// Whether there is anything.
    pub exists: bool,
    /// The entry, when there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<Entry<'a>>,
}

impl<'a> From<Option<&'a fs::Entry>> for Stat<'a> {
    fn from(entry: Option<&'a fs::Entry>) -> Self {
        Self {
            exists: entry.is_some(),
            entry: entry.map(Entry::from),
        }
    }
}

/// The absolute path that an operation worked on.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FsActionResponse)]
pub struct PathReply {
    /// Absolute path.
    pub path: String,
    /// Its exact bytes, base64, when they are not UTF-8.
    #[serde(rename = "pathB64", skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<String>,
}

impl From<&Path> for PathReply {
    fn from(path: &Path) -> Self {
        let (path, path_b64) = readable(path.as_os_str());
        Self { path, path_b64 }
    }
}

/// What a write did.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FsWriteResponse)]
pub struct Written {
    /// Absolute path.
    pub path: String,
    /// Its exact bytes, base64, when they are not UTF-8.
    #[serde(rename = "pathB64", skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<String>,
    /// Bytes of the body.
    pub bytes_written: u64,
    /// Whether a reader could only ever see the old or the new content.
    pub atomic: bool,
    /// What is on stable storage: `none`, `file`, or `dir` (the file and its name).
    pub durability: &'static str,
}

impl From<&fs::Written> for Written {
    fn from(written: &fs::Written) -> Self {
        let (path, path_b64) = readable(written.path.as_os_str());
        Self {
            path,
            path_b64,
            bytes_written: written.bytes,
            atomic: written.atomic,
            durability: written.durability.as_str(),
        }
    }
}

/// What a move did.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FsMoveResponse)]
pub struct Moved {
    /// Absolute source.
    pub from: String,
    /// Its exact bytes, base64, when they are not UTF-8.
    #[serde(rename = "fromB64", skip_serializing_if = "Option::is_none")]
    pub from_b64: Option<String>,
    /// Absolute destination.
    pub to: String,
    /// Its exact bytes, base64, when they are not UTF-8.
    #[serde(rename = "toB64", skip_serializing_if = "Option::is_none")]
    pub to_b64: Option<String>,
}

impl From<&fs::Moved> for Moved {
    fn from(moved: &fs::Moved) -> Self {
        let (from, from_b64) = readable(moved.from.as_os_str());
        let (to, to_b64) = readable(moved.to.as_os_str());
        Self {
            from,
            from_b64,
            to,
            to_b64,
        }
    }
}

/// What was unpacked.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FsUploadBatchResponse)]
pub struct Unpacked {
    /// Absolute paths in archive order, the first 1024.
    pub paths: Vec<String>,
    /// The exact bytes of all of them, base64 and in the same order, when one is not UTF-8.
    #[serde(rename = "pathsB64", skip_serializing_if = "Option::is_none")]
    pub paths_b64: Option<Vec<String>>,
    /// Whether more was written than `paths` lists, or more not created than `skipped` does.
    pub truncated: bool,
    /// Entries that were not created because of their kind, with the reason, the first 1024.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Unreadable>,
}

impl From<&fs::Unpacked> for Unpacked {
    fn from(unpacked: &fs::Unpacked) -> Self {
        let names = unpacked.paths.iter().map(|path| path.as_os_str());
        let exact = names.clone().any(|name| name.to_str().is_none());
        let bytes = |name: &OsStr| to_base64(name.as_bytes());
        Self {
            paths: names.clone().map(|name| readable(name).0).collect(),
            paths_b64: exact.then(|| names.map(bytes).collect()),
            truncated: unpacked.truncated,
            skipped: rows(&unpacked.skipped),
        }
    }
}

/// The content of a file or of a range of it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileContent {
    /// The bytes, base64.
    #[serde(rename = "contentB64")]
    pub content_b64: String,
    /// First byte of the range.
    pub offset: u64,
    /// Size of the whole file, bytes.
    pub total_size: u64,
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use serde_json::json;

    use super::*;

    fn path(bytes: &[u8]) -> PathBuf {
        OsString::from_vec(bytes.to_vec()).into()
    }

    #[test]
    fn wherever_a_path_lost_bytes_the_exact_ones_stand_beside_it() {
        let moved = Moved::from(&fs::Moved {
            from: path(b"/a\xff"),
            to: path(b"/b"),
        });
        assert_eq!(
            serde_json::to_value(moved).unwrap(),
            json!({"from": "/a\u{fffd}", "fromB64": to_base64(b"/a\xff"), "to": "/b"})
        );
        let mut unpacked = fs::Unpacked {
            paths: vec![path(b"/a"), path(b"/b\xff")],
            truncated: false,
            skipped: Vec::new(),
        };
        let answer = |unpacked: &fs::Unpacked| serde_json::to_value(Unpacked::from(unpacked)).unwrap();
        assert_eq!(
            answer(&unpacked)["pathsB64"],
            json!([to_base64(b"/a"), to_base64(b"/b\xff")])
        );
        unpacked.paths.pop();
        assert!(answer(&unpacked).get("pathsB64").is_none());
    }
}
