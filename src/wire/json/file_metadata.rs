//! Files: permission bits, owners, links, extended attributes, digests and archives.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::file_requests::{mode, path, required};
use super::files::{Unreadable, rows};
use super::text::{from_base64, readable, to_base64};
use crate::error::Error;
use crate::fs;

/// Change permission bits or owners, by descriptor and never through a symbolic link.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = FsChmodRequest)]
pub struct ChmodRequest {
    /// The entry.
    pub path: Option<String>,
    /// Its exact bytes, base64, instead of `path`.
    #[serde(rename = "pathB64")]
    pub path_b64: Option<String>,
    /// Permission bits in octal: `0644`.
    pub mode: Option<String>,
    /// Permission bits of directories, where they are to be others: `0755`.
    pub directory_mode: Option<String>,
    /// The owner's number.
    pub uid: Option<u32>,
    /// The group's number.
    pub gid: Option<u32>,
    /// Everything below it too.
    pub recursive: bool,
}

impl ChmodRequest {
    /// The operation.
    pub fn into_op(self) -> Result<fs::Chmod, Error> {
        let directory_mode = self.directory_mode.as_deref().map(mode).transpose()?;
        let mode = self.mode.as_deref().map(mode).transpose()?;
        if mode.or(directory_mode).or(self.uid).or(self.gid).is_none() {
            return Err(Error::Invalid {
                field: "mode",
                reason: "give at least one of mode, directoryMode, uid and gid".into(),
            });
        }
        Ok(fs::Chmod {
            path: required(self.path, self.path_b64.as_deref())?,
            mode,
            directory_mode,
            uid: self.uid,
            gid: self.gid,
            recursive: self.recursive,
        })
    }
}

/// What was changed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FsChmodReply)]
pub struct Changed {
    /// Absolute path.
    pub path: String,
    /// Its exact bytes, base64, when they are not UTF-8.
    #[serde(rename = "pathB64", skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<String>,
    /// Entries that were changed.
    pub changed: u64,
    /// Entries that could not be changed.
    pub failed_count: u64,
    /// The first 100 of them.
    pub failed: Vec<Unreadable>,
}

impl From<&fs::Changed> for Changed {
    fn from(changed: &fs::Changed) -> Self {
        let (path, path_b64) = readable(changed.path.as_os_str());
        Self {
            path,
            path_b64,
            changed: changed.changed,
            failed_count: changed.failed.0,
            failed: rows(&changed.failed.1),
        }
    }
}

/// Make a symbolic link.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = FsSymlinkRequest)]
pub struct SymlinkRequest {
    /// The link, which must not exist.
    pub path: Option<String>,
    /// Its exact bytes, base64, instead of `path`.
    #[serde(rename = "pathB64")]
    pub path_b64: Option<String>,
    /// What it points at, which is written down and not looked at.
    pub target: Option<String>,
    /// Its exact bytes, base64, instead of `target`.
    #[serde(rename = "targetB64")]
    pub target_b64: Option<String>,
}

impl SymlinkRequest {
    /// The link and what it points at.
    pub fn into_paths(self) -> Result<(PathBuf, PathBuf), Error> {
        let target = path(("target", "targetB64"), self.target, self.target_b64.as_deref())?;
        let target = target.filter(|target| !target.as_os_str().is_empty());
        let target = target.ok_or(Error::Invalid {
            field: "target",
            reason: "is required".into(),
        })?;
        Ok((required(self.path, self.path_b64.as_deref())?, target))
    }
}

/// Set or remove an extended attribute.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = FsXattrRequest)]
pub struct XattrRequest {
    /// The entry.
    pub path: Option<String>,
    /// Its exact bytes, base64, instead of `path`.
    #[serde(rename = "pathB64")]
    pub path_b64: Option<String>,
    /// Its name with its namespace: `user.origin`.
    #[schema(required = true, nullable = false)]
    pub name: Option<String>,
    /// What it is to say, base64; absent removes it.
    #[serde(rename = "valueB64")]
    pub value_b64: Option<String>,
}

impl XattrRequest {
    /// The operation.
    pub fn into_op(self) -> Result<fs::SetAttribute, Error> {
        let name = self.name.filter(|name| !name.is_empty()).ok_or(Error::Invalid {
            field: "name",
            reason: "is required".into(),
        })?;
        let value = self.value_b64.as_deref();
        Ok(fs::SetAttribute {
            path: required(self.path, self.path_b64.as_deref())?,
            name,
            value: value.map(|text| from_base64("valueB64", text)).transpose()?,
        })
    }
}

/// The extended attributes of an entry, by name.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FsXattrsReply)]
pub struct Xattrs {
    /// Them.
    pub attributes: Vec<Xattr>,
}

/// An extended attribute.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FsXattr)]
pub struct Xattr {
    /// Its name with its namespace.
    pub name: String,
    /// What it says, base64.
    #[serde(rename = "valueB64")]
    pub value_b64: String,
}

impl From<&[fs::Attribute]> for Xattrs {
    fn from(attributes: &[fs::Attribute]) -> Self {
        let attribute = |attribute: &fs::Attribute| Xattr {
            name: attribute.name.clone(),
            value_b64: to_base64(&attribute.value),
        };
        Self {
            attributes: attributes.iter().map(attribute).collect(),
        }
    }
}

/// The digest of what a file holds.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FsDigestReply)]
pub struct DigestReply {
    /// BLAKE3, in hex.
    pub blake3: String,
}

/// Arguments of `fs.pack`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PackArguments {
    /// A directory or a file; the workspace root when absent.
    pub path: Option<String>,
    /// Its exact bytes, base64, instead of `path`.
    #[serde(rename = "pathB64")]
    pub path_b64: Option<String>,
    /// `tar.gz` (when absent) or `tar`.
    pub format: Option<String>,
}

impl PackArguments {
    /// The operation; no path is the workspace root.
    pub fn into_op(self) -> Result<fs::Pack, Error> {
        let gzip = match self.format.as_deref() {
            None | Some("tar.gz") => true,
            Some("tar") => false,
            Some(other) => {
                return Err(Error::Invalid {
                    field: "format",
                    reason: format!("{other:.40?} is neither \"tar\" nor \"tar.gz\""),
                });
            }
        };
        let path = path(("path", "pathB64"), self.path, self.path_b64.as_deref())?.unwrap_or_default();
        Ok(fs::Pack { path, gzip })
    }
}

/// An archive.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FsPackReply)]
pub struct Archive {
    /// What it may be called.
    pub name: String,
    /// All of it, base64.
    #[serde(rename = "contentB64")]
    pub content_b64: String,
}

impl Archive {
    /// The archive `name`.
    pub fn new(name: &str, content: &[u8]) -> Self {
        Self {
            name: name.to_owned(),
            content_b64: to_base64(content),
        }
    }
}

/// Nothing but that it was done.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DoneReply)]
pub struct Done {}
