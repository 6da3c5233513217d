//! Files over HTTP: listing, content with ranges and validators, uploads of any size, names of any bytes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Method;
use hyper::header::{IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::harness::{Answer, Daemon, Http};

async fn get_with(http: &Http, path: &str, headers: &[(hyper::header::HeaderName, &str)]) -> Answer {
    let mut request = http.request(Method::GET, path);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    http.send(request.body(Full::<Bytes>::default()).unwrap()).await
}

#[tokio::test]
async fn a_file_is_written_looked_at_listed_moved_and_removed() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let root = daemon.workspace().canonicalize().unwrap();
    let shown = |path: &str| root.join(path).to_string_lossy().into_owned();
    let written = http.put("/v1/fs/file?path=a/b.txt&mode=0640", "hello").await;
    assert_eq!(written.status, 200, "{}", written.text());
    let written = written.json();
    assert_eq!(written["path"], shown("a/b.txt"));
    assert_eq!(
        (&written["bytesWritten"], &written["atomic"]),
        (&json!(5), &json!(true))
    );
    assert_eq!(
        root.join("a/b.txt").metadata().unwrap().permissions().mode() & 0o7777,
        0o640
    );

    let stat = http.get("/v1/fs/stat?path=a/b.txt").await.json();
    assert_eq!(
        (&stat["entryType"], &stat["kind"], &stat["size"], &stat["mode"]),
        (&json!("file"), &json!("file"), &json!(5), &json!("0640"))
    );
    assert!(stat["modified"].as_str().unwrap().ends_with('Z'), "{stat}");

    std::os::unix::fs::symlink("b.txt", root.join("a/link")).unwrap();
    std::fs::create_dir(root.join("a/dir")).unwrap();
    let entries = http.get("/v1/fs/entries?path=a").await.json();
    let names: Vec<_> = entries
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["b.txt", "dir", "link"]);
    assert_eq!(
        (
            &entries[1]["entryType"],
            &entries[2]["kind"],
            &entries[2]["target"]
        ),
        (&json!("directory"), &json!("symlink"), &json!("b.txt"))
    );

    let moved = http
        .post("/v1/fs/move", &json!({ "from": "a/b.txt", "to": "a/c.txt" }))
        .await;
    assert_eq!(
        moved.json(),
        json!({ "from": shown("a/b.txt"), "to": shown("a/c.txt") })
    );
    http.put("/v1/fs/file?path=a/d.txt", "other").await;
    http.post("/v1/fs/move", &json!({ "from": "a/d.txt", "to": "a/c.txt" }))
        .await
        .problem(409, "already_exists");
    let moved = http
        .post(
            "/v1/fs/move",
            &json!({ "from": "a/d.txt", "to": "a/c.txt", "overwrite": true }),
        )
        .await;
    assert_eq!(moved.status, 200, "{}", moved.text());
    assert_eq!(http.get("/v1/fs/file?path=a/c.txt").await.text(), "other");

    http.delete("/v1/fs/entry?path=a").await.problem(409, "conflict");
    let removed = http.delete("/v1/fs/entry?path=a&recursive=true").await;
    assert_eq!(removed.json()["path"], shown("a"));
    http.get("/v1/fs/stat?path=a").await.problem(404, "not_found");
    http.get("/v1/fs/file?path=a").await.problem(404, "not_found");
    http.delete("/v1/fs/entry?path=a").await.problem(404, "not_found");
    http.get("/v1/fs/entries?path=a").await.problem(404, "not_found");

    let request = http
        .request(Method::POST, "/v1/fs/mkdir?path=x/y/z")
        .body(Full::default())
        .unwrap();
    assert_eq!(http.send(request).await.json()["path"], shown("x/y/z"));
}

