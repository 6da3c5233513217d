//! Symbolic and hard links, through both doors: what is written through, what is looked at, what is removed.

use std::os::unix::fs::{MetadataExt, symlink};

use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response::Result as Outcome;
use boxd::wire::proto::{
    ErrorCode, Extension, FsEntryKind, FsListRequest, FsRemoveRequest, FsStatRequest, FsWriteRequest,
};
use serde_json::json;

use crate::harness::Ways;

async fn answered(ways: &Ways, op: Op) -> Outcome {
    let answer = ways.control.ask(op).await;
    answer.result.unwrap_or_else(|| panic!("{:?}", answer.error))
}

#[tokio::test]
async fn links_are_written_through_looked_at_and_removed_as_links() {
    let ways = Ways::start().await;
    let workspace = ways.daemon.workspace();
    std::fs::create_dir(workspace.join("real")).unwrap();
    std::fs::write(workspace.join("real/file"), "old").unwrap();
    symlink("real/file", workspace.join("link")).unwrap();
    symlink("real", workspace.join("directory link")).unwrap();
    symlink("real/not yet", workspace.join("dangling")).unwrap();
    symlink("loop", workspace.join("loop")).unwrap();

    let put = ways.http.put("/v1/fs/file?path=link", "through http").await;
    assert_eq!(
        (put.status.as_u16(), put.json()["atomic"].as_bool()),
        (200, Some(true)),
        "{}",
        put.text()
    );
    assert_eq!(
        std::fs::read(workspace.join("real/file")).unwrap(),
        b"through http"
    );
    let write = |path: &str| {
        Op::FsWrite(FsWriteRequest {
            path: path.into(),
            content: b"wire".as_slice().into(),
            ..FsWriteRequest::default()
        })
    };
    answered(&ways, write("directory link/file")).await;
    answered(&ways, write("dangling")).await;
    assert_eq!(std::fs::read(workspace.join("real/file")).unwrap(), b"wire");
    assert_eq!(std::fs::read(workspace.join("real/not yet")).unwrap(), b"wire");
    assert!(workspace.join("dangling").is_symlink(), "the link itself stays");
    assert_eq!(
        ways.control
            .ask(write("loop"))
            .await
            .error
            .expect("a loop")
            .code(),
        ErrorCode::Os
    );
    ways.http
        .put("/v1/fs/file?path=loop", "x")
        .await
        .problem(400, "invalid_request");

    let stat = Op::FsStat(FsStatRequest { path: "link".into() });
    let Outcome::FsStat(stat) = answered(&ways, stat).await else {
        panic!()
    };
    assert_eq!(stat.entry.unwrap().kind(), FsEntryKind::Symlink);
    let entry = ways.http.get("/v1/fs/stat?path=link").await.json();
    assert_eq!(
        (entry["kind"].as_str(), entry["target"].as_str()),
        (Some("symlink"), Some("real/file"))
    );
    let list = Op::FsList(FsListRequest {
        path: String::new(),
        recursive: true,
    });
    let Outcome::FsList(list) = answered(&ways, list).await else {
        panic!()
    };
    assert!(
        !list
            .entries
            .iter()
            .any(|entry| entry.path.starts_with("directory link/")),
        "{list:?}"
    );

    let remove = Op::FsRemove(FsRemoveRequest {
        path: "directory link".into(),
        recursive: true,
    });
    answered(&ways, remove).await;
    assert_eq!(ways.http.delete("/v1/fs/entry?path=link").await.status, 200);
    assert!(!workspace.join("directory link").is_symlink() && !workspace.join("link").is_symlink());
    assert_eq!(
        std::fs::read(workspace.join("real/file")).unwrap(),
        b"wire",
        "what they led to is untouched"
    );
}

/// A rename would tear the names apart: the wire refuses, HTTP writes in place and says so.
#[tokio::test]
async fn a_file_with_two_names_keeps_both() {
    let ways = Ways::start().await;
    let workspace = ways.daemon.workspace();
    std::fs::write(workspace.join("one"), "old content").unwrap();
    std::fs::hard_link(workspace.join("one"), workspace.join("two")).unwrap();
    let write = FsWriteRequest {
        path: "one".into(),
        content: b"wire".as_slice().into(),
        ..FsWriteRequest::default()
    };
    let error = ways.control.refused(Op::FsWrite(write)).await;
    assert_eq!(error.code(), ErrorCode::Os, "{error:?}");
    assert!(
        error.message.contains("hard links") && error.message.contains("fs.in_place"),
        "{}",
        error.message
    );
    assert_eq!(std::fs::read(workspace.join("two")).unwrap(), b"old content");

    let put = ways.http.put("/v1/fs/file?path=one", "http").await;
    assert_eq!(
        (put.status.as_u16(), put.json()["atomic"].as_bool()),
        (200, Some(false)),
        "{}",
        put.text()
    );
    assert_eq!(std::fs::read(workspace.join("two")).unwrap(), b"http");
    let inode = |name: &str| std::fs::metadata(workspace.join(name)).unwrap().ino();
    assert_eq!(inode("one"), inode("two"));
    let payload = json!({ "path": "two", "content": "asked for", "inPlace": true }).to_string();
    let allowed = Extension {
        op: "fs.write".into(),
        payload: payload.into(),
    };
    let Outcome::Ext(answer) = answered(&ways, Op::Ext(allowed)).await else {
        panic!()
    };
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer["atomic"], false);
    assert_eq!(std::fs::read(workspace.join("one")).unwrap(), b"asked for");
    assert_eq!(
        std::fs::read_dir(&workspace).unwrap().count(),
        2,
        "no draft is left"
    );
}
