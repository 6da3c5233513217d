//! What changes a repository, as command lines of git.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use git2::{BranchType, Repository};

use super::open::open;
use super::program::{Did, Invocation, run};
use super::request::{Action, ResetMode, StashVerb, Trust};
use super::safety::{Pinned, name, without_programs};
use crate::error::Error;
use crate::exec::Engine;

/// How long a change may take that says nothing else.
const USUAL: Duration = Duration::from_secs(120);

/// Does `action` in the repository at `path`.
pub(super) async fn act(
    engine: &Arc<Engine>,
    path: &Path,
    action: Action,
    trust: Trust,
) -> Result<Did, Error> {
    let what = action.name();
    let time_limit = match &action {
        Action::Commit { time_limit, .. } => *time_limit,
        _ => USUAL,
    };
    let (at, asked) = (path.to_owned(), action.clone());
    let looked = in_background(move || look(&at, &asked, trust)).await??;
    // What is made need not be there yet.
    let cwd = if matches!(action, Action::Init { .. }) {
        Path::new("/")
    } else {
        path
    };
    let begun = Invocation::new(cwd, trust, time_limit).pinned(looked.pinned.clone());
    let invocation = line(begun, path, action.clone(), &looked)?;
    let ended = run(engine, invocation, None).await?.judge(what, path, time_limit);
    match ended {
        Err(Error::Conflict { what, reason }) => {
            let path = path.to_owned();
            let known = in_background(move || missing(&path, &action)).await?;
            Err(known.unwrap_or(Error::Conflict { what, reason }))
        }
        ended => ended,
    }
}

async fn in_background<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let looked = tokio::task::spawn_blocking(look).await;
    looked.map_err(|panic| Error::Internal {
        reason: format!("a look at a repository panicked: {panic}"),
    })
}

/// What is known of a repository before git is started.
#[derive(Debug, Default)]
struct Looked {
    pinned: Option<Pinned>,
    /// The remote that the action is about is there.
    has_remote: bool,
    /// Git is told who commits. In a fresh sandbox it is not, and whoever is the author then is the committer too.
    knows_its_user: bool,
}

fn look(path: &Path, action: &Action, trust: Trust) -> Result<Looked, Error> {
    if matches!(action, Action::Init { .. }) {
        return Ok(Looked::default());
    }
    let repository = match open(path) {
        Err(error @ Error::NotFound { .. }) => return Err(error),
        opened => opened,
    };
    let has_remote = match (&repository, action) {
        (Ok(repository), Action::RemoteSet { name, .. }) => repository.find_remote(name).is_ok(),
        _ => false,
    };
    let pinned = (trust == Trust::Workspace)
        .then(|| without_programs(path))
        .transpose()?;
    Ok(Looked {
        pinned,
        has_remote,
        knows_its_user: repository.map_or(true, |repository| repository.signature().is_ok()),
    })
}

/// What git did not find, or found where it should not be, once it has failed: its exit code does not say.
fn missing(path: &Path, action: &Action) -> Option<Error> {
    let repository = open(path).ok()?;
    let not_found = |what, name: &str| {
        Some(Error::NotFound {
            what,
            name: name.to_owned(),
        })
    };
    let revision = match action {
        Action::Reset { revision, .. }
        | Action::WorktreeAdd { revision, .. }
        | Action::Tag {
            revision,
            delete: false,
            ..
        } => revision.as_deref(),
        Action::Restore { source, .. } => source.as_deref(),
        Action::BranchCreate { start, .. } => start.as_deref(),
        // A branch that only a remote has is made by switching to it.
        Action::Switch {
            to, create: false, ..
        } if !is_of_a_remote(&repository, to) => Some(to.as_str()),
        _ => None,
    };
    if let Some(name) = revision
        && let Err(error @ Error::NotFound { .. }) = super::open::revision(&repository, name)
    {
        return Some(error);
    }
    let has_branch = |name: &str| repository.find_branch(name, BranchType::Local).is_ok();
    let has_tag = |name: &str| repository.find_reference(&format!("refs/tags/{name}")).is_ok();
    let exists = |what, name: &str| {
        Some(Error::AlreadyExists {
            what,
            name: name.to_owned(),
        })
    };
    match action {
        Action::BranchDelete { name, .. } if !has_branch(name) => not_found("branch", name),
        Action::Tag {
            name, delete: true, ..
        } if !has_tag(name) => not_found("tag", name),
        Action::RemoteSet { name, url: None } if repository.find_remote(name).is_err() => {
            not_found("remote", name)
        }
        Action::BranchCreate {
            name, force: false, ..
        }
        | Action::Switch {
            to: name,
            create: true,
            ..
        } if has_branch(name) => exists("branch", name),
        Action::Tag {
            name,
            delete: false,
            force: false,
            ..
        } if has_tag(name) => exists("tag", name),
        _ => None,
    }
}

