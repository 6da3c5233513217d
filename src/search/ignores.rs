//! Ignore files that may be believed: whoever made the tree wrote them, and the walk reads them whole.

use std::fs;
use std::path::{Path, PathBuf};

/// The files of a directory that the walk reads (`WalkBuilder` of the crate `ignore`).
const NAMES: [&str; 3] = [".gitignore", ".ignore", ".git/info/exclude"];
/// Bytes of one at most; what comes of them in memory is some hundred times as much.
const BYTES: u64 = 256 << 10;

/// What is said of one that is not read, and of everything that it stands for.
pub(super) const REASON: &str = "it is no regular file of at most 256 KiB, so nothing below its directory was searched; ask \
                                 without ignore files";

/// The first one in `directory` that may not be read: it never ends, waits for a writer, or is too large.
pub(super) fn doubtful(directory: &Path) -> Option<PathBuf> {
    let files = NAMES.iter().map(|name| directory.join(name));
    files
        .into_iter()
        .find(|path| fs::metadata(path).is_ok_and(|found| !found.is_file() || found.len() > BYTES))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_does_not_end_or_is_too_large_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        assert_eq!(doubtful(directory.path()), None);
        fs::write(at("rules"), "target\n").unwrap();
        symlink("rules", at(".gitignore")).unwrap();
        assert_eq!(doubtful(directory.path()), None);
        symlink("/dev/zero", at(".ignore")).unwrap();
        assert_eq!(doubtful(directory.path()), Some(at(".ignore")));
        fs::remove_file(at(".ignore")).unwrap();
        nix::unistd::mkfifo(&at(".ignore"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(doubtful(directory.path()), Some(at(".ignore")));
        fs::remove_file(at(".ignore")).unwrap();
        fs::write(at(".ignore"), vec![b'a'; 300 << 10]).unwrap();
        assert_eq!(doubtful(directory.path()), Some(at(".ignore")));
    }
}
