//! A worktree in parts, so that several processors look at it at once, each at its own. The parts together are the whole:
//! every name that the worktree or the index has is in exactly one of them, alone or below a directory that is.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use git2::{Index, Repository};

/// Entries of the index that are worth a processor: with fewer, reading the index once more takes longer.
const LEAST: usize = 2000;
/// Processors at most.
const MOST: usize = 4;
/// How deep a directory that holds most of a repository is taken apart.
const DEPTH: usize = 6;

/// A path below the worktree, and how many entries of the index lie there.
type Piece = (PathBuf, usize);

/// Paths for each processor; a single one without paths stands for everything.
pub(super) fn parts(repository: &Repository, root: &Path) -> Vec<Vec<PathBuf>> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let everything = vec![Vec::new()];
    let Ok(index) = repository.index() else {
        return everything;
    };
    let count = processors.min(MOST).min(index.len() / LEAST);
    // Such an index has another order.
    let ignores_case = repository
        .config()
        .and_then(|config| config.get_bool("core.ignorecase"));
    if count < 2 || ignores_case.unwrap_or(false) {
        return everything;
    }
    shared_out(pieces(&index, root, index.len() / count), count)
}

/// Pieces of at most so many entries, where directories can be taken apart that far.
fn pieces(index: &Index, root: &Path, most: usize) -> Vec<Piece> {
    let mut pieces = children(index, root, Path::new(""));
    for _ in 0..DEPTH {
        let largest = pieces.iter().enumerate().max_by_key(|(_, (_, entries))| *entries);
        let Some((at, (path, entries))) = largest else {
            break;
        };
        let parts = children(index, root, path);
        if *entries <= most || parts.is_empty() || !root.join(path).is_dir() {
            break;
        }
        pieces.swap_remove(at);
        pieces.extend(parts);
    }
    pieces
}

/// Every name in the directory `below`, of the worktree and of the index; none where it cannot be read.
fn children(index: &Index, root: &Path, below: &Path) -> Vec<Piece> {
    let Ok(present) = fs::read_dir(root.join(below)) else {
        return Vec::new();
    };
    let mut found = BTreeMap::new();
    for entry in present.flatten() {
        found.insert(below.join(entry.file_name()), 0);
    }
    let mut prefix = below.as_os_str().as_bytes().to_vec();
    if !prefix.is_empty() {
        prefix.push(b'/');
    }
    let path_at = |at: usize| index.get(at).map(|entry| entry.path).unwrap_or_default();
    let mut at = first(0, index.len(), |at| path_at(at) < prefix);
    while at < index.len() {
        let path = path_at(at);
        let Some(rest) = path.strip_prefix(prefix.as_slice()) else {
            break;
        };
        let name = rest.split(|byte| *byte == b'/').next().unwrap_or_default();
        let child = &path[..prefix.len() + name.len()];
        // What lies there stands side by side: nothing else begins so and goes on with a slash, or ends.
        let lies_there = |path: &[u8]| {
            path.strip_prefix(child)
                .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        let next = first(at, index.len(), |at| lies_there(&path_at(at)));
        found.insert(PathBuf::from(OsString::from_vec(child.to_vec())), next - at);
        at = next;
    }
    found.remove(Path::new(".git"));
    found.into_iter().collect()
}

/// The first position that is not `before`, which all the others behind it are not either.
fn first(mut low: usize, mut high: usize, before: impl Fn(usize) -> bool) -> usize {
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// The pieces in so many parts that are about as large.
fn shared_out(mut pieces: Vec<Piece>, count: usize) -> Vec<Vec<PathBuf>> {
    pieces.sort_by_key(|(_, entries)| std::cmp::Reverse(*entries));
    let mut parts = vec![(0, Vec::new()); count];
    for (path, entries) in pieces {
        if let Some(lightest) = parts.iter_mut().min_by_key(|(weight, _)| *weight) {
            // What the index does not have takes time, too.
            lightest.0 += entries.max(1);
            lightest.1.push(path);
        }
    }
    // Without paths it would be everything.
    parts.retain(|(_, paths)| !paths.is_empty());
    parts.into_iter().map(|(_, paths)| paths).collect()
}

#[cfg(test)]
mod tests {
    use git2::{IndexEntry, IndexTime, Oid};

    use super::*;

    fn entry(path: &str) -> IndexEntry {
        IndexEntry {
            ctime: IndexTime::new(0, 0),
            mtime: IndexTime::new(0, 0),
            dev: 0,
            ino: 0,
            mode: 0o100_644,
            uid: 0,
            gid: 0,
            file_size: 0,
            id: Oid::from_bytes(&[1; 20]).unwrap(),
            flags: 0,
            flags_extended: 0,
            path: path.into(),
        }
    }

    #[test]
    fn every_name_is_in_one_part_and_a_large_directory_is_taken_apart() {
        let root = tempfile::tempdir().unwrap();
        let mut index = Index::new().unwrap();
        let mut add = |path: String, is_there: bool| {
            let file = root.path().join(&path);
            if is_there {
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, "").unwrap();
            }
            index.add(&entry(&path)).unwrap();
        };
        // Names that stand around a directory of theirs in the order of bytes, and what is only in the index.
        for name in [
            "a", "a.x", "a0", "src-", "src.rs", "src0", "gone/one", "gone/two", "gone.x",
        ] {
            add(name.into(), !name.starts_with("gone"));
        }
        for number in 0..300 {
            add(format!("src/deep/d{}/f{number}", number % 7), true);
        }
        add("src/lost/f".into(), false);
        std::fs::create_dir_all(root.path().join(".git")).unwrap();
        std::fs::create_dir_all(root.path().join("src/new")).unwrap();
        let pieces = pieces(&index, root.path(), 100);
        let of = |path: &str| {
            pieces
                .iter()
                .find(|(piece, _)| piece == Path::new(path))
                .map(|(_, entries)| *entries)
        };
        assert_eq!(
            pieces.iter().map(|(_, entries)| entries).sum::<usize>(),
            index.len()
        );
        assert_eq!(
            (of("a"), of("gone"), of("src/lost"), of("src/new")),
            (Some(1), Some(2), Some(1), Some(0))
        );
        assert_eq!((of("src"), of("src/deep"), of(".git")), (None, None, None));
        assert_eq!(of("src/deep/d0"), Some(43));
        let names = pieces.len();
        let parts = shared_out(pieces, 3);
        assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), names);
        assert_eq!(parts.len(), 3);
    }

    #[test]
    fn a_small_repository_is_one_part() {
        let root = tempfile::tempdir().unwrap();
        let repository = Repository::init(root.path()).unwrap();
        assert_eq!(parts(&repository, root.path()), [Vec::<PathBuf>::new()]);
    }
}
