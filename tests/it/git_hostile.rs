//! Repositories that were made to hurt: their configuration, hooks and attributes name programs.

use std::path::Path;

use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response::Result as Outcome;
use boxd::wire::proto::{GitOp, GitRequest};

use crate::git_repositories::{repository, start};
use crate::harness::{Ways, write_program};
use crate::parity_git::git;

/// Has the repository name the program for everything that a look could run it for.
fn make_hostile(root: &Path, program: &Path) {
    for setting in [
        "core.fsmonitor",
        "diff.evil.textconv",
        "diff.evil.command",
        "diff.external",
        "core.pager",
        "core.sshCommand",
        "core.alternateRefsCommand",
        "core.askPass",
        "core.editor",
        "core.gitProxy",
        "credential.helper",
        "gpg.program",
        "merge.evil.driver",
        "pager.log",
        "pager.status",
        "uploadpack.packObjectsHook",
    ] {
        git(root, &["config", setting, program.to_str().unwrap()]);
    }
    git(root, &["config", "log.showSignature", "true"]);
    std::fs::write(
        root.join(".gitattributes"),
        "* filter=evil diff=evil merge=evil\n",
    )
    .unwrap();
    let hooks = git(root, &["rev-parse", "--git-path", "hooks"]);
    let hooks = root.join(hooks.trim());
    std::fs::create_dir_all(&hooks).unwrap();
    for hook in [
        "post-index-change",
        "pre-commit",
        "post-checkout",
        "fsmonitor-watchman",
    ] {
        std::fs::copy(program, hooks.join(hook)).unwrap();
    }
}

fn filter(root: &Path, program: &Path) {
    for setting in ["filter.evil.clean", "filter.evil.smudge", "filter.evil.process"] {
        git(root, &["config", setting, program.to_str().unwrap()]);
    }
}

/// Has the repository and a submodule of it name the program for everything, filters that are required among it, and changes
/// a file in each.
fn all_hostile(workspace: &Path, root: &Path, program: &Path) {
    repository(workspace, "other");
    let allowed = "protocol.file.allow=always";
    let add = ["-c", allowed, "submodule", "--quiet", "add", "../other", "sub"];
    git(root, &add);
    git(root, &["commit", "--quiet", "-m", "with a submodule"]);
    for at in [&root.join("sub"), root] {
        make_hostile(at, program);
        filter(at, program);
        git(at, &["config", "filter.evil.required", "true"]);
        std::fs::write(at.join("file"), "changed\n").unwrap();
    }
}

/// A program that leaves a mark, and where it leaves it.
fn program(workspace: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let (script, marker) = (workspace.join("evil.sh"), workspace.join("it ran"));
    write_program(&script, format!("#!/bin/sh\ntouch '{}'\ncat\n", marker.display()));
    (script, marker)
}

/// Whatever it is asked, a repository that names programs runs none of them.
#[tokio::test]
async fn reading_a_hostile_repository_runs_nothing() {
    let (daemon, http, root) = start();
    let workspace = daemon.workspace();
    let (script, marker) = program(&workspace);
    all_hostile(&workspace, &root, &script);
    let index = std::fs::read(root.join(".git/index")).unwrap();
    for path in [
        "status?path=repo&ignored=true",
        "status?path=repo/sub",
        "diff?path=repo",
        "diff?path=repo&of=head",
        "diff?path=repo&from=HEAD~1&to=HEAD",
        "log?path=repo",
        "show?path=repo&revision=HEAD",
        "blame?path=repo&file=file",
        "branches?path=repo",
        "remotes?path=repo",
        "worktrees?path=repo",
        "repositories",
    ] {
        let answer = http.get(&format!("/v1/git/{path}")).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    assert!(!marker.exists(), "a program of the repository ran");
    assert_eq!(
        std::fs::read(root.join(".git/index")).unwrap(),
        index,
        "the user's index was written"
    );
}

/// The questions of the control wire go to the git program, which is told to run nothing for them.
#[tokio::test]
async fn the_questions_of_the_control_wire_run_nothing_either() {
    let ways = Ways::start().await;
    let workspace = ways.daemon.workspace();
    let root = repository(&workspace, "repo");
    let (script, marker) = program(&workspace);
    all_hostile(&workspace, &root, &script);
    let index = std::fs::read(root.join(".git/index")).unwrap();
    for (op, args) in [
        (GitOp::Status, &[][..]),
        (GitOp::Diff, &[]),
        (GitOp::Diff, &["HEAD", "--", "file"]),
        (GitOp::Log, &["-p"]),
    ] {
        let request = GitRequest {
            op: op.into(),
            cwd: "repo".into(),
            args: args.iter().map(|word| (*word).to_owned()).collect(),
        };
        match ways.control.ask(Op::Git(request)).await.result {
            Some(Outcome::Git(answer)) => {
                let said = String::from_utf8_lossy(&answer.stderr).into_owned();
                assert_eq!(answer.exit_code, 0, "{op:?} {args:?}: {said}");
                assert!(!answer.stdout.is_empty(), "{op:?} {args:?}");
            }
            other => panic!("{other:?}"),
        }
        assert!(
            !marker.exists(),
            "{op:?} {args:?} ran a program of the repository"
        );
    }
    assert_eq!(
        std::fs::read(root.join(".git/index")).unwrap(),
        index,
        "the user's index was written"
    );
}
