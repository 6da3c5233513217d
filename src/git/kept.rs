//! Repositories that were looked at a moment ago, for their indexes: to read one and to verify its checksum takes a third
//! of the time of a status. Everything else (configuration, references, whose it is) is read anew for each answer.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use git2::Repository;
use parking_lot::Mutex;

/// As many at most: an index of a hundred thousand files is 20 MiB.
const MOST: usize = 4;
/// How long one is kept.
const AGE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Default)]
pub(super) struct Kept(Mutex<Vec<(Instant, Repository)>>);

impl Kept {
    /// Lets `repository` have the index that an earlier look has read, as it is now.
    pub(super) fn lend(&self, repository: &Repository) {
        let Some(earlier) = self.take(repository.path()) else {
            return;
        };
        let Ok(mut index) = earlier.index() else { return };
        // An index belongs to one of them.
        drop(earlier);
        // It is read again when the checksum at its end is another one. What is no file any more would be believed.
        let is_current = index.read(false).is_ok() && index.path().is_some_and(Path::is_file);
        if is_current && let Err(error) = repository.set_index(&mut index) {
            tracing::debug!(%error, "an index is read once more");
        }
    }

    /// For the next look.
    pub(super) fn keep(&self, repository: Repository) {
        let mut kept = self.0.lock();
        if kept.len() == MOST {
            kept.remove(0);
        }
        kept.push((Instant::now(), repository));
    }

    /// Lets go of those that nobody has asked for.
    pub(super) fn forget_old(&self, now: Instant) {
        self.0
            .lock()
            .retain(|(since, _)| now.saturating_duration_since(*since) < AGE);
    }

    fn take(&self, path: &Path) -> Option<Repository> {
        let mut kept = self.0.lock();
        let at = kept.iter().rposition(|(_, one)| one.path() == path)?;
        Some(kept.remove(at).1)
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths = self.0.lock();
        formatter
            .debug_list()
            .entries(paths.iter().map(|(_, one)| one.path()))
            .finish()
    }
}
