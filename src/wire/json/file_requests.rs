//! Files: what is asked. A path is `path`, or `pathB64` for bytes that are not UTF-8; permission bits are octal strings:
//! `"0644"`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use serde::Deserialize;
use utoipa::ToSchema;

use super::search::Globs;
use super::text::{from_base64, from_cursor};
use crate::error::Error;
use crate::fs::{self, InPlace};

/// The path of a request: readable or base64, one of the two. `None` when neither is there.
pub fn path(
    fields: (&'static str, &'static str),
    readable: Option<String>,
    base64: Option<&str>,
) -> Result<Option<PathBuf>, Error> {
    let (field, bytes) = match (readable, base64) {
        (Some(_), Some(_)) => {
            let reason = format!("give either {} or {}", fields.0, fields.1);
            return Err(Error::Invalid {
                field: fields.1,
                reason,
            });
        }
        (Some(text), None) => (fields.0, text.into_bytes()),
        (None, Some(encoded)) => (fields.1, from_base64(fields.1, encoded)?),
        (None, None) => return Ok(None),
    };
    if bytes.contains(&0) {
        return Err(Error::Invalid {
            field,
            reason: "must not contain a NUL byte".into(),
        });
    }
    Ok(Some(PathBuf::from(OsString::from_vec(bytes))))
}

/// `path` or `pathB64`, one of which has to be there.
pub(super) fn required(readable: Option<String>, base64: Option<&str>) -> Result<PathBuf, Error> {
    required_as(PATH, readable, base64)
}

fn required_as(
    fields: (&'static str, &'static str),
    readable: Option<String>,
    base64: Option<&str>,
) -> Result<PathBuf, Error> {
    path(fields, readable, base64)?.ok_or(Error::Invalid {
        field: fields.0,
        reason: "is required".into(),
    })
}

const PATH: (&str, &str) = ("path", "pathB64");

/// Permission bits from their octal form: `644`, `0644` or `0o644`.
pub fn mode(text: &str) -> Result<u32, Error> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(bits) if bits <= 0o7777 && digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(bits),
        _ => Err(Error::Invalid {
            field: "mode",
            reason: format!("{text:?} is not a permission mode in octal, such as \"0644\""),
        }),
    }
}

/// Arguments of `fs.read`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "path and pathB64 are explained in the module's doc")]
pub struct ReadArguments {
    pub path: Option<String>,
    #[serde(rename = "pathB64")]
    pub path_b64: Option<String>,
    /// First byte; at or past the end reads nothing.
    pub offset: u64,
    /// Number of bytes; absent or 0 reads to the end.
    pub length: Option<u64>,
}

impl ReadArguments {
    /// The operation.
    pub fn into_op(self) -> Result<fs::Read, Error> {
        Ok(fs::Read {
            path: required(self.path, self.path_b64.as_deref())?,
            offset: self.offset,
            length: self.length.filter(|length| *length > 0),
        })
    }
}

/// Arguments of `fs.write`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "path and pathB64 are explained in the module's doc")]
pub struct WriteArguments {
    pub path: Option<String>,
    #[serde(rename = "pathB64")]
    pub path_b64: Option<String>,
    /// The content as text.
    pub content: Option<String>,
    /// The content as base64, instead of `content`.
    #[serde(rename = "contentB64")]
    pub content_b64: Option<String>,
    /// Make missing parent directories; true when absent.
    pub create_parents: Option<bool>,
    /// Append instead of replacing; then a reader may see a part of it.
    pub append: bool,
    /// Permission bits of a new file in octal: `0644`.
    pub mode: Option<String>,
    /// Overwrite in place where no rename can replace the file; the answer says so in `atomic`.
    pub in_place: bool,
    /// Only when this is there now: an `ETag`, the BLAKE3 digest of the content in hex, or `absent` for no file.
    pub if_match: Option<String>,
}

