//! Repositories: what is answered. Bytes that are not UTF-8 stand base64-encoded in a `...B64` field beside the readable
//! one.

use std::borrow::Cow;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::text::{readable, to_base64};
use super::time::rfc3339;
use crate::git::{self, Answer, Delta, Did, Diff, Hunk, LineKind, Person, Progress, Shown};

/// An answer of the git room as JSON.
pub fn git_answer(answer: &Answer) -> Value {
    match answer {
        Answer::Status(found) => status(found),
        Answer::Diff(found) => diff(found),
        Answer::Log(log) => json!({
            "commits": log.commits.iter().map(commit).collect::<Vec<_>>(),
            "hasMore": log.has_more,
        }),
        Answer::Shown(Shown::Commit(shown)) => json!({ "commit": commit(&shown.0), "diff": diff(&shown.1) }),
        Answer::Shown(Shown::File { id, content }) => {
            let mut file = Map::new();
            file.insert("id".into(), id.as_str().into());
            file.insert("size".into(), content.len().into());
            put(&mut file, "content", content);
            json!({ "file": file })
        }
        Answer::Shown(Shown::Directory(names)) => {
            let names: Vec<_> = names.iter().map(|name| String::from_utf8_lossy(name)).collect();
            json!({ "directory": names })
        }
        Answer::Blame(blame) => json!({ "hunks": blame.hunks.iter().map(blame_hunk).collect::<Vec<_>>() }),
        Answer::Branches(branches) => json!({ "branches": branches.iter().map(branch).collect::<Vec<_>>() }),
        Answer::Remotes(remotes) => {
            let remote = |remote: &git::Remote| {
                let mut fields = Map::new();
                fields.insert("name".into(), remote.name.as_str().into());
                fields.insert("url".into(), remote.url.as_str().into());
                option(&mut fields, "pushUrl", remote.push_url.as_deref());
                fields
            };
            json!({ "remotes": remotes.iter().map(remote).collect::<Vec<_>>() })
        }
        Answer::Worktrees(worktrees) => {
            let worktree = |worktree: &git::Worktree| {
                let mut fields = Map::new();
                fields.insert("name".into(), worktree.name.as_str().into());
                put_path(&mut fields, "path", &worktree.path);
                fields.insert("locked".into(), worktree.locked.into());
                option(&mut fields, "broken", worktree.broken.as_deref());
                fields
            };
            json!({ "worktrees": worktrees.iter().map(worktree).collect::<Vec<_>>() })
        }
        Answer::Repositories(paths) => {
            let row = |path: &std::path::PathBuf| {
                let mut fields = Map::new();
                put_path(&mut fields, "path", path);
                fields
            };
            json!({ "repositories": paths.iter().map(row).collect::<Vec<_>>() })
        }
    }
}

/// Text that is put under `name`, with its exact bytes beside it where it is not UTF-8.
fn put(fields: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if matches!(text, Cow::Owned(_)) {
        fields.insert(format!("{name}B64"), to_base64(bytes).into());
    }
    fields.insert(name.to_owned(), text.into_owned().into());
}

fn put_path(fields: &mut Map<String, Value>, name: &str, path: &Path) {
    let (text, exact) = readable(path.as_os_str());
    fields.insert(name.to_owned(), text.into());
    if let Some(exact) = exact {
        fields.insert(format!("{name}B64"), exact.into());
    }
}

fn option(fields: &mut Map<String, Value>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        fields.insert(name.to_owned(), value.into());
    }
}

fn status(status: &git::Status) -> Value {
    let mut fields = Map::new();
    put_path(&mut fields, "root", &status.root);
    option(&mut fields, "branch", status.branch.as_deref());
    option(&mut fields, "head", status.head.as_deref());
    option(&mut fields, "upstream", status.upstream.as_deref());
    if let Some((ahead, behind)) = status.ahead_behind {
        fields.insert("ahead".into(), ahead.into());
        fields.insert("behind".into(), behind.into());
    }
    option(&mut fields, "operation", status.operation);
    let is_change = |entry: &&git::Entry| entry.index != '!';
    fields.insert(
        "clean".into(),
        (!status.entries.iter().any(|entry| is_change(&entry))).into(),
    );
    let entry = |entry: &git::Entry| {
        let mut fields = Map::new();
        put_path(&mut fields, "path", &entry.path);
        if let Some(old) = &entry.old_path {
            put_path(&mut fields, "oldPath", old);
        }
        fields.insert("index".into(), entry.index.to_string().into());
        fields.insert("worktree".into(), entry.worktree.to_string().into());
        if !entry.stages.is_empty() {
            fields.insert("stages".into(), json!(entry.stages));
        }
        fields
    };
    fields.insert(
        "entries".into(),
        status.entries.iter().map(entry).collect::<Vec<_>>().into(),
    );
    fields.into()
}

