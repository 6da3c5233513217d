//! What is staged: the index is compared by what it notes of itself and by what was read of it before, and both are believed
//! only as long as they are true.

use std::collections::BTreeMap;
use std::path::Path;

use crate::git_repositories::{codes, repository, start, status};
use crate::parity_git::git;

/// What the program says: path, and both codes.
fn program_codes(root: &Path) -> Vec<(String, String)> {
    // It would write down what it saw, which we do not.
    let said = git(
        root,
        &[
            "--no-optional-locks",
            "status",
            "--porcelain=v2",
            "--untracked-files=all",
        ],
    );
    let mut codes: BTreeMap<String, String> = BTreeMap::new();
    for line in said.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let path = words[words.len() - 1].to_owned();
        // One that is to go and is there all the same has two lines, and one entry here.
        match (words[0], codes.get_mut(&path)) {
            ("?", Some(code)) => code.replace_range(1.., "?"),
            ("?", None) => drop(codes.insert(path, "??".into())),
            (_, _) => drop(codes.insert(path, words[1].into())),
        }
    }
    codes.into_iter().collect()
}

#[tokio::test]
async fn what_is_staged_is_known_whatever_the_index_notes_of_its_tree() {
    let (_daemon, http, root) = start();
    std::fs::create_dir_all(root.join("deep/er")).unwrap();
    for name in ["a", "deep/b", "deep/er/c"] {
        std::fs::write(root.join(name), name).unwrap();
    }
    std::fs::write(root.join("new"), "new").unwrap();
    let steps: [&[&str]; 15] = [
        &["add", "a", "deep"],
        &["commit", "--quiet", "-m", "second"],
        &["rm", "--quiet", "--cached", "deep/b"],
        &["reset", "--quiet"],
        &["update-index", "--chmod=+x", "deep/er/c"],
        &["checkout", "--quiet", "HEAD", "--", "."],
        &["add", "--intent-to-add", "new"],
        &["add", "new"],
        &["write-tree"],
        &["commit", "--quiet", "-m", "third"],
        &["reset", "--quiet", "--soft", "HEAD~1"],
        &["update-index", "--index-version", "4"],
        &["commit", "--quiet", "--amend", "-m", "other"],
        &["checkout", "--quiet", "--detach", "HEAD~1"],
        &["read-tree", "main"],
    ];
    for step in steps {
        git(&root, step);
        let index = std::fs::read(root.join(".git/index")).unwrap();
        let objects = git(&root, &["count-objects"]);
        let found = codes(&status(&http, "path=repo").await);
        assert_eq!(found, program_codes(&root), "behind {step:?}");
        assert_eq!(git(&root, &["count-objects"]), objects, "behind {step:?}");
        let index_now = std::fs::read(root.join(".git/index")).unwrap();
        assert_eq!(index_now, index, "behind {step:?}");
    }
}

#[tokio::test]
async fn an_index_that_was_read_is_not_believed_when_it_is_gone_broken_or_of_another_repository() {
    let (daemon, http, root) = start();
    let index = root.join(".git/index");
    let clean = async || status(&http, "path=repo").await["clean"] == true;
    assert!(clean().await);
    let content = std::fs::read(&index).unwrap();
    std::fs::remove_file(&index).unwrap();
    let gone = codes(&status(&http, "path=repo").await);
    assert_eq!(gone, [("file".to_owned(), "D?".to_owned())]);
    std::fs::write(&index, &content).unwrap();
    assert!(clean().await);
    let mut broken = content.clone();
    let last = broken.len() - 1;
    broken[last] ^= 1;
    std::fs::write(&index, &broken).unwrap();
    let answer = http.get("/v1/git/status?path=repo").await;
    assert_eq!(answer.status, 409, "{}", answer.text());
    std::fs::write(&index, &content).unwrap();
    assert!(clean().await);
    std::fs::remove_dir_all(&root).unwrap();
    http.get("/v1/git/status?path=repo")
        .await
        .problem(404, "not_found");
    repository(&daemon.workspace(), "repo");
    std::fs::write(root.join("other"), "x").unwrap();
    git(&root, &["add", "other"]);
    let other = codes(&status(&http, "path=repo").await);
    assert_eq!(other, [("other".to_owned(), "A.".to_owned())]);
    // What it is to be compared with is read anew, too.
    git(&root, &["config", "core.fileMode", "false"]);
    let set = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(root.join("file"), set).unwrap();
    assert_eq!(codes(&status(&http, "path=repo").await), other);
    git(&root, &["config", "core.fileMode", "true"]);
    assert_eq!(codes(&status(&http, "path=repo").await)[0].1, ".M");
}