/// What somebody believes to be in a file: `absent`, 64 hex digits of a BLAKE3 digest, or an `ETag` with or without its
/// quotes.
pub fn base(field: &'static str, text: &str) -> Result<fs::Base, Error> {
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let bare = bare.unwrap_or(text);
    if bare == "absent" {
        return Ok(fs::Base::Absent);
    }
    if let Ok(digest) = blake3::Hash::from_hex(bare) {
        return Ok(fs::Base::Content(digest));
    }
    if bare.is_empty()
        || !bare
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'.'))
    {
        return Err(Error::Invalid {
            field,
            reason: format!(
                "{text:.80?} is neither an ETag of ours, nor a BLAKE3 digest in hex, nor \"absent\""
            ),
        });
    }
    Ok(fs::Base::Version(bare.to_owned()))
}

impl WriteArguments {
    /// The operation.
    pub fn into_op(self) -> Result<fs::Write, Error> {
        let body = match (self.content, self.content_b64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(encoded)) => from_base64("contentB64", &encoded)?,
            _ => {
                let reason = "give either content or contentB64".into();
                return Err(Error::Invalid {
                    field: "content",
                    reason,
                });
            }
        };
        Ok(fs::Write {
            path: required(self.path, self.path_b64.as_deref())?,
            create_parents: self.create_parents.unwrap_or(true),
            append: self.append,
            mode: self.mode.as_deref().map(mode).transpose()?,
            in_place: if self.in_place {
                InPlace::Allow
            } else {
                InPlace::IfConfigured
            },
            base: self
                .if_match
                .as_deref()
                .map(|text| base("ifMatch", text))
                .transpose()?,
            body: fs::Body::Bytes(body.into()),
        })
    }
}

/// Arguments of `fs.list`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "path and pathB64 are explained in the module's doc")]
pub struct ListArguments {
    pub path: Option<String>,
    #[serde(rename = "pathB64")]
    pub path_b64: Option<String>,
    /// Descend into directories, never through symbolic links.
    pub recursive: bool,
    /// With `recursive`: levels below the directory, from 1; all of them when absent.
    pub depth: Option<u64>,
    /// Names that begin with a dot, and what lies below them; true when absent.
    pub hidden: Option<bool>,
    /// Leave out what `.gitignore` and `.ignore` files name.
    pub ignore_files: bool,
    /// Only what one of these globs names, wherever it lies; with `!` in front, not that and nothing below it.
    pub glob: Option<Globs>,
    /// Entries at most, from 1.
    pub limit: Option<u64>,
    /// The `nextCursor` of an answer: only what comes behind it.
    pub cursor: Option<String>,
}

impl ListArguments {
    /// The operation; no path is the workspace root.
    pub fn into_op(self) -> Result<fs::List, Error> {
        let path = path(PATH, self.path, self.path_b64.as_deref())?.unwrap_or_default();
        let globs = self.glob.map(|globs| globs.into_vec("glob")).transpose()?;
        Ok(fs::List {
            path,
            recursive: self.recursive,
            select: fs::Select {
                depth: above_zero("depth", self.depth)?,
                hidden: self.hidden.unwrap_or(true),
                ignore_files: self.ignore_files,
                globs: globs.unwrap_or_default(),
                after: self.cursor.as_deref().map(after_cursor).transpose()?,
                limit: above_zero("limit", self.limit)?,
            },
        })
    }
}

fn above_zero(field: &'static str, value: Option<u64>) -> Result<Option<usize>, Error> {
    match value {
        Some(0) => Err(Error::Invalid {
            field,
            reason: "must be above zero".into(),
        }),
        value => Ok(value.map(|value| usize::try_from(value).unwrap_or(usize::MAX))),
    }
}

/// The path that a cursor stands for.
fn after_cursor(cursor: &str) -> Result<PathBuf, Error> {
    let after = PathBuf::from(OsString::from_vec(from_cursor("cursor", cursor)?));
    let is_below = after
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    if is_below && after.components().next().is_some() {
        return Ok(after);
    }
    Err(Error::Invalid {
        field: "cursor",
        reason: "is none that a listing answered".into(),
    })
}

