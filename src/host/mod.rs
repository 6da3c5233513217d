//! The host room: metrics and capacity of the machine and of the container around the daemon.
//!
//! [`Host::sample`] is what the sampler saw last: it never waits for the machine, so that heartbeats and requests do
//! not either. [`Host::capacity`] reads the few files that admission depends on, at most every
//! [`CAPACITY_AGE`]. Listening ports are not here.

mod cgroup;
mod gpu;
mod headroom;
mod proc;
mod sample;
mod sampler;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::capability::Capability;

pub use sample::{Capacity, Gpu, Limits, Sample};

/// How old a capacity may be when it is answered: many requests in one burst share one reading.
pub const CAPACITY_AGE: Duration = Duration::from_millis(50);

/// The machine, as it was seen last.
#[derive(Debug)]
pub struct Host {
    /// `/`, or a made-up machine in tests.
    root: PathBuf,
    workspace: PathBuf,
    seen: RwLock<sampler::Seen>,
    gpus: RwLock<Vec<Gpu>>,
    capacity: Mutex<Option<(Instant, Capacity)>>,
}

impl Host {
    /// Takes the first sample of the machine; `workspace` says which file system counts as its disk. The CPU figure
    /// of the first sample is the average since boot, there being nothing before it to compare with.
    pub fn new(workspace: PathBuf) -> Self {
        Self::of_machine(Path::new("/"), workspace)
    }

    /// The machine whose files are below `root`: `/`, or what a test put there.
    pub(crate) fn of_machine(root: &Path, workspace: PathBuf) -> Self {
        let seen = sampler::Seen::now(root, &workspace, Vec::new(), None);
        Self {
            root: root.to_path_buf(),
            workspace,
            seen: RwLock::new(seen),
            gpus: RwLock::default(),
            capacity: Mutex::new(None),
        }
    }

    /// The latest sample, a few seconds old at most while the sampler runs.
    pub fn sample(&self) -> Arc<Sample> {
        Arc::clone(&self.seen.read().sample)
    }

    /// What the machine can still take now. Costs a few reads of `/proc` at most, never a disk.
    pub fn capacity(&self) -> Capacity {
        let mut latest = self.capacity.lock();
        match *latest {
            Some((at, capacity)) if at.elapsed() < CAPACITY_AGE => capacity,
            _ => {
                let capacity = headroom::capacity(&self.root, &self.seen.read());
                *latest = Some((Instant::now(), capacity));
                capacity
            }
        }
    }

    /// Whether the figures can be had here.
    pub fn capabilities(&self) -> Vec<Capability> {
        let metrics = match &self.seen.read().trouble {
            None => Capability::available("host.metrics"),
            Some(why) => Capability::missing(
                "host.metrics",
                why.as_str(),
                Some("mount -t proc proc /proc".into()),
            ),
        };
        vec![metrics, Capability::available("host.capabilities")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_figures_at_once() {
        let host = Host::new(std::env::temp_dir());
        let sample = host.sample();
        assert!((0.0..=100.0).contains(&sample.cpu_percent), "{sample:?}");
        assert!(
            sample.mem_total > 0 && sample.mem_used < sample.mem_total,
            "{sample:?}"
        );
        assert!(
            sample.disk_total > 0 && sample.disk_used <= sample.disk_total,
            "{sample:?}"
        );
        assert!(sample.run_queue >= 1.0, "this very test is running: {sample:?}");
        let capacity = host.capacity();
        assert!(
            capacity.mem_available > 0 && capacity.mem_available <= sample.mem_total,
            "{capacity:?}"
        );
        assert!(capacity.disk_free > 0 && capacity.nproc > 0, "{capacity:?}");
        assert!(
            capacity.fd_headroom > 0 && capacity.pid_headroom > 0,
            "{capacity:?}"
        );
        assert!(host.capabilities().iter().all(|row| row.available));
    }

    #[test]
    fn capacity_is_shared_within_a_burst_and_fresh_after_it() {
        let host = Host::new(std::env::temp_dir());
        let first = host.capacity();
        let (at, kept) = host.capacity.lock().unwrap();
        assert_eq!(kept, first);
        let opened: Vec<_> = (0..50)
            .map(|_| std::fs::File::open("/dev/null").unwrap())
            .collect();
        *host.capacity.lock() = Some((at.checked_sub(CAPACITY_AGE).unwrap(), kept));
        // Other tests of this process open and close files meanwhile, far fewer than these.
        assert!(host.capacity().fd_headroom + 10 < first.fd_headroom);
        drop(opened);
    }

    #[test]
    fn a_machine_without_proc_says_so_and_still_answers() {
        let empty = tempfile::tempdir().unwrap();
        let host = Host::of_machine(empty.path(), empty.path().to_path_buf());
        let sample = host.sample();
        assert!(
            sample.mem_total > 0 && sample.disk_total > 0,
            "the kernel tells these without /proc: {sample:?}"
        );
        let rows = host.capabilities();
        assert!(
            !rows[0].available && rows[0].why.as_deref().unwrap().contains("/proc"),
            "{rows:?}"
        );
        assert!(host.capacity().mem_available > 0);
    }

    #[test]
    fn the_limit_of_the_container_bounds_the_memory_that_is_left() {
        let root = tempfile::tempdir().unwrap();
        let files = [
            ("proc/self/cgroup", "0::/\n"),
            (
                "proc/self/mountinfo",
                "29 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n",
            ),
            ("proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 8000000 kB\n"),
            ("proc/loadavg", "0.5 0.25 0.125 1/200 77\n"),
            ("proc/stat", "cpu  50 0 0 50\nprocs_running 2\n"),
            ("proc/sys/kernel/pid_max", "1000\n"),
            ("proc/sys/kernel/threads-max", "5000\n"),
            ("cg/memory.max", "1000000\n"),
            ("cg/memory.current", "400000\n"),
            ("cg/cpu.max", "50000 100000\n"),
        ];
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let host = Host::of_machine(root.path(), root.path().to_path_buf());
        let sample = host.sample();
        assert_eq!(
            sample.load.map(f64::to_bits),
            [0.5, 0.25, 0.125].map(f64::to_bits)
        );
        assert!((sample.cpu_percent - 50.0).abs() < 1e-9 && (sample.run_queue - 2.0).abs() < 1e-9);
        assert_eq!(sample.limits.memory_max, Some(1_000_000));
        let capacity = host.capacity();
        assert_eq!(capacity.mem_available, 600_000);
        assert_eq!(capacity.nproc, 1);
        assert_eq!(capacity.pid_headroom, 800);
    }
}
