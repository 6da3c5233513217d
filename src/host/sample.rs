//! The figures themselves: plain data, in bytes and percent.

use std::time::SystemTime;

/// One NVIDIA GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpu {
    /// Product name.
    pub name: String,
    /// Utilisation, 0 to 100.
    pub util_percent: f64,
    /// Memory in use, bytes.
    pub mem_used: u64,
    /// Memory, bytes.
    pub mem_total: u64,
}

/// Limits that the container around the daemon sets, where they are tighter than the machine.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Limits {
    /// `memory.max`, bytes.
    pub memory_max: Option<u64>,
    /// Memory in use by that cgroup, bytes.
    pub memory_used: Option<u64>,
    /// `cpu.max` as a number of cores.
    pub cpu_cores: Option<f64>,
    /// `pids.max`.
    pub pids_max: Option<u64>,
}

/// The machine at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// When it was taken.
    pub at: SystemTime,
    /// CPU in use since the previous sample, 0 to 100 of all cores.
    pub cpu_percent: f64,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Memory in use (total less available), bytes.
    pub mem_used: u64,
    /// Memory, bytes.
    pub mem_total: u64,
    /// Disk in use on the file system of the workspace, bytes.
    pub disk_used: u64,
    /// Its size, bytes.
    pub disk_total: u64,
    /// Runnable tasks.
    pub run_queue: f64,
    /// NVIDIA GPUs; empty where `nvidia-smi` is missing.
    pub gpus: Vec<Gpu>,
    /// The container's limits.
    pub limits: Limits,
}

/// What the machine can still take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Memory available without swapping, bytes, the container's limit counted.
    pub mem_available: u64,
    /// Bytes free on the file system of the workspace.
    pub disk_free: u64,
    /// File descriptors that the daemon may still open.
    pub fd_headroom: u64,
    /// Processes that may still be made.
    pub pid_headroom: u64,
    /// Logical processors.
    pub nproc: u64,
}
