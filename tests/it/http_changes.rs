//! Files over HTTP besides the compatible contract: conditions, pieces, edits, copies, pages, searches, archives out.

use std::io::Read as _;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use serde_json::{Value, json};

use crate::harness::{Answer, Daemon, Http, Ways, require};

async fn put_with(http: &Http, path: &str, header: (hyper::header::HeaderName, &str), body: &str) -> Answer {
    let request = http.request(Method::PUT, path).header(header.0, header.1);
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
    http.send(request.body(body).unwrap()).await
}

#[tokio::test]
async fn a_file_is_replaced_only_while_it_is_what_its_writer_believes() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let path = "/v1/fs/file?path=a";
    assert_eq!(
        put_with(&http, path, (IF_NONE_MATCH, "*"), "one").await.status,
        200
    );
    put_with(&http, path, (IF_NONE_MATCH, "*"), "two")
        .await
        .problem(412, "precondition_failed");
    let etag = http.get(path).await.header("etag").to_owned();
    assert_eq!(put_with(&http, path, (IF_MATCH, &etag), "two").await.status, 200);
    put_with(&http, path, (IF_MATCH, &etag), "three")
        .await
        .problem(412, "precondition_failed");
    let digest = http.get("/v1/fs/digest?path=a").await.json()["blake3"].clone();
    assert_eq!(digest, blake3::hash(b"two").to_string());
    let by_digest = format!("{path}&ifMatch={}", digest.as_str().unwrap());
    assert_eq!(http.put(&by_digest, "three").await.status, 200);
    http.put(&by_digest, "four")
        .await
        .problem(412, "precondition_failed");
    assert_eq!(http.get(path).await.text(), "three");
}

#[tokio::test]
async fn of_writers_with_one_etag_exactly_one_wins() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let path = "/v1/fs/file?path=a";
    http.put(path, "base").await;
    for round in 0..10 {
        let etag = http.get(path).await.header("etag").to_owned();
        let content = |writer: usize| format!("writer {writer} of round {round}");
        let writes = (0..8).map(|writer| {
            let (http, etag, content) = (&http, &etag, content(writer));
            async move { put_with(http, path, (IF_MATCH, etag), &content).await.status }
        });
        let told = futures_util::future::join_all(writes).await;
        let won: Vec<_> = (0..8).filter(|writer| told[*writer] == 200).collect();
        assert_eq!(won.len(), 1, "round {round}: {told:?}");
        assert_eq!(
            told.iter().filter(|status| **status == 412).count(),
            7,
            "{told:?}"
        );
        assert_eq!(http.get(path).await.text(), content(won[0]));
    }
}

#[tokio::test]
async fn an_upload_in_pieces_is_whole_or_not_there() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let piece = |seq: u64, offset: u64, last: bool| {
        format!("/v1/fs/file?path=deep/big&upload=u1&seq={seq}&offset={offset}&last={last}")
    };
    let third = http.put(&piece(3, 6, true), "ghi").await.json();
    assert_eq!(third, json!({ "uploadId": "u1", "seq": 3 }));
    for _ in 0..2 {
        assert!(http.put(&piece(1, 0, false), "abc").await.json()["committed"].is_null());
    }
    assert!(!daemon.workspace().join("deep/big").exists());
    for round in 0..2 {
        let last = http.put(&piece(2, 3, false), "def").await.json();
        assert_eq!(last["committed"]["bytesWritten"], 9, "round {round}: {last}");
        assert_eq!(
            last["committed"]["blake3"],
            blake3::hash(b"abcdefghi").to_string()
        );
    }
    assert_eq!(http.get("/v1/fs/file?path=deep/big").await.text(), "abcdefghi");
    http.put("/v1/fs/file?path=other&upload=u1&seq=1&offset=0", "x")
        .await
        .problem(409, "conflict");

    http.put("/v1/fs/file?path=gone&upload=u2&seq=1&offset=0", "x")
        .await;
    assert_eq!(http.delete("/v1/fs/upload?id=u2").await.status, 200);
    http.delete("/v1/fs/upload?id=u2").await.problem(404, "not_found");
}

