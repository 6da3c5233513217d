//! Which runs of the daemon may have left processes behind: one line each in `instances`, while they run.
//!
//! A daemon that stops as asked kills what it started and takes its line with it. A line that is still there at the
//! next start is of a daemon that was killed, and its processes are found by its instance, which marks them all. The
//! boot id tells lines of an earlier boot, whose processes are gone, the start time a daemon that lives after all.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::write_atomically;
use crate::error::Error;

pub(super) const FILE_NAME: &str = "instances";

/// One run of the daemon: `<instance> <boot id> <pid> <start time>`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    instance: uuid::Uuid,
    boot: String,
    pid: u32,
    /// Field 22 of `/proc/<pid>/stat`.
    started: u64,
}

impl Line {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        Some(Self {
            instance: words.next()?.parse().ok()?,
            boot: words.next()?.to_owned(),
            pid: words.next()?.parse().ok()?,
            started: words.next()?.parse().ok()?,
        })
    }

    fn text(&self) -> String {
        format!("{} {} {} {}\n", self.instance, self.boot, self.pid, self.started)
    }

    /// Whether its daemon was killed during this boot, as far as `/proc` below `root` shows.
    fn was_killed(&self, root: &Path, boot: &str) -> bool {
        self.boot == boot && start_time(root, self.pid) != Some(self.started)
    }
}

/// The lines of a state directory, and ours among them.
#[derive(Debug)]
pub(super) struct Instances {
    path: PathBuf,
    own: Line,
}

impl Instances {
    /// Adds a line for `instance`, and answers those that were killed. Without `/proc` below `root` nothing is known
    /// and nothing kept.
    pub(super) fn begin(
        state: &Path,
        root: &Path,
        instance: uuid::Uuid,
    ) -> Result<Option<(Self, Vec<uuid::Uuid>)>, Error> {
        let path = state.join(FILE_NAME);
        let pid = std::process::id();
        let boot = fs::read_to_string(root.join("proc/sys/kernel/random/boot_id"));
        let (Ok(boot), Some(started)) = (boot, start_time(root, pid)) else {
            return Ok(None);
        };
        let boot = boot.trim().to_owned();
        let earlier = fs::read_to_string(&path).unwrap_or_default();
        let killed = earlier
            .lines()
            .filter_map(Line::parse)
            .filter(|line| line.was_killed(root, &boot))
            .map(|line| line.instance)
            .collect();
        let own = Line {
            instance,
            boot,
            pid,
            started,
        };
        // Added to the others: should this run be killed as well before it is done with them, the next one finds all.
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(own.text().as_bytes()))
            .map_err(|source| Error::from_path_io("file", "write", &path, source))?;
        Ok(Some((Self { path, own }, killed)))
    }

    /// Forgets every other line: their processes are gone.
    pub(super) fn keep_own_only(&self) -> Result<(), Error> {
        write_atomically(&self.path, self.own.text().as_bytes(), 0o600)
    }

    /// Forgets this run: it has left nothing behind.
    pub(super) fn forget(&self) {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let others: String = text
            .split_inclusive('\n')
            .filter(|line| **line != self.own.text())
            .collect();
        let _ = if others.is_empty() {
            fs::remove_file(&self.path)
        } else {
            fs::write(&self.path, others)
        };
    }
}

/// When a process that lives was started, in ticks since boot. One that has ended and was not waited for lives no more.
fn start_time(root: &Path, pid: u32) -> Option<u64> {
    let text = fs::read_to_string(root.join(format!("proc/{pid}/stat"))).ok()?;
    // The name in parentheses may hold anything, also blanks and parentheses.
    let after_name = text.rsplit_once(')')?.1;
    let mut fields = after_name.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(boot: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc/sys/kernel/random")).unwrap();
        fs::write(
            root.path().join("proc/sys/kernel/random/boot_id"),
            format!("{boot}\n"),
        )
        .unwrap();
        process(root.path(), std::process::id(), 4000);
        root
    }

    fn process(root: &Path, pid: u32, started: u64) {
        fs::create_dir_all(root.join(format!("proc/{pid}"))).unwrap();
        let fields = "S 1 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0";
        fs::write(
            root.join(format!("proc/{pid}/stat")),
            format!("{pid} (a) b) {fields} {started} 0 0\n"),
        )
        .unwrap();
    }

    #[test]
    fn only_killed_daemons_of_this_boot_have_leftovers() {
        let (state, root) = (tempfile::tempdir().unwrap(), machine("this-boot"));
        process(root.path(), 70, 500);
        process(root.path(), 71, 501);
        let ids: Vec<_> = (0..5).map(|_| uuid::Uuid::new_v4()).collect();
        let text = format!(
            "{} this-boot 70 499\nnot a line\n{} this-boot 71 501\n{} this-boot 72 1\n{} earlier-boot 73 1\n",
            ids[0], ids[1], ids[2], ids[3]
        );
        fs::write(state.path().join(FILE_NAME), text).unwrap();
        let (instances, killed) = Instances::begin(state.path(), root.path(), ids[4])
            .unwrap()
            .unwrap();
        assert_eq!(killed, [ids[0], ids[2]], "a reused pid, and one that is gone");
        let (_, killed) = Instances::begin(state.path(), root.path(), uuid::Uuid::new_v4())
            .unwrap()
            .unwrap();
        assert_eq!(killed, [ids[0], ids[2]], "until they are known to be gone");
        instances.keep_own_only().unwrap();
        let (own, _) = Instances::begin(state.path(), root.path(), uuid::Uuid::new_v4())
            .unwrap()
            .unwrap();
        own.forget();
        let text = fs::read_to_string(state.path().join(FILE_NAME)).unwrap();
        assert_eq!(
            text,
            format!("{} this-boot {} 4000\n", ids[4], std::process::id())
        );
        instances.forget();
        assert!(!state.path().join(FILE_NAME).exists());
    }

    #[test]
    fn a_daemon_that_was_killed_and_not_waited_for_is_no_living_one() {
        let (state, root) = (tempfile::tempdir().unwrap(), machine("this-boot"));
        process(root.path(), 70, 500);
        let stat = root.path().join("proc/70/stat");
        let zombie = fs::read_to_string(&stat).unwrap().replace(") S ", ") Z ");
        fs::write(&stat, zombie).unwrap();
        let killed = uuid::Uuid::new_v4();
        fs::write(
            state.path().join(FILE_NAME),
            format!("{killed} this-boot 70 500\n"),
        )
        .unwrap();
        let (_, found) = Instances::begin(state.path(), root.path(), uuid::Uuid::new_v4())
            .unwrap()
            .unwrap();
        assert_eq!(found, [killed]);
    }

    #[test]
    fn without_proc_nothing_is_kept() {
        let (state, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let begun = Instances::begin(state.path(), root.path(), uuid::Uuid::new_v4()).unwrap();
        assert!(begun.is_none() && !state.path().join(FILE_NAME).exists());
    }

    #[test]
    fn this_process_has_a_start_time() {
        assert!(start_time(Path::new("/"), std::process::id()).is_some());
    }
}