#[tokio::test]
async fn wrong_parameters_are_named() {
    let daemon = Daemon::start();
    let http = daemon.http();
    for (path, field) in [
        ("/v1/fs/file", "path"),
        ("/v1/fs/file?path=", "path"),
        ("/v1/fs/stat?path=a&path=b", "path"),
        ("/v1/fs/stat?path=a&pathB64=YQ==", "pathB64"),
        ("/v1/fs/stat?path=%zz", "query"),
        ("/v1/fs/stat?path=a%00b", "path"),
        ("/v1/fs/entries?recursive=banana", "recursive"),
    ] {
        let problem = http.get(path).await.problem(400, "invalid_request");
        assert_eq!(problem["details"]["field"], field, "{path}: {problem}");
    }
    let problem = http
        .put("/v1/fs/file?path=a&mode=rw", "x")
        .await
        .problem(400, "invalid_request");
    assert_eq!(problem["details"]["field"], "mode");
    for (path, field) in [
        ("/v1/fs/entries?glob=[", "glob"),
        ("/v1/fs/entries?limit=0", "limit"),
        ("/v1/fs/entries?cursor=.", "cursor"),
        ("/v1/fs/entries?cursor=Li4vYQ", "cursor"),
    ] {
        let problem = http.get(path).await.problem(400, "invalid_request");
        assert_eq!(problem["details"]["field"], field, "{path}: {problem}");
    }
    for (path, field) in [
        ("/v1/fs/file?path=a&ifMatch=x", "ifMatch"),
        ("/v1/fs/file?path=a&offset=1", "upload"),
        ("/v1/fs/file?path=a&upload=u&seq=1", "offset"),
        ("/v1/fs/file?path=a&upload=u&seq=1&offset=0&append=true", "append"),
    ] {
        let problem = http.put(path, "x").await.problem(400, "invalid_request");
        assert_eq!(problem["details"]["field"], field, "{path}: {problem}");
    }
    assert!(!daemon.workspace().join("a").exists());
}

#[tokio::test]
async fn content_comes_with_ranges_and_validators() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let path = "/v1/fs/file?path=page.html";
    http.put(path, "0123456789").await;
    let whole = http.get(path).await;
    assert_eq!(
        (whole.status.as_u16(), whole.text().as_str()),
        (200, "0123456789")
    );
    for (name, value) in [
        ("content-type", "application/octet-stream"),
        ("content-length", "10"),
        ("accept-ranges", "bytes"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "sandbox"),
    ] {
        assert_eq!(whole.header(name), value, "{name}");
    }
    assert!(
        whole.header("last-modified").ends_with(" GMT"),
        "{:?}",
        whole.headers
    );
    let typed = http.get("/v1/fs/file?path=page.html&mime=true").await;
    assert_eq!(typed.header("content-type"), "text/html; charset=utf-8");

    let etag = whole.header("etag").to_owned();
    let unchanged = get_with(&http, path, &[(IF_NONE_MATCH, &etag)]).await;
    assert_eq!((unchanged.status.as_u16(), unchanged.body.len()), (304, 0));
    assert_eq!(get_with(&http, path, &[(IF_MATCH, &etag)]).await.status, 200);
    get_with(&http, path, &[(IF_MATCH, "\"another\""), (RANGE, "bytes=2-4")])
        .await
        .problem(412, "precondition_failed");
    for (range, content, content_range) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
        ("bytes=7-99", "789", "bytes 7-9/10"),
    ] {
        let part = get_with(&http, path, &[(RANGE, range), (IF_RANGE, &etag)]).await;
        assert_eq!(
            (part.status.as_u16(), part.text().as_str()),
            (206, content),
            "{range}"
        );
        assert_eq!(part.header("content-range"), content_range);
    }
    let outside = get_with(&http, path, &[(RANGE, "bytes=10-")]).await;
    outside.problem(416, "range");
    assert_eq!(outside.header("content-range"), "bytes */10");

    let head = http
        .send(http.request(Method::HEAD, path).body(Full::default()).unwrap())
        .await;
    assert_eq!(
        (
            head.status.as_u16(),
            head.header("content-length"),
            head.body.len()
        ),
        (200, "10", 0)
    );

    http.put(path, "9876543210").await;
    let changed = get_with(&http, path, &[(IF_NONE_MATCH, &etag)]).await;
    assert_eq!(
        (changed.status.as_u16(), changed.text().as_str()),
        (200, "9876543210")
    );
    let stale = get_with(&http, path, &[(RANGE, "bytes=2-4"), (IF_RANGE, &etag)]).await;
    assert_eq!((stale.status.as_u16(), stale.body.len()), (200, 10));
}