#[tokio::test]
async fn an_upload_with_a_hole_and_an_id_that_is_used_again_are_refused() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let piece = |id: &str, seq: u64, offset: u64, last: bool| {
        format!("/v1/fs/file?path=whole&upload={id}&seq={seq}&offset={offset}&last={last}")
    };
    // As many bytes as there are to be, and four of them nowhere.
    http.put(&piece("hole", 1, 0, false), "aaaa").await;
    http.put(&piece("hole", 2, 0, false), "bbbb").await;
    let refused = http.put(&piece("hole", 3, 8, true), "cccc").await;
    let problem = refused.problem(400, "invalid_request");
    assert!(problem.to_string().contains("do not cover"), "{problem}");
    assert_eq!(http.get("/v1/fs/file?path=whole").await.status, 404);

    let first = http.put(&piece("again", 1, 0, true), "first").await;
    assert_eq!(first.status, 200);
    // The same is answered again, another one is not taken for it.
    assert_eq!(
        http.put(&piece("again", 1, 0, true), "first").await.json(),
        first.json()
    );
    let other = http.put(&piece("again", 1, 0, true), "other").await;
    assert!(other.problem(409, "conflict").to_string().contains("new id"));
    assert_eq!(http.get("/v1/fs/file?path=whole").await.text(), "first");
}

#[tokio::test]
async fn ignore_files_that_never_end_are_told_and_not_read() {
    let daemon = Daemon::start();
    let (http, workspace) = (daemon.http(), daemon.workspace());
    for name in ["fine", "evil"] {
        std::fs::create_dir(workspace.join(name)).unwrap();
        std::fs::write(workspace.join(name).join("file"), "needle\n").unwrap();
    }
    std::os::unix::fs::symlink("/dev/zero", workspace.join("evil/.ignore")).unwrap();
    let search =
        |path: &str, ignores: bool| json!({ "path": path, "pattern": "needle", "ignoreFiles": ignores });
    let found = http.post("/v1/fs/search", &search("", true)).await.json();
    assert_eq!(found["matches"].as_array().unwrap().len(), 1, "{found}");
    assert!(found.to_string().contains("evil/.ignore"), "{found}");
    let refused = http.post("/v1/fs/search", &search("evil", true)).await;
    assert_eq!(refused.status, 501, "{}", refused.text());
    let found = http.post("/v1/fs/search", &search("", false)).await.json();
    assert_eq!(found["matches"].as_array().unwrap().len(), 2, "{found}");
    // Nor one above what is searched.
    std::fs::create_dir(workspace.join("evil/below")).unwrap();
    let refused = http.post("/v1/fs/search", &search("evil/below", true)).await;
    assert_eq!(refused.status, 501, "{}", refused.text());
}

#[tokio::test]
async fn an_upload_that_is_cut_at_every_piece_leaves_nothing() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let before = std::fs::read_dir(daemon.workspace()).unwrap().count();
    for cut in 1..=5_u64 {
        for seq in 1..=cut {
            let path = format!(
                "/v1/fs/file?path=cut&upload=cut{cut}&seq={seq}&offset={}",
                (seq - 1) * 3
            );
            assert_eq!(http.put(&path, "abc").await.status, 200);
        }
        assert_eq!(
            http.delete(&format!("/v1/fs/upload?id=cut{cut}")).await.status,
            200
        );
        let after = std::fs::read_dir(daemon.workspace()).unwrap().count();
        assert_eq!(after, before, "cut after {cut} pieces");
    }
}

