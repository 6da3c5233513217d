//! The machine: metrics, what works here, ping.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::time::rfc3339;
use crate::capability;
use crate::host;

/// Arguments of `ping`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct Ping {
    /// Any number; it comes back.
    pub nonce: u64,
}

/// The answer to `ping`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pong {
    /// The nonce of the request.
    pub nonce: u64,
    /// Milliseconds since the daemon started, monotonic.
    pub uptime_ms: u64,
}

/// One NVIDIA GPU.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// Product name.
    pub name: String,
    /// Utilisation, 0 to 100.
    pub util_percent: f64,
    /// Memory in use, bytes.
    pub mem_used_bytes: u64,
    /// Memory, bytes.
    pub mem_total_bytes: u64,
}

/// Limits of the container around the daemon; absent where there is none.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ContainerLimits)]
pub struct Limits {
    /// `memory.max`, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max_bytes: Option<u64>,
    /// Memory in use by that cgroup, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
    /// `cpu.max` as a number of cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_cores: Option<f64>,
    /// `pids.max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<u64>,
}

/// The machine at one moment.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// When the sample was taken, RFC 3339.
    pub sampled_at: String,
    /// CPU in use since the previous sample, 0 to 100 of all cores.
    pub cpu_percent: f64,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Memory in use, bytes.
    pub mem_used_bytes: u64,
    /// Memory, bytes.
    pub mem_total_bytes: u64,
    /// Disk in use on the file system of the workspace, bytes.
    pub disk_used_bytes: u64,
    /// Its size, bytes.
    pub disk_total_bytes: u64,
    /// Runnable tasks.
    pub run_queue: f64,
    /// NVIDIA GPUs.
    pub gpus: Vec<Gpu>,
    /// Limits of the container around the daemon.
    pub limits: Limits,
}

impl From<&host::Sample> for Metrics {
    fn from(sample: &host::Sample) -> Self {
        Self {
            sampled_at: rfc3339(sample.at),
            cpu_percent: sample.cpu_percent,
            load: sample.load,
            mem_used_bytes: sample.mem_used,
            mem_total_bytes: sample.mem_total,
            disk_used_bytes: sample.disk_used,
            disk_total_bytes: sample.disk_total,
            run_queue: sample.run_queue,
            gpus: sample.gpus.iter().map(Gpu::from).collect(),
            limits: Limits::from(&sample.limits),
        }
    }
}

impl From<&host::Gpu> for Gpu {
    fn from(gpu: &host::Gpu) -> Self {
        Self {
            name: gpu.name.clone(),
            util_percent: gpu.util_percent,
            mem_used_bytes: gpu.mem_used,
            mem_total_bytes: gpu.mem_total,
        }
    }
}

impl From<&host::Limits> for Limits {
    fn from(limits: &host::Limits) -> Self {
        Self {
            memory_max_bytes: limits.memory_max,
            memory_used_bytes: limits.memory_used,
            cpu_cores: limits.cpu_cores,
            pids_max: limits.pids_max,
        }
    }
}

/// One feature, and whether it works here now.
#[derive(Debug, Serialize, ToSchema)]
pub struct Capability {
    /// The stable name of the operation or feature.
    pub name: &'static str,
    /// Whether a request for it would be served now.
    pub available: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What would make it available.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// What works on this machine now.
#[derive(Debug, Serialize, ToSchema)]
pub struct Capabilities {
    /// One row per feature.
    pub capabilities: Vec<Capability>,
}

impl From<Vec<capability::Capability>> for Capabilities {
    fn from(rows: Vec<capability::Capability>) -> Self {
        let row = |row: capability::Capability| Capability {
            name: row.name,
            available: row.available,
            why: row.why,
            fix: row.fix,
        };
        Self {
            capabilities: rows.into_iter().map(row).collect(),
        }
    }
}
