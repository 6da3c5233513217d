//! Clone, fetch, pull and push: the git program, with progress, and with credentials that only it gets.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use git2::Repository;
use tokio::sync::mpsc;

use super::credential::{Credential, Origin, Service};
use super::program::{Did, Ended, Invocation, run};
use super::progress::Progress;
use super::redact::redact;
use super::request::{Transfer, Trust};
use super::safety::{Pinned, name, without_detours, without_programs};
use crate::error::Error;
use crate::exec::{Engine, Exit};

/// Does `transfer`; the repository is at `path`, or will be there. `own` is this executable, which git asks for a credential.
pub(super) async fn transfer(
    engine: &Arc<Engine>,
    own: &Path,
    path: &Path,
    transfer: Transfer,
    trust: Trust,
    progress: Option<mpsc::Sender<Progress>>,
) -> Result<Did, Error> {
    let what = transfer.name();
    let (credential, time_limit) = secrets(&transfer);
    let (at, asked) = (path.to_owned(), transfer.clone());
    let has_secret = credential.is_some();
    let looked = tokio::task::spawn_blocking(move || look(&at, &asked, trust, has_secret));
    let (target, pinned) = looked.await.map_err(|panic| Error::Internal {
        reason: format!("a look at a repository panicked: {panic}"),
    })??;
    let cwd = match &transfer {
        Transfer::Clone { .. } => path.parent().unwrap_or(path),
        _ => path,
    };
    let git = Invocation::new(cwd, trust, time_limit).pinned(pinned);
    let mut git = line(git, path, transfer, has_secret, &target)?;
    if target.is_given && target.url.starts_with("ext::") {
        git.settings.push("protocol.ext.allow=always".into());
    }
    let service = match credential {
        None => None,
        Some(credential) => {
            git.secret = Some(credential.password.clone());
            let service = Service::start(credential, Origin::of(&target.url)?)?;
            git.settings.extend(service.settings(own));
            Some(service)
        }
    };
    let ended = run(engine, git, progress).await?;
    drop(service);
    judge(ended, what, path, time_limit, &target)
}

/// Where a transfer goes, and the repository that it is to be done in; `None` when there is none yet.
fn look(
    path: &Path,
    transfer: &Transfer,
    trust: Trust,
    has_secret: bool,
) -> Result<(Target, Option<Pinned>), Error> {
    if let Transfer::Clone { url, .. } = transfer {
        let target = Target::given(url);
        check_url(&target, trust)?;
        return Ok((target, None));
    }
    let repository = super::open::open(path)?;
    let target = Target::of(&repository, transfer);
    check_url(&target, trust)?;
    if has_secret {
        without_detours(&repository)?;
    }
    let pinned = (trust == Trust::Workspace)
        .then(|| without_programs(path))
        .transpose()?;
    Ok((target, pinned))
}

