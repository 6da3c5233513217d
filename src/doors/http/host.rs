//! Health, what works here, and figures for people and for Prometheus.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::body;
use super::error::Problem;
use super::front::{Caller, MaybeCaller};
use super::openapi::Refusals;
use super::router::{App, unexpected};
use crate::host::Sample;
use crate::ops::{Op, Reply};
use crate::telemetry;
use crate::wire::json;

/// Whether the daemon answers; with a token also which one it is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = HealthResponse)]
pub(super) struct Health {
    /// Always `ok`.
    status: &'static str,
    /// The daemon's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    /// Milliseconds since it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime_ms: Option<u64>,
    /// This run of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    /// What relative paths mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    workspace_root: Option<String>,
}

/// Whether the daemon answers. Needs no token; a wrong one is refused all the same.
#[utoipa::path(
    get, path = "/v1/health", tag = "host", security((), ("bearer" = [])),
    responses((status = 200, body = Health), Refusals)
)]
pub(super) async fn health(State(app): State<Arc<App>>, caller: MaybeCaller) -> Result<Response, Problem> {
    if caller.0.is_none() {
        return Ok(body::raw_json(r#"{"status":"ok"}"#));
    }
    let rooms = &app.behind.rooms;
    body::answer(&Health {
        status: "ok",
        version: Some(env!("CARGO_PKG_VERSION")),
        uptime_ms: Some(rooms.uptime_ms()),
        instance: Some(app.behind.instance.to_string()),
        workspace_root: Some(rooms.workspace().root.to_string_lossy().into_owned()),
    })
}

/// What works on this machine now, and why not.
#[utoipa::path(
    get, path = "/v1/capabilities", tag = "host",
    responses((status = 200, body = json::Capabilities), Refusals)
)]
pub(super) async fn capabilities(State(app): State<Arc<App>>, caller: Caller) -> Result<Response, Problem> {
    match app.perform(caller.call(None), Op::HostCapabilities).await? {
        Reply::Capabilities(rows) => body::answer(&json::Capabilities::from(rows)),
        other => Err(unexpected(&other)),
    }
}

/// CPU, memory, disk, load and GPUs of the machine.
#[utoipa::path(get, path = "/v1/metrics", tag = "host", responses((status = 200, body = json::Metrics), Refusals))]
pub(super) async fn metrics(State(app): State<Arc<App>>, caller: Caller) -> Result<Response, Problem> {
    let sample = sample(&app, caller).await?;
    body::answer(&json::Metrics::from(&*sample))
}

async fn sample(app: &Arc<App>, caller: Caller) -> Result<Arc<Sample>, Problem> {
    match app.perform(caller.call(None), Op::HostMetrics).await? {
        Reply::Metrics(sample) => Ok(sample),
        other => Err(unexpected(&other)),
    }
}

/// The daemon's counters and the machine's figures as Prometheus text.
#[utoipa::path(
    get, path = "/metrics", tag = "host",
    responses((status = 200, body = String, content_type = "text/plain"), Refusals)
)]
pub(super) async fn prometheus(State(app): State<Arc<App>>, caller: Caller) -> Result<Response, Problem> {
    let sample = sample(&app, caller).await?;
    let mut text = app.behind.metrics.render()?;
    gauges(&mut text, &sample, app.behind.rooms.uptime_ms());
    let content_type = HeaderValue::from_static(telemetry::Metrics::CONTENT_TYPE);
    Ok(([(CONTENT_TYPE, content_type)], text).into_response())
}

fn gauges(text: &mut String, sample: &Sample, uptime_ms: u64) {
    let rows = [
        (
            "boxd_uptime_seconds",
            "Time since the daemon started.",
            uptime_ms as f64 / 1000.0,
        ),
        (
            "boxd_host_cpu_percent",
            "CPU in use, of all cores.",
            sample.cpu_percent,
        ),
        ("boxd_host_load1", "Load average over one minute.", sample.load[0]),
        (
            "boxd_host_memory_used_bytes",
            "Memory in use.",
            sample.mem_used as f64,
        ),
        ("boxd_host_memory_bytes", "Memory.", sample.mem_total as f64),
        (
            "boxd_host_disk_used_bytes",
            "Disk in use on the workspace's file system.",
            sample.disk_used as f64,
        ),
        (
            "boxd_host_disk_bytes",
            "Size of the workspace's file system.",
            sample.disk_total as f64,
        ),
        ("boxd_host_run_queue", "Runnable tasks.", sample.run_queue),
    ];
    for (name, help, value) in rows {
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    }
}
