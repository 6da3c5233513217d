//! Repositories that run programs, and words that git would take for something else than they are meant.

use std::path::Path;

use git2::ConfigLevel;

use super::open::open;
use crate::error::Error;

/// Refuses a repository whose own configuration names programs: who may only work in the workspace must not run any.
pub(super) fn refuse_programs(path: &Path) -> Result<(), Error> {
    let Ok(repository) = open(path) else {
        // Whatever is wrong with it is said by git.
        return Ok(());
    };
    let config = repository
        .config()
        .map_err(|error| super::open::failed("read the configuration of", path, &error))?;
    for level in [ConfigLevel::Local, ConfigLevel::Worktree] {
        let Ok(own) = config.open_level(level) else {
            continue;
        };
        let Ok(mut entries) = own.entries(None) else {
            continue;
        };
        while let Some(Ok(entry)) = entries.next() {
            let name = String::from_utf8_lossy(entry.name_bytes()).into_owned();
            if runs_a_program(&name) {
                return Err(Error::Forbidden {
                    reason: format!(
                        "the configuration of {path:?} runs programs ({name}), which needs the Full scope"
                    ),
                });
            }
        }
    }
    Ok(())
}

/// Whether a setting names a program, or another file with settings.
fn runs_a_program(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let (section, rest) = name.split_once('.').unwrap_or((&name, ""));
    let key = rest.rsplit('.').next().unwrap_or(rest);
    match section {
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
        "gpg" => key == "program",
        "credential" => key == "helper",
        "sequence" => key == "editor",
        "interactive" => key == "difffilter",
        "uploadpack" => key == "packobjectshook",
        "submodule" => key == "update",
        "tar" => key == "command",
        "alias" | "include" | "includeif" | "pager" | "sendemail" | "trailer" => true,
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
    fn names_are_no_options() {
        assert_eq!(name("branch", "feature/x").unwrap(), "feature/x");
        for wrong in ["", "-x", "--upload-pack=evil", "a\nb"] {
            assert!(name("branch", wrong).is_err(), "{wrong}");
        }
    }
}
