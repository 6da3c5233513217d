//! `boxd doctor`: what works here, what does not and the command that fixes it, and what is configured.

mod examine;
mod trial;

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::flags::{Daemon, SettingFlags};
use super::output;
use crate::capability::Capability;
use crate::config::{self, Config, Loaded, Sources};
use crate::error::Error;
use crate::lifecycle;
use crate::startup::Startup;
use trial::Trial;

/// Show what works here, and the command that fixes what does not.
#[derive(Debug, Args)]
#[command(after_help = "\
Takes the same flags and variables as `boxd run`, to see what they would do.

Examples:
  boxd doctor
  boxd doctor --json
  boxd doctor --self-test
  boxd doctor --print-config
  boxd doctor --print-example > /etc/boxd/config.toml")]
pub(super) struct Doctor {
    #[command(flatten)]
    flags: SettingFlags<Daemon>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Also run a command and write, read and remove a file in the workspace; exits 70 when that fails.
    #[arg(long)]
    self_test: bool,
    /// Print every setting, its value and the layer that decided it; secrets as ***.
    #[arg(long, conflicts_with = "print_example")]
    print_config: bool,
    /// Print an example configuration file.
    #[arg(long)]
    print_example: bool,
}

/// What the exit code says when the self-test failed: an internal error.
const SELF_TEST_FAILED: u8 = 70;

/// One finding.
#[derive(Debug)]
struct Finding {
    what: String,
    ok: bool,
    /// Details, or why not.
    note: String,
    fix: Option<String>,
}

impl Finding {
    fn good(what: &str, note: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            ok: true,
            note: note.into(),
            fix: None,
        }
    }

    fn bad(what: &str, note: impl Into<String>, fix: &str) -> Self {
        Self {
            what: what.to_owned(),
            ok: false,
            note: note.into(),
            fix: Some(fix.to_owned()),
        }
    }
}

impl From<Capability> for Finding {
    fn from(row: Capability) -> Self {
        let note = row.why.unwrap_or_default();
        Self {
            what: row.name.to_owned(),
            ok: row.available,
            note,
            fix: row.fix,
        }
    }
}

impl Doctor {
    pub(super) fn run(self, startup: Startup) -> Result<ExitCode, Error> {
        if self.print_example {
            output::answer(config::example().as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        let loaded = config::load(&Sources {
            flags: self.flags.given,
            ..super::sources(startup)
        })?;
        if self.print_config {
            print_config(&loaded, self.json)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut findings = examine::examine(&loaded.config);
        let tested = try_rooms(&loaded.config, self.self_test, &mut findings)?;
        print_findings(&findings, self.json)?;
        Ok(if tested {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(SELF_TEST_FAILED)
        })
    }
}

/// Asks the rooms what they can do here and, when wanted, has them do it; answers whether that went well.
fn try_rooms(config: &Config, self_test: bool, findings: &mut Vec<Finding>) -> Result<bool, Error> {
    let runtime = lifecycle::runtime()?;
    runtime.block_on(async {
        let trial = Trial::new(config)?;
        findings.extend(trial.capabilities().into_iter().map(Finding::from));
        if !self_test {
            return Ok(true);
        }
        let tested = trial.self_test(&config.workspace.root).await;
        let passed = tested.iter().all(|finding| finding.ok);
        findings.extend(tested);
        Ok(passed)
    })
}

fn print_config(loaded: &Loaded, json: bool) -> Result<(), Error> {
    let rows = loaded.rows();
    if json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(key, value, layer)| json!({ "key": key, "value": value, "layer": layer }))
            .collect();
        return output::json(&json!({ "settings": rows }));
    }
    let keys = rows.iter().map(|(key, ..)| key.len()).max().unwrap_or(0);
    let values = rows
        .iter()
        .map(|(_, value, _)| value.len())
        .max()
        .unwrap_or(0)
        .min(40);
    let mut text = String::new();
    for (key, value, layer) in rows {
        let _ = writeln!(text, "{key:keys$}  {value:values$}  {layer}");
    }
    output::answer(text.as_bytes())
}

fn print_findings(findings: &[Finding], json: bool) -> Result<(), Error> {
    if json {
        let rows: Vec<_> = findings
            .iter()
            .map(|row| json!({ "name": row.what, "ok": row.ok, "note": row.note, "fix": row.fix }))
            .collect();
        return output::json(&json!({ "version": env!("CARGO_PKG_VERSION"), "findings": rows }));
    }
    let width = findings.iter().map(|row| row.what.len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in findings {
        let mark = if row.ok { "ok " } else { "-- " };
        let _ = writeln!(
            text,
            "{}",
            format!("{mark} {:width$}  {}", row.what, row.note).trim_end()
        );
        if let Some(fix) = &row.fix {
            let _ = writeln!(text, "    {:width$}  fix: {fix}", "");
        }
    }
    output::answer(text.as_bytes())
}
