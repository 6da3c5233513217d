//! `boxd call ps|kill|logs`: processes that run or ran there.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};

use super::remote::Remote;
use super::run::Ending;
use super::streamed::Printer;
use super::{Shown, output, show_done};
use crate::error::Error;

/// List processes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  boxd call ps\n  boxd call ps --running\n  boxd call ps --json")]
pub(super) struct Ps {
    /// Those that run only.
    #[arg(long)]
    running: bool,
}

impl Ps {
    pub(super) async fn perform(self, remote: &Remote, json: bool) -> Result<Shown, Error> {
        let mut listing = remote.operation("process.list", &json!({})).await?;
        if let Some(processes) = listing["processes"].as_array_mut() {
            processes.retain(|process| !self.running || process["status"] == "running");
        }
        if json {
            output::json(&listing)?;
        } else {
            output::answer(table(&listing).as_bytes())?;
        }
        Ok(Shown::OK)
    }
}

fn table(listing: &Value) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64);
    let mut text = format!(
        "{:<12} {:>8} {:<10} {:>10}  COMMAND\n",
        "ID", "PID", "STATUS", "AGE"
    );
    for process in listing["processes"].as_array().into_iter().flatten() {
        let words = process["args"].as_array().into_iter().flatten();
        let command = words.filter_map(Value::as_str).fold(
            process["command"].as_str().unwrap_or_default().to_owned(),
            |line, word| line + " " + word,
        );
        let age = now.saturating_sub(process["createdAtMs"].as_u64().unwrap_or(now)) / 1000;
        let pid = process["pid"]
            .as_i64()
            .map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:<12} {pid:>8} {:<10} {:>9}s  {}",
            process["id"].as_str().unwrap_or_default(),
            status(process),
            age,
            command.escape_debug(),
        );
    }
    text
}

/// `running`, or how it ended.
fn status(process: &Value) -> String {
    if process["status"] == "running" {
        return "running".into();
    }
    match (process["exitCode"].as_i64(), process["signal"].as_str()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => signal.trim_start_matches("SIG").to_owned(),
        (None, None) => "exited".into(),
    }
}

/// Send a signal to a process and everything that it started.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  boxd call kill proc_3
  boxd call kill proc_3 --after 5s        TERM, and KILL for what is left after five seconds
  boxd call kill proc_3 --signal HUP --leader")]
pub(super) struct Kill {
    /// The process: `proc_N`.
    id: String,
    /// The signal, by name or number.
    #[arg(short, long, default_value = "TERM")]
    signal: String,
    /// To the process alone and not to what it started.
    #[arg(long)]
    leader: bool,
    /// Ask it to end, wait so long, and kill what is left: 500ms, 5s.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, conflicts_with_all = ["signal", "leader"])]
    after: Option<Duration>,
}

impl Kill {
    pub(super) async fn perform(self, remote: &Remote, json: bool) -> Result<Shown, Error> {
        let answer = if let Some(after) = self.after {
            let after = after.as_millis() as u64;
            // The kill itself takes a moment, too.
            let wait = after.saturating_add(5000);
            let payload = json!({ "id": self.id, "killAfterMs": after, "waitMs": wait });
            let stopped = remote.operation("process.stop", &payload).await?;
            if !json {
                output::answer(format!("{} {}\n", self.id, status(&stopped)).as_bytes())?;
            }
            stopped
        } else {
            let scope = if self.leader { "leader" } else { "tree" };
            let payload = json!({ "id": self.id, "signal": self.signal, "scope": scope });
            remote.operation("process.signal", &payload).await?
        };
        show_done(&answer, json)
    }
}

/// Print what a process wrote.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit code with --follow: that of the process.

Examples:
  boxd call logs proc_3
  boxd call logs -f proc_3
  boxd call logs proc_3 --since 120 --json")]
pub(super) struct Logs {
    /// The process: `proc_N`.
    id: String,
    /// Go on until it ends; a lost connection is taken up again.
    #[arg(short, long)]
    follow: bool,
    /// Only what stands behind the record of this number.
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    since: u64,
}

impl Logs {
    pub(super) async fn perform(self, remote: &Remote, json: bool) -> Result<Shown, Error> {
        let mut printer = Printer {
            json,
            sequence: self.since,
            ..Printer::default()
        };
        if !self.follow {
            return Ok(match remote.logs(&self.id, &mut printer).await? {
                Ending::Ended => Shown::OK,
                Ending::Left(interrupt) => Shown {
                    exit: interrupt.exit_code(),
                },
            });
        }
        let ending = remote.follow(&self.id, &mut printer).await?;
        Ok(Shown {
            exit: printer.code(ending)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_process_also_with_a_hostile_name() {
        let listing = json!({ "processes": [
            { "id": "proc_1", "pid": 7, "status": "running", "command": "sleep", "args": ["9"], "createdAtMs": 0 },
            { "id": "proc_2", "status": "exited", "exitCode": 3, "command": "a\nb\u{1b}[2J", "args": [] },
            { "id": "proc_3", "status": "exited", "signal": "SIGKILL", "command": "x", "args": [] },
        ]});
        let text = table(&listing);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(
            lines[1].contains("running") && lines[1].ends_with("sleep 9"),
            "{text}"
        );
        assert!(
            lines[2].contains("exit 3") && !lines[2].contains('\u{1b}'),
            "{text}"
        );
        assert!(lines[3].contains("KILL"), "{text}");
    }
}