/// Arguments of `fs.mkdir`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "path and pathB64 are explained in the module's doc")]
pub struct MkdirArguments {
    pub path: Option<String>,
    #[serde(rename = "pathB64")]
    pub path_b64: Option<String>,
    /// Make missing parents and accept a directory that exists; true when absent.
    pub parents: Option<bool>,
    /// Permission bits in octal: `0755`.
    pub mode: Option<String>,
}

impl MkdirArguments {
    /// The operation.
    pub fn into_op(self) -> Result<fs::Mkdir, Error> {
        Ok(fs::Mkdir {
            path: required(self.path, self.path_b64.as_deref())?,
            parents: self.parents.unwrap_or(true),
            mode: self.mode.as_deref().map(mode).transpose()?,
        })
    }
}

/// Move, rename or copy; missing parents of the destination are not made.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = FsMoveRequest)]
pub struct MoveRequest {
    /// The source.
    #[schema(required = true, nullable = false)]
    pub from: Option<String>,
    /// Its exact bytes, base64, instead of `from`.
    #[serde(rename = "fromB64")]
    pub from_b64: Option<String>,
    /// The destination.
    #[schema(required = true, nullable = false)]
    pub to: Option<String>,
    /// Its exact bytes, base64, instead of `to`.
    #[serde(rename = "toB64")]
    pub to_b64: Option<String>,
    /// Replace an existing destination.
    pub overwrite: Option<bool>,
}

impl MoveRequest {
    /// The operation.
    pub fn into_op(self) -> Result<fs::Move, Error> {
        Ok(fs::Move {
            from: required_as(("from", "fromB64"), self.from, self.from_b64.as_deref())?,
            to: required_as(("to", "toB64"), self.to, self.to_b64.as_deref())?,
            overwrite: self.overwrite.unwrap_or(false),
        })
    }
}

/// Arguments of `fs.stat`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "path and pathB64 are explained in the module's doc")]
pub struct StatArguments {
    pub path: Option<String>,
    #[serde(rename = "pathB64")]
    pub path_b64: Option<String>,
}

impl StatArguments {
    /// The path.
    pub fn into_path(self) -> Result<PathBuf, Error> {
        required(self.path, self.path_b64.as_deref())
    }
}

/// Arguments of `fs.remove`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "path and pathB64 are explained in the module's doc")]
pub struct RemoveArguments {
    pub path: Option<String>,
    #[serde(rename = "pathB64")]
    pub path_b64: Option<String>,
    /// Remove a directory with everything in it.
    pub recursive: bool,
}

impl RemoveArguments {
    /// The operation.
    pub fn into_op(self) -> Result<fs::Remove, Error> {
        let path = required(self.path, self.path_b64.as_deref())?;
        Ok(fs::Remove {
            path,
            recursive: self.recursive,
        })
    }
}

/// Arguments of `fs.unpack`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "path and pathB64 are explained in the module's doc")]
pub struct ArchiveArguments {
    pub path: Option<String>,
    #[serde(rename = "pathB64")]
    pub path_b64: Option<String>,
    /// The tar or tar.gz archive, base64.
    #[serde(rename = "contentB64")]
    pub content_b64: Option<String>,
}

impl ArchiveArguments {
    /// The operation; no path is the workspace root.
    pub fn into_op(self) -> Result<fs::Unpack, Error> {
        let encoded = self.content_b64.ok_or(Error::Invalid {
            field: "contentB64",
            reason: "is required".into(),
        })?;
        let archive = from_base64("contentB64", &encoded)?;
        let path = path(PATH, self.path, self.path_b64.as_deref())?.unwrap_or_default();
        Ok(fs::Unpack {
            path,
            body: fs::Body::Bytes(archive.into()),
        })
    }
}
