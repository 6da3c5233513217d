//! The figures that `/metrics` shows, in one registry that every door writes to.
//!
//! Label values come from closed sets (operation names, door names, codes), so the number of series is bounded.

use std::time::Duration;

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::error::Error;

/// Upper bounds of the duration buckets, seconds: from a ping to a long command.
const DURATION_BUCKETS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0,
];

/// Counters, gauges and histograms of one daemon.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    operations: IntCounterVec,
    durations: HistogramVec,
    bytes: IntCounterVec,
    processes: IntGauge,
    links: IntGaugeVec,
}

impl Metrics {
    /// The content type of [`Metrics::render`].
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// A fresh registry with every series of the daemon.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] when two series share a name, which a test would show.
    pub fn new() -> Result<Self, Error> {
        Self::registered().map_err(|error| Error::Internal {
            reason: format!("register the metrics: {error}"),
        })
    }

    fn registered() -> prometheus::Result<Self> {
        let metrics = Self {
            registry: Registry::new(),
            operations: IntCounterVec::new(
                Opts::new(
                    "boxd_operations_total",
                    "Operations by name, door and outcome code.",
                ),
                &["op", "door", "outcome"],
            )?,
            durations: HistogramVec::new(
                HistogramOpts::new("boxd_operation_duration_seconds", "Time to answer an operation.")
                    .buckets(DURATION_BUCKETS.to_vec()),
                &["op", "door"],
            )?,
            bytes: IntCounterVec::new(
                Opts::new(
                    "boxd_bytes_total",
                    "Payload bytes by door and direction (in, out).",
                ),
                &["door", "direction"],
            )?,
            processes: IntGauge::new("boxd_processes_live", "Processes of the engine that run now.")?,
            links: IntGaugeVec::new(
                Opts::new("boxd_links", "Control-plane links by state."),
                &["state"],
            )?,
        };
        metrics.registry.register(Box::new(metrics.operations.clone()))?;
        metrics.registry.register(Box::new(metrics.durations.clone()))?;
        metrics.registry.register(Box::new(metrics.bytes.clone()))?;
        metrics.registry.register(Box::new(metrics.processes.clone()))?;
        metrics.registry.register(Box::new(metrics.links.clone()))?;
        let build = IntGaugeVec::new(Opts::new("boxd_build_info", "Always 1."), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics.registry.register(Box::new(build))?;
        Ok(metrics)
    }

    /// Counts one operation that was answered: `outcome` is `ok` or the stable code of the error.
    pub fn operation(&self, op: &str, door: &str, outcome: &str, took: Duration) {
        self.operations.with_label_values(&[op, door, outcome]).inc();
        self.durations
            .with_label_values(&[op, door])
            .observe(took.as_secs_f64());
    }

    /// Counts payload bytes that came in through a door.
    pub fn bytes_in(&self, door: &str, bytes: u64) {
        self.bytes.with_label_values(&[door, "in"]).inc_by(bytes);
    }

    /// Counts payload bytes that went out through a door.
    pub fn bytes_out(&self, door: &str, bytes: u64) {
        self.bytes.with_label_values(&[door, "out"]).inc_by(bytes);
    }

    /// Sets the number of processes that run now.
    pub fn set_processes(&self, live: u64) {
        self.processes.set(i64::try_from(live).unwrap_or(i64::MAX));
    }

    /// Sets the number of links in a state.
    pub fn set_links(&self, state: &str, count: u64) {
        self.links
            .with_label_values(&[state])
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The Prometheus text exposition, format 0.0.4.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] when a series cannot be encoded.
    pub fn render(&self) -> Result<String, Error> {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .map_err(|error| Error::Internal {
                reason: format!("encode the metrics: {error}"),
            })?;
        String::from_utf8(text).map_err(|_| Error::Internal {
            reason: "metrics are not UTF-8".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_exposed_as_prometheus_text() {
        let metrics = Metrics::new().unwrap();
        metrics.operation("ping", "nats", "ok", Duration::from_micros(200));
        metrics.operation("fs.read", "http", "not_found", Duration::from_millis(2));
        metrics.bytes_out("http", 42);
        metrics.set_processes(3);
        metrics.set_links("connected", 1);
        let text = metrics.render().unwrap();
        for line in [
            "# TYPE boxd_operations_total counter",
            "boxd_operations_total{door=\"nats\",op=\"ping\",outcome=\"ok\"} 1",
            "boxd_operation_duration_seconds_bucket{door=\"nats\",op=\"ping\",le=\"0.00025\"} 1",
            "boxd_bytes_total{direction=\"out\",door=\"http\"} 42",
            "boxd_processes_live 3",
            "boxd_links{state=\"connected\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
