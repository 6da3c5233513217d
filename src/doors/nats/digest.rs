//! The SHA-256 of the running executable for Hello: computed once beside the start, cached by what identifies the
//! file, so that a restart of the same binary knows it at once.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::lifecycle::Tasks;

/// The running executable, also after its file was replaced.
const EXECUTABLE: &str = "/proc/self/exe";
/// Name of the cache in the state directory: one line, `<device> <inode> <size> <mtime ns> <digest>`.
const CACHE: &str = "executable.sha256";
const CHUNK: usize = 64 << 10;

/// The digest, once it is known; empty when the executable cannot be read.
#[derive(Debug, Clone)]
pub struct ExecutableDigest(watch::Receiver<Option<String>>);

impl ExecutableDigest {
    /// Begins to compute it on the blocking pool, or to read it from `state_dir`. The first thing of a start, because
    /// the first Hello waits for it.
    pub fn start(state_dir: PathBuf, tasks: &Tasks) -> Self {
        let (sender, receiver) = watch::channel(None);
        drop(tasks.detach("executable-digest", async move {
            let computed = tokio::task::spawn_blocking(move || digest(&state_dir)).await;
            let digest = computed
                .unwrap_or_else(|panic| Err(io::Error::other(panic)))
                .unwrap_or_else(|error| {
                    tracing::warn!(%error, "the executable cannot be read, Hello goes without its digest");
                    String::new()
                });
            sender.send_replace(Some(digest));
        }));
        Self(receiver)
    }

    /// The digest if it is known by then; lower-case hex.
    pub(super) async fn within(&self, limit: Duration) -> Option<String> {
        let mut receiver = self.0.clone();
        let known = tokio::time::timeout(limit, receiver.wait_for(Option::is_some)).await;
        known.ok()?.ok()?.clone()
    }
}

fn digest(state_dir: &Path) -> io::Result<String> {
    let mut executable = File::open(EXECUTABLE)?;
    let metadata = executable.metadata()?;
    let mtime = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    let identity = format!(
        "{} {} {} {mtime}",
        metadata.dev(),
        metadata.ino(),
        metadata.size()
    );
    let cache = state_dir.join(CACHE);
    if let Some(known) = cached(&cache, &identity) {
        return Ok(known);
    }
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match executable.read(&mut chunk)? {
            0 => break,
            read => hasher.update(&chunk[..read]),
        }
    }
    let digest = format!("{:x}", hasher.finalize());
    if let Err(error) = std::fs::write(&cache, format!("{identity} {digest}\n")) {
        tracing::debug!(%error, path = %cache.display(), "the digest of the executable is not cached");
    }
    Ok(digest)
}

fn cached(path: &Path, identity: &str) -> Option<String> {
    let line = std::fs::read_to_string(path).ok()?;
    let digest = line.strip_prefix(identity)?.trim();
    (digest.len() == 64).then(|| digest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_computed_once_and_then_read_from_the_cache() {
        let directory = tempfile::tempdir().unwrap();
        let first = digest(directory.path()).unwrap();
        assert_eq!(first.len(), 64);
        let path = directory.path().join(CACHE);
        let line = std::fs::read_to_string(&path).unwrap();
        let other = line.replace(&first, &"0".repeat(64));
        std::fs::write(&path, &other).unwrap();
        assert_eq!(
            digest(directory.path()).unwrap(),
            "0".repeat(64),
            "the cache was not used"
        );
        std::fs::write(&path, other.replacen(' ', " 9", 1)).unwrap();
        assert_eq!(
            digest(directory.path()).unwrap(),
            first,
            "another file's digest was used"
        );
    }
}
