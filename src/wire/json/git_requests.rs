//! Repositories: what is asked. `path` is a repository or anything in it, the workspace root when absent; `file` and
//! `files` are relative to the worktree.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::file_requests::path;
use crate::error::Error;
use crate::git::{Action, Credential, DiffOf, Query, ResetMode, StashVerb, Transfer};
use crate::ops::Op;
use crate::telemetry::Secret;

/// Commits of one answer, when nothing is said and at most.
const COMMITS: (u64, u64) = (50, 1000);
/// Lines around a change, when nothing is said and at most.
const CONTEXT: (u64, u64) = (3, 10_000);
/// Levels that are searched for repositories, when nothing is said and at most.
const DEPTH: (u64, u64) = (4, 64);
/// How long a commit with its hooks, or a transfer, may take, in milliseconds: when nothing is said and at most.
const TIME: (u64, u64) = (10 * 60 * 1000, 24 * 60 * 60 * 1000);

/// A question about a repository; each operation takes some of the fields.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = GitQuery)]
pub struct GitQuery {
    /// The repository, or anything in it.
    pub path: Option<String>,
    /// Its exact bytes, base64, instead of `path`.
    #[serde(rename = "pathB64")]
    pub path_b64: Option<String>,
    /// `status`: ignored files too.
    pub ignored: bool,
    /// `status`: untracked files; true when absent.
    pub untracked: Option<bool>,
    /// `diff`: `worktree` (against the index, the default), `index` (against HEAD), `head` (the worktree against HEAD).
    pub of: Option<String>,
    /// `diff`: from this revision.
    pub from: Option<String>,
    /// `diff`: to this one; the worktree when absent.
    pub to: Option<String>,
    /// `diff`: only these files and directories.
    pub files: Vec<String>,
    /// `diff`: lines around a change; 3 when absent.
    pub context: Option<u64>,
    /// `diff`: numbers of lines and no text.
    pub stat: bool,
    /// `log`, `show`, `blame`: the revision.
    pub revision: Option<String>,
    /// `log`, `show`, `blame`: the file.
    pub file: Option<String>,
    /// Its exact bytes, base64, instead of `file`.
    #[serde(rename = "fileB64")]
    pub file_b64: Option<String>,
    /// `log`: so many are left out.
    pub skip: u64,
    /// `log`: so many are answered, 1 to 1000; 50 when absent.
    pub limit: Option<u64>,
    /// `discover`: levels that are searched; 4 when absent.
    pub depth: Option<u64>,
}

fn invalid(field: &'static str, reason: impl Into<String>) -> Error {
    Error::Invalid {
        field,
        reason: reason.into(),
    }
}

fn bounded(field: &'static str, value: Option<u64>, (usual, most): (u64, u64)) -> Result<u64, Error> {
    match value {
        None => Ok(usual),
        Some(value) if value <= most => Ok(value),
        Some(value) => Err(invalid(field, format!("is {value}, must be at most {most}"))),
    }
}

impl GitQuery {
    /// The operation `name`.
    pub fn into_op(self, name: &str) -> Result<Op, Error> {
        let at = path(("path", "pathB64"), self.path, self.path_b64.as_deref())?.unwrap_or_default();
        let file = path(("file", "fileB64"), self.file, self.file_b64.as_deref())?;
        let query = match name {
            "git.status" => Query::Status {
                ignored: self.ignored,
                untracked: self.untracked.unwrap_or(true),
            },
            "git.diff" => Query::Diff {
                of: diff_of(self.of.as_deref(), self.from, self.to)?,
                paths: self.files.into_iter().map(PathBuf::from).collect(),
                context: bounded("context", self.context, CONTEXT)? as u32,
                stat_only: self.stat,
            },
            "git.log" => Query::Log {
                revision: self.revision,
                path: file,
                skip: self.skip as usize,
                limit: bounded("limit", self.limit, COMMITS)?.max(1) as usize,
            },
            "git.show" => Query::Show {
                revision: self.revision.unwrap_or_else(|| "HEAD".into()),
                path: file,
            },
            "git.blame" => Query::Blame {
                path: file.ok_or_else(|| invalid("file", "is required"))?,
                revision: self.revision,
            },
            "git.branches" => Query::Branches,
            "git.remotes" => Query::Remotes,
            "git.worktrees" => Query::Worktrees,
            _ => Query::Discover {
                depth: bounded("depth", self.depth, DEPTH)? as usize,
            },
        };
        Ok(Op::GitAsk { path: at, query })
    }
}

fn diff_of(of: Option<&str>, from: Option<String>, to: Option<String>) -> Result<DiffOf, Error> {
    match (of, from, to) {
        (None, Some(from), to) => Ok(DiffOf::Revisions { from, to }),
        (None | Some("worktree"), None, None) => Ok(DiffOf::Worktree),
        (Some("index"), None, None) => Ok(DiffOf::Index),
        (Some("head"), None, None) => Ok(DiffOf::Head),
        (Some(other), None, None) => Err(invalid(
            "of",
            format!("{other:.40?} is none of \"worktree\", \"index\" and \"head\""),
        )),
        (None, None, Some(_)) => Err(invalid("from", "is required with to")),
        (Some(_), ..) => Err(invalid("of", "cannot be combined with from and to")),
    }
}

