//! Repositories as they are found: odd names, states that are not the usual ones, hostile ones, and ones of others.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response::Result as Outcome;
use boxd::wire::proto::{GitOp, GitRequest};
use serde_json::{Value, json};

use crate::harness::{Daemon, Http, Ways, write_program};
use crate::parity_git::{FIXED, git};

/// A daemon with a repository `repo` of one commit.
pub(crate) fn start() -> (Daemon, Http, PathBuf) {
    let mut builder = Daemon::builder();
    for (name, value) in FIXED {
        builder = builder.environment(name, value);
    }
    let daemon = builder.start();
    let repository = repository(&daemon.workspace(), "repo");
    let http = daemon.http();
    (daemon, http, repository)
}

pub(crate) fn repository(workspace: &Path, name: &str) -> PathBuf {
    let repository = workspace.join(name);
    std::fs::create_dir(&repository).unwrap();
    git(&repository, &["init", "--quiet", "--initial-branch=main"]);
    std::fs::write(repository.join("file"), "one\ntwo\nthree\n").unwrap();
    git(&repository, &["add", "."]);
    git(&repository, &["commit", "--quiet", "-m", "first"]);
    repository
}

pub(crate) async fn status(http: &Http, query: &str) -> Value {
    let answer = http.get(&format!("/v1/git/status?{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

pub(crate) fn codes(status: &Value) -> Vec<(String, String)> {
    let entries = status["entries"].as_array().unwrap();
    let code = |entry: &Value| {
        let text = |field: &str| entry[field].as_str().unwrap().to_owned();
        (text("path"), text("index") + &text("worktree"))
    };
    entries.iter().map(code).collect()
}

#[tokio::test]
async fn a_status_is_right_for_every_name_and_change() {
    let (_daemon, http, root) = start();
    for name in [
        "staged",
        "with space",
        "quo\"te",
        "new\nline",
        "to rename",
        "gone",
    ] {
        std::fs::write(root.join(name), format!("content of {name}\n").repeat(20)).unwrap();
    }
    let odd = OsStr::from_bytes(b"odd \xff");
    std::fs::write(root.join(odd), "x").unwrap();
    git(&root, &["add", "."]);
    git(&root, &["commit", "--quiet", "-m", "second"]);
    git(&root, &["mv", "to rename", "renamed"]);
    std::fs::write(root.join("staged"), "other").unwrap();
    git(&root, &["add", "staged"]);
    for name in ["with space", "quo\"te", "new\nline"] {
        std::fs::write(root.join(name), "other").unwrap();
    }
    std::fs::write(root.join(odd), "other").unwrap();
    std::fs::remove_file(root.join("gone")).unwrap();
    std::fs::write(root.join("untracked"), "x").unwrap();
    std::fs::write(root.join(".gitignore"), "*.log\n").unwrap();
    std::fs::write(root.join("a.log"), "x").unwrap();
    let found = status(&http, "path=repo&ignored=true").await;
    let expected = [
        (".gitignore", "??"),
        ("a.log", "!!"),
        ("gone", ".D"),
        ("new\nline", ".M"),
        ("odd \u{fffd}", ".M"),
        ("quo\"te", ".M"),
        ("renamed", "R."),
        ("staged", "M."),
        ("untracked", "??"),
        ("with space", ".M"),
    ];
    assert_eq!(
        codes(&found),
        expected.map(|(path, code)| (path.to_owned(), code.to_owned()))
    );
    assert_eq!(found["entries"][6]["oldPath"], "to rename");
    assert_eq!(found["entries"][4]["pathB64"], "b2RkIP8=");
    assert_eq!(found["clean"], false);
}

#[tokio::test]
async fn unusual_states_have_right_answers_or_clear_errors() {
    let (daemon, http, root) = start();
    let workspace = daemon.workspace();
    let unborn = workspace.join("unborn");
    std::fs::create_dir(&unborn).unwrap();
    git(&unborn, &["init", "--quiet", "--initial-branch=trunk"]);
    let found = status(&http, "path=unborn").await;
    assert_eq!(
        (&found["branch"], &found["head"]),
        (&json!("trunk"), &Value::Null)
    );
    assert_eq!(
        http.get("/v1/git/log?path=unborn").await.json()["commits"],
        json!([])
    );

    git(&workspace, &["clone", "--quiet", "--bare", "repo", "bare.git"]);
    http.get("/v1/git/status?path=bare.git")
        .await
        .problem(409, "conflict");
    assert_eq!(
        http.get("/v1/git/log?path=bare.git").await.json()["commits"][0]["message"],
        "first\n"
    );

    git(
        &workspace,
        &[
            "clone",
            "--quiet",
            "--depth=1",
            &format!("file://{}", root.display()),
            "shallow",
        ],
    );
    assert_eq!(
        http.get("/v1/git/log?path=shallow").await.json()["hasMore"],
        false
    );

    git(&root, &["worktree", "add", "--quiet", "../linked", "-b", "side"]);
    assert_eq!(status(&http, "path=linked").await["branch"], "side");
    let worktrees = http.get("/v1/git/worktrees?path=linked").await.json();
    assert_eq!(worktrees["worktrees"][1]["name"], "linked", "{worktrees}");

    git(
        &workspace,
        &["init", "--quiet", "--object-format=sha256", "sha256"],
    );
    http.get("/v1/git/status?path=sha256")
        .await
        .problem(501, "unsupported");
    http.get("/v1/git/status?path=.").await.problem(404, "not_found");
    http.get("/v1/git/status?path=none")
        .await
        .problem(404, "not_found");

    git(&root, &["checkout", "--quiet", "--detach"]);
    let detached = status(&http, "path=repo").await;
    assert!(
        detached["branch"].is_null() && detached["head"].is_string(),
        "{detached}"
    );
    for wrong in ["nope", "--all", "HEAD~99", ""] {
        let answer = http
            .get(&format!("/v1/git/show?path=repo&revision={wrong}"))
            .await;
        answer.problem(404, "not_found");
    }
}

#[tokio::test]
async fn conflicts_have_their_stages() {
    let (_daemon, http, root) = start();
    git(&root, &["checkout", "--quiet", "-b", "other"]);
    std::fs::write(root.join("file"), "theirs\n").unwrap();
    git(&root, &["commit", "--quiet", "-am", "theirs"]);
    git(&root, &["checkout", "--quiet", "main"]);
    std::fs::write(root.join("file"), "ours\n").unwrap();
    git(&root, &["commit", "--quiet", "-am", "ours"]);
    let merged = std::process::Command::new("git")
        .args(["merge", "other"])
        .envs(FIXED)
        .current_dir(&root)
        .output();
    assert!(!merged.unwrap().status.success());
    let found = status(&http, "path=repo").await;
    assert_eq!(found["operation"], "merge");
    let entry = &found["entries"][0];
    assert_eq!(
        (&entry["index"], &entry["worktree"]),
        (&json!("U"), &json!("U")),
        "{found}"
    );
    assert_eq!(entry["stages"], json!([1, 2, 3]));
}

#[tokio::test]
async fn a_diff_knows_renames_binaries_and_lines() {
    let (_daemon, http, root) = start();
    std::fs::write(
        root.join("long"),
        (0..50)
            .map(|line| format!("{line}\n"))
            .collect::<Vec<_>>()
            .concat(),
    )
    .unwrap();
    std::fs::write(root.join("blob"), b"\0\x01").unwrap();
    git(&root, &["add", "."]);
    git(&root, &["commit", "--quiet", "-m", "second"]);
    git(&root, &["mv", "long", "moved"]);
    std::fs::write(root.join("blob"), b"\0\x02").unwrap();
    std::fs::write(root.join("file"), "one\n2\nthree\nfour").unwrap();
    git(&root, &["add", "."]);
    let diff = http.get("/v1/git/diff?path=repo&of=index").await.json();
    let files = diff["files"].as_array().unwrap();
    let named = |path: &str| files.iter().find(|file| file["path"] == path).unwrap();
    assert_eq!(named("blob")["binary"], true);
    assert_eq!(
        (&named("moved")["status"], &named("moved")["oldPath"]),
        (&json!("renamed"), &json!("long"))
    );
    let file = named("file");
    assert_eq!(
        (&file["added"], &file["removed"]),
        (&json!(2), &json!(1)),
        "{file}"
    );
    let kinds: Vec<_> = file["hunks"][0]["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["type"].clone())
        .collect();
    assert_eq!(
        kinds,
        ["context", "removed", "added", "context", "added", "no_newline"]
    );
    // What is answered is what git applies.
    let patch = root.join("../patch");
    std::fs::write(&patch, diff["text"].as_str().unwrap()).unwrap();
    assert!(diff["text"].as_str().unwrap().contains("rename from long"));
    let stat = http.get("/v1/git/diff?path=repo&of=index&stat=true").await.json();
    assert_eq!(
        (&stat["text"], &stat["files"][1]["hunks"]),
        (&json!(""), &json!([]))
    );
}

#[tokio::test]
async fn a_lock_of_another_git_is_to_be_waited_for() {
    let (_daemon, http, root) = start();
    std::fs::write(root.join(".git/index.lock"), "").unwrap();
    let body = json!({ "path": "repo", "all": true });
    let problem = http.post("/v1/git/add", &body).await.problem(503, "overloaded");
    assert!(
        problem["detail"].as_str().unwrap().contains("index.lock"),
        "{problem}"
    );
    std::fs::remove_file(root.join(".git/index.lock")).unwrap();
    assert_eq!(http.post("/v1/git/add", &body).await.status, 200);
}

#[tokio::test]
async fn a_hook_that_hangs_is_ended_with_its_children() {
    let (daemon, http, root) = start();
    let hook = root.join(".git/hooks/pre-commit");
    let pid = daemon.workspace().join("pid");
    // With "all" the index is locked while the hook runs.
    std::fs::write(root.join("file"), "changed\n").unwrap();
    write_program(
        &hook,
        format!("#!/bin/sh\necho $$ >'{}'\nsleep 1000 & wait\n", pid.display()),
    );
    let body = json!({ "path": "repo", "message": "x", "allowEmpty": true, "all": true, "timeoutMs": 2000 });
    let problem = http.post("/v1/git/commit", &body).await.problem(504, "timeout");
    // Some hooks hang behind the commit.
    assert_eq!(problem["retry"], "never", "{problem}");
    let pid: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    crate::harness::eventually("the end of the hook", Duration::from_secs(10), || {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None)
            .is_err()
            .then_some(())
    });
    let log = http.get("/v1/git/log?path=repo").await.json();
    assert_eq!(log["commits"].as_array().unwrap().len(), 1);
    // No lock is left that would keep the next one out.
    std::fs::remove_file(&hook).unwrap();
    let next = http.post("/v1/git/commit", &body).await;
    assert_eq!(next.status, 200, "{}", next.text());
}

#[tokio::test]
async fn where_git_knows_nobody_the_author_commits() {
    let daemon = Daemon::builder().start();
    let http = daemon.http();
    let author = "Some One <one@example.com>";
    for (route, body) in [
        ("init", json!({ "path": "made/here", "branch": "main" })),
        (
            "commit",
            json!({ "path": "made/here", "message": "m", "allowEmpty": true, "author": author }),
        ),
    ] {
        let answer = http.post(&format!("/v1/git/{route}"), &body).await;
        assert_eq!(answer.status, 200, "{route}: {}", answer.text());
    }
    let log = http.get("/v1/git/log?path=made/here").await.json();
    for who in ["author", "committer"] {
        assert_eq!(log["commits"][0][who]["email"], "one@example.com", "{log}");
        assert_eq!(log["commits"][0][who]["name"], "Some One", "{log}");
    }
}

#[tokio::test]
async fn what_is_committed_pushed_and_pulled_arrives_or_is_told_why_not() {
    let (daemon, http, root) = start();
    let workspace = daemon.workspace();
    git(&workspace, &["clone", "--quiet", "--bare", "repo", "origin.git"]);
    git(&root, &["remote", "add", "origin", "../origin.git"]);
    let message = "a message\n\nof \"many\" lines, é\n";
    std::fs::write(root.join("new"), "x").unwrap();
    for (route, body) in [
        ("add", json!({ "path": "repo", "all": true })),
        (
            "commit",
            json!({ "path": "repo", "message": message, "author": "Some One <one@example.com>" }),
        ),
        (
            "push",
            json!({ "path": "repo", "refspecs": ["main"], "setUpstream": true }),
        ),
    ] {
        let answer = http.post(&format!("/v1/git/{route}"), &body).await;
        assert_eq!(answer.status, 200, "{route}: {}", answer.text());
    }
    let log = http.get("/v1/git/log?path=origin.git&limit=1").await.json();
    assert_eq!(log["commits"][0]["message"], message);
    assert_eq!(log["commits"][0]["author"]["email"], "one@example.com");
    assert_eq!(log["hasMore"], true);

    // Somebody else was faster.
    let cloned = http
        .post("/v1/git/clone", &json!({ "url": "origin.git", "path": "other" }))
        .await;
    assert_eq!(cloned.status, 200, "{}", cloned.text());
    let empty = |path: &str| json!({ "path": path, "message": "m", "allowEmpty": true });
    assert_eq!(http.post("/v1/git/commit", &empty("other")).await.status, 200);
    assert_eq!(
        http.post("/v1/git/push", &json!({ "path": "other" }))
            .await
            .status,
        200
    );
    let differing = json!({ "path": "repo", "message": "another", "allowEmpty": true });
    assert_eq!(http.post("/v1/git/commit", &differing).await.status, 200);
    let rejected = http.post("/v1/git/push", &json!({ "path": "repo" })).await;
    let problem = rejected.problem(409, "conflict");
    assert!(
        problem["detail"].as_str().unwrap().contains("rejected"),
        "{problem}"
    );
    let diverged = json!({ "path": "repo", "fastForwardOnly": true });
    http.post("/v1/git/pull", &diverged)
        .await
        .problem(409, "conflict");
    assert_eq!(status(&http, "path=repo").await["ahead"], 1);
}

#[tokio::test]
async fn a_clone_tells_its_progress_through_nats() {
    let ways = Ways::start().await;
    let root = repository(&ways.daemon.workspace(), "repo");
    let url = format!("file://{}", root.display());
    let said = ways
        .stream("git.clone", &json!({ "url": url, "path": "cloned" }))
        .await;
    assert_eq!(said.last().unwrap()["type"], "done", "{said:?}");
    assert!(
        said.iter()
            .any(|line| line["type"] == "progress" && line["percent"] == 100),
        "{said:?}"
    );
    assert!(ways.daemon.workspace().join("cloned/file").is_file());
}

#[tokio::test]
async fn the_git_of_the_control_wire_fills_its_status() {
    let ways = Ways::start().await;
    let root = repository(&ways.daemon.workspace(), "repo");
    git(&root, &["mv", "file", "new name"]);
    std::fs::write(root.join("un tracked"), "x").unwrap();
    let ask = async |op: GitOp, args: &[&str]| {
        let request = GitRequest {
            op: op.into(),
            cwd: "repo".into(),
            args: args.iter().map(|word| (*word).to_owned()).collect(),
        };
        match ways.control.ask(Op::Git(request)).await.result {
            Some(Outcome::Git(answer)) => answer,
            other => panic!("{other:?}"),
        }
    };
    let answer = ask(GitOp::Status, &[]).await;
    let found = answer.status.unwrap();
    let files: Vec<_> = found
        .files
        .iter()
        .map(|file| (file.path.as_str(), file.code.as_str(), file.staged))
        .collect();
    assert_eq!(files, [("new name", "R.", true), ("un tracked", "??", false)]);
    assert_eq!((found.branch.as_str(), found.clean), ("main", false));
    let log = ask(GitOp::Log, &["--format=%s"]).await;
    assert_eq!(
        (log.exit_code, log.stdout.as_ref(), log.status),
        (0, &b"first\n"[..], None)
    );
    let raw = ask(GitOp::Raw, &["rev-parse", "--is-inside-work-tree"]).await;
    assert_eq!(raw.stdout.as_ref(), b"true\n");
    let wrong = ask(GitOp::Checkout, &["no-such-branch"]).await;
    assert_ne!(wrong.exit_code, 0);
    assert!(!wrong.stderr.is_empty());
}
