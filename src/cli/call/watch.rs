//! `boxd call watch`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value};

use super::remote::{Remote, exact_bytes, set_path};
use super::{Shown, output};
use crate::error::Error;

/// How long one question waits for changes, milliseconds.
const WAIT: u64 = 20_000;

/// Print what changes below a directory, as it changes.
#[derive(Debug, Args)]
#[command(after_help = "\
A letter and a path for each change: + created, - removed, * modified, > renamed (with where
it was behind a tab), ! when hints were missing and everything was looked at again.

Examples:
  boxd call watch src
  boxd call watch --glob '*.rs' --glob '!target'
  boxd call watch --json --count 1")]
pub(super) struct Watch {
    /// A directory or a file; the workspace root when not given.
    path: Option<PathBuf>,
    /// Not what is below it.
    #[arg(long)]
    flat: bool,
    /// Only what this glob names; with ! in front, not that and nothing below it. Repeatable.
    #[arg(short = 'g', long, value_name = "GLOB")]
    glob: Vec<String>,
    /// End after so many changes.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

impl Watch {
    pub(super) async fn perform(self, remote: &Remote, json: bool) -> Result<Shown, Error> {
        let mut payload = Map::new();
        if let Some(path) = &self.path {
            set_path(&mut payload, "path", path.as_os_str());
        }
        payload.insert("recursive".into(), (!self.flat).into());
        if !self.glob.is_empty() {
            payload.insert("glob".into(), self.glob.clone().into());
        }
        let mut left = self.count.unwrap_or(u64::MAX);
        loop {
            let answer = remote.operation("fs.watch", &payload.clone().into()).await?;
            for event in answer["events"].as_array().into_iter().flatten() {
                let line = if json { line(event) } else { shown(event) };
                output::answer(&line)?;
                left -= 1;
                if left == 0 {
                    return Ok(Shown::OK);
                }
            }
            if answer["ended"].as_bool().unwrap_or(false) {
                return Ok(Shown::OK);
            }
            payload.insert("since".into(), answer["id"].clone());
            payload.insert("waitMs".into(), WAIT.into());
        }
    }
}

fn line(event: &Value) -> Vec<u8> {
    let mut line = event.to_string().into_bytes();
    line.push(b'\n');
    line
}

fn shown(event: &Value) -> Vec<u8> {
    let mark = match event["type"].as_str() {
        Some("created") => '+',
        Some("removed" | "gone") => '-',
        Some("modified") => '*',
        Some("renamed") => '>',
        _ => '!',
    };
    let mut line = format!("{mark} ").into_bytes();
    if event["path"].is_string() {
        line.extend_from_slice(&exact_bytes(event, "path"));
        if event["from"].is_string() {
            line.push(b'\t');
            line.extend_from_slice(&exact_bytes(event, "from"));
        }
    } else {
        let kind = event["type"].as_str().unwrap_or_default();
        let reason = event["reason"].as_str().unwrap_or_default();
        line.extend_from_slice(format!("{kind} {reason}").trim_end().as_bytes());
    }
    line.push(b'\n');
    line
}