/// A change of a repository; each operation takes some of the fields.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = GitChange)]
pub struct GitChange {
    /// The repository, or anything in it; of `init`, where it is to be.
    pub path: Option<String>,
    /// Its exact bytes, base64, instead of `path`.
    #[serde(rename = "pathB64")]
    pub path_b64: Option<String>,
    /// `add`, `restore`: these files and directories, relative to `path`.
    pub files: Vec<String>,
    /// `add`: everything; `commit`: everything that is tracked.
    pub all: bool,
    /// `restore`: in the index.
    pub staged: bool,
    /// `restore`: as of this revision.
    pub source: Option<String>,
    /// `reset`: `soft`, `mixed` (when absent) or `hard`.
    pub mode: Option<ResetModeName>,
    /// `reset`, `tag`, `worktree.add`: the revision.
    pub revision: Option<String>,
    /// `commit`, `tag`, `stash`: what is said.
    pub message: Option<String>,
    /// `commit`: `Name <address>`.
    pub author: Option<String>,
    /// `commit`: with a line that signs it off.
    pub sign_off: bool,
    /// `commit`: also without changes.
    pub allow_empty: bool,
    /// `commit`: in place of the newest commit.
    pub amend: bool,
    /// `branch.create`, `branch.delete`, `tag`, `remote.set`: the name.
    pub name: Option<String>,
    /// `branch.create`: where it begins; `HEAD` when absent.
    pub start: Option<String>,
    /// Also where something would be lost.
    pub force: bool,
    /// `switch`: the branch or commit.
    pub to: Option<String>,
    /// `switch`: make the branch.
    pub create: bool,
    /// `switch`: to a commit, without a branch.
    pub detach: bool,
    /// `stash`: `push` (when absent), `pop`, `apply`, `drop` or `list`.
    pub verb: Option<StashVerbName>,
    /// `stash`: untracked files too.
    pub untracked: bool,
    /// `tag`: delete it.
    pub delete: bool,
    /// `remote.set`: where it is; absent removes it.
    pub url: Option<String>,
    /// `worktree.add`, `worktree.remove`: where it is, relative to `path`.
    pub worktree: Option<String>,
    /// `worktree.add`, `init`: the branch that is made.
    pub branch: Option<String>,
    /// `init`: without a worktree.
    pub bare: bool,
    /// `commit`: how long it and its hooks may take, in milliseconds; 600000 when absent.
    pub timeout_ms: Option<u64>,
}

/// What a reset touches besides `HEAD`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = GitResetMode)]
pub enum ResetModeName {
    Soft,
    #[default]
    Mixed,
    Hard,
}

/// What becomes of what is put aside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = GitStashVerb)]
pub enum StashVerbName {
    #[default]
    Push,
    Pop,
    Apply,
    Drop,
    List,
}

impl GitChange {
    /// The operation `name`.
    pub fn into_op(self, name: &str) -> Result<Op, Error> {
        let required = |field, value: Option<String>| value.ok_or_else(|| invalid(field, "is required"));
        let at = path(("path", "pathB64"), self.path, self.path_b64.as_deref())?.unwrap_or_default();
        let files = self.files.into_iter().map(PathBuf::from).collect();
        let action = match name {
            "git.init" => Action::Init {
                bare: self.bare,
                branch: self.branch,
            },
            "git.add" => Action::Add {
                paths: files,
                all: self.all,
            },
            "git.restore" => Action::Restore {
                paths: files,
                staged: self.staged,
                source: self.source,
            },
            "git.reset" => Action::Reset {
                mode: match self.mode.unwrap_or_default() {
                    ResetModeName::Soft => ResetMode::Soft,
                    ResetModeName::Mixed => ResetMode::Mixed,
                    ResetModeName::Hard => ResetMode::Hard,
                },
                revision: self.revision,
            },
            "git.commit" => Action::Commit {
                message: self.message.unwrap_or_default(),
                author: self.author,
                all: self.all,
                sign_off: self.sign_off,
                allow_empty: self.allow_empty,
                amend: self.amend,
                time_limit: time_limit(self.timeout_ms)?,
            },
            "git.branch.create" => Action::BranchCreate {
                name: required("name", self.name)?,
                start: self.start,
                force: self.force,
            },
            "git.branch.delete" => Action::BranchDelete {
                name: required("name", self.name)?,
                force: self.force,
            },
            "git.switch" => Action::Switch {
                to: required("to", self.to)?,
                create: self.create,
                detach: self.detach,
            },
            "git.stash" => Action::Stash {
                verb: match self.verb.unwrap_or_default() {
                    StashVerbName::Push => StashVerb::Push,
                    StashVerbName::Pop => StashVerb::Pop,
                    StashVerbName::Apply => StashVerb::Apply,
                    StashVerbName::Drop => StashVerb::Drop,
                    StashVerbName::List => StashVerb::List,
                },
                message: self.message,
                untracked: self.untracked,
            },
            "git.tag" => Action::Tag {
                name: required("name", self.name)?,
                revision: self.revision,
                message: self.message,
                delete: self.delete,
                force: self.force,
            },
            "git.remote.set" => Action::RemoteSet {
                name: required("name", self.name)?,
                url: self.url,
            },
            "git.worktree.add" => Action::WorktreeAdd {
                path: required("worktree", self.worktree)?.into(),
                revision: self.revision,
                branch: self.branch,
            },
            _ => Action::WorktreeRemove {
                path: required("worktree", self.worktree)?.into(),
                force: self.force,
            },
        };
        Ok(Op::GitAct {
            path: at,
            action: Box::new(action),
        })
    }
}

