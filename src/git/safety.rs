//! Repositories that run programs, and words that git would take for something else than they are meant.
//!
//! Whoever may change files but run no programs gets git only for repositories whose configuration names none: their own, and
//! those of the submodules in them, because git looks for changes there by running itself. What was looked at is what git then
//! works in ([`Pinned`]). The look comes before the run: a caller who can write into `.git` at that very moment is not held
//! off by it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use git2::{Config, ConfigLevel, Repository, RepositoryOpenFlags};

use super::open::{failed, open};
use crate::error::Error;

/// Submodules in submodules that are looked at.
const DEPTH: usize = 16;
/// The mode of a submodule in an index.
const SUBMODULE: u32 = 0o160_000;

/// The repository that was looked at, so that git does not find another one by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pinned {
    /// Where it keeps what it knows.
    pub(super) directory: PathBuf,
    /// Where its files are, when it has any.
    pub(super) worktree: Option<PathBuf>,
}

/// Refuses a repository whose configuration names programs: who may only work in the workspace must not run any. One that
/// cannot be read is refused too.
pub(super) fn without_programs(path: &Path) -> Result<Pinned, Error> {
    let repository = open(path)?;
    look_for_programs(&repository, DEPTH)?;
    Ok(Pinned {
        directory: repository.path().to_owned(),
        worktree: repository.workdir().map(Path::to_owned),
    })
}

fn look_for_programs(repository: &Repository, depth: usize) -> Result<(), Error> {
    if let Some(name) = own_setting(repository, runs_a_program)? {
        return Err(Error::Forbidden {
            reason: format!(
                "the configuration of {:?} runs programs ({name}), which needs the Full scope",
                repository.path()
            ),
        });
    }
    let Some(worktree) = repository.workdir() else {
        return Ok(());
    };
    let index = repository
        .index()
        .map_err(|error| failed("read the index of", worktree, &error))?;
    for entry in index.iter().filter(|entry| entry.mode == SUBMODULE) {
        let at = worktree.join(OsStr::from_bytes(&entry.path));
        if !at.join(".git").exists() {
            continue;
        }
        if depth == 0 {
            return Err(Error::Forbidden {
                reason: format!(
                    "the submodule {at:?} is too deep to be looked at, which needs the Full scope"
                ),
            });
        }
        let submodule = Repository::open_ext(&at, RepositoryOpenFlags::NO_SEARCH, &[] as &[&Path])
            .map_err(|error| failed("open the submodule", &at, &error))?;
        look_for_programs(&submodule, depth - 1)?;
    }
    Ok(())
}

/// Refuses to give a credential away where the repository says which way it goes: through a proxy, to another address, or
/// to a server that nobody has to believe. Such settings count in the user's own configuration.
pub(super) fn without_detours(repository: &Repository) -> Result<(), Error> {
    match own_setting(repository, is_detour)? {
        None => Ok(()),
        Some(name) => Err(Error::Forbidden {
            reason: format!(
                "{name} in the configuration of {:?} decides where a credential goes; set it for the user instead",
                repository.path()
            ),
        }),
    }
}

