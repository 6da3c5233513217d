//! Repositories of other kinds: submodules, worktrees of bare ones, formats that are not known, more changes than are answered;
//! and names that are not there, or there already.

use std::path::Path;

use serde_json::{Value, json};

use crate::git_repositories::{codes, start, status};
use crate::harness::processes;
use crate::parity_git::git;

#[tokio::test]
async fn worktrees_are_those_of_the_repository_also_of_bare_ones_and_submodules() {
    let (daemon, http, root) = start();
    let workspace = daemon.workspace();
    git(&workspace, &["clone", "--quiet", "--bare", "repo", "bare.git"]);
    let add = ["worktree", "add", "--quiet", "../of-bare", "main"];
    git(&workspace.join("bare.git"), &add);
    let worktrees = http.get("/v1/git/worktrees?path=of-bare").await.json();
    let all = worktrees["worktrees"].as_array().unwrap();
    let names: Vec<_> = all.iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["of-bare"], "{worktrees}");

    let allowed = "protocol.file.allow=always";
    let add = ["-c", allowed, "submodule", "--quiet", "add", "../bare.git", "sub"];
    git(&root, &add);
    let worktrees = http.get("/v1/git/worktrees?path=repo/sub").await.json();
    let path = worktrees["worktrees"][0]["path"].as_str().unwrap();
    let submodule = std::fs::canonicalize(root.join("sub")).unwrap();
    assert_eq!(Path::new(path), submodule, "{worktrees}");
    let added = |path: &str| (path.to_owned(), "A.".to_owned());
    let found = status(&http, "path=repo").await;
    assert_eq!(codes(&found), [added(".gitmodules"), added("sub")]);
    git(&root, &["commit", "--quiet", "-m", "with a submodule"]);
    std::fs::write(submodule.join("file"), "changed\n").unwrap();
    let found = status(&http, "path=repo").await;
    assert_eq!(codes(&found), [("sub".to_owned(), ".M".to_owned())]);
}

#[tokio::test]
async fn a_format_that_is_not_known_is_named() {
    let (daemon, http, _) = start();
    let other = daemon.workspace().join("other");
    git(&daemon.workspace(), &["init", "--quiet", "other"]);
    git(&other, &["config", "core.repositoryFormatVersion", "1"]);
    git(&other, &["config", "extensions.somethingNew", "true"]);
    let answer = http.get("/v1/git/status?path=other").await;
    let problem = answer.problem(501, "unsupported");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("extensions.somethingnew"), "{problem}");
}

#[tokio::test]
async fn what_is_not_there_or_there_already_is_told_apart_from_other_refusals() {
    let (daemon, http, root) = start();
    std::fs::create_dir(daemon.workspace().join("plain")).unwrap();
    git(&root, &["tag", "v1"]);
    git(&root, &["update-ref", "refs/remotes/far/there", "HEAD"]);
    git(&root, &["remote", "add", "far", "https://example.com/x.git"]);
    let cases = [
        ("add", json!({ "path": "plain", "all": true }), 404, "repository"),
        ("fetch", json!({ "path": "plain" }), 404, "repository"),
        ("switch", json!({ "to": "none" }), 404, "revision"),
        ("reset", json!({ "revision": "none" }), 404, "revision"),
        (
            "restore",
            json!({ "files": ["file"], "source": "none" }),
            404,
            "revision",
        ),
        (
            "branches",
            json!({ "name": "new", "start": "none" }),
            404,
            "revision",
        ),
        ("branches", json!({ "name": "main" }), 409, "branch"),
        ("branches/delete", json!({ "name": "none" }), 404, "branch"),
        ("tags", json!({ "name": "v1" }), 409, "tag"),
        ("tags", json!({ "name": "none", "delete": true }), 404, "tag"),
        ("remotes", json!({ "name": "none" }), 404, "remote"),
        ("push", json!({ "remote": "none" }), 404, "remote"),
        ("restore", json!({ "files": ["none"] }), 409, "pathspec"),
    ];
    for (route, mut body, code, word) in cases {
        if body["path"] == Value::Null {
            body["path"] = json!("repo");
        }
        let answer = http.post(&format!("/v1/git/{route}"), &body).await;
        assert_eq!(answer.status, code, "{route} {body}: {}", answer.text());
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(word), "{route} {body}: {detail}");
    }
    // A branch that only a remote has is there.
    let there = http
        .post("/v1/git/switch", &json!({ "path": "repo", "to": "there" }))
        .await;
    assert_eq!(there.status, 200, "{}", there.text());
}

#[tokio::test]
async fn a_huge_diff_is_answered_in_part_that_says_so() {
    let (daemon, http, root) = start();
    std::fs::write(root.join("file"), "a line\n".repeat(2_000_000)).unwrap();
    std::fs::write(root.join("last"), "the last\n").unwrap();
    git(&root, &["add", "."]);
    let diff = http.get("/v1/git/diff?path=repo&of=index").await.json();
    let files = diff["files"].as_array().unwrap();
    assert_eq!(
        (&files[0]["added"], &files[1]["added"]),
        (&json!(2_000_000), &json!(1))
    );
    let text = diff["text"].as_str().unwrap();
    let left = diff["leftOutBytes"].as_u64().unwrap();
    assert!(text.ends_with("+a line\n") && left > 5_000_000, "{left}");
    // The lines end where the text ends.
    let lines = files[0]["hunks"][0]["lines"].as_array().unwrap();
    let body = text.split_once("@@\n").unwrap().1;
    assert_eq!(lines.len(), body.lines().count());
    assert_eq!(files[1]["hunks"], json!([]));
    let (_, peak) = processes::resident(daemon.pid());
    assert!(peak < 384 << 20, "{peak} bytes");
}
