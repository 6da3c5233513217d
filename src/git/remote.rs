//! Clone, fetch, pull and push: the git program, with progress, and with credentials that only it gets.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::credential::{Credential, Origin, Service};
use super::program::{Did, Ended, Invocation, run};
use super::progress::Progress;
use super::request::{Transfer, Trust};
use super::safety::{name, refuse_programs};
use crate::error::Error;
use crate::exec::{Engine, Exit};

/// Does `transfer`; the repository is at `path`, or will be there.
pub(super) async fn transfer(
    engine: &Arc<Engine>,
    path: &Path,
    transfer: Transfer,
    trust: Trust,
    progress: Option<mpsc::Sender<Progress>>,
) -> Result<Did, Error> {
    let what = transfer.name();
    let (credential, time_limit) = secrets(&transfer);
    let url = url_of(path, &transfer)?;
    check_url(&url, trust)?;
    if trust == Trust::Workspace {
        refuse_programs(path)?;
    }
    let cwd = match &transfer {
        Transfer::Clone { .. } => path.parent().unwrap_or(path),
        _ => path,
    };
    let mut git = line(
        Invocation::new(cwd, trust, time_limit),
        path,
        transfer,
        credential.is_some(),
    )?;
    if url.starts_with("ext::") {
        git.settings.push("protocol.ext.allow=always".into());
    }
    let service = credential
        .map(|credential| {
            let origin = Origin::of(&url)?;
            Service::start(credential, origin)
        })
        .transpose()?;
    if let Some(service) = &service {
        git.settings.extend(service.settings());
    }
    let ended = run(engine, git, progress).await?;
    drop(service);
    judge(ended, what, path, time_limit)
}

fn judge(ended: Ended, what: &'static str, path: &Path, time_limit: Duration) -> Result<Did, Error> {
    if matches!(ended.exit, Exit::Code(code) if code != 0) {
        if is_refused(&ended.did.stderr) {
            return Err(Error::Forbidden {
                reason: format!(
                    "the remote refused the credentials, or wants some: {}",
                    ended.did.told()
                ),
            });
        }
        if let Some(reason) = rejected(&ended.did.stdout) {
            return Err(Error::Conflict {
                what: format!("{what} from {path:?}"),
                reason: format!("the remote rejected {reason}; fetch or pull first, or push with force"),
            });
        }
    }
    ended.judge(what, path, time_limit)
}

/// Whether git was not let in. It says so in words only, which are English under `LC_ALL=C`.
fn is_refused(stderr: &[u8]) -> bool {
    let words: [&[u8]; 6] = [
        b"Authentication failed",
        b"could not read Username",
        b"could not read Password",
        b"terminal prompts disabled",
        b"The requested URL returned error: 403",
        b"Permission denied (publickey",
    ];
    words
        .iter()
        .any(|words| memchr::memmem::find(stderr, words).is_some())
}

