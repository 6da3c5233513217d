//! What keeps a request from doing more than it says: mounts below a tree, permissions that root's power would hide.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use serde_json::json;

use crate::harness::Daemon;
use crate::harness::daemon::Builder;

/// A daemon of user 0 whom the kernel checks like everybody else.
fn powerless(script: &str) -> Builder {
    Daemon::builder().prelude(&format!(
        "{script}\nexec setpriv --bounding-set -all --inh-caps -all \"$0\" \"$@\""
    ))
}

fn mode(path: impl AsRef<Path>) -> u32 {
    path.as_ref().symlink_metadata().unwrap().mode() & 0o7777
}

#[tokio::test]
async fn what_is_mounted_inside_a_removed_tree_stays() {
    let mounted = "mkdir -p \"$WORKSPACE/tree/deep/mounted\"; mount -t tmpfs tmpfs \"$WORKSPACE/tree/deep/mounted\"; \
                   echo precious > \"$WORKSPACE/tree/deep/mounted/kept\"; \
                   mkdir \"$WORKSPACE/itself\"; mount --bind \"$WORKSPACE/tree/deep\" \"$WORKSPACE/itself\"; \
                   echo bound > \"$WORKSPACE/itself/file\"";
    let daemon = Daemon::builder().namespace(mounted).start();
    let http = daemon.http();
    for path in ["tree", "itself"] {
        let answer = http
            .delete(&format!("/v1/fs/entry?path={path}&recursive=true"))
            .await;
        let problem = answer.problem(409, "conflict");
        assert!(
            problem["detail"].as_str().unwrap().contains("mounted"),
            "{problem}"
        );
        let kept = http.get("/v1/fs/file?path=tree/deep/mounted/kept").await;
        assert_eq!(kept.text(), "precious\n", "after removing {path}");
    }
    let moved = json!({ "from": "tree", "to": "/dev/shm/never", "overwrite": false });
    http.post("/v1/fs/move", &moved).await;
    let kept = http.get("/v1/fs/file?path=tree/deep/mounted/kept").await;
    assert_eq!(kept.text(), "precious\n", "after a move to another file system");
    assert!(!Path::new("/dev/shm/never").exists());
}

/// A directory that can be written would allow to replace every file in it.
#[tokio::test]
async fn a_file_that_may_not_be_written_is_not_replaced_either() {
    let daemon = powerless("echo old > \"$WORKSPACE/file\"; chmod 444 \"$WORKSPACE/file\"").start();
    let http = daemon.http();
    for append in ["", "&append=true"] {
        let answer = http.put(&format!("/v1/fs/file?path=file{append}"), "new").await;
        answer.problem(403, "permission_denied");
        assert_eq!(std::fs::read(daemon.workspace().join("file")).unwrap(), b"old\n");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_counted_beside_what_can() {
    let closed = "mkdir -p \"$WORKSPACE/closed/inside\" \"$WORKSPACE/open\"; chmod 000 \"$WORKSPACE/closed\"";
    let daemon = powerless(closed).start();
    let http = daemon.http();
    let listing = http.get("/v1/fs/entries?recursive=true").await;
    let names: Vec<_> = listing
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["name"].clone())
        .collect();
    assert_eq!(names, ["closed", "open"]);
    assert_eq!(listing.header("x-unreadable-entries"), "1");
    http.get("/v1/fs/entries?path=closed")
        .await
        .problem(403, "permission_denied");
}

#[tokio::test]
async fn unpacked_directories_get_their_bits_whatever_those_above_forbid() {
    let daemon = powerless("").start();
    let mut archive = tar::Builder::new(Vec::new());
    for (path, mode) in [("top/private", 0o700), ("top", 0o600), ("top/later", 0o711)] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(mode);
        header.set_mtime(1_000_000);
        archive.append_data(&mut header, path, std::io::empty()).unwrap();
    }
    let http = daemon.http();
    let request = http
        .request(hyper::Method::POST, "/v1/fs/upload-batch?path=.")
        .body(http_body_util::Full::from(archive.into_inner().unwrap()))
        .unwrap();
    let answer = http.send(request).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let top = daemon.workspace().join("top");
    assert_eq!(
        (mode(top.join("private")), mode(&top), mode(top.join("later"))),
        (0o700, 0o600, 0o711)
    );
}

#[tokio::test]
async fn a_move_whose_source_cannot_go_is_taken_back_or_says_that_both_are_there() {
    let other = tempfile::tempdir_in("/dev/shm").unwrap();
    std::fs::create_dir(other.path().join("tree")).unwrap();
    for name in ["file", "tree/file"] {
        std::fs::write(other.path().join(name), "content").unwrap();
    }
    symlink("file", other.path().join("link")).unwrap();
    let daemon = powerless("").start();
    assert_ne!(
        other.path().metadata().unwrap().dev(),
        daemon.workspace().metadata().unwrap().dev(),
        "/dev/shm must be another file system"
    );
    std::fs::set_permissions(other.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
    let http = daemon.http();
    let across = |name: &str, overwrite: bool| {
        let (from, to) = (other.path().join(name), name.to_owned());
        json!({ "from": from, "to": to, "overwrite": overwrite })
    };
    for name in ["file", "link"] {
        let answer = http.post("/v1/fs/move", &across(name, false)).await;
        answer.problem(403, "permission_denied");
        assert!(other.path().join(name).symlink_metadata().is_ok());
        assert!(
            daemon.workspace().join(name).symlink_metadata().is_err(),
            "{name}"
        );
    }
    std::fs::write(daemon.workspace().join("file"), "old").unwrap();
    for (name, content) in [("file", "file"), ("tree", "tree/file")] {
        let problem = http.post("/v1/fs/move", &across(name, true)).await;
        let problem = problem.problem(409, "conflict");
        assert!(
            problem["detail"].as_str().unwrap().contains("whole copy"),
            "{problem}"
        );
        let copy = daemon.workspace().join(content);
        assert_eq!(std::fs::read(copy).unwrap(), b"content");
    }
}
