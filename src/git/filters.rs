//! Filter drivers: programs that the configuration of a repository names, and that git runs for a mere look at what has
//! changed (gitattributes(5)). They are switched off by their names, which have to be found first: without running anything,
//! in the repository and in those of its submodules.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use git2::{Config, Repository};

use super::open::open;

/// Submodules in submodules that are looked at.
const DEPTH: usize = 16;

/// Variables that have git run no filter of the repository that `path` lies in (git-config(1), `GIT_CONFIG_COUNT`).
pub(super) fn switched_off(path: &Path) -> Vec<(OsString, OsString)> {
    let mut drivers = BTreeSet::new();
    match open(path) {
        Ok(repository) => of_repository(&repository, DEPTH, &mut drivers),
        // Of a format that libgit2 does not read, but its configuration is like any other.
        Err(_) => of_files(path, &mut drivers),
    }
    let settings = drivers.iter().flat_map(|driver| {
        [
            ("clean", ""),
            ("smudge", ""),
            ("process", ""),
            ("required", "false"),
        ]
        .map(|(key, value)| {
            let name = [b"filter.", driver.as_slice(), b".", key.as_bytes()].concat();
            (OsString::from_vec(name), OsString::from(value))
        })
    });
    let mut variables = Vec::new();
    for (at, (name, value)) in settings.enumerate() {
        variables.push((format!("GIT_CONFIG_KEY_{at}").into(), name));
        variables.push((format!("GIT_CONFIG_VALUE_{at}").into(), value));
    }
    if !variables.is_empty() {
        let count = variables.len() / 2;
        variables.push(("GIT_CONFIG_COUNT".into(), count.to_string().into()));
    }
    variables
}

fn of_repository(repository: &Repository, depth: usize, drivers: &mut BTreeSet<Vec<u8>>) {
    if let Ok(config) = repository.config() {
        of_config(&config, drivers);
    }
    if depth == 0 {
        return;
    }
    for submodule in repository.submodules().unwrap_or_default() {
        if let Ok(inner) = submodule.open() {
            of_repository(&inner, depth - 1, drivers);
        }
    }
}

fn of_files(path: &Path, drivers: &mut BTreeSet<Vec<u8>>) {
    if let Ok(config) = Config::open_default() {
        of_config(&config, drivers);
    }
    for directory in path.ancestors().filter_map(git_directory) {
        for name in ["config", "config.worktree"] {
            if let Ok(config) = Config::open(&directory.join(name)) {
                of_config(&config, drivers);
            }
        }
    }
}

/// Where the repository whose files are at `at`, or which is at `at` itself, keeps what it knows.
fn git_directory(at: &Path) -> Option<PathBuf> {
    let inside = at.join(".git");
    if inside.is_dir() {
        return Some(inside);
    }
    if let Ok(link) = std::fs::read(&inside) {
        let target = link.strip_prefix(b"gitdir: ")?.trim_ascii_end();
        return Some(at.join(OsStr::from_bytes(target)));
    }
    at.join("HEAD").is_file().then(|| at.to_owned())
}

fn of_config(config: &Config, drivers: &mut BTreeSet<Vec<u8>>) {
    let Ok(mut entries) = config.entries(None) else {
        return;
    };
    while let Some(entry) = entries.next() {
        let Ok(entry) = entry else { continue };
        let driver = entry.name_bytes().strip_prefix(b"filter.").and_then(|rest| {
            let dot = rest.iter().rposition(|byte| *byte == b'.')?;
            Some(rest[..dot].to_owned())
        });
        drivers.extend(driver);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_found_by_their_names_also_in_what_libgit2_does_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let repository = Repository::init(directory.path()).unwrap();
        let mut config = repository.config().unwrap();
        config.set_str("filter.A b.c.clean", "evil").unwrap();
        config.set_str("filter.lfs.process", "evil").unwrap();
        let names = || {
            let variables = switched_off(directory.path());
            let keys = variables
                .iter()
                .filter(|(name, _)| name.as_bytes().starts_with(b"GIT_CONFIG_KEY_"));
            keys.map(|(_, value)| value.clone().into_string().unwrap())
                .collect::<Vec<_>>()
        };
        let found = names();
        for wanted in ["filter.A b.c.clean", "filter.lfs.process", "filter.lfs.required"] {
            assert!(
                found.iter().any(|name| name == wanted),
                "{wanted} is not among {found:?}"
            );
        }
        config.set_i32("core.repositoryformatversion", 1).unwrap();
        config.set_str("extensions.objectformat", "sha256").unwrap();
        assert_eq!(names(), found);
    }
}