#[tokio::test]
async fn edits_say_what_they_did_or_where_they_nearly_fit() {
    let daemon = Daemon::start();
    let http = daemon.http();
    http.put("/v1/fs/file?path=main.rs", "fn main() {\n    run();\n}\n")
        .await;
    let edit = |body: Value| {
        let http = http.clone();
        async move { http.post("/v1/fs/edit", &body).await }
    };
    let done = edit(json!({ "path": "main.rs", "replace": { "old": "run();", "new": "walk();" } })).await;
    assert!(
        done.json()["diff"]
            .as_str()
            .unwrap()
            .contains("-    run();\n+    walk();\n"),
        "{}",
        done.text()
    );
    let nearly =
        edit(json!({ "path": "main.rs", "replace": { "old": "fn main() {\n\twalk();", "new": "" } })).await;
    let problem = nearly.problem(422, "invalid_request");
    assert!(
        problem["detail"].as_str().unwrap().contains("line 1"),
        "{problem}"
    );
    let inserted = edit(json!({ "path": "main.rs", "insert": { "line": 1, "text": "// first" } })).await;
    assert_eq!(inserted.status, 200, "{}", inserted.text());
    let patch =
        "--- a/main.rs\n+++ b/main.rs\n@@ -2,3 +2,3 @@\n fn main() {\n-    walk();\n+    run();\n }\n";
    let patched = edit(json!({ "path": "main.rs", "patch": patch })).await;
    assert_eq!(patched.status, 200, "{}", patched.text());
    let text = http.get("/v1/fs/file?path=main.rs").await.text();
    assert_eq!(text, "// first\nfn main() {\n    run();\n}\n");
    edit(json!({ "path": "main.rs", "patch": patch }))
        .await
        .problem(422, "invalid_request");
    edit(json!({ "path": "main.rs", "insert": { "line": 1, "txt": "x" } }))
        .await
        .problem(422, "invalid_request");
    edit(json!({ "path": "main.rs" }))
        .await
        .problem(422, "invalid_request");
}

#[tokio::test]
async fn a_listing_comes_in_pages() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let odd = std::ffi::OsStr::from_bytes(b"odd \xff");
    std::fs::create_dir(daemon.workspace().join("d")).unwrap();
    for name in ["a", "d/b", "d/c", "e"] {
        std::fs::write(daemon.workspace().join(name), "x").unwrap();
    }
    std::fs::write(daemon.workspace().join(odd), "x").unwrap();
    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = http
            .get(&format!("/v1/fs/entries?recursive=true&limit=2{cursor}"))
            .await;
        let entries = page.json();
        names.extend(
            entries
                .as_array()
                .unwrap()
                .iter()
                .map(|entry| entry["name"].clone()),
        );
        let Some(next) = page.headers.get("x-next-cursor") else {
            break;
        };
        cursor = format!("&cursor={}", next.to_str().unwrap());
    }
    assert_eq!(names, ["a", "d", "b", "c", "e", "odd \u{fffd}"]);
    let globbed = http.get("/v1/fs/entries?recursive=true&glob=d/*").await.json();
    assert_eq!(globbed.as_array().unwrap().len(), 2);
}