#[tokio::test]
async fn what_is_no_file_is_said() {
    let daemon = Daemon::start();
    let http = daemon.http();
    http.get("/v1/fs/file?path=.").await.problem(400, "wrong_kind");
    nix::unistd::mkfifo(&daemon.workspace().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let read = tokio::time::timeout(Duration::from_secs(5), http.get("/v1/fs/file?path=fifo"))
        .await
        .unwrap();
    read.problem(400, "wrong_kind");
    let read = tokio::time::timeout(Duration::from_secs(5), http.get("/v1/fs/file?path=/dev/zero"))
        .await
        .unwrap();
    read.problem(400, "wrong_kind");
}

#[tokio::test]
async fn bodies_of_any_size_pass() {
    let daemon = Daemon::start();
    let http = daemon.http();
    assert_eq!(
        http.put("/v1/fs/file?path=empty", "").await.json()["bytesWritten"],
        0
    );
    assert_eq!(http.get("/v1/fs/file?path=empty").await.body.len(), 0);
    let big: Bytes = (0_u32..8 << 20).flat_map(u32::to_le_bytes).collect();
    assert_eq!(
        http.put("/v1/fs/file?path=big", big.clone()).await.json()["bytesWritten"],
        big.len()
    );
    let back = http.get("/v1/fs/file?path=big").await;
    assert_eq!(back.header("content-length"), big.len().to_string());
    assert!(back.body == big);
    let range = get_with(
        &http,
        "/v1/fs/file?path=big",
        &[(RANGE, "bytes=1000000-29999999")],
    )
    .await;
    assert!(range.body == big.slice(1_000_000..30_000_000));

    let sparse = std::fs::File::create(daemon.workspace().join("sparse")).unwrap();
    sparse.set_len(10 << 30).unwrap();
    let range = get_with(&http, "/v1/fs/file?path=sparse", &[(RANGE, "bytes=-7")]).await;
    assert_eq!((range.status.as_u16(), range.body.len()), (206, 7));
    assert_eq!(
        range.header("content-range"),
        "bytes 10737418233-10737418239/10737418240"
    );

    let appended = http.put("/v1/fs/file?path=empty&append=true", "more").await;
    assert_eq!(appended.status, 200, "{}", appended.text());
    assert_eq!(http.get("/v1/fs/file?path=empty").await.text(), "more");
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_the_old_content() {
    let daemon = Daemon::start();
    let http = daemon.http();
    http.put("/v1/fs/file?path=kept", "old").await;
    let mut socket = http.socket().await;
    let head = format!(
        "PUT /v1/fs/file?path=kept HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: 1000000\r\n\r\n",
        daemon.token()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&vec![7; 100_000]).await.unwrap();
    // While half of it is here, the old content is what everyone sees.
    assert_eq!(http.get("/v1/fs/file?path=kept").await.text(), "old");
    drop(socket);
    let alone = async {
        loop {
            let entries = http.get("/v1/fs/entries").await.json();
            let on_disk = std::fs::read_dir(daemon.workspace()).unwrap().count();
            if entries.as_array().unwrap().len() == 1 && on_disk == 1 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), alone)
        .await
        .expect("what was half written is gone");
    assert_eq!(http.get("/v1/fs/file?path=kept").await.text(), "old");
}

#[tokio::test]
async fn names_of_any_bytes_round_trip() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let written = http.put("/v1/fs/file?path=odd%FF%0Aname", "x").await.json();
    assert!(
        daemon
            .workspace()
            .join(OsStr::from_bytes(b"odd\xff\nname"))
            .exists()
    );
    let exact = written["pathB64"].as_str().unwrap();
    let entry = &http.get("/v1/fs/entries").await.json()[0];
    assert_eq!(entry["name"], "odd\u{fffd}\nname");
    assert_eq!(entry["nameB64"], "b2Rk/wpuYW1l");
    assert_eq!(entry["pathB64"], exact);
    let escaped = exact.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    assert_eq!(
        http.get(&format!("/v1/fs/file?pathB64={escaped}")).await.text(),
        "x"
    );
    let moved = http
        .post("/v1/fs/move", &json!({ "fromB64": exact, "to": "plain" }))
        .await;
    assert_eq!(moved.status, 200, "{}", moved.text());
    assert_eq!(http.get("/v1/fs/file?path=plain").await.text(), "x");
}

#[tokio::test]
async fn operations_take_and_give_bytes_in_base64() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let write = json!({ "path": "a", "contentB64": "AP8B" });
    assert_eq!(
        http.post("/v1/ops/fs.write", &write).await.json()["bytesWritten"],
        3
    );
    let read = http
        .post("/v1/ops/fs.read", &json!({ "path": "a", "offset": 1 }))
        .await
        .json();
    assert_eq!(read, json!({ "contentB64": "/wE=", "offset": 1, "totalSize": 3 }));
    assert_eq!(
        http.post("/v1/ops/fs.stat", &json!({ "path": "none" }))
            .await
            .json(),
        json!({ "exists": false })
    );
    let listing = http.post("/v1/ops/fs.list", &json!({})).await.json();
    assert_eq!(listing["entries"][0]["name"], "a");
    assert_eq!(
        http.post("/v1/ops/ping", &json!({ "nonce": u64::MAX }))
            .await
            .json()["nonce"],
        u64::MAX
    );
}

