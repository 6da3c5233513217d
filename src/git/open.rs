//! Opening repositories, with errors that say what is wrong with them, and finding them below a directory.

use std::path::{Path, PathBuf};

use git2::{ErrorClass, ErrorCode, Object, Repository, RepositoryOpenFlags};

use crate::error::Error;

/// Extensions of the format that libgit2 knows.
const READ: [&str; 5] = [
    "extensions.noop",
    "extensions.objectformat",
    "extensions.partialclone",
    "extensions.preciousobjects",
    "extensions.worktreeconfig",
];
/// Repositories that are answered at most.
const FOUND: usize = 10_000;

/// The repository that `path` lies in.
pub(super) fn open(path: &Path) -> Result<Repository, Error> {
    let flags = RepositoryOpenFlags::CROSS_FS;
    Repository::open_ext(path, flags, &[] as &[&Path]).map_err(|error| refused(path, &error))
}

fn refused(path: &Path, error: &git2::Error) -> Error {
    let name = || path.to_string_lossy().into_owned();
    match error.code() {
        _ if !path.exists() => Error::NotFound {
            what: "path",
            name: name(),
        },
        ErrorCode::NotFound => Error::NotFound {
            what: "repository",
            name: name(),
        },
        ErrorCode::Owner => Error::Denied {
            doing: format!(
                "open the repository {path:?}, which belongs to somebody else (git config --global --add \
                 safe.directory names those that are to be believed)"
            ),
            errno: libc::EACCES,
        },
        _ => match unread(path) {
            Some(why) => Error::Unsupported {
                what: format!("the repository {path:?}"),
                why,
                fix: Some("ask the git program: process.run, or git on the control wire".into()),
            },
            None => failed("open the repository", path, error),
        },
    }
}

/// Why libgit2 cannot read the repository at `path`, when it is one of another format.
fn unread(path: &Path) -> Option<String> {
    let configs = path
        .ancestors()
        .flat_map(|at| [at.join(".git/config"), at.join("config")]);
    let config = configs
        .filter(|file| file.is_file())
        .find_map(|file| git2::Config::open(&file).ok())?;
    let mut extensions = config.entries(Some("^extensions[.]")).ok()?;
    while let Some(Ok(extension)) = extensions.next() {
        let name = String::from_utf8_lossy(extension.name_bytes()).into_owned();
        match (name.as_str(), extension.value_bytes()) {
            ("extensions.objectformat", b"sha256") => {
                return Some("libgit2 reads SHA-1 repositories only, and this one is SHA-256".into());
            }
            (name, _) if !READ.contains(&name) => return Some(format!("libgit2 does not know {name}")),
            _ => {}
        }
    }
    None
}

/// The error for a failed call of libgit2.
pub(super) fn failed(doing: &str, path: &Path, error: &git2::Error) -> Error {
    if error.class() == ErrorClass::Os && error.code() == ErrorCode::NotFound {
        return Error::NotFound {
            what: "file",
            name: path.to_string_lossy().into_owned(),
        };
    }
    Error::Conflict {
        what: format!("{doing} {path:?}"),
        reason: error.message().to_owned(),
    }
}

/// What a revision names.
pub(super) fn revision<'a>(repository: &'a Repository, name: &str) -> Result<Object<'a>, Error> {
    repository
        .revparse_single(name)
        .map_err(|error| match error.code() {
            ErrorCode::NotFound | ErrorCode::InvalidSpec | ErrorCode::UnbornBranch => Error::NotFound {
                what: "revision",
                name: name.to_owned(),
            },
            ErrorCode::Ambiguous => Error::Invalid {
                field: "revision",
                reason: format!("{name:?} could be several objects; give more digits"),
            },
            _ => failed("look up a revision in", repository.path(), &error),
        })
}

/// The worktree, which a bare repository does not have.
pub(super) fn worktree(repository: &Repository) -> Result<&Path, Error> {
    repository.workdir().ok_or_else(|| Error::Conflict {
        what: format!("the repository {:?}", repository.path()),
        reason: "it is bare, it has no files that could be looked at".into(),
    })
}

/// The worktrees and bare repositories at and below `top`; what is inside of one is not looked at.
pub(super) fn discover(top: &Path, depth: usize) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    std::fs::read_dir(top).map_err(|source| Error::from_path_io("directory", "search", top, source))?;
    let mut waiting = vec![(top.to_owned(), depth)];
    while let Some((path, left)) = waiting.pop() {
        if found.len() >= FOUND {
            break;
        }
        if Repository::open_ext(&path, RepositoryOpenFlags::NO_SEARCH, &[] as &[&Path]).is_ok()
            || is_marked(&path)
        {
            found.push(path);
            continue;
        }
        if left == 0 {
            continue;
        }
        // What cannot be read holds nothing that could be opened.
        let Ok(entries) = std::fs::read_dir(&path) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push((entry.path(), left - 1));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Whether it looks like a repository that cannot be opened here (of somebody else, SHA-256).
fn is_marked(path: &Path) -> bool {
    path.join(".git/HEAD").is_file()
}
