//! Everything the HTTP door refuses, and that every refusal is a problem with a stable code and the request's id.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HOST, ORIGIN};
use serde_json::json;

use crate::harness::{Answer, Daemon, Http};

/// POST of a body as it is, with a content type or without.
async fn post(http: &Http, path: &str, content_type: Option<&str>, body: &str) -> Answer {
    let mut request = http.request(Method::POST, path);
    if let Some(content_type) = content_type {
        request = request.header(CONTENT_TYPE, content_type);
    }
    http.send(request.body(Full::from(body.to_owned())).unwrap())
        .await
}

const JSON: Option<&str> = Some("application/json");
const RUN: &str = "/v1/processes/run";

#[tokio::test]
async fn bodies_that_are_not_what_they_should_be() {
    let daemon = Daemon::start();
    let http = daemon.http();
    post(&http, RUN, JSON, r#"{"command":"#)
        .await
        .problem(400, "protocol");
    post(&http, RUN, JSON, "").await.problem(400, "invalid_request");
    post(&http, RUN, None, r#"{"command":"true"}"#)
        .await
        .problem(415, "unsupported_media_type");
    post(&http, RUN, Some("text/plain"), r#"{"command":"true"}"#)
        .await
        .problem(415, "unsupported_media_type");
    for (body, field) in [
        (r#"{"command":5}"#, "command"),
        (r#"{"command":""}"#, "command"),
        (r#"{"args":["a"]}"#, "command"),
        (r#"{"command":"a","args":"b"}"#, "args"),
        (r#"{"command":"a","timeoutMs":-1}"#, "timeoutMs"),
        (r#"{"command":"a","env":{"":"x"}}"#, "env"),
    ] {
        let problem = post(&http, RUN, JSON, body).await.problem(400, "invalid_request");
        assert_eq!(problem["details"]["field"], field, "{problem}");
        assert!(
            problem["detail"].as_str().unwrap().starts_with(field),
            "{problem}"
        );
    }
    let config = "/v1/processes/config";
    for (body, field) in [
        (r#"{"maxConcurrentProcesses":0}"#, "maxConcurrentProcesses"),
        (r#"{"maxOutputBytes":-5}"#, "maxOutputBytes"),
        (r#"{"maxRunTimeoutMs":"soon"}"#, "maxRunTimeoutMs"),
        (r#"{"defaultRunTimeoutMs":1.5}"#, "defaultRunTimeoutMs"),
    ] {
        let problem = post(&http, config, JSON, body)
            .await
            .problem(400, "invalid_request");
        assert_eq!(problem["details"]["field"], field, "{problem}");
    }
    let huge = format!(r#"{{"maxOutputBytes":1,"padding":"{}"}}"#, "x".repeat(1 << 20));
    post(&http, config, JSON, &huge).await.problem(413, "too_large");
    // Nesting beyond reason is an error, not a stack overflow.
    post(
        &http,
        RUN,
        JSON,
        &format!("{{\"someday\":{}", "[".repeat(100_000)),
    )
    .await
    .problem(400, "protocol");
}

#[tokio::test]
async fn our_own_routes_refuse_unknown_fields_and_compatible_ones_ignore_them() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let body = r#"{"command":"true","bogus":1}"#;
    assert_eq!(post(&http, RUN, JSON, body).await.status, 200);
    let problem = post(&http, "/v1/ops/process.run", JSON, body)
        .await
        .problem(422, "invalid_request");
    assert!(problem["detail"].as_str().unwrap().contains("bogus"), "{problem}");
    let problem = post(&http, "/v1/ops/fs.stat", JSON, "{}")
        .await
        .problem(422, "invalid_request");
    assert_eq!(problem["details"]["field"], "path");
    post(&http, "/v1/ops/fs.nope", JSON, "{}")
        .await
        .problem(501, "unsupported");
    // A limit whose name is not known would be a limit that is not kept.
    post(
        &http,
        RUN,
        JSON,
        r#"{"command":"true","limits":{"memoryMaximum":1}}"#,
    )
    .await
    .problem(400, "invalid_request");
}

#[tokio::test]
async fn routes_and_methods_that_are_not_there() {
    let daemon = Daemon::start();
    let http = daemon.http();
    http.get("/nope").await.problem(404, "route_not_found");
    http.get("/v1/nope").await.problem(404, "route_not_found");
    http.post("/v1/ops/%ff", &serde_json::json!({}))
        .await
        .problem(422, "invalid_request");
    for path in ["/v1/agents", "/v1/agents/claude", "/v1/acp", "/v1/acp/x/y"] {
        http.get(path).await.problem(404, "not_served");
    }
    let answer = http.delete(RUN).await;
    answer.problem(405, "method_not_allowed");
    assert_eq!(answer.header("allow"), "POST");
    let answer = http.delete("/v1/fs/file?path=a").await;
    answer.problem(405, "method_not_allowed");
    for method in ["GET", "HEAD", "PUT"] {
        assert!(answer.header("allow").contains(method), "{:?}", answer.headers);
    }
}

#[tokio::test]
async fn only_the_right_token_opens_and_health_needs_none() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let anonymous = http.anonymous();
    assert_eq!(
        anonymous.get("/v1/health").await.json(),
        json!({ "status": "ok" })
    );
    let known = http.get("/v1/health").await.json();
    assert_eq!(known["status"], "ok");
    assert_eq!(known["instance"], daemon.instance());
    assert!(
        known["uptimeMs"].is_u64() && known["version"].is_string(),
        "{known}"
    );
    let wrong = http.with_token("wrong");
    for path in [
        "/v1/health",
        "/v1/metrics",
        "/metrics",
        "/v1/openapi.json",
        "/v1/nope",
        "/v1/fs/entries",
        "/",
    ] {
        let answer = wrong.get(path).await;
        answer.problem(401, "token_invalid");
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{path}");
        if path != "/v1/health" {
            anonymous.get(path).await.problem(401, "token_invalid");
            // A token in the URL counts nowhere here.
            let with_token = format!("{path}?access_token={}", daemon.token());
            anonymous.get(&with_token).await.problem(401, "token_invalid");
        }
    }
    anonymous
        .run(&json!({ "command": "true" }))
        .await
        .problem(401, "token_invalid");
    wrong
        .put("/v1/fs/file?path=planted", "x")
        .await
        .problem(401, "token_invalid");
    assert!(!daemon.workspace().join("planted").exists());
}

#[tokio::test]
async fn foreign_hosts_and_origins() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let port = http.address.port();
    let ask = async |host: &str, origin: Option<&str>, method: Method| {
        let mut request = http.request(method, "/v1/fs/mkdir?path=made");
        request.headers_mut().unwrap().insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            request = request.header(ORIGIN, origin);
        }
        http.send(request.body(Full::<Bytes>::default()).unwrap()).await
    };
    for foreign in [
        "evil.example",
        &format!("evil.example:{port}"),
        "127.0.0.1.evil.example",
    ] {
        ask(foreign, None, Method::POST)
            .await
            .problem(421, "foreign_host");
    }
    let local = format!("127.0.0.1:{port}");
    for foreign in [
        "https://evil.example",
        "null",
        &format!("http://localhost:{}", port ^ 1),
    ] {
        ask(&local, Some(foreign), Method::POST)
            .await
            .problem(403, "foreign_origin");
    }
    assert!(!daemon.workspace().join("made").exists());
    assert_eq!(
        ask(&local, Some(&format!("http://{local}")), Method::POST)
            .await
            .status,
        200
    );
    assert_eq!(ask("localhost", None, Method::POST).await.status, 200);
    let answer = http.get("/v1/health").await;
    assert_eq!(answer.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn listed_origins_are_shared_with() {
    let daemon = Daemon::builder()
        .config("[http]\norigins = [\"https://app.example\"]\n")
        .start();
    let http = daemon.http();
    let preflight = |origin: &str| {
        http.anonymous()
            .request(Method::OPTIONS, "/v1/fs/file")
            .header(ORIGIN, origin)
            .header("access-control-request-method", "PUT")
            .body(Full::<Bytes>::default())
            .unwrap()
    };
    let answer = http.send(preflight("https://app.example")).await;
    assert_eq!(
        (
            answer.status.as_u16(),
            answer.header("access-control-allow-origin")
        ),
        (204, "https://app.example")
    );
    assert_eq!(answer.header("access-control-allow-credentials"), "true");
    http.send(preflight("https://evil.example"))
        .await
        .problem(401, "token_invalid");
    let request = http
        .request(Method::POST, "/v1/fs/mkdir?path=made")
        .header(ORIGIN, "https://app.example");
    let answer = http.send(request.body(Full::<Bytes>::default()).unwrap()).await;
    assert_eq!(
        (
            answer.status.as_u16(),
            answer.header("access-control-allow-origin")
        ),
        (200, "https://app.example")
    );
}

#[tokio::test]
async fn the_request_id_is_echoed_or_made() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let with_id = async |id: &str| {
        let request = http.request(Method::GET, "/v1/nope").header("x-request-id", id);
        http.send(request.body(Full::<Bytes>::default()).unwrap()).await
    };
    let answer = with_id("mine-1").await;
    assert_eq!(answer.header("x-request-id"), "mine-1");
    assert_eq!(answer.problem(404, "route_not_found")["requestId"], "mine-1");
    for odd in ["has space", &"x".repeat(129), "tab\there"] {
        let answer = with_id(odd).await;
        let made = answer.header("x-request-id").to_owned();
        assert!(!made.is_empty() && made != odd, "{odd:?} {made:?}");
        assert_eq!(answer.problem(404, "route_not_found")["requestId"], made);
    }
    assert!(!http.get("/v1/health").await.header("x-request-id").is_empty());
}

#[tokio::test]
async fn heads_that_are_too_large_or_too_slow() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let request = http
        .request(Method::GET, "/v1/health")
        .header("x-filler", "x".repeat(100_000));
    http.send(request.body(Full::<Bytes>::default()).unwrap())
        .await
        .problem(431, "headers_too_large");
    http.get(&format!("/v1/fs/stat?path={}", "x".repeat(20_000)))
        .await
        .problem(414, "target_too_long");
    for (bytes, status, code) in [
        (b"NOT HTTP AT ALL\r\n\r\n".to_vec(), 400, "protocol"),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
            400,
            "protocol",
        ),
        (
            b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n".to_vec(),
            400,
            "protocol",
        ),
        (
            b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n".to_vec(),
            400,
            "protocol",
        ),
        (
            [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 1 << 20]].concat(),
            431,
            "headers_too_large",
        ),
        (
            [
                b"GET / HTTP/1.1\r\nHost: localhost\r\n".to_vec(),
                b"X: y\r\n".repeat(101),
                b"\r\n".to_vec(),
            ]
            .concat(),
            431,
            "headers_too_large",
        ),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 400, "protocol"),
        (
            [
                b"GET /".to_vec(),
                vec![b'x'; 100_000],
                b" HTTP/1.1\r\n\r\n".to_vec(),
            ]
            .concat(),
            414,
            "target_too_long",
        ),
    ] {
        let answer = String::from_utf8(http.raw(&bytes).await).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(
            answer.contains("\r\ncontent-type: application/problem+json\r\n"),
            "{answer}"
        );
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["code"], code, "{problem}");
    }
    // A head that never ends holds its connection for a while, and nothing else.
    let slow = http.socket().await;
    slow.writable().await.unwrap();
    slow.try_write(b"GET /v1/health HTTP/1.1\r\nHost: localh")
        .unwrap();
    let health = tokio::time::timeout(Duration::from_secs(2), http.get("/v1/health"))
        .await
        .unwrap();
    assert_eq!(health.status, 200);
}

#[tokio::test]
async fn a_rejected_upload_gets_its_answer() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let body = vec![7_u8; 32 << 20];
    http.anonymous()
        .put("/v1/fs/file?path=big", body.clone())
        .await
        .problem(401, "token_invalid");
    std::fs::create_dir(daemon.workspace().join("directory")).unwrap();
    http.put("/v1/fs/file?path=directory", body)
        .await
        .problem(400, "wrong_kind");
}

#[tokio::test]
async fn health_is_answered_when_every_connection_is_taken() {
    let daemon = Daemon::builder().namespace("ulimit -n 100").start();
    let http = daemon.http();
    // Half of the descriptors are for connections; each of these is known to be accepted because it was answered.
    let mut idle = Vec::new();
    for _ in 0..50 {
        let mut kept = http.keep().await;
        let request = http
            .request(Method::GET, "/v1/health")
            .body(Full::default())
            .unwrap();
        assert_eq!(kept.send(request).await.status, 200);
        idle.push(kept);
    }
    assert_eq!(http.get("/v1/health").await.status, 200);
    let refused = http.get("/v1/metrics").await;
    refused.problem(503, "overloaded");
    assert!(!refused.header("retry-after").is_empty());
    // A reserved slot is not given to somebody who does not use it.
    let slow = String::from_utf8(http.raw(b"GET /v1/health HTTP/1.1\r\nHost: localh").await).unwrap();
    assert!(
        slow.starts_with("HTTP/1.1 408") && slow.contains("head_timeout"),
        "{slow}"
    );
    idle.clear();
    let free = async { while http.get("/v1/metrics").await.status != 200 {} };
    tokio::time::timeout(Duration::from_secs(10), free)
        .await
        .expect("slots are given back");
}

/// A connection that was used before is no reason to answer less.
#[tokio::test]
async fn nonsense_behind_a_request_is_refused_like_nonsense_in_front() {
    let daemon = Daemon::start();
    let http = daemon.http();
    std::fs::write(daemon.workspace().join("large"), vec![b'x'; 3 << 20]).unwrap();
    for (method, target, length) in [
        ("GET", "/v1/health", None),
        ("HEAD", "/v1/health", Some(0)),
        ("GET", "/v1/fs/file?path=large", Some(3 << 20)),
    ] {
        let token = http.token.as_deref().unwrap();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\nNONSENSE\r\n\r\n"
        );
        let answers = String::from_utf8(http.raw(request.as_bytes()).await).unwrap();
        assert!(answers.starts_with("HTTP/1.1 200 OK\r\n"), "{method} {target}");
        let (first, second) = answers
            .split_once("HTTP/1.1 400 Bad Request\r\n")
            .unwrap_or_else(|| panic!("{method} {target}: no refusal"));
        let (_, body) = first.split_once("\r\n\r\n").unwrap();
        assert!(
            length.is_none_or(|length| body.len() == length),
            "{method} {target}"
        );
        let (head, body) = second.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-type: application/problem+json"), "{head}");
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["code"], "protocol", "{problem}");
    }
}

#[tokio::test]
async fn a_condition_is_looked_at_or_refused() {
    let daemon = Daemon::start();
    let http = daemon.http();
    std::fs::write(daemon.workspace().join("file"), "x").unwrap();
    let put = "file?path=file";
    for (method, query, tag, status, code) in [
        (Method::PUT, put, "\"another\"", 412, "precondition_failed"),
        (Method::PUT, put, "W/\"0-0\"", 412, "precondition_failed"),
        (Method::PUT, put, "\"one\", \"two\"", 400, "invalid_request"),
        (Method::PUT, put, "another", 400, "invalid_request"),
        (
            Method::PUT,
            "file?path=file&append=true",
            "\"another\"",
            400,
            "invalid_request",
        ),
        (
            Method::DELETE,
            "entry?path=file",
            "\"another\"",
            501,
            "unsupported",
        ),
    ] {
        let request = http
            .request(method, &format!("/v1/fs/{query}"))
            .header("if-match", tag);
        http.send(request.body(Full::<Bytes>::default()).unwrap())
            .await
            .problem(status, code);
    }
    assert_eq!(std::fs::read(daemon.workspace().join("file")).unwrap(), b"x");
}
