//! One look at the machine, and the pillar that takes one every few seconds on a thread that may block.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::MissedTickBehavior;

use super::cgroup::Cgroups;
use super::proc::{self, CpuTimes, Load, Memory};
use super::{Gpu, Host, Sample, gpu, headroom};
use crate::exec::Engine;
use crate::lifecycle::Tasks;

/// The time between two samples.
const PERIOD: Duration = Duration::from_secs(5);

/// What one look saw: the sample that callers get, and what the next look and the capacity need.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) sample: Arc<Sample>,
    pub(super) cgroups: Cgroups,
    /// Bytes that an ordinary user may still write to the file system of the workspace.
    pub(super) disk_free: u64,
    /// Processors that this process may run on.
    pub(super) processors: u64,
    /// Tasks of this user that still fit under `RLIMIT_NPROC`, where that limit binds.
    pub(super) user_tasks_left: Option<u64>,
    /// What could not be read, for the capability table.
    pub(super) trouble: Option<String>,
    cpu: CpuTimes,
}

impl Seen {
    /// Looks at the machine under `root`, but for `gpus`, which are asked elsewhere; `before` is what the CPU figure is measured against.
    pub(super) fn now(root: &Path, workspace: &Path, gpus: Vec<Gpu>, before: Option<&Self>) -> Self {
        let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap_or_default();
        let stat = proc::stat(&read("proc/stat"));
        let Machine { load, memory } = machine(&read("proc/loadavg"), &read("proc/meminfo"));
        let cpu = stat.map(|stat| stat.cpu).unwrap_or_default();
        let cgroups = Cgroups::discover(root);
        let processors = processors();
        let disk = disk(workspace);
        let sample = Sample {
            at: SystemTime::now(),
            cpu_percent: cpu.busy_since(before.map(|seen| seen.cpu).unwrap_or_default()),
            load: load.averages,
            mem_used: memory.total.saturating_sub(memory.available),
            mem_total: memory.total,
            disk_used: disk.used,
            disk_total: disk.total,
            run_queue: stat.map_or(0.0, |stat| stat.running as f64),
            gpus,
            limits: cgroups.limits(memory.total, processors),
        };
        Self {
            sample: Arc::new(sample),
            cgroups,
            disk_free: disk.free,
            processors,
            user_tasks_left: headroom::user_tasks_left(root),
            trouble: stat
                .is_none()
                .then(|| "/proc/stat cannot be read: no CPU figures, no run queue".to_owned()),
            cpu,
        }
    }
}

impl Host {
    /// Keeps the sample fresh until the daemon stops. Looking at a disk may block (a network file system that hangs
    /// for example), so it happens on the blocking pool; then only the sample grows old. `engine` runs `nvidia-smi`.
    pub fn start(self: &Arc<Self>, engine: Arc<Engine>, tasks: &Tasks) {
        tasks.pillar("gpu watch", gpu::watch(Arc::clone(self), engine, tasks.clone()));
        let host = Arc::clone(self);
        let stopping = tasks.clone();
        tasks.pillar("host sampler", async move {
            let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + PERIOD, PERIOD);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                tokio::select! {
                    () = stopping.stopping() => return Ok(()),
                    _ = ticks.tick() => {}
                }
                let host = Arc::clone(&host);
                let look = tokio::task::spawn_blocking(move || host.look());
                tokio::select! {
                    () = stopping.stopping() => return Ok(()),
                    _ = look => {}
                }
            }
        });
    }

    fn look(&self) {
        let seen = {
            let before = self.seen.read();
            Seen::now(
                &self.root,
                &self.workspace,
                self.gpus.read().clone(),
                Some(&before),
            )
        };
        *self.seen.write() = seen;
    }
}

struct Machine {
    load: Load,
    memory: Memory,
}

/// Load and memory from the texts of `/proc`, else from the system call that tells less of them.
fn machine(loadavg: &str, meminfo: &str) -> Machine {
    let call = nix::sys::sysinfo::sysinfo().ok();
    let load = proc::load(loadavg).unwrap_or_else(|| Load {
        averages: call.as_ref().map_or([0.0; 3], |info| {
            let (one, five, fifteen) = info.load_average();
            [one, five, fifteen]
        }),
        tasks: call.as_ref().map_or(0, |info| u64::from(info.process_count())),
    });
    let memory = proc::memory(meminfo).unwrap_or_else(|| {
        call.as_ref().map_or_else(Memory::default, |info| Memory {
            total: info.ram_total(),
            available: info.ram_unused(),
        })
    });
    Machine { load, memory }
}

#[derive(Default)]
struct Disk {
    used: u64,
    total: u64,
    free: u64,
}

/// The file system of `path`; zeros when it cannot be asked.
fn disk(path: &Path) -> Disk {
    let Ok(answer) = nix::sys::statvfs::statvfs(path) else {
        return Disk::default();
    };
    let unit = answer.fragment_size();
    Disk {
        used: answer
            .blocks()
            .saturating_sub(answer.blocks_free())
            .saturating_mul(unit),
        total: answer.blocks().saturating_mul(unit),
        free: answer.blocks_available().saturating_mul(unit),
    }
}

fn processors() -> u64 {
    use nix::sched::{CpuSet, sched_getaffinity};
    let affinity = sched_getaffinity(nix::unistd::Pid::from_raw(0));
    let count = affinity.map(|set| {
        (0..CpuSet::count())
            .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
            .count()
    });
    // Machines with more processors than a CpuSet holds answer EINVAL.
    let known = count.ok().filter(|count| *count > 0);
    known
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1) as u64
}
