//! What can be asked of the git room: plain data.

use std::path::PathBuf;
use std::time::Duration;

use super::credential::Credential;

/// What the caller may do besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Anything: hooks and whatever programs a repository names may run, and local repositories be remotes.
    Full,
    /// Files of the workspace may be changed, programs not be run.
    Workspace,
}

/// A question about a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// What is changed.
    Status {
        /// Ignored files too.
        ignored: bool,
        /// Untracked files, each by itself.
        untracked: bool,
    },
    /// What the changes are.
    Diff {
        /// Between what.
        of: DiffOf,
        /// Only these files and directories, relative to the worktree.
        paths: Vec<PathBuf>,
        /// Lines around a change.
        context: u32,
        /// Numbers of lines and no text.
        stat_only: bool,
    },
    /// Commits, newest first.
    Log {
        /// From where; `HEAD` when absent.
        revision: Option<String>,
        /// Only those that changed this file or directory.
        path: Option<PathBuf>,
        /// So many are left out.
        skip: usize,
        /// So many are answered.
        limit: usize,
    },
    /// A commit with its changes, or a file as it was.
    Show {
        /// Which commit.
        revision: String,
        /// The file.
        path: Option<PathBuf>,
    },
    /// Who wrote which lines.
    Blame {
        /// The file, relative to the worktree.
        path: PathBuf,
        /// As of this revision; `HEAD` when absent.
        revision: Option<String>,
    },
    /// Local and remote branches.
    Branches,
    /// Remotes with their URLs.
    Remotes,
    /// Worktrees.
    Worktrees,
    /// Repositories below a directory.
    Discover {
        /// Levels that are looked at.
        depth: usize,
    },
}

/// Between what a diff is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DiffOf {
    /// The index and the worktree.
    #[default]
    Worktree,
    /// `HEAD` and the index.
    Index,
    /// `HEAD` and the worktree.
    Head,
    /// Two revisions, or one and the worktree.
    Revisions {
        /// The older one.
        from: String,
        /// The newer one; `None` for the worktree.
        to: Option<String>,
    },
}

/// A change of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are git's own terms")]
pub enum Action {
    /// Make a repository.
    Init { bare: bool, branch: Option<String> },
    /// Put content into the index.
    Add { paths: Vec<PathBuf>, all: bool },
    /// Take content back: into the worktree, or (`staged`) into the index.
    Restore {
        paths: Vec<PathBuf>,
        staged: bool,
        source: Option<String>,
    },
    /// Move `HEAD`.
    Reset {
        mode: ResetMode,
        revision: Option<String>,
    },
    /// Commit what the index holds.
    Commit {
        message: String,
        author: Option<String>,
        all: bool,
        sign_off: bool,
        allow_empty: bool,
        amend: bool,
        time_limit: Duration,
    },
    /// Make a branch.
    BranchCreate {
        name: String,
        start: Option<String>,
        force: bool,
    },
    /// Delete a branch.
    BranchDelete { name: String, force: bool },
    /// Go to a branch, or to a commit (`detach`).
    Switch { to: String, create: bool, detach: bool },
    /// Put changes aside or take them back.
    Stash {
        verb: StashVerb,
        message: Option<String>,
        untracked: bool,
    },
    /// Make or delete a tag.
    Tag {
        name: String,
        revision: Option<String>,
        message: Option<String>,
        delete: bool,
        force: bool,
    },
    /// Add, change or (no URL) remove a remote.
    RemoteSet { name: String, url: Option<String> },
    /// Add a worktree.
    WorktreeAdd {
        path: PathBuf,
        revision: Option<String>,
        branch: Option<String>,
    },
    /// Remove a worktree.
    WorktreeRemove { path: PathBuf, force: bool },
}

/// What a reset touches besides `HEAD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "git's own terms")]
pub enum ResetMode {
    Soft,
    #[default]
    Mixed,
    Hard,
}

/// What becomes of what is put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "git's own terms")]
pub enum StashVerb {
    #[default]
    Push,
    Pop,
    Apply,
    Drop,
    List,
}

/// Objects that come from another repository, or go there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are git's own terms")]
pub enum Transfer {
    /// Copy a repository into a directory that does not exist or is empty.
    Clone {
        url: String,
        branch: Option<String>,
        depth: Option<u32>,
        bare: bool,
        recurse_submodules: bool,
        credential: Option<Credential>,
        time_limit: Duration,
    },
    /// Bring what a remote has.
    Fetch {
        remote: Option<String>,
        refspecs: Vec<String>,
        prune: bool,
        depth: Option<u32>,
        credential: Option<Credential>,
        time_limit: Duration,
    },
    /// Bring it and put it into the branch.
    Pull {
        remote: Option<String>,
        branch: Option<String>,
        rebase: bool,
        fast_forward_only: bool,
        credential: Option<Credential>,
        time_limit: Duration,
    },
    /// Take what is here there.
    Push {
        remote: Option<String>,
        refspecs: Vec<String>,
        force: bool,
        set_upstream: bool,
        credential: Option<Credential>,
        time_limit: Duration,
    },
}

impl Query {
    /// The stable names.
    pub const NAMES: [&str; 9] = [
        "git.status",
        "git.diff",
        "git.log",
        "git.show",
        "git.blame",
        "git.branches",
        "git.remotes",
        "git.worktrees",
        "git.discover",
    ];

    /// The stable name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status { .. } => "git.status",
            Self::Diff { .. } => "git.diff",
            Self::Log { .. } => "git.log",
            Self::Show { .. } => "git.show",
            Self::Blame { .. } => "git.blame",
            Self::Branches => "git.branches",
            Self::Remotes => "git.remotes",
            Self::Worktrees => "git.worktrees",
            Self::Discover { .. } => "git.discover",
        }
    }
}

impl Action {
    /// The stable names.
    pub const NAMES: [&str; 13] = [
        "git.init",
        "git.add",
        "git.restore",
        "git.reset",
        "git.commit",
        "git.branch.create",
        "git.branch.delete",
        "git.switch",
        "git.stash",
        "git.tag",
        "git.remote.set",
        "git.worktree.add",
        "git.worktree.remove",
    ];

    /// The stable name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Init { .. } => "git.init",
            Self::Add { .. } => "git.add",
            Self::Restore { .. } => "git.restore",
            Self::Reset { .. } => "git.reset",
            Self::Commit { .. } => "git.commit",
            Self::BranchCreate { .. } => "git.branch.create",
            Self::BranchDelete { .. } => "git.branch.delete",
            Self::Switch { .. } => "git.switch",
            Self::Stash { .. } => "git.stash",
            Self::Tag { .. } => "git.tag",
            Self::RemoteSet { .. } => "git.remote.set",
            Self::WorktreeAdd { .. } => "git.worktree.add",
            Self::WorktreeRemove { .. } => "git.worktree.remove",
        }
    }
}

impl Transfer {
    /// The stable names.
    pub const NAMES: [&str; 4] = ["git.clone", "git.fetch", "git.pull", "git.push"];

    /// The stable name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Clone { .. } => "git.clone",
            Self::Fetch { .. } => "git.fetch",
            Self::Pull { .. } => "git.pull",
            Self::Push { .. } => "git.push",
        }
    }
}
