//! Searching a tree: what is asked and what is found.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::file_requests::path;
use super::files::Unreadable;
use super::text::{readable, to_base64};
use crate::error::Error;
use crate::ops::Search;
use crate::search::{self, Answer, Found, Line, Place, Stats, Summary};

/// Bytes of a pattern or a glob.
const PATTERN: usize = 64 << 10;
/// Globs of one request.
const GLOBS: usize = 256;
/// The longest a search may take, in milliseconds.
const LONGEST: u64 = 10 * 60 * 1000;
/// Bytes of results at most.
const MOST_BYTES: u64 = 32 << 20;

/// What is compared with the pattern.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = FsSearchKind)]
pub enum SearchKind {
    /// The lines of files, with a regular expression, or a literal.
    #[default]
    Content,
    /// Names, with a glob (paths below the directory, when it has a slash); with `literal`, any part of a name.
    Name,
    /// Paths, as people type them: all letters in their order, best first.
    Fuzzy,
}

/// One glob or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(as = FsGlobs)]
pub enum Globs {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl Globs {
    /// All of them; `field` is what an error names.
    pub fn into_vec(self, field: &'static str) -> Result<Vec<String>, Error> {
        let globs = match self {
            Self::One(glob) => vec![glob],
            Self::Several(globs) => globs,
        };
        let length = globs.iter().map(String::len).max().unwrap_or(0);
        if globs.len() > GLOBS || length > PATTERN {
            return Err(Error::Invalid {
                field,
                reason: format!("at most {GLOBS} globs of at most {PATTERN} bytes each"),
            });
        }
        Ok(globs)
    }
}

/// Search below a directory, or in one file.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = FsSearchRequest)]
pub struct SearchRequest {
    /// The directory or file; the workspace root when absent.
    pub path: Option<String>,
    /// Its exact bytes, base64, instead of `path`.
    #[serde(rename = "pathB64")]
    pub path_b64: Option<String>,
    /// Regular expression (RE2 syntax, linear time), literal, glob or letters.
    #[schema(required = true, nullable = false, min_length = 1)]
    pub pattern: Option<String>,
    /// What is compared with it.
    pub kind: Option<SearchKind>,
    /// The pattern means itself.
    pub literal: Option<bool>,
    /// Upper and lower case are the same.
    pub ignore_case: Option<bool>,
    /// Only files that one of these globs names; with `!` in front, not those.
    pub glob: Option<Globs>,
    /// Lines shown before each match, 0 to 100.
    #[schema(maximum = 100)]
    pub before: Option<u64>,
    /// Lines shown behind each match, 0 to 100.
    #[schema(maximum = 100)]
    pub after: Option<u64>,
    /// Results at most, 1 to 100000; 1000 when absent.
    #[schema(minimum = 1, maximum = 100_000)]
    pub limit: Option<u64>,
    /// Bytes of all results together at most, up to 32 MiB; 8 MiB when absent.
    pub max_bytes: Option<u64>,
    /// How long it may take, up to 600000; 30000 when absent.
    pub timeout_ms: Option<u64>,
    /// Hidden files and directories too.
    pub hidden: Option<bool>,
    /// Leave out what `.gitignore`, `.ignore` and their kin name; true when absent.
    pub ignore_files: Option<bool>,
}

impl SearchRequest {
    /// The search; no path is the workspace root.
    pub fn into_search(self) -> Result<Search, Error> {
        let defaults = search::Request::default();
        let pattern = self.pattern.unwrap_or_default();
        let limits = [
            ("pattern", pattern.len() as u64, PATTERN as u64),
            ("maxBytes", self.max_bytes.unwrap_or(0), MOST_BYTES),
            ("timeoutMs", self.timeout_ms.unwrap_or(0), LONGEST),
        ];
        if let Some((field, value, limit)) = limits.into_iter().find(|(_, value, limit)| value > limit) {
            return Err(Error::Invalid {
                field,
                reason: format!("is {value}, must be at most {limit}"),
            });
        }
        let globs = self.glob.map(|globs| globs.into_vec("glob")).transpose()?;
        let request = search::Request {
            pattern,
            kind: match self.kind.unwrap_or_default() {
                SearchKind::Content => search::Kind::Content,
                SearchKind::Name => search::Kind::Name,
                SearchKind::Fuzzy => search::Kind::Fuzzy,
            },
            literal: self.literal.unwrap_or(defaults.literal),
            ignore_case: self.ignore_case.unwrap_or(defaults.ignore_case),
            globs: globs.unwrap_or_default(),
            before: self.before.unwrap_or(defaults.before),
            after: self.after.unwrap_or(defaults.after),
            limit: self.limit.unwrap_or(defaults.limit),
            max_bytes: self.max_bytes.unwrap_or(defaults.max_bytes),
            time_limit: self.timeout_ms.map_or(defaults.time_limit, Duration::from_millis),
            hidden: self.hidden.unwrap_or(defaults.hidden),
            ignore_files: self.ignore_files.unwrap_or(defaults.ignore_files),
        };
        let path = path(("path", "pathB64"), self.path, self.path_b64.as_deref())?.unwrap_or_default();
        Ok(Search { path, request })
    }
}

/// One line of a file, without its line end.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FsSearchLine)]
pub struct MatchLine {
    /// The line, readable.
    pub text: String,
    /// Its exact bytes, base64, when they are not UTF-8.
    #[serde(rename = "textB64", skip_serializing_if = "Option::is_none")]
    pub text_b64: Option<String>,
    /// Bytes at its end that are not shown, because it is longer than 16 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<u64>,
}

impl From<&Line> for MatchLine {
    fn from(line: &Line) -> Self {
        let text = String::from_utf8_lossy(&line.bytes);
        let is_exact = matches!(text, std::borrow::Cow::Borrowed(_));
        Self {
            text_b64: (!is_exact).then(|| to_base64(&line.bytes)),
            text: text.into_owned(),
            cut: (line.cut > 0).then_some(line.cut),
        }
    }
}

/// One result. Those of `name` and `fuzzy` have a path and nothing of a line.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FsSearchMatch)]
pub struct Match {
    /// Absolute path.
    pub path: String,
    /// Its exact bytes, base64, when they are not UTF-8.
    #[serde(rename = "pathB64", skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<String>,
    /// Where in the file.
    #[serde(flatten)]
    pub place: Option<MatchPlace>,
    /// How well it fits, more is better; with `fuzzy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<u32>,
}

/// Where in a file.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FsSearchPlace)]
pub struct MatchPlace {
    /// Number of the line, from 1.
    pub line: u64,
    /// Of the first match in it, in bytes from 1.
    pub column: u64,
    /// The line.
    #[serde(flatten)]
    pub text: MatchLine,
    /// The text of the lines before it.
    pub before: Vec<String>,
    /// The text of the lines behind it.
    pub after: Vec<String>,
}

impl From<&Found> for Match {
    fn from(found: &Found) -> Self {
        let (path, path_b64) = readable(found.path.as_os_str());
        Self {
            path,
            path_b64,
            place: found.line.as_ref().map(MatchPlace::from),
            score: found.score,
        }
    }
}

impl From<&Place> for MatchPlace {
    fn from(place: &Place) -> Self {
        let text = |lines: &[Line]| lines.iter().map(|line| MatchLine::from(line).text).collect();
        Self {
            line: place.number,
            column: place.column,
            text: MatchLine::from(&place.text),
            before: text(&place.before),
            after: text(&place.after),
        }
    }
}

/// What was looked at.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FsSearchStats)]
pub struct SearchStats {
    /// Files; entries, when names are searched.
    pub files: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Files that were passed over because they are binary.
    pub binary_skipped: u64,
    /// How long it took, in milliseconds.
    pub ms: u64,
}

/// How a search ended.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FsSearchEnd)]
pub struct SearchEnd {
    /// There may be more than was found.
    pub truncated: bool,
    /// Why: `limit`, `bytes` or `time`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncated_by: Option<&'static str>,
    /// What was looked at.
    pub stats: SearchStats,
    /// How many files and directories could not be read.
    pub unreadable_count: u64,
    /// The first 20 of them.
    pub unreadable: Vec<Unreadable>,
}

impl From<&Summary> for SearchEnd {
    fn from(summary: &Summary) -> Self {
        let Stats {
            files,
            bytes,
            binary_skipped,
            took,
        } = summary.stats;
        Self {
            truncated: summary.truncated.is_some(),
            truncated_by: summary.truncated,
            stats: SearchStats {
                files,
                bytes,
                binary_skipped,
                ms: took.as_millis() as u64,
            },
            unreadable_count: summary.unreadable,
            unreadable: summary
                .unread
                .iter()
                .map(|unread| Unreadable::new(unread.path.as_deref(), &unread.reason))
                .collect(),
        }
    }
}

/// All of a search.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FsSearchReply)]
pub struct SearchReply {
    /// By path and line; fuzzy ones best first.
    pub matches: Vec<Match>,
    /// How it ended.
    #[serde(flatten)]
    pub end: SearchEnd,
}

impl From<&Answer> for SearchReply {
    fn from(answer: &Answer) -> Self {
        Self {
            matches: answer.found.iter().map(Match::from).collect(),
            end: SearchEnd::from(&answer.summary),
        }
    }
}
