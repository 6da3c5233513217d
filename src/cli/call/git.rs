//! `boxd call git`: repositories.

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Map, Value};

use super::remote::{Remote, exact_bytes};
use super::{Shown, output};
use crate::error::Error;
use crate::git::{Action, Query, Transfer};

/// Ask about a repository, or change it.
#[derive(Debug, Args)]
#[command(after_help = "\
VERB is the name of an operation without \"git.\" in front (status, diff, log, show, blame,
branches, remotes, worktrees, discover, init, add, restore, reset, commit, branch.create,
branch.delete, switch, stash, tag, remote.set, worktree.add, worktree.remove, clone, fetch,
pull, push); each FIELD=VALUE is a field of its payload as docs/git.md has it. A value that
is JSON is taken as such.

Examples:
  boxd call git status
  boxd call git diff of=index path=project
  boxd call git log limit=3
  boxd call git commit message='Fix it' all=true
  boxd call git clone url=https://example.com/x.git path=x depth=1")]
pub(super) struct Git {
    /// What to do.
    verb: String,
    /// The fields of the payload.
    #[arg(value_name = "FIELD=VALUE")]
    fields: Vec<String>,
}

impl Git {
    pub(super) async fn perform(self, remote: &Remote, json: bool) -> Result<Shown, Error> {
        let name = format!("git.{}", self.verb);
        let names = Query::NAMES.iter().chain(&Action::NAMES).chain(&Transfer::NAMES);
        if !names.clone().any(|known| *known == name) {
            let known: Vec<_> = names.map(|name| name.trim_start_matches("git.")).collect();
            return Err(Error::Invalid {
                field: "verb",
                reason: format!("{:?} is none of {}", self.verb, known.join(", ")),
            });
        }
        let answer = remote.operation(&name, &payload(&self.fields)?.into()).await?;
        if json {
            output::json(&answer)?;
        } else {
            output::answer(&shown(&self.verb, &answer)?)?;
            output::diagnostic(&exact_bytes(&answer, "stderr"))?;
        }
        Ok(Shown::OK)
    }
}

fn payload(fields: &[String]) -> Result<Map<String, Value>, Error> {
    let mut payload = Map::new();
    for field in fields {
        let (name, value) = field.split_once('=').ok_or_else(|| Error::Invalid {
            field: "FIELD=VALUE",
            reason: format!("{field:?} has no \"=\""),
        })?;
        let parsed = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        payload.insert(name.to_owned(), parsed);
    }
    Ok(payload)
}

/// As a person reads it; what has no form of its own is JSON.
fn shown(verb: &str, answer: &Value) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    match verb {
        "status" => {
            let branch = answer["branch"].as_str().unwrap_or("(detached)");
            text.extend_from_slice(format!("## {branch}\n").as_bytes());
            for entry in answer["entries"].as_array().into_iter().flatten() {
                let code = |field: &str| entry[field].as_str().unwrap_or(" ").to_owned();
                text.extend_from_slice(format!("{}{} ", code("index"), code("worktree")).as_bytes());
                text.extend_from_slice(&exact_bytes(entry, "path"));
                text.push(b'\n');
            }
        }
        "diff" => text.extend_from_slice(&exact_bytes(answer, "text")),
        "show" if answer["file"].is_object() => {
            text.extend_from_slice(&exact_bytes(&answer["file"], "content"));
        }
        "log" => {
            let mut lines = String::new();
            for commit in answer["commits"].as_array().into_iter().flatten() {
                let id = commit["id"].as_str().unwrap_or_default();
                let subject = commit["message"].as_str().unwrap_or_default().lines().next();
                // Writing to memory does not fail.
                let _ = writeln!(lines, "{:.12} {}", id, subject.unwrap_or_default());
            }
            text.extend_from_slice(lines.as_bytes());
        }
        _ if answer["stdout"].is_string() => text.extend_from_slice(&exact_bytes(answer, "stdout")),
        _ => {
            text = serde_json::to_vec_pretty(answer).map_err(|error| Error::Internal {
                reason: format!("an answer cannot be shown: {error}"),
            })?;
            text.push(b'\n');
        }
    }
    Ok(text)
}
