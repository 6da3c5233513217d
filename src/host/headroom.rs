//! What can still be taken: the distance to each limit that binds, and the smallest of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::Capacity;
use super::proc;
use super::sampler::Seen;

/// Reads what changes fast and takes the rest from the last look.
pub(super) fn capacity(root: &Path, seen: &Seen) -> Capacity {
    let read = |name: &str| fs::read_to_string(root.join(name)).ok();
    let memory = read("proc/meminfo")
        .as_deref()
        .and_then(proc::memory)
        .map(|memory| memory.available);
    let machine = memory.unwrap_or_else(|| seen.sample.mem_total.saturating_sub(seen.sample.mem_used));
    let container = seen.cgroups.memory_headroom().unwrap_or(u64::MAX);
    let tasks = read("proc/loadavg")
        .as_deref()
        .and_then(proc::load)
        .map_or(0, |load| load.tasks);
    let kernel = ["proc/sys/kernel/pid_max", "proc/sys/kernel/threads-max"]
        .into_iter()
        .filter_map(|name| read(name)?.trim().parse::<u64>().ok())
        .map(|limit| limit.saturating_sub(tasks));
    let pids = kernel
        .chain(seen.cgroups.pid_headroom())
        .chain(seen.user_tasks_left)
        .min();
    Capacity {
        mem_available: machine.min(container),
        disk_free: seen.disk_free,
        fd_headroom: descriptors_left(),
        pid_headroom: pids.unwrap_or(u64::MAX),
        nproc: seen.sample.limits.cpu_cores.map_or(seen.processors, |cores| {
            // A quota of half a processor still is one that runs.
            (cores as u64).clamp(1, seen.processors)
        }),
    }
}

/// Descriptors that this process may still open.
fn descriptors_left() -> u64 {
    let (soft, _hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((RLIM_INFINITY, RLIM_INFINITY));
    soft.saturating_sub(open_descriptors())
}

/// Since Linux 6.2 the size of the directory is the number of open descriptors; before, it is zero and they are counted.
fn open_descriptors() -> u64 {
    const OPEN: &str = "/proc/self/fd";
    match fs::metadata(OPEN).map(|directory| directory.size()) {
        Ok(0) => fs::read_dir(OPEN).map_or(0, |entries| entries.count() as u64),
        Ok(open) => open,
        Err(_) => 0,
    }
}

/// Tasks that this user may still make; `None` where no limit binds: there is none, or the user is root.
pub(super) fn user_tasks_left(root: &Path) -> Option<u64> {
    let (soft, _hard) = getrlimit(Resource::RLIMIT_NPROC).ok()?;
    let user = nix::unistd::geteuid();
    if soft == RLIM_INFINITY || user.is_root() {
        return None;
    }
    Some(soft.saturating_sub(tasks_of(root, user.as_raw())))
}

/// Counts the threads of every process of `user` that `/proc` shows.
fn tasks_of(root: &Path, user: u32) -> u64 {
    let Ok(entries) = fs::read_dir(root.join("proc")) else {
        return 0;
    };
    let threads = |directory: &Path| -> Option<u64> {
        let text = fs::read_to_string(directory.join("status")).ok()?;
        let owner = proc::status_field(&text, "Uid")?
            .split_ascii_whitespace()
            .next()?;
        if owner.parse() != Ok(user) {
            return None;
        }
        proc::status_field(&text, "Threads")?.parse().ok()
    };
    let is_process = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    entries
        .flatten()
        .filter(|entry| is_process(&entry.file_name()))
        .filter_map(|entry| threads(&entry.path()))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opening_files_takes_descriptors() {
        let before = open_descriptors();
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        // Other tests of this process open and close files meanwhile, far fewer than these.
        assert!(
            open_descriptors() > before + 10,
            "{before} before, {} after",
            open_descriptors()
        );
        drop(files);
    }

    #[test]
    fn threads_are_counted_per_user() {
        let root = tempfile::tempdir().unwrap();
        for (pid, user, threads) in [("1", 0, 1), ("20", 1000, 7), ("21", 1000, 3), ("self", 1000, 50)] {
            let directory = root.path().join("proc").join(pid);
            fs::create_dir_all(&directory).unwrap();
            let text = format!("Name:\tx\nUid:\t{user}\t{user}\t{user}\t{user}\nThreads:\t{threads}\n");
            fs::write(directory.join("status"), text).unwrap();
        }
        fs::create_dir_all(root.path().join("proc/22")).unwrap();
        assert_eq!(tasks_of(root.path(), 1000), 10);
        assert_eq!(tasks_of(root.path(), 33), 0);
    }
}
