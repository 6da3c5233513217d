//! The cases of the operations on repositories: each door has a repository of its own, with the same commits.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::require;
use crate::parity::{Case, case};

/// What makes every commit the same wherever it is made.
pub(crate) const FIXED: [(&str, &str); 7] = [
    ("GIT_AUTHOR_NAME", "A U Thor"),
    ("GIT_AUTHOR_EMAIL", "author@example.com"),
    ("GIT_AUTHOR_DATE", "2026-01-02T03:04:05Z"),
    ("GIT_COMMITTER_NAME", "C O Mitter"),
    ("GIT_COMMITTER_EMAIL", "committer@example.com"),
    ("GIT_COMMITTER_DATE", "2026-01-02T03:04:05Z"),
    ("GIT_CONFIG_NOSYSTEM", "1"),
];

/// Runs git in `directory`.
#[track_caller]
pub(crate) fn git(directory: &Path, words: &[&str]) -> String {
    let mut command = Command::new(require("git"));
    command.env("HOME", directory).current_dir(directory).args(words);
    let output = command.envs(FIXED).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {words:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// A repository with one commit, and one that it can fetch from.
pub(crate) fn prepare(directory: &Path) {
    let repository = directory.join("repo");
    std::fs::create_dir(&repository).unwrap();
    git(&repository, &["init", "--quiet", "--initial-branch=main"]);
    std::fs::write(repository.join("file"), "one\n").unwrap();
    git(&repository, &["add", "."]);
    git(&repository, &["commit", "--quiet", "-m", "first"]);
    git(directory, &["clone", "--quiet", "--bare", "repo", "origin.git"]);
    git(&repository, &["remote", "add", "origin", "../origin.git"]);
    git(
        &repository,
        &["push", "--quiet", "--set-upstream", "origin", "main"],
    );
    std::fs::create_dir(directory.join("plain")).unwrap();
}

/// The refusal of most: there is no repository.
fn nowhere(mut payload: Value) -> (Value, &'static str) {
    payload["path"] = json!("DIR/plain");
    (payload, "not_found")
}

fn said(answer: &Value) -> bool {
    answer["stdout"].is_string() && answer["stderr"].is_string()
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = questions();
    cases.extend(changes());
    cases.extend(refs());
    cases.extend(transfers());
    cases
}

fn questions() -> Vec<Case> {
    vec![
        case(
            "git.status",
            json!({ "path": "DIR/repo" }),
            |answer, _| {
                (&answer["branch"], &answer["clean"], &answer["ahead"])
                    == (&json!("main"), &json!(true), &json!(0))
            },
            nowhere(json!({})),
        ),
        case(
            "git.log",
            json!({ "path": "DIR/repo/file" , "file": "file" }),
            |answer, _| answer["commits"][0]["message"] == "first\n" && answer["hasMore"] == false,
            (json!({ "path": "DIR/repo", "revision": "none" }), "not_found"),
        ),
        case(
            "git.show",
            json!({ "path": "DIR/repo", "file": "file" }),
            |answer, _| answer["file"]["content"] == "one\n",
            (json!({ "path": "DIR/repo", "file": "none" }), "not_found"),
        ),
        case(
            "git.blame",
            json!({ "path": "DIR/repo", "file": "file" }),
            |answer, _| answer["hunks"][0]["author"]["name"] == "A U Thor",
            (json!({ "path": "DIR/repo", "file": "none" }), "not_found"),
        ),
        case(
            "git.branches",
            json!({ "path": "DIR/repo" }),
            |answer, _| answer["branches"][0]["current"] == true,
            nowhere(json!({})),
        ),
        case(
            "git.remotes",
            json!({ "path": "DIR/repo" }),
            |answer, _| answer["remotes"][0] == json!({ "name": "origin", "url": "../origin.git" }),
            nowhere(json!({})),
        ),
        case(
            "git.worktrees",
            json!({ "path": "DIR/repo" }),
            |answer, _| answer["worktrees"].as_array().unwrap().len() == 1,
            nowhere(json!({})),
        ),
        case(
            "git.discover",
            json!({ "path": "DIR" }),
            |answer, _| answer["repositories"].as_array().unwrap().len() == 2,
            (json!({ "path": "DIR/none" }), "not_found"),
        ),
    ]
}

fn changes() -> Vec<Case> {
    vec![
        case(
            "git.init",
            json!({ "path": "DIR/plain", "branch": "trunk" }),
            |_, directory| directory.join("plain/.git/HEAD").is_file(),
            (json!({ "path": "DIR/repo/file" }), "conflict"),
        ),
        case(
            "git.add",
            json!({ "path": "DIR/repo", "all": true }),
            |answer, _| said(answer),
            (json!({ "path": "DIR/repo" }), "invalid_request"),
        ),
        case(
            "git.restore",
            json!({ "path": "DIR/repo", "files": ["file"] }),
            |answer, _| said(answer),
            (json!({ "path": "DIR/repo", "files": ["none"] }), "conflict"),
        ),
        case(
            "git.commit",
            json!({ "path": "DIR/repo", "message": "second", "allowEmpty": true, "signOff": true }),
            |answer, directory| {
                said(answer)
                    && git(&directory.join("repo"), &["log", "-1", "--format=%B"])
                        .starts_with("second\n\nSigned-off-by: ")
            },
            (json!({ "path": "DIR/repo" }), "invalid_request"),
        ),
        case(
            "git.diff",
            json!({ "path": "DIR/repo", "from": "HEAD~1", "to": "HEAD" }),
            |answer, _| answer == &json!({ "files": [], "text": "" }),
            (json!({ "path": "DIR/repo", "of": "nothing" }), "invalid_request"),
        ),
        case(
            "git.push",
            json!({ "path": "DIR/repo" }),
            |answer, directory| {
                said(answer)
                    && git(&directory.join("origin.git"), &["log", "--format=%s"]).starts_with("second\n")
            },
            (json!({ "path": "DIR/repo", "remote": "none" }), "not_found"),
        ),
        case(
            "git.reset",
            json!({ "path": "DIR/repo", "mode": "hard", "revision": "HEAD~1" }),
            |answer, directory| {
                said(answer) && git(&directory.join("repo"), &["log", "--format=%s"]) == "first\n"
            },
            (
                json!({ "path": "DIR/repo", "revision": "--hard" }),
                "invalid_request",
            ),
        ),
        case(
            "git.pull",
            json!({ "path": "DIR/repo", "fastForwardOnly": true }),
            |answer, directory| {
                said(answer) && git(&directory.join("repo"), &["log", "--format=%s"]) == "second\nfirst\n"
            },
            (json!({ "path": "DIR/repo", "branch": "none" }), "conflict"),
        ),
        case(
            "git.stash",
            json!({ "path": "DIR/repo", "verb": "list" }),
            |answer, _| answer["stdout"] == "",
            (json!({ "path": "DIR/repo", "verb": "pop" }), "conflict"),
        ),
    ]
}

fn refs() -> Vec<Case> {
    vec![
        case(
            "git.branch.create",
            json!({ "path": "DIR/repo", "name": "feature" }),
            |answer, _| said(answer),
            (json!({ "path": "DIR/repo", "name": "-f" }), "invalid_request"),
        ),
        case(
            "git.switch",
            json!({ "path": "DIR/repo", "to": "feature" }),
            |_, directory| git(&directory.join("repo"), &["branch", "--show-current"]) == "feature\n",
            (json!({ "path": "DIR/repo", "to": "none" }), "not_found"),
        ),
        case(
            "git.switch",
            json!({ "path": "DIR/repo", "to": "main" }),
            |_, directory| git(&directory.join("repo"), &["branch", "--show-current"]) == "main\n",
            (json!({ "path": "DIR/repo" }), "invalid_request"),
        ),
        case(
            "git.branch.delete",
            json!({ "path": "DIR/repo", "name": "feature" }),
            |answer, _| said(answer),
            (json!({ "path": "DIR/repo", "name": "none" }), "not_found"),
        ),
        case(
            "git.tag",
            json!({ "path": "DIR/repo", "name": "v1", "message": "one" }),
            |_, directory| git(&directory.join("repo"), &["tag", "--list"]) == "v1\n",
            (
                json!({ "path": "DIR/repo", "name": "v2", "revision": "none" }),
                "not_found",
            ),
        ),
        case(
            "git.remote.set",
            json!({ "path": "DIR/repo", "name": "other", "url": "https://example.com/x" }),
            |_, directory| {
                git(&directory.join("repo"), &["remote", "get-url", "other"]) == "https://example.com/x\n"
            },
            (
                json!({ "path": "DIR/repo", "name": "other", "url": "https://me:hush@example.com/x" }),
                "invalid_request",
            ),
        ),
        case(
            "git.worktree.add",
            json!({ "path": "DIR/repo", "worktree": "../tree 2", "branch": "second" }),
            |_, directory| directory.join("tree 2/file").is_file(),
            (json!({ "path": "DIR/repo" }), "invalid_request"),
        ),
        case(
            "git.worktree.remove",
            json!({ "path": "DIR/repo", "worktree": "../tree 2" }),
            |_, directory| !directory.join("tree 2").exists(),
            (json!({ "path": "DIR/repo", "worktree": "../none" }), "conflict"),
        ),
    ]
}

fn transfers() -> Vec<Case> {
    vec![
        case(
            "git.clone",
            json!({ "path": "DIR/cloned", "url": "origin.git", "depth": 1 }),
            |answer, directory| said(answer) && directory.join("cloned/file").is_file(),
            (json!({ "path": "DIR/again", "url": "no-such.git" }), "not_found"),
        ),
        case(
            "git.fetch",
            json!({ "path": "DIR/cloned", "prune": true }),
            |answer, _| said(answer),
            (json!({ "path": "DIR/repo", "remote": "none" }), "not_found"),
        ),
    ]
}