fn time_limit(timeout_ms: Option<u64>) -> Result<Duration, Error> {
    bounded("timeoutMs", timeout_ms, TIME).map(Duration::from_millis)
}

/// A user and what proves that it is them; for this operation and this remote only.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = GitCredential)]
pub struct GitCredential {
    /// The user; with a token often anything.
    pub username: String,
    /// Password or token.
    #[serde(skip_serializing)]
    #[schema(value_type = String)]
    password: SecretText,
}

/// A secret that is read and never written.
#[derive(Debug, Deserialize)]
#[serde(from = "String")]
struct SecretText(Secret<String>);

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(Secret::new(text))
    }
}

/// Objects that come from another repository, or go there; each operation takes some of the fields.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = GitTransfer)]
pub struct GitTransfer {
    /// The repository, or anything in it; of `clone`, where it is to be.
    pub path: Option<String>,
    /// Its exact bytes, base64, instead of `path`.
    #[serde(rename = "pathB64")]
    pub path_b64: Option<String>,
    /// `clone`: where it comes from.
    pub url: Option<String>,
    /// `clone`, `pull`: the branch.
    pub branch: Option<String>,
    /// `clone`, `fetch`: so many commits of each branch.
    pub depth: Option<u32>,
    /// `clone`: without a worktree.
    pub bare: bool,
    /// `clone`: submodules too.
    pub recurse_submodules: bool,
    /// `fetch`, `pull`, `push`: the remote; `origin` when absent.
    pub remote: Option<String>,
    /// `fetch`, `push`: what.
    pub refspecs: Vec<String>,
    /// `fetch`: forget what the remote does not have any more.
    pub prune: bool,
    /// `pull`: put own commits behind those of the remote.
    pub rebase: bool,
    /// `pull`: only where there are no own commits.
    pub fast_forward_only: bool,
    /// `push`: also where something would be lost.
    pub force: bool,
    /// `push`: the branch follows it from then on.
    pub set_upstream: bool,
    /// Given to git for this operation, and for this remote only.
    pub credential: Option<GitCredential>,
    /// How long it may take, in milliseconds; 600000 when absent.
    pub timeout_ms: Option<u64>,
}

impl GitTransfer {
    /// The path and the transfer of the operation `name`.
    pub fn into_parts(self, name: &str) -> Result<(PathBuf, Transfer), Error> {
        let at = path(("path", "pathB64"), self.path, self.path_b64.as_deref())?;
        let credential = self.credential.map(|credential| Credential {
            username: credential.username,
            password: credential.password.0,
        });
        if let Some(credential) = &credential
            && [&credential.username, credential.password.expose()]
                .iter()
                .any(|text| text.chars().any(char::is_control))
        {
            return Err(invalid("credential", "must not have control characters"));
        }
        let time_limit = time_limit(self.timeout_ms)?;
        let transfer = match name {
            "git.clone" => {
                if at.is_none() {
                    return Err(invalid("path", "is required"));
                }
                Transfer::Clone {
                    url: self.url.ok_or_else(|| invalid("url", "is required"))?,
                    branch: self.branch,
                    depth: self.depth,
                    bare: self.bare,
                    recurse_submodules: self.recurse_submodules,
                    credential,
                    time_limit,
                }
            }
            "git.fetch" => Transfer::Fetch {
                remote: self.remote,
                refspecs: self.refspecs,
                prune: self.prune,
                depth: self.depth,
                credential,
                time_limit,
            },
            "git.pull" => Transfer::Pull {
                remote: self.remote,
                branch: self.branch,
                rebase: self.rebase,
                fast_forward_only: self.fast_forward_only,
                credential,
                time_limit,
            },
            _ => Transfer::Push {
                remote: self.remote,
                refspecs: self.refspecs,
                force: self.force,
                set_upstream: self.set_upstream,
                credential,
                time_limit,
            },
        };
        Ok((at.unwrap_or_default(), transfer))
    }

    /// The operation `name`.
    pub fn into_op(self, name: &str) -> Result<Op, Error> {
        let (path, transfer) = self.into_parts(name)?;
        Ok(Op::GitTransfer {
            path,
            transfer: Box::new(transfer),
        })
    }
}