fn is_of_a_remote(repository: &Repository, branch: &str) -> bool {
    let has = |remote: &str| {
        let name = format!("{remote}/{branch}");
        repository.find_branch(&name, BranchType::Remote).is_ok()
    };
    let remotes = repository.remotes();
    remotes.is_ok_and(|remotes| remotes.iter().flatten().any(has))
}

fn line(git: Invocation, path: &Path, action: Action, looked: &Looked) -> Result<Invocation, Error> {
    match action {
        Action::Init { bare, branch } => {
            let mut git = git.words(["init"]).flag(bare, "--bare");
            if let Some(branch) = branch {
                git = git.words([format!("--initial-branch={}", name("branch", &branch)?)]);
            }
            Ok(git.words(["--"]).words([path]))
        }
        Action::Add { paths, all } => {
            let git = git.words(["add"]).flag(all, "--all");
            with_paths(git, paths, all)
        }
        Action::Restore {
            paths,
            staged,
            source,
        } => {
            let mut git = git.words(["restore"]).flag(staged, "--staged");
            if let Some(source) = source {
                git = git.words([format!("--source={}", name("source", &source)?)]);
            }
            with_paths(git, paths, false)
        }
        Action::Reset { mode, revision } => {
            let mode = match mode {
                ResetMode::Soft => "--soft",
                ResetMode::Mixed => "--mixed",
                ResetMode::Hard => "--hard",
            };
            let revision = revision.unwrap_or_else(|| "HEAD".into());
            Ok(git.words(["reset", mode, name("revision", &revision)?, "--"]))
        }
        commit @ Action::Commit { .. } => commit_line(git, commit, looked.knows_its_user),
        Action::BranchCreate {
            name: branch,
            start,
            force,
        } => {
            let git = git
                .words(["branch"])
                .flag(force, "--force")
                .words(["--end-of-options"]);
            let git = git.words([name("name", &branch)?]);
            Ok(match &start {
                Some(start) => git.words([name("start", start)?]),
                None => git,
            })
        }
        Action::BranchDelete { name: branch, force } => {
            let git = git.words(["branch", "--delete"]).flag(force, "--force");
            Ok(git.words(["--end-of-options", name("name", &branch)?]))
        }
        Action::Switch { to, create, detach } => {
            let git = git
                .words(["switch"])
                .flag(detach, "--detach")
                .flag(create, "--create");
            Ok(git.words([name("to", &to)?]))
        }
        stash @ Action::Stash { .. } => stash_line(git, stash),
        tag @ Action::Tag { .. } => tag_line(git, tag),
        Action::RemoteSet {
            name: remote,
            url: None,
        } => Ok(git.words(["remote", "remove", name("name", &remote)?])),
        Action::RemoteSet {
            name: remote,
            url: Some(url),
        } => {
            let url = name("url", &url)?;
            super::remote::without_secret(url)?;
            let verb = if looked.has_remote { "set-url" } else { "add" };
            Ok(git.words(["remote", verb, name("name", &remote)?, url]))
        }
        Action::WorktreeAdd {
            path,
            revision,
            branch,
        } => {
            let mut git = git.words(["worktree", "add"]);
            if let Some(branch) = &branch {
                git = git.words(["-b", name("branch", branch)?]);
            }
            let mut git = git.words([OsString::from("--"), path.into_os_string()]);
            if let Some(revision) = &revision {
                git = git.words([name("revision", revision)?]);
            }
            Ok(git)
        }
        Action::WorktreeRemove { path, force } => {
            let git = git.words(["worktree", "remove"]).flag(force, "--force");
            Ok(git.words([OsString::from("--"), path.into_os_string()]))
        }
    }
}

