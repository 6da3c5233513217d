//! `boxd call search`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value};

use super::remote::{Remote, exact_bytes, set_path};
use super::{Shown, output};
use crate::error::Error;

/// What it exits with when nothing was found, as grep does.
const NOTHING_FOUND: u8 = 1;

/// Search what files hold, or what they are called.
#[derive(Debug, Args)]
#[command(after_help = "\
Exits 1 when nothing was found.

Examples:
  boxd call search 'fn \\w+' src
  boxd call search --fixed-strings -i 'todo(' --glob '*.rs' --glob '!vendor/**'
  boxd call search -C 2 panic /var/log/app.log
  boxd call search --name '*.toml'
  boxd call search --fuzzy mainrs")]
pub(super) struct Search {
    /// A regular expression; with --name a glob, with --fuzzy letters.
    pattern: String,
    /// Where: a directory or a file; the workspace root when not given.
    path: Option<PathBuf>,
    /// Search names instead of content.
    #[arg(long, conflicts_with = "fuzzy")]
    name: bool,
    /// Search paths by letters in their order, best first.
    #[arg(long)]
    fuzzy: bool,
    /// The pattern means itself.
    #[arg(short = 'F', long)]
    fixed_strings: bool,
    /// Upper and lower case are the same.
    #[arg(short = 'i', long)]
    ignore_case: bool,
    /// Only files of this glob; with ! in front, not those. Repeatable.
    #[arg(short = 'g', long, value_name = "GLOB")]
    glob: Vec<String>,
    /// Lines shown before a match.
    #[arg(short = 'B', long, value_name = "N")]
    before: Option<u64>,
    /// Lines shown behind a match.
    #[arg(short = 'A', long, value_name = "N")]
    after: Option<u64>,
    /// Lines shown on both sides.
    #[arg(short = 'C', long, value_name = "N")]
    context: Option<u64>,
    /// Results at most.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Hidden files too.
    #[arg(long)]
    hidden: bool,
    /// Also what .gitignore and its kin name.
    #[arg(long)]
    no_ignore: bool,
}

impl Search {
    pub(super) async fn perform(self, remote: &Remote, json: bool) -> Result<Shown, Error> {
        let answer = remote.operation("fs.search", &self.payload().into()).await?;
        let found = answer["matches"].as_array().map_or(&[][..], Vec::as_slice);
        if json {
            output::json(&answer)?;
        } else {
            let lines: Vec<u8> = found.iter().flat_map(shown).collect();
            output::answer(&lines)?;
            output::diagnostic(remarks(&answer).as_bytes())?;
        }
        let exit = if found.is_empty() {
            ExitCode::from(NOTHING_FOUND)
        } else {
            ExitCode::SUCCESS
        };
        Ok(Shown { exit })
    }

    fn payload(self) -> Map<String, Value> {
        let mut payload = Map::new();
        if let Some(path) = &self.path {
            set_path(&mut payload, "path", path.as_os_str());
        }
        let kind = match (self.name, self.fuzzy) {
            (true, _) => "name",
            (_, true) => "fuzzy",
            _ => "content",
        };
        payload.insert("pattern".into(), self.pattern.into());
        payload.insert("kind".into(), kind.into());
        payload.insert("literal".into(), self.fixed_strings.into());
        payload.insert("ignoreCase".into(), self.ignore_case.into());
        payload.insert("hidden".into(), self.hidden.into());
        payload.insert("ignoreFiles".into(), (!self.no_ignore).into());
        if !self.glob.is_empty() {
            payload.insert("glob".into(), self.glob.into());
        }
        let numbers = [
            ("before", self.before.or(self.context)),
            ("after", self.after.or(self.context)),
            ("limit", self.limit),
        ];
        for (field, number) in numbers {
            if let Some(number) = number {
                payload.insert(field.into(), number.into());
            }
        }
        payload
    }
}

/// A result as `grep -n` shows it: the path alone for names, `path:line:column:text` for lines, `path-line-text` around.
fn shown(found: &Value) -> Vec<u8> {
    let path = exact_bytes(found, "path");
    let Some(number) = found["line"].as_u64() else {
        return [&path[..], b"\n"].concat();
    };
    let around = |field: &str| found[field].as_array().cloned().unwrap_or_default();
    let before = around("before");
    let mut lines = Vec::new();
    let beside = |lines: &mut Vec<u8>, number: u64, text: &Value| {
        lines.extend_from_slice(&path);
        lines.extend_from_slice(format!("-{number}-{}\n", text.as_str().unwrap_or_default()).as_bytes());
    };
    for (line, text) in (number.saturating_sub(before.len() as u64)..).zip(&before) {
        beside(&mut lines, line, text);
    }
    lines.extend_from_slice(&path);
    lines.extend_from_slice(format!(":{number}:{}:", found["column"]).as_bytes());
    lines.extend_from_slice(&exact_bytes(found, "text"));
    lines.push(b'\n');
    for (line, text) in (number + 1..).zip(&around("after")) {
        beside(&mut lines, line, text);
    }
    lines
}

/// What a person should know besides.
fn remarks(answer: &Value) -> String {
    use std::fmt::Write as _;

    let mut text = String::new();
    if let Some(why) = answer["truncatedBy"].as_str() {
        let _ = writeln!(text, "boxd: there is more: the {why} limit ended the search");
    }
    let unreadable = answer["unreadableCount"].as_u64().unwrap_or(0);
    if unreadable > 0 {
        let first = answer["unreadable"][0]["reason"].as_str().unwrap_or_default();
        let _ = writeln!(text, "boxd: {unreadable} could not be read, the first: {first}");
    }
    text
}