fn diff(diff: &Diff) -> Value {
    let mut fields = Map::new();
    fields.insert(
        "files".into(),
        diff.files.iter().map(delta).collect::<Vec<_>>().into(),
    );
    put(&mut fields, "text", &diff.text);
    if diff.left_out > 0 {
        fields.insert("leftOutBytes".into(), diff.left_out.into());
    }
    fields.into()
}

fn delta(delta: &Delta) -> Value {
    let mut fields = Map::new();
    fields.insert("status".into(), delta.status.into());
    put_path(&mut fields, "path", &delta.path);
    if let Some(old) = &delta.old_path {
        put_path(&mut fields, "oldPath", old);
    }
    fields.insert("oldMode".into(), format!("{:06o}", delta.modes.0).into());
    fields.insert("newMode".into(), format!("{:06o}", delta.modes.1).into());
    fields.insert("binary".into(), delta.binary.into());
    fields.insert("added".into(), delta.lines.0.into());
    fields.insert("removed".into(), delta.lines.1.into());
    fields.insert(
        "hunks".into(),
        delta.hunks.iter().map(hunk).collect::<Vec<_>>().into(),
    );
    fields.into()
}

fn hunk(hunk: &Hunk) -> Value {
    let line = |line: &git::HunkLine| {
        let mut fields = Map::new();
        let kind = match line.kind {
            LineKind::Context => "context",
            LineKind::Added => "added",
            LineKind::Removed => "removed",
            LineKind::NoNewline => "no_newline",
        };
        fields.insert("type".into(), kind.into());
        put(&mut fields, "text", &line.content);
        fields
    };
    let mut fields = Map::new();
    fields.insert("oldStart".into(), hunk.old.0.into());
    fields.insert("oldLines".into(), hunk.old.1.into());
    fields.insert("newStart".into(), hunk.new.0.into());
    fields.insert("newLines".into(), hunk.new.1.into());
    put(&mut fields, "heading", &hunk.heading);
    fields.insert(
        "lines".into(),
        hunk.lines.iter().map(line).collect::<Vec<_>>().into(),
    );
    fields.into()
}

fn person(person: &Person) -> Value {
    let mut fields = Map::new();
    put(&mut fields, "name", &person.name);
    put(&mut fields, "email", &person.email);
    let (seconds, ahead) = person.time;
    let since = std::time::Duration::from_secs(seconds.unsigned_abs());
    let at = if seconds < 0 {
        std::time::UNIX_EPOCH - since
    } else {
        std::time::UNIX_EPOCH + since
    };
    fields.insert("at".into(), rfc3339(at).into());
    fields.insert("utcOffsetMinutes".into(), ahead.into());
    fields.into()
}

fn commit(commit: &git::Commit) -> Value {
    let mut fields = Map::new();
    fields.insert("id".into(), commit.id.as_str().into());
    fields.insert("parents".into(), json!(commit.parents));
    fields.insert("author".into(), person(&commit.author));
    fields.insert("committer".into(), person(&commit.committer));
    put(&mut fields, "message", &commit.message);
    fields.into()
}

fn blame_hunk(hunk: &git::BlameHunk) -> Value {
    let mut fields = Map::new();
    fields.insert("line".into(), hunk.line.into());
    fields.insert("lines".into(), hunk.lines.into());
    fields.insert("commit".into(), hunk.commit.as_str().into());
    fields.insert("author".into(), person(&hunk.author));
    if let Some(old) = &hunk.old_path {
        put_path(&mut fields, "oldPath", old);
    }
    fields.into()
}

fn branch(branch: &git::Branch) -> Value {
    let mut fields = Map::new();
    fields.insert("name".into(), branch.name.as_str().into());
    fields.insert("remote".into(), branch.is_remote.into());
    fields.insert("current".into(), branch.is_head.into());
    option(&mut fields, "commit", branch.commit.as_deref());
    option(&mut fields, "upstream", branch.upstream.as_deref());
    fields.into()
}

/// What a change or a transfer said.
pub fn git_did(did: &Did) -> Value {
    let mut fields = Map::new();
    put(&mut fields, "stdout", &did.stdout);
    put(&mut fields, "stderr", &did.stderr);
    if did.left_out > 0 {
        fields.insert("leftOutBytes".into(), did.left_out.into());
    }
    fields.into()
}

/// How far a transfer is.
#[derive(Debug, Serialize)]
pub struct GitProgress<'a> {
    phase: &'a str,
    percent: u8,
    done: u64,
    total: u64,
}

impl<'a> From<&'a Progress> for GitProgress<'a> {
    fn from(progress: &'a Progress) -> Self {
        Self {
            phase: &progress.phase,
            percent: progress.percent,
            done: progress.done,
            total: progress.total,
        }
    }
}