/// The first setting of the repository's own that `is_meant` takes.
fn own_setting(repository: &Repository, is_meant: impl Fn(&str) -> bool) -> Result<Option<String>, Error> {
    let unread = |error: git2::Error| failed("read the configuration of", repository.path(), &error);
    let config = repository.config().map_err(unread)?;
    for level in [ConfigLevel::Local, ConfigLevel::Worktree] {
        // A level that does not exist.
        let Ok(own) = config.open_level(level) else {
            continue;
        };
        if let Some(name) = setting(&own, &is_meant).map_err(unread)? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn setting(own: &Config, is_meant: impl Fn(&str) -> bool) -> Result<Option<String>, git2::Error> {
    let mut entries = own.entries(None)?;
    while let Some(entry) = entries.next() {
        let name = String::from_utf8_lossy(entry?.name_bytes()).into_owned();
        if is_meant(&name) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The section and the key of a setting, in lower case.
fn parts(name: &str) -> (String, String) {
    let name = name.to_ascii_lowercase();
    let (section, rest) = name.split_once('.').unwrap_or((&name, ""));
    let key = rest.rsplit('.').next().unwrap_or(rest);
    (section.to_owned(), key.to_owned())
}

/// Whether a setting leads what goes to a server elsewhere, or has it trust whoever answers.
fn is_detour(name: &str) -> bool {
    let (section, key) = parts(name);
    match section.as_str() {
        "http" => {
            key.contains("proxy")
                || matches!(
                    key.as_str(),
                    "sslverify" | "sslcainfo" | "sslcapath" | "curloptresolve" | "followredirects"
                )
        }
        "remote" => key.contains("proxy") || key == "vcs",
        "include" | "includeif" => true,
        _ => false,
    }
}

/// Whether a setting names a program, or another file with settings.
fn runs_a_program(name: &str) -> bool {
    let (section, key) = parts(name);
    let key = key.as_str();
    match section.as_str() {
        "core" => matches!(
            key,
            "fsmonitor"
                | "sshcommand"
                | "editor"
                | "pager"
                | "askpass"
                | "gitproxy"
                | "hookspath"
                | "alternaterefscommand"
        ),
        "filter" => matches!(key, "clean" | "smudge" | "process"),
        "diff" => matches!(key, "external" | "command" | "textconv"),
        "remote" => matches!(key, "uploadpack" | "receivepack" | "vcs" | "proxy"),
        "merge" => key == "driver",
        "mergetool" | "difftool" | "browser" | "man" | "guitool" => matches!(key, "cmd" | "path"),
        "gpg" => matches!(key, "program" | "defaultkeycommand"),
        "gc" => key == "recentobjectshook",
        "lfs" => matches!(key, "path" | "clean" | "smudge" | "standalonetransferagent"),
        "credential" => key == "helper",
        "sequence" => key == "editor",
        "interactive" => key == "difffilter",
        "uploadpack" => key == "packobjectshook",
        "submodule" => key == "update",
        "tar" => key == "command",
        "alias" | "hook" | "include" | "includeif" | "pager" | "sendemail" | "trailer" => true,
        _ => false,
    }
}

/// A name of a branch, tag, remote or revision, as it may stand in a command line.
pub(super) fn name<'a>(field: &'static str, text: &'a str) -> Result<&'a str, Error> {
    let reason = if text.is_empty() {
        "must not be empty".to_owned()
    } else if text.starts_with('-') {
        format!("{text:?} begins with \"-\", git would take it for an option")
    } else if text.chars().any(char::is_control) {
        format!("{text:?} has control characters")
    } else {
        return Ok(text);
    };
    Err(Error::Invalid { field, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_run_programs_are_known() {
        for yes in [
            "core.fsmonitor",
            "core.hooksPath",
            "filter.lfs.clean",
            "filter.a.b.process",
            "diff.x.textconv",
            "diff.external",
            "include.path",
            "includeIf.gitdir:/x/.path",
            "alias.st",
            "credential.https://host.helper",
            "remote.origin.uploadpack",
            "gpg.ssh.defaultKeyCommand",
            "gc.recentObjectsHook",
            "lfs.customtransfer.x.path",
        ] {
            assert!(runs_a_program(yes), "{yes}");
        }
        for no in [
            "core.bare",
            "remote.origin.url",
            "branch.main.merge",
            "user.name",
            "diff.renames",
        ] {
            assert!(!runs_a_program(no), "{no}");
        }
    }

    #[test]
    fn settings_that_lead_a_credential_astray_are_known() {
        for yes in [
            "http.proxy",
            "http.https://host/.sslVerify",
            "http.curloptResolve",
            "remote.origin.proxy",
            "include.path",
        ] {
            assert!(is_detour(yes), "{yes}");
        }
        for no in [
            "http.postBuffer",
            "http.https://host/.extraHeader",
            "remote.origin.url",
            "core.bare",
        ] {
            assert!(!is_detour(no), "{no}");
        }
    }

    /// What git itself runs where it is asked for nothing but what has changed.
    #[test]
    fn programs_are_found_in_submodules_and_what_cannot_be_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let outer = Repository::init(directory.path()).unwrap();
        let inner = Repository::init(directory.path().join("sub")).unwrap();
        let author = git2::Signature::now("a", "a@example.com").unwrap();
        let tree = inner.treebuilder(None).unwrap().write().unwrap();
        let tree = inner.find_tree(tree).unwrap();
        inner
            .commit(Some("HEAD"), &author, &author, "m", &tree, &[])
            .unwrap();
        let mut index = outer.index().unwrap();
        index.add_path(Path::new("sub")).unwrap();
        index.write().unwrap();
        let pinned = without_programs(&directory.path().join("sub")).unwrap();
        assert_eq!(pinned.directory, inner.path());
        assert_eq!(
            without_programs(directory.path()).unwrap().directory,
            outer.path()
        );
        inner.config().unwrap().set_str("filter.x.clean", "evil").unwrap();
        let refused = without_programs(directory.path()).unwrap_err();
        assert!(matches!(refused, Error::Forbidden { .. }), "{refused:?}");

        let odd = directory.path().join("odd");
        let repository = Repository::init(&odd).unwrap();
        let mut config = repository.config().unwrap();
        config.set_i32("core.repositoryformatversion", 1).unwrap();
        config.set_str("extensions.objectformat", "sha256").unwrap();
        config.set_str("core.fsmonitor", "evil").unwrap();
        let unread = without_programs(&odd).unwrap_err();
        assert!(matches!(unread, Error::Unsupported { .. }), "{unread:?}");
    }

    #[test]
    fn names_are_no_options() {
        assert_eq!(name("branch", "feature/x").unwrap(), "feature/x");
        for wrong in ["", "-x", "--upload-pack=evil", "a\nb"] {
            assert!(name("branch", wrong).is_err(), "{wrong}");
        }
    }
}