/// Searches as lines of JSON.
async fn lines(http: &Http, body: &Value) -> Vec<Value> {
    let request = http
        .request(Method::POST, "/v1/fs/search")
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/x-ndjson");
    let answer = http
        .send(request.body(Full::new(body.to_string().into())).unwrap())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn a_search_is_one_answer_or_lines_as_they_are_found() {
    let daemon = Daemon::start();
    let http = daemon.http();
    for number in 0..300 {
        let name = daemon.workspace().join(format!("file {number}"));
        std::fs::write(name, format!("before\nneedle {number}\nafter\n")).unwrap();
    }
    let body = json!({ "pattern": "needle \\d+", "before": 1, "after": 1 });
    let whole = http.post("/v1/fs/search", &body).await.json();
    assert_eq!(whole["matches"].as_array().unwrap().len(), 300);
    let first = &whole["matches"][0];
    assert_eq!((&first["line"], &first["column"]), (&json!(2), &json!(1)));
    assert_eq!(
        (&first["before"], &first["after"]),
        (&json!(["before"]), &json!(["after"]))
    );
    assert_eq!(whole["stats"]["files"], 300);
    let said = lines(&http, &body).await;
    assert_eq!(said.len(), 301);
    assert!(said[..300].iter().all(|line| line["type"] == "match"));
    assert_eq!(
        (&said[300]["type"], &said[300]["truncated"]),
        (&json!("end"), &json!(false))
    );
    for (wrong, field) in [
        (json!({ "pattern": "(" }), "pattern"),
        (json!({ "pattern": "a".repeat(70_000) }), "pattern"),
        (json!({ "pattern": "(a{1000}){1000}" }), "pattern"),
        (json!({ "pattern": "x", "limit": 0 }), "limit"),
        (json!({ "pattern": "x", "bogus": 1 }), "body"),
    ] {
        let problem = http
            .post("/v1/fs/search", &wrong)
            .await
            .problem(422, "invalid_request");
        assert_eq!(problem["details"]["field"], field, "{problem}");
    }
    // Exponential for engines that go back; linear here.
    std::fs::write(daemon.workspace().join("long"), "a".repeat(200_000)).unwrap();
    let explosive = json!({ "pattern": "(a+)+$b", "glob": "long" });
    assert_eq!(
        http.post("/v1/fs/search", &explosive).await.json()["matches"],
        json!([])
    );
}

#[tokio::test]
async fn a_search_through_nats_is_the_same_lines() {
    let ways = Ways::start().await;
    std::fs::write(ways.daemon.workspace().join("f"), "needle\n").unwrap();
    let said = ways.stream("fs.search", &json!({ "pattern": "needle" })).await;
    assert_eq!(said.len(), 2, "{said:?}");
    assert_eq!((&said[0]["type"], &said[0]["line"]), (&json!("match"), &json!(1)));
    assert_eq!(said[1]["type"], "end");
}

#[tokio::test]
async fn a_confined_caller_is_told_that_a_search_cannot_be_confined() {
    let daemon = Daemon::builder().config("[fs]\nconfine = true\n").start();
    let http = daemon.http();
    let refused = http.post("/v1/fs/search", &json!({ "pattern": "x" })).await;
    refused.problem(501, "unsupported");
}

#[tokio::test]
async fn an_archive_comes_out_as_tar_reads_it() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let root = daemon.workspace();
    std::fs::create_dir_all(root.join("tree/deep")).unwrap();
    std::fs::write(root.join("tree/deep/file"), "content").unwrap();
    std::os::unix::fs::symlink("deep/file", root.join("tree/link")).unwrap();
    let answer = http.get("/v1/fs/download-batch?path=tree").await;
    assert_eq!(answer.header("content-type"), "application/gzip");
    assert_eq!(
        answer.header("content-disposition"),
        "attachment; filename=\"tree.tar.gz\""
    );
    let target = daemon.directory().join("out");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(daemon.directory().join("a.tgz"), &answer.body).unwrap();
    let untar = Command::new(require("tar"))
        .args(["-xzf", "../a.tgz"])
        .current_dir(&target)
        .status()
        .unwrap();
    assert!(untar.success());
    let mut content = String::new();
    std::fs::File::open(target.join("link"))
        .unwrap()
        .read_to_string(&mut content)
        .unwrap();
    assert_eq!(content, "content");
    http.get("/v1/fs/download-batch?path=none")
        .await
        .problem(404, "not_found");
    http.get("/v1/fs/download-batch?path=tree&format=zip")
        .await
        .problem(400, "invalid_request");
}

#[tokio::test]
async fn a_watch_is_resumed_where_it_was_cut() {
    let ways = Ways::start().await;
    let root = ways.daemon.workspace().canonicalize().unwrap();
    let watch = async |body: Value| {
        let answer = ways.http.post("/v1/ops/fs.watch", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let begun = watch(json!({})).await;
    assert_eq!(begun["events"], json!([]));
    std::fs::write(root.join("a"), "x").unwrap();
    let seen = watch(json!({ "since": begun["id"], "waitMs": 20_000 })).await;
    assert_eq!(seen["events"][0]["type"], "created", "{seen}");
    assert_eq!(seen["events"][0]["path"], root.join("a").to_str().unwrap());
    std::fs::rename(root.join("a"), root.join("b")).unwrap();
    let path = format!("/v1/fs/watch?since={}", seen["id"].as_str().unwrap());
    let request = ways
        .http
        .request(Method::GET, &path)
        .body(Full::<Bytes>::default())
        .unwrap();
    let mut body = ways.http.open(request).await.into_body();
    let mut text = String::new();
    while !text.contains("event: renamed") {
        use http_body_util::BodyExt;
        let frame = body.frame().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    assert!(text.starts_with("event: ready\nid: "), "{text}");
    assert!(text.contains("\"from\":"), "{text}");
    ways.http
        .get("/v1/fs/watch?since=other-1")
        .await
        .problem(404, "not_found");
    ways.http
        .get("/v1/fs/watch?path=none")
        .await
        .problem(404, "not_found");
}
