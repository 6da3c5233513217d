//! Files: changing what they hold, and sending them in pieces.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::file_requests::{base, mode, path};
use super::text::{from_base64, readable, to_base64};
use crate::error::Error;
use crate::fs::{self, Change, InPlace, Piece};
use crate::ops;

/// An exact replacement.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[schema(as = FsReplacement)]
pub struct Replacement {
    /// What is there, exactly.
    #[schema(required = true)]
    pub old: String,
    /// What is to be there.
    #[schema(required = true)]
    pub new: String,
    /// How often `old` must be there: 1 when absent, 0 for as often as it is.
    pub count: Option<u64>,
}

/// Lines that are put in.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[schema(as = FsInsertion)]
pub struct Insertion {
    /// The number of the first of them, from 1; one behind the last line appends.
    #[schema(required = true, minimum = 1)]
    pub line: u64,
    /// The lines.
    #[schema(required = true)]
    pub text: String,
}

/// Change a file of up to 32 MiB, whole or not at all: one of `replace`, `insert` and `patch`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = FsEditRequest)]
pub struct EditRequest {
    /// The file.
    pub path: Option<String>,
    /// Its exact bytes, base64, instead of `path`.
    #[serde(rename = "pathB64")]
    pub path_b64: Option<String>,
    /// Replace what is there exactly.
    pub replace: Option<Replacement>,
    /// Put in lines.
    pub insert: Option<Insertion>,
    /// A unified diff of this file; all hunks or none.
    pub patch: Option<String>,
    /// Only when this is there now: an `ETag` or the BLAKE3 digest of the content in hex.
    pub if_match: Option<String>,
    /// Answer what would be changed and change nothing.
    pub dry_run: bool,
}

impl EditRequest {
    /// The operation.
    pub fn into_op(self) -> Result<fs::Edit, Error> {
        let change = match (self.replace, self.insert, self.patch) {
            (Some(replace), None, None) => Change::Replace {
                old: replace.old.into(),
                new: replace.new.into(),
                count: replace.count.unwrap_or(1),
            },
            (None, Some(insert), None) => Change::Insert {
                line: insert.line,
                text: insert.text.into(),
            },
            (None, None, Some(patch)) => Change::Patch(patch.into()),
            _ => {
                return Err(Error::Invalid {
                    field: "replace",
                    reason: "give one of replace, insert and patch".into(),
                });
            }
        };
        Ok(fs::Edit {
            path: super::file_requests::required(self.path, self.path_b64.as_deref())?,
            change,
            base: self
                .if_match
                .as_deref()
                .map(|text| base("ifMatch", text))
                .transpose()?,
            dry_run: self.dry_run,
        })
    }
}

/// What an edit did.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FsEditReply)]
pub struct Edited {
    /// Absolute path.
    pub path: String,
    /// Its exact bytes, base64, when they are not UTF-8.
    #[serde(rename = "pathB64", skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<String>,
    /// What was changed, as a unified diff.
    pub diff: String,
    /// Its exact bytes, base64, when they are not UTF-8.
    #[serde(rename = "diffB64", skip_serializing_if = "Option::is_none")]
    pub diff_b64: Option<String>,
    /// Places that were changed: occurrences, hunks, or one.
    pub places: u64,
    /// Size of the file now, in bytes.
    pub size: u64,
    /// The BLAKE3 digest of its content now, in hex.
    pub blake3: String,
    /// Whether a reader could only ever see the old or the new content.
    pub atomic: bool,
    /// What is on stable storage: `none`, `file`, or `dir` (the file and its name).
    pub durability: &'static str,
}

impl From<&fs::Edited> for Edited {
    fn from(edited: &fs::Edited) -> Self {
        let (path, path_b64) = readable(edited.path.as_os_str());
        let diff = String::from_utf8_lossy(&edited.diff);
        let is_exact = matches!(diff, std::borrow::Cow::Borrowed(_));
        Self {
            path,
            path_b64,
            diff_b64: (!is_exact).then(|| to_base64(&edited.diff)),
            diff: diff.into_owned(),
            places: edited.places,
            size: edited.bytes,
            blake3: edited.digest.to_string(),
            atomic: edited.atomic,
            durability: edited.durability.as_str(),
        }
    }
}