fn with_paths(git: Invocation, paths: Vec<PathBuf>, may_be_none: bool) -> Result<Invocation, Error> {
    if paths.is_empty() && !may_be_none {
        return Err(Error::Invalid {
            field: "paths",
            reason: "must name at least one path; \".\" is all of them".into(),
        });
    }
    // Names are meant as they are, not as patterns.
    let mut git = git;
    git.arguments.insert(0, "--literal-pathspecs".into());
    Ok(git.words(["--"]).words(paths))
}

fn commit_line(git: Invocation, action: Action, knows_its_user: bool) -> Result<Invocation, Error> {
    let Action::Commit {
        message,
        author,
        all,
        sign_off,
        allow_empty,
        amend,
        ..
    } = action
    else {
        return Ok(git);
    };
    if message.trim().is_empty() && !amend {
        return Err(Error::Invalid {
            field: "message",
            reason: "must not be empty".into(),
        });
    }
    let mut git = git
        .words(["commit"])
        .flag(all, "--all")
        .flag(sign_off, "--signoff")
        .flag(allow_empty, "--allow-empty")
        .flag(amend, "--amend");
    if let Some(author) = author {
        if !knows_its_user
            && let Some((user, address)) = author.strip_suffix('>').and_then(|text| text.split_once(" <"))
        {
            git.settings.push(format!("user.name={user}").into());
            git.settings.push(format!("user.email={address}").into());
        }
        git = git.words([format!("--author={author}")]);
    }
    if message.is_empty() {
        return Ok(git.words(["--no-edit"]));
    }
    // A message may be longer than an argument.
    git.input = message.into_bytes();
    Ok(git.words(["--file=-"]))
}

fn stash_line(git: Invocation, action: Action) -> Result<Invocation, Error> {
    let Action::Stash {
        verb,
        message,
        untracked,
    } = action
    else {
        return Ok(git);
    };
    let word = match verb {
        StashVerb::Push => "push",
        StashVerb::Pop => "pop",
        StashVerb::Apply => "apply",
        StashVerb::Drop => "drop",
        StashVerb::List => "list",
    };
    if verb != StashVerb::Push && (message.is_some() || untracked) {
        return Err(Error::Invalid {
            field: "verb",
            reason: "message and untracked are for \"push\"".into(),
        });
    }
    let git = git.words(["stash", word]).flag(untracked, "--include-untracked");
    Ok(match message {
        Some(message) => git.words([format!("--message={message}")]),
        None => git,
    })
}

fn tag_line(git: Invocation, action: Action) -> Result<Invocation, Error> {
    let Action::Tag {
        name: tag,
        revision,
        message,
        delete,
        force,
    } = action
    else {
        return Ok(git);
    };
    if delete {
        return Ok(git.words(["tag", "--delete", "--end-of-options", name("name", &tag)?]));
    }
    let mut git = git.words(["tag"]).flag(force, "--force");
    if let Some(message) = message {
        git.input = message.into_bytes();
        git = git.words(["--annotate", "--file=-"]);
    }
    let git = git.words(["--end-of-options", name("name", &tag)?]);
    Ok(match &revision {
        Some(revision) => git.words([name("revision", revision)?]),
        None => git,
    })
}