#[tokio::test]
async fn stored_configuration_is_kept_beside_the_workspace() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let path = "/v1/config/mcp?directory=.&mcpName=one";
    http.get(path).await.problem(404, "not_found");
    let put = async |path: &str, body: serde_json::Value| {
        let request = http
            .request(Method::PUT, path)
            .header("content-type", "application/json");
        http.send(request.body(Full::from(body.to_string())).unwrap())
            .await
    };
    let server = json!({ "type": "local", "command": "x", "args": ["y"] });
    assert_eq!(put(path, server.clone()).await.status, 204);
    assert_eq!(
        put(
            "/v1/config/mcp?directory=.&mcpName=two",
            json!({ "type": "remote", "url": "http://x" })
        )
        .await
        .status,
        204
    );
    assert_eq!(http.get(path).await.json(), server);
    let file = daemon.workspace().join(".sandbox-agent/config/mcp.json");
    let map: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(map["one"], server);
    let mode = file.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "rows may hold credentials");
    assert_eq!(
        put(path, json!({ "type": "banana" }))
            .await
            .problem(400, "invalid_request")["details"]["field"],
        "type"
    );
    put("/v1/config/mcp?directory=.&mcpName=", server.clone())
        .await
        .problem(400, "invalid_request");
    assert_eq!(http.delete(path).await.status, 204);
    http.get(path).await.problem(404, "not_found");
    http.delete(path).await.problem(404, "not_found");
    let skills = "/v1/config/skills?directory=.&skillName=s";
    let skill = json!({ "sources": [{ "type": "github", "source": "a/b" }] });
    assert_eq!(put(skills, skill.clone()).await.status, 204);
    assert_eq!(http.get(skills).await.json(), skill);
    put(skills, json!({ "sources": [1] }))
        .await
        .problem(400, "invalid_request");
}

#[tokio::test]
async fn a_long_listing_is_whole_and_in_order() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let names: Vec<_> = (0..3000).map(|number| format!("{number:05}")).collect();
    for name in &names {
        std::fs::write(daemon.workspace().join(name), "").unwrap();
    }
    let answer = http.get("/v1/fs/entries").await;
    assert_eq!(answer.header("content-type"), "application/json");
    let entries = answer.json();
    let listed: Vec<_> = entries
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["name"].as_str().unwrap())
        .collect();
    assert_eq!(listed, names);
    let counted = http.get("/metrics").await.text();
    let out = counted
        .lines()
        .find_map(|line| line.strip_prefix("boxd_bytes_total{direction=\"out\",door=\"http\"} "))
        .unwrap();
    assert!(out.parse::<usize>().unwrap() >= answer.body.len(), "{out}");
}

#[tokio::test]
async fn rows_that_are_stored_at_the_same_time_are_all_kept() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let server = json!({ "type": "local", "command": "x" }).to_string();
    let store = async |number: usize| {
        let path = format!("/v1/config/mcp?directory=.&mcpName=row-{number}");
        let request = http
            .request(Method::PUT, &path)
            .header("content-type", "application/json");
        http.send(request.body(Full::from(server.clone())).unwrap()).await
    };
    let answers = futures_util::future::join_all((0..24).map(store)).await;
    assert!(answers.iter().all(|answer| answer.status == 204));
    let file = daemon.workspace().join(".sandbox-agent/config/mcp.json");
    let map: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(map.as_object().unwrap().len(), 24);
}