/// One piece of a file that comes in pieces.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = FsUploadRequest)]
pub struct UploadArguments {
    /// The upload, as its sender calls it: 1 to 256 bytes.
    pub id: Option<String>,
    /// The file.
    pub path: Option<String>,
    /// Its exact bytes, base64, instead of `path`.
    #[serde(rename = "pathB64")]
    pub path_b64: Option<String>,
    /// The number of the piece, from 1.
    pub seq: Option<u64>,
    /// Where it belongs, in bytes.
    pub offset: Option<u64>,
    /// None is behind it; the file has its name when all up to it are there.
    pub last: bool,
    /// Its content, base64.
    #[serde(rename = "contentB64")]
    pub content_b64: Option<String>,
    /// Make missing parent directories; true when absent.
    pub create_parents: Option<bool>,
    /// Permission bits of a new file in octal: `0644`.
    pub mode: Option<String>,
    /// Only when this is there at the beginning and at the end: an `ETag`, a BLAKE3 digest in hex, or `absent`.
    pub if_match: Option<String>,
}

impl UploadArguments {
    /// The operation, with the content that stands in it.
    pub fn into_op(mut self) -> Result<ops::UploadPiece, Error> {
        let encoded = self.content_b64.take().unwrap_or_default();
        let bytes = from_base64("contentB64", &encoded)?;
        let named = path(("path", "pathB64"), self.path.take(), self.path_b64.as_deref())?;
        self.with(named, bytes.into())
    }

    /// The operation, with content and path that came beside it.
    pub fn with(
        self,
        path: Option<std::path::PathBuf>,
        bytes: bytes::Bytes,
    ) -> Result<ops::UploadPiece, Error> {
        let missing = |field| Error::Invalid {
            field,
            reason: "is required with an upload in pieces".into(),
        };
        let id = self.id.unwrap_or_default();
        if id.is_empty() || id.len() > 256 {
            return Err(Error::Invalid {
                field: "id",
                reason: format!("has {} bytes, must have 1 to 256", id.len()),
            });
        }
        Ok(ops::UploadPiece {
            id,
            begin: fs::Begin {
                path: path
                    .filter(|path| !path.as_os_str().is_empty())
                    .ok_or_else(|| missing("path"))?,
                create_parents: self.create_parents.unwrap_or(true),
                mode: self.mode.as_deref().map(mode).transpose()?,
                in_place: InPlace::IfConfigured,
                base: self
                    .if_match
                    .as_deref()
                    .map(|text| base("ifMatch", text))
                    .transpose()?,
            },
            piece: Piece {
                seq: self.seq.ok_or_else(|| missing("seq"))?,
                is_last: self.last,
                offset: self.offset.ok_or_else(|| missing("offset"))?,
                bytes,
            },
        })
    }
}

/// Arguments of `fs.upload.abort`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct UploadId {
    /// The upload, as its sender calls it.
    pub id: Option<String>,
}

impl UploadId {
    /// It, which has to be there.
    pub fn required(self) -> Result<String, Error> {
        self.id.ok_or(Error::Invalid {
            field: "id",
            reason: "is required".into(),
        })
    }
}

/// What became of a piece.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FsUploadReply)]
pub struct UploadReply {
    /// The upload, as its sender calls it.
    pub upload_id: String,
    /// The number of the piece, which is in the unfinished file.
    pub seq: u64,
    /// All pieces are there: what the file is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub committed: Option<Committed>,
}

/// A file whose pieces are all there.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FsUploaded)]
pub struct Committed {
    /// Absolute path.
    pub path: String,
    /// Its exact bytes, base64, when they are not UTF-8.
    #[serde(rename = "pathB64", skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<String>,
    /// Its size in bytes.
    pub bytes_written: u64,
    /// The BLAKE3 digest of its content, in hex.
    pub blake3: String,
    /// Whether a reader could only ever see the old or the new content.
    pub atomic: bool,
    /// What is on stable storage: `none`, `file`, or `dir` (the file and its name).
    pub durability: &'static str,
}

impl From<&ops::UploadTaken> for UploadReply {
    fn from(taken: &ops::UploadTaken) -> Self {
        Self {
            upload_id: taken.id.clone(),
            seq: taken.seq,
            committed: taken.committed.as_ref().map(Committed::from),
        }
    }
}

impl From<&fs::Uploaded> for Committed {
    fn from(uploaded: &fs::Uploaded) -> Self {
        let (path, path_b64) = readable(uploaded.path.as_os_str());
        Self {
            path,
            path_b64,
            bytes_written: uploaded.bytes,
            blake3: uploaded.digest.to_string(),
            atomic: uploaded.atomic,
            durability: uploaded.durability.as_str(),
        }
    }
}
