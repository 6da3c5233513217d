//! Names that are hard to write down, and names that several writers want at once: through both doors.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response::Result as Outcome;
use boxd::wire::proto::{
    ErrorCode, Extension, FsEntryKind, FsListRequest, FsMoveRequest, FsReadRequest, FsRemoveRequest,
    FsStatRequest, FsWriteRequest,
};
use serde_json::{Value, json};

use crate::harness::Ways;

/// A name with everything that is special somewhere: lines, quotes, a query, a pattern, a leading dash.
const AWKWARD: &str = "-a\n'b'\"c\" d\\n%2F?*&é$(x)";
/// A name that no string can hold.
const NOT_UTF8: &[u8] = b"caf\xe9\n\xff";

async fn answered(ways: &Ways, op: Op) -> Outcome {
    let answer = ways.control.ask(op).await;
    answer.result.unwrap_or_else(|| panic!("{:?}", answer.error))
}

async fn extension(ways: &Ways, op: &str, payload: &Value) -> Value {
    let request = Extension {
        op: op.into(),
        payload: payload.to_string().into(),
    };
    match answered(ways, Op::Ext(request)).await {
        Outcome::Ext(answer) => serde_json::from_slice(&answer.payload).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Percent-encodes everything, so that nothing is left to guess.
fn encoded(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| format!("{text}%{byte:02X}"))
}

fn names_in(directory: &Path) -> Vec<OsString> {
    std::fs::read_dir(directory)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect()
}

#[tokio::test]
async fn an_awkward_name_passes_through_every_file_operation_of_the_wire() {
    let ways = Ways::start().await;
    let path = format!("directory/{AWKWARD}");
    let write = FsWriteRequest {
        path: path.clone(),
        content: b"content".as_slice().into(),
        create_parents: true,
        ..FsWriteRequest::default()
    };
    answered(&ways, Op::FsWrite(write)).await;
    assert_eq!(
        std::fs::read(ways.daemon.workspace().join("directory").join(AWKWARD)).unwrap(),
        b"content"
    );

    let list = FsListRequest {
        path: "directory".into(),
        recursive: false,
    };
    let Outcome::FsList(list) = answered(&ways, Op::FsList(list)).await else {
        panic!()
    };
    assert_eq!(
        (list.entries[0].name.as_str(), list.entries[0].path.as_str()),
        (AWKWARD, AWKWARD)
    );
    let Outcome::FsStat(stat) = answered(&ways, Op::FsStat(FsStatRequest { path: path.clone() })).await
    else {
        panic!()
    };
    let entry = stat.entry.unwrap();
    assert_eq!(
        (entry.name.as_str(), entry.size, entry.kind()),
        (AWKWARD, 7, FsEntryKind::File)
    );
    let read = FsReadRequest {
        path: path.clone(),
        ..FsReadRequest::default()
    };
    let Outcome::FsRead(read) = answered(&ways, Op::FsRead(read)).await else {
        panic!()
    };
    assert_eq!(read.content, "content");
    let moved = format!("directory/{AWKWARD} too");
    let rename = FsMoveRequest {
        from: path,
        to: moved.clone(),
        overwrite: false,
    };
    answered(&ways, Op::FsMove(rename)).await;
    answered(
        &ways,
        Op::FsRemove(FsRemoveRequest {
            path: moved,
            recursive: false,
        }),
    )
    .await;
    assert!(names_in(&ways.daemon.workspace().join("directory")).is_empty());
}

/// The `path` of the wire is a string, so there such names are listed with replacement characters, counted, and
/// reached by their bytes through the extension.
#[tokio::test]
async fn a_name_that_is_no_utf8_passes_through_both_doors() {
    let ways = Ways::start().await;
    let workspace = ways.daemon.workspace();
    let exact = workspace.join(OsStr::from_bytes(NOT_UTF8));
    let bytes = BASE64.encode(NOT_UTF8);
    let query = format!("?path={}", encoded(NOT_UTF8));

    let put = ways.http.put(&format!("/v1/fs/file{query}"), "over http").await;
    assert_eq!(put.status, 200, "{}", put.text());
    assert_eq!(put.json()["pathB64"], BASE64.encode(exact.as_os_str().as_bytes()));
    assert_eq!(std::fs::read(&exact).unwrap(), b"over http");
    let read = extension(&ways, "fs.read", &json!({ "pathB64": bytes })).await;
    assert_eq!(read["contentB64"], BASE64.encode("over http"));

    let write = extension(
        &ways,
        "fs.write",
        &json!({ "pathB64": bytes, "content": "over nats" }),
    )
    .await;
    assert_eq!(write["atomic"], true);
    assert_eq!(
        ways.http.get(&format!("/v1/fs/file{query}")).await.body,
        "over nats"
    );
    assert_eq!(names_in(&workspace), [OsStr::from_bytes(NOT_UTF8)]);

    for entry in [
        extension(&ways, "fs.stat", &json!({ "pathB64": bytes })).await["entry"].clone(),
        extension(&ways, "fs.list", &json!({})).await["entries"][0].clone(),
        ways.http.get(&format!("/v1/fs/stat{query}")).await.json(),
        ways.http.get("/v1/fs/entries").await.json()[0].clone(),
    ] {
        assert_eq!(entry["nameB64"], bytes, "{entry}");
        assert_eq!(entry["name"], "caf\u{fffd}\n\u{fffd}", "{entry}");
        assert_eq!(entry["size"], 9, "{entry}");
    }
    let list = FsListRequest::default();
    let Outcome::FsList(list) = answered(&ways, Op::FsList(list)).await else {
        panic!()
    };
    assert_eq!(list.entries.len(), 1, "it is listed all the same");

    extension(&ways, "fs.remove", &json!({ "pathB64": bytes })).await;
    assert!(names_in(&workspace).is_empty());
    ways.http.put(&format!("/v1/fs/file{query}"), "x").await;
    let gone = ways.http.delete(&format!("/v1/fs/entry{query}")).await;
    assert_eq!(gone.status, 200, "{}", gone.text());
    assert!(names_in(&workspace).is_empty());
}

#[tokio::test]
async fn names_that_cannot_be_are_refused_by_both_doors() {
    let ways = Ways::start().await;
    for (path, word) in [
        ("with\0nul".to_owned(), "NUL"),
        ("n".repeat(256), "255"),
        (vec!["d".repeat(200); 25].join("/"), "4096"),
    ] {
        let write = FsWriteRequest {
            path: path.clone(),
            create_parents: true,
            ..FsWriteRequest::default()
        };
        let error = ways.control.refused(Op::FsWrite(write)).await;
        assert_eq!(error.code(), ErrorCode::Os, "{error:?}");
        assert!(error.message.contains(word), "{}", error.message);
        let target = format!("/v1/fs/file?path={}", encoded(path.as_bytes()));
        let problem = ways.http.put(&target, "").await.problem(400, "invalid_request");
        assert!(problem["detail"].as_str().unwrap().contains(word), "{problem}");
    }
    assert!(names_in(&ways.daemon.workspace()).is_empty());
}

#[tokio::test]
async fn of_several_writers_one_wins_whole() {
    const SIZE: usize = 300_000;
    let ways = Ways::start().await;
    let file = ways.daemon.workspace().join("file");
    for round in 0..8_u8 {
        let mut writers = tokio::task::JoinSet::new();
        for letter in b'a'..b'i' {
            let (plane, http) = (ways.control.clone(), ways.http.clone());
            writers.spawn(async move {
                let content = vec![letter; SIZE + usize::from(letter)];
                if letter % 2 == 0 {
                    let write = FsWriteRequest {
                        path: "file".into(),
                        content: content.into(),
                        ..FsWriteRequest::default()
                    };
                    let answer = plane.ask(Op::FsWrite(write)).await;
                    assert!(answer.error.is_none(), "{answer:?}");
                } else {
                    let answer = http.put("/v1/fs/file?path=file", content).await;
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    assert_eq!(answer.json()["atomic"], true);
                }
            });
        }
        // A reader sees one of them at any time, never a mixture and never a piece.
        while let Some(written) = writers.join_next().await {
            written.unwrap();
            let content = std::fs::read(&file).unwrap();
            let letter = content[0];
            assert_eq!(content.len(), SIZE + usize::from(letter), "round {round}");
            assert!(
                content.iter().all(|byte| *byte == letter),
                "round {round}: a mixture"
            );
        }
        assert_eq!(
            names_in(&ways.daemon.workspace()),
            ["file"],
            "round {round}: a draft is left"
        );
    }
}

#[tokio::test]
async fn appends_at_the_same_time_are_all_kept() {
    let ways = Ways::start().await;
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..32 {
        let (plane, http) = (ways.control.clone(), ways.http.clone());
        writers.spawn(async move {
            let line = format!("line {number}\n");
            if number % 2 == 0 {
                let write = FsWriteRequest {
                    path: "log".into(),
                    content: line.into_bytes().into(),
                    append: true,
                    ..FsWriteRequest::default()
                };
                let answer = plane.ask(Op::FsWrite(write)).await;
                assert!(answer.error.is_none(), "{answer:?}");
            } else {
                let answer = http.put("/v1/fs/file?path=log&append=true", line).await;
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
        });
    }
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    let log = std::fs::read_to_string(ways.daemon.workspace().join("log")).unwrap();
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    let mut expected: Vec<String> = (0..32).map(|number| format!("line {number}")).collect();
    expected.sort_unstable();
    assert_eq!(lines, expected);
}
