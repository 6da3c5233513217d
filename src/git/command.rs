//! What changes a repository, as command lines of git.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::program::{Did, Invocation, run};
use super::request::{Action, ResetMode, StashVerb, Trust};
use super::safety::{name, refuse_programs};
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
    if trust == Trust::Workspace {
        let path = path.to_owned();
        let refused = tokio::task::spawn_blocking(move || refuse_programs(&path));
        refused.await.map_err(|panic| Error::Internal {
            reason: format!("a look at a repository panicked: {panic}"),
        })??;
    }
    if let Action::RemoteSet {
        name: remote,
        url: Some(url),
    } = &action
        && has_remote(path, remote)
    {
        super::remote::without_secret(url)?;
        let begun = Invocation::new(path, trust, USUAL);
        let change = begun.words(["remote", "set-url", name("name", remote)?, name("url", url)?]);
        return run(engine, change, None).await?.judge(action.name(), path, USUAL);
    }
    let what = action.name();
    let time_limit = match &action {
        Action::Commit { time_limit, .. } => *time_limit,
        _ => USUAL,
    };
    // What is made need not be there yet.
    let cwd = if matches!(action, Action::Init { .. }) {
        Path::new("/")
    } else {
        path
    };
    let begun = Invocation::new(cwd, trust, time_limit);
    let invocation = line(begun, path, action)?;
    run(engine, invocation, None).await?.judge(what, path, time_limit)
}

fn has_remote(path: &Path, remote: &str) -> bool {
    super::open::open(path).is_ok_and(|repository| repository.find_remote(remote).is_ok())
}

fn line(git: Invocation, path: &Path, action: Action) -> Result<Invocation, Error> {
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
        commit @ Action::Commit { .. } => commit_line(git, path, commit),
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
            Ok(git.words(["remote", "add", name("name", &remote)?, url]))
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

fn commit_line(git: Invocation, path: &Path, action: Action) -> Result<Invocation, Error> {
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
        if !knows_its_user(path)
            && let Some((user, address)) = author.strip_suffix('>').and_then(|text| text.split_once(" <"))
        {
            git.settings.push(format!("user.name={user}"));
            git.settings.push(format!("user.email={address}"));
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

/// Whether git is told who commits. In a fresh sandbox it is not, and whoever is the author then is the committer too.
fn knows_its_user(path: &Path) -> bool {
    super::open::open(path).is_ok_and(|repository| repository.signature().is_ok())
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