/// What a push could not do, from `git push --porcelain`: `!\tfrom:to\t[rejected] (fetch first)`.
fn rejected(stdout: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(stdout);
    let lines = text.lines().filter_map(|line| line.strip_prefix("!\t"));
    let said: Vec<_> = lines.map(|line| line.replace('\t', " ")).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

fn secrets(transfer: &Transfer) -> (Option<Credential>, Duration) {
    match transfer {
        Transfer::Clone {
            credential,
            time_limit,
            ..
        }
        | Transfer::Fetch {
            credential,
            time_limit,
            ..
        }
        | Transfer::Pull {
            credential,
            time_limit,
            ..
        }
        | Transfer::Push {
            credential,
            time_limit,
            ..
        } => (credential.clone(), *time_limit),
    }
}

/// Where it goes: a URL as it was given, or that of a remote by its name.
fn url_of(path: &Path, transfer: &Transfer) -> Result<String, Error> {
    let (remote, pushes) = match transfer {
        Transfer::Clone { url, .. } => return Ok(url.clone()),
        Transfer::Fetch { remote, .. } | Transfer::Pull { remote, .. } => (remote, false),
        Transfer::Push { remote, .. } => (remote, true),
    };
    let repository = super::open::open(path)?;
    let name = remote.clone().unwrap_or_else(|| "origin".into());
    let Ok(found) = repository.find_remote(&name) else {
        // Something that is no name of a remote is a URL.
        return Ok(name);
    };
    let push = found.pushurl_bytes().filter(|_| pushes);
    Ok(String::from_utf8_lossy(push.unwrap_or(found.url_bytes())).into_owned())
}

/// Refuses what needs more than `trust` gives, and secrets where everybody sees them.
fn check_url(url: &str, trust: Trust) -> Result<(), Error> {
    name("url", url)?;
    without_secret(url)?;
    let schemes = ["https://", "http://", "ssh://", "git://"];
    let is_elsewhere = schemes.iter().any(|scheme| url.starts_with(scheme)) || is_scp(url);
    if trust == Trust::Full || is_elsewhere {
        return Ok(());
    }
    Err(Error::Forbidden {
        reason: format!("the remote {url:?} is a local path or runs a program, which needs the Full scope"),
    })
}

/// `user@host:path`, which is no local path, no scheme (`file://`) and no helper (`ext::`).
fn is_scp(url: &str) -> bool {
    url.split_once(':').is_some_and(|(host, rest)| {
        let is_other = rest.starts_with(':') || rest.starts_with("//");
        !is_other && !host.is_empty() && !host.contains('/')
    })
}

/// Refuses a URL with a password in it: it would stand in command lines and configuration files.
pub(super) fn without_secret(url: &str) -> Result<(), Error> {
    if super::refs::without_password(url) == url {
        return Ok(());
    }
    Err(Error::Invalid {
        field: "url",
        reason: "has a password in it, which everybody would see; give it as credential".into(),
    })
}

fn line(git: Invocation, path: &Path, transfer: Transfer, has_secret: bool) -> Result<Invocation, Error> {
    match transfer {
        Transfer::Clone {
            url,
            branch,
            depth,
            bare,
            recurse_submodules,
            ..
        } => {
            if recurse_submodules && has_secret {
                return Err(Error::Invalid {
                    field: "recurseSubmodules",
                    reason: "cannot be combined with a credential, which is for one remote only".into(),
                });
            }
            let mut git = git
                .words(["clone", "--progress"])
                .flag(bare, "--bare")
                .flag(recurse_submodules, "--recurse-submodules");
            if let Some(branch) = branch {
                git = git.words([format!("--branch={}", name("branch", &branch)?)]);
            }
            let git = with_depth(git, depth)?;
            Ok(git.words([OsString::from("--"), url.into(), path.into()]))
        }
        Transfer::Fetch {
            remote,
            refspecs,
            prune,
            depth,
            ..
        } => {
            let git = git.words(["fetch", "--progress"]).flag(prune, "--prune");
            with_remote(with_depth(git, depth)?, remote, refspecs)
        }
        Transfer::Pull {
            remote,
            branch,
            rebase,
            fast_forward_only,
            ..
        } => {
            let git = git
                .words(["pull", "--progress"])
                .words([if rebase { "--rebase" } else { "--no-rebase" }])
                .flag(fast_forward_only, "--ff-only");
            with_remote(git, remote, branch.into_iter().collect())
        }
        Transfer::Push {
            remote,
            refspecs,
            force,
            set_upstream,
            ..
        } => {
            let git = git
                .words(["push", "--porcelain", "--progress"])
                .flag(force, "--force")
                .flag(set_upstream, "--set-upstream");
            with_remote(git, remote, refspecs)
        }
    }
}

fn with_depth(git: Invocation, depth: Option<u32>) -> Result<Invocation, Error> {
    match depth {
        None => Ok(git),
        Some(0) => Err(Error::Invalid {
            field: "depth",
            reason: "must be above zero".into(),
        }),
        Some(depth) => Ok(git.words([format!("--depth={depth}")])),
    }
}

fn with_remote(git: Invocation, remote: Option<String>, refspecs: Vec<String>) -> Result<Invocation, Error> {
    if remote.is_none() && refspecs.is_empty() {
        return Ok(git);
    }
    for refspec in &refspecs {
        name("refspecs", refspec)?;
    }
    let remote = remote.unwrap_or_else(|| "origin".into());
    Ok(git.words(["--"]).words([remote]).words(refspecs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes_that_run_programs_or_lie_here_need_full_trust() {
        for url in [
            "https://h/x",
            "ssh://h/x",
            "git://h/x",
            "git@host:x.git",
            "host:x",
        ] {
            assert!(check_url(url, Trust::Workspace).is_ok(), "{url}");
        }
        for url in ["ext::sh -c evil", "file:///x", "/x", "../x", "fd::3", "./a:b"] {
            assert!(check_url(url, Trust::Workspace).is_err(), "{url}");
            assert!(check_url(url, Trust::Full).is_ok(), "{url}");
        }
        for url in ["--upload-pack=x", "", "https://u:p@h/x"] {
            assert!(check_url(url, Trust::Full).is_err(), "{url}");
        }
    }

    #[test]
    fn what_a_remote_says_is_understood() {
        assert!(is_refused(b"fatal: Authentication failed for 'https://h/'\n"));
        assert!(!is_refused(b"fatal: repository 'https://h/' not found\n"));
        let said = b"To /x\n!\trefs/heads/a:refs/heads/a\t[rejected] (fetch first)\nDone\n";
        assert_eq!(
            rejected(said).unwrap(),
            "refs/heads/a:refs/heads/a [rejected] (fetch first)"
        );
        assert_eq!(rejected(b"To /x\n=\ta:a\t[up to date]\nDone\n"), None);
    }
}