fn judge(
    ended: Ended,
    what: &'static str,
    path: &Path,
    time_limit: Duration,
    target: &Target,
) -> Result<Did, Error> {
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
        if target.is_no_remote(path, what) {
            return Err(Error::NotFound {
                what: "remote",
                name: target.url.clone(),
            });
        }
        if is_no_repository(&ended.did.stderr) {
            let url = redact(target.url.clone().into_bytes(), None);
            return Err(Error::NotFound {
                what: "repository",
                name: format!("{}: {}", String::from_utf8_lossy(&url), ended.did.told()),
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
    says(stderr, &words)
}

/// Whether the server has no such repository: what git says itself, of one over HTTP, and `git daemon`.
fn is_no_repository(stderr: &[u8]) -> bool {
    let words: [&[u8]; 3] = [
        b"' not found",
        b"does not appear to be a git repository",
        b"no such repository",
    ];
    says(stderr, &words)
}

fn says(stderr: &[u8], words: &[&[u8]]) -> bool {
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

/// Where a transfer goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    /// The remote by its name, when it has one.
    remote: Option<String>,
    url: String,
    /// The caller gave the URL; else the configuration has it.
    is_given: bool,
}

impl Target {
    fn given(url: &str) -> Self {
        Self {
            remote: None,
            url: url.to_owned(),
            is_given: true,
        }
    }

    fn of(repository: &Repository, transfer: &Transfer) -> Self {
        let (asked, pushes) = match transfer {
            Transfer::Clone { url, .. } => return Self::given(url),
            Transfer::Fetch { remote, .. } | Transfer::Pull { remote, .. } => (remote, false),
            Transfer::Push { remote, .. } => (remote, true),
        };
        let name = asked.clone().unwrap_or_else(|| usual_remote(repository, pushes));
        let Ok(found) = repository.find_remote(&name) else {
            // Something that is no name of a remote is a URL.
            return Self {
                is_given: asked.is_some(),
                ..Self::given(&name)
            };
        };
        let push = found.pushurl_bytes().filter(|_| pushes);
        let url = String::from_utf8_lossy(push.unwrap_or(found.url_bytes())).into_owned();
        Self {
            remote: Some(name),
            url,
            is_given: false,
        }
    }

    /// A name that no remote has, and nothing that could be a URL or a path.
    fn is_no_remote(&self, path: &Path, what: &str) -> bool {
        let here = if what == "git.clone" {
            path.parent().unwrap_or(path)
        } else {
            path
        };
        self.remote.is_none() && !self.url.contains([':', '/']) && !here.join(&self.url).exists()
    }
}

/// The remote that git takes when none is named (git-config(1), `branch.<name>.remote` and what stands beside it).
fn usual_remote(repository: &Repository, pushes: bool) -> String {
    let config = repository.config().and_then(|mut config| config.snapshot());
    let said = |name: &str| {
        let value = config.as_ref().ok()?.get_str(name).ok()?;
        Some(value.to_owned()).filter(|value| !value.is_empty())
    };
    let head = repository.find_reference("HEAD").ok();
    let branch = head.and_then(|head| {
        let target = head.symbolic_target()?;
        target.strip_prefix("refs/heads/").map(str::to_owned)
    });
    let of_branch = |key: &str| said(&format!("branch.{}.{key}", branch.as_deref()?));
    let to_push = || of_branch("pushremote").or_else(|| said("remote.pushdefault"));
    let found = pushes.then(to_push).flatten().or_else(|| of_branch("remote"));
    let only = || {
        let remotes = repository.remotes().ok()?;
        (remotes.len() == 1)
            .then(|| remotes.get(0).map(str::to_owned))
            .flatten()
    };
    found.or_else(only).unwrap_or_else(|| "origin".into())
}

/// Refuses what needs more than `trust` gives, and secrets where everybody sees them.
fn check_url(target: &Target, trust: Trust) -> Result<(), Error> {
    let url = name("url", &target.url)?;
    if target.is_given {
        without_secret(url)?;
    }
    let schemes = ["https://", "http://", "ssh://", "git://"];
    let is_elsewhere = schemes.iter().any(|scheme| url.starts_with(scheme)) || is_scp(url);
    if trust == Trust::Full || is_elsewhere {
        return Ok(());
    }
    let url = super::refs::without_password(url);
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

fn line(
    git: Invocation,
    path: &Path,
    transfer: Transfer,
    has_secret: bool,
    target: &Target,
) -> Result<Invocation, Error> {
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
            with_remote(with_depth(git, depth)?, remote, refspecs, target)
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
            with_remote(git, remote, branch.into_iter().collect(), target)
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
            with_remote(git, remote, refspecs, target)
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

fn with_remote(
    git: Invocation,
    remote: Option<String>,
    refspecs: Vec<String>,
    target: &Target,
) -> Result<Invocation, Error> {
    if remote.is_none() && refspecs.is_empty() {
        return Ok(git);
    }
    for refspec in &refspecs {
        name("refspecs", refspec)?;
    }
    let usual = || target.remote.clone().unwrap_or_else(|| target.url.clone());
    let remote = remote.unwrap_or_else(usual);
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
            assert!(check_url(&Target::given(url), Trust::Workspace).is_ok(), "{url}");
        }
        for url in ["ext::sh -c evil", "file:///x", "/x", "../x", "fd::3", "./a:b"] {
            assert!(check_url(&Target::given(url), Trust::Workspace).is_err(), "{url}");
            assert!(check_url(&Target::given(url), Trust::Full).is_ok(), "{url}");
        }
        for url in ["--upload-pack=x", "", "https://u:p@h/x"] {
            assert!(check_url(&Target::given(url), Trust::Full).is_err(), "{url}");
        }
    }

    #[test]
    fn the_usual_remote_is_the_one_that_git_takes() {
        let directory = tempfile::tempdir().unwrap();
        let repository = Repository::init(directory.path()).unwrap();
        repository.set_head("refs/heads/main").unwrap();
        assert_eq!(usual_remote(&repository, false), "origin");
        repository.remote("only", "https://h/only").unwrap();
        assert_eq!(usual_remote(&repository, true), "only");
        repository.remote("fork", "https://h/fork").unwrap();
        repository.remote("up", "https://me:hush@h/up").unwrap();
        assert_eq!(usual_remote(&repository, false), "origin");
        let mut config = repository.config().unwrap();
        config.set_str("branch.main.remote", "up").unwrap();
        assert_eq!(
            (usual_remote(&repository, false), usual_remote(&repository, true)),
            ("up".into(), "up".into())
        );
        config.set_str("remote.pushDefault", "fork").unwrap();
        assert_eq!(
            (usual_remote(&repository, false), usual_remote(&repository, true)),
            ("up".into(), "fork".into())
        );
        config.set_str("branch.main.pushRemote", "only").unwrap();
        assert_eq!(usual_remote(&repository, true), "only");
        let pull = Transfer::Pull {
            remote: None,
            branch: None,
            rebase: false,
            fast_forward_only: false,
            credential: None,
            time_limit: Duration::from_secs(1),
        };
        let target = Target::of(&repository, &pull);
        assert_eq!(
            (target.url.as_str(), target.is_given),
            ("https://me:hush@h/up", false)
        );
        // It stands in the configuration already; what a caller gives is another matter.
        assert!(check_url(&target, Trust::Workspace).is_ok());
        assert!(check_url(&Target::given(&target.url), Trust::Full).is_err());
    }

    #[test]
    fn what_a_remote_says_is_understood() {
        assert!(is_refused(b"fatal: Authentication failed for 'https://h/'\n"));
        assert!(!is_refused(b"fatal: repository 'https://h/' not found\n"));
        assert!(is_no_repository(b"fatal: repository 'https://h/' not found\n"));
        assert!(!is_no_repository(b"fatal: couldn't find remote ref main\n"));
        let said = b"To /x\n!\trefs/heads/a:refs/heads/a\t[rejected] (fetch first)\nDone\n";
        assert_eq!(
            rejected(said).unwrap(),
            "refs/heads/a:refs/heads/a [rejected] (fetch first)"
        );
        assert_eq!(rejected(b"To /x\n=\ta:a\t[up to date]\nDone\n"), None);
    }
}
