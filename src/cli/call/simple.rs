//! `boxd call ping|metrics|op`.

use std::fmt::Write as _;
use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};

use super::remote::Remote;
use super::{Shown, output};
use crate::error::Error;

/// Ask whether the daemon answers, and how fast.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  boxd call ping")]
pub(super) struct Ping {}

impl Ping {
    pub(super) async fn perform(self, remote: &Remote, json: bool) -> Result<Shown, Error> {
        let nonce = u64::from(fastrand::u32(..));
        let started = Instant::now();
        let mut answer = remote.operation("ping", &json!({ "nonce": nonce })).await?;
        let took = started.elapsed();
        if answer["nonce"] != nonce {
            return Err(super::remote::unexpected("another nonce than it was sent"));
        }
        if json {
            answer["roundTripMs"] = (took.as_secs_f64() * 1e3).into();
            output::json(&answer)?;
        } else {
            let uptime = std::time::Duration::from_secs(answer["uptimeMs"].as_u64().unwrap_or(0) / 1000);
            let line = format!(
                "pong in {:.1} ms, up {}\n",
                took.as_secs_f64() * 1e3,
                humantime::format_duration(uptime)
            );
            output::answer(line.as_bytes())?;
        }
        Ok(Shown::OK)
    }
}

/// Print CPU, memory, disk and load of the machine.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  boxd call metrics\n  boxd call metrics --json")]
pub(super) struct Metrics {}

impl Metrics {
    pub(super) async fn perform(self, remote: &Remote, json: bool) -> Result<Shown, Error> {
        let sample = remote.operation("host.metrics", &json!({})).await?;
        if json {
            output::json(&sample)?;
        } else {
            output::answer(table(&sample).as_bytes())?;
        }
        Ok(Shown::OK)
    }
}

fn table(sample: &Value) -> String {
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let gib = |field: &str| number(&sample[field]) / f64::from(1 << 30);
    let mut text = format!(
        "cpu     {:.1} %\nload    {:.2} {:.2} {:.2}\nmemory  {:.2} of {:.2} GiB\ndisk    {:.2} of {:.2} GiB\n",
        number(&sample["cpuPercent"]),
        number(&sample["load"][0]),
        number(&sample["load"][1]),
        number(&sample["load"][2]),
        gib("memUsedBytes"),
        gib("memTotalBytes"),
        gib("diskUsedBytes"),
        gib("diskTotalBytes"),
    );
    for gpu in sample["gpus"].as_array().into_iter().flatten() {
        let name = gpu["name"].as_str().unwrap_or("?");
        let _ = writeln!(text, "gpu     {:.1} % {name}", number(&gpu["utilPercent"]));
    }
    text
}

/// Perform any operation by its stable name.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  boxd call op host.capabilities
  boxd call op process.run '{\"command\":\"uname\",\"args\":[\"-a\"]}'")]
pub(super) struct Op {
    /// The name, as in `boxd call op host.capabilities`.
    name: String,
    /// Its arguments, a JSON object.
    #[arg(default_value = "{}", value_name = "JSON", value_parser = object)]
    payload: Value,
}

fn object(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err("a JSON object is expected".into()),
        Err(error) => Err(error.to_string()),
    }
}

impl Op {
    pub(super) async fn perform(self, remote: &Remote) -> Result<Shown, Error> {
        let answer = remote.operation(&self.name, &self.payload).await?;
        output::json(&answer)?;
        Ok(Shown::OK)
    }
}
