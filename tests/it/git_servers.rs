//! Transfers with the servers that people run: `git daemon`, and nginx with `git http-backend` behind it.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::exec_child::files_with;
use crate::git_credentials::{log, secret, served, start, with};
use crate::harness::{Daemon, GitDaemon, Http, Nginx, PATIENCE, processes};
use crate::parity_git::git;

async fn done(http: &Http, route: &str, body: &Value) -> Value {
    let answer = http.post(&format!("/v1/git/{route}"), body).await;
    assert_eq!(answer.status, 200, "{route} {body}: {}", answer.text());
    answer.json()
}

#[tokio::test]
async fn a_git_daemon_is_cloned_from_fetched_from_and_pushed_to() {
    let (daemon, http) = start();
    let directory = served(&daemon);
    let workspace = daemon.workspace();
    let server = GitDaemon::start(&directory);
    let url = format!("{}/x.git", server.url());
    for path in ["one", "two"] {
        done(&http, "clone", &json!({ "url": url, "path": path })).await;
    }
    // More than one packet, and more than one object.
    let large: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
        .take(2 << 20)
        .collect();
    std::fs::write(workspace.join("one/large"), &large).unwrap();
    done(&http, "add", &json!({ "path": "one", "all": true })).await;
    done(&http, "commit", &json!({ "path": "one", "message": "second" })).await;
    done(&http, "push", &json!({ "path": "one" })).await;
    assert_eq!(log(&directory.join("x.git")), "second\nfirst\n");
    done(&http, "fetch", &json!({ "path": "two" })).await;
    let behind = http.get("/v1/git/status?path=two").await.json();
    assert_eq!((&behind["ahead"], &behind["behind"]), (&json!(0), &json!(1)));
    done(&http, "pull", &json!({ "path": "two" })).await;
    assert!(std::fs::read(workspace.join("two/large")).unwrap() == large);
    done(
        &http,
        "clone",
        &json!({ "url": url, "path": "shallow", "depth": 1 }),
    )
    .await;
    assert_eq!(log(&workspace.join("shallow")), "second\n");

    // Somebody else was faster.
    git(&directory.join("seed"), &["pull", "--quiet", "../x.git", "main"]);
    git(
        &directory.join("seed"),
        &["commit", "--quiet", "--allow-empty", "-m", "third"],
    );
    git(&directory.join("seed"), &["push", "--quiet", "../x.git", "main"]);
    done(
        &http,
        "commit",
        &json!({ "path": "two", "message": "another", "allowEmpty": true }),
    )
    .await;
    let problem = http
        .post("/v1/git/push", &json!({ "path": "two" }))
        .await
        .problem(409, "conflict");
    assert!(problem.to_string().contains("rejected"), "{problem}");

    let none = json!({ "url": format!("{}/none.git", server.url()), "path": "none" });
    let answer = http.post("/v1/git/clone", &none).await;
    let problem = answer.problem(404, "not_found");
    assert!(
        problem.to_string().contains("no such repository: /none.git"),
        "{problem}"
    );
    assert!(!workspace.join("none").exists(), "half a clone stayed");
    // It asks for no password, so there is nobody to give one to.
    let secret = secret();
    let given = with(json!({ "url": url, "path": "three" }), &secret);
    let answer = http.post("/v1/git/clone", &given).await;
    answer.problem(422, "invalid_request");
    assert!(!answer.text().contains(&secret) && !daemon.log().contains(&secret));
}

#[tokio::test]
async fn behind_nginx_the_right_password_opens_and_the_wrong_one_is_nowhere() {
    let (daemon, http) = start();
    let (directory, right, wrong) = (served(&daemon), secret(), secret());
    let workspace = daemon.workspace();
    let server = Nginx::start(&directory, "somebody", &right);
    let url = format!("{}/x.git", server.url());
    let clone = |path: &str| json!({ "url": url, "path": path });
    for path in ["one", "two"] {
        done(&http, "clone", &with(clone(path), &right)).await;
    }
    // More than git sends at once: it is sent in chunks, after a question without any.
    let large: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
        .take(3 << 20)
        .collect();
    std::fs::write(workspace.join("one/large"), &large).unwrap();
    done(&http, "add", &json!({ "path": "one", "all": true })).await;
    done(&http, "commit", &json!({ "path": "one", "message": "second" })).await;
    for (route, path) in [("push", "one"), ("fetch", "two"), ("pull", "two")] {
        done(&http, route, &with(json!({ "path": path }), &right)).await;
    }
    assert_eq!(log(&directory.join("x.git")), "second\nfirst\n");
    assert!(std::fs::read(workspace.join("two/large")).unwrap() == large);

    for (route, body) in [
        ("clone", clone("three")),
        ("clone", with(clone("three"), &wrong)),
        ("fetch", json!({ "path": "two" })),
        ("fetch", with(json!({ "path": "two" }), &wrong)),
        ("push", with(json!({ "path": "one" }), &wrong)),
    ] {
        let problem = http
            .post(&format!("/v1/git/{route}"), &body)
            .await
            .problem(403, "forbidden");
        let told = problem.to_string();
        assert!(
            !told.contains(&wrong) && !told.contains(&right),
            "{route}: {told}"
        );
    }
    assert!(!workspace.join("three").exists(), "half a clone stayed");
    let none = with(
        json!({ "url": format!("{}/none.git", server.url()), "path": "none" }),
        &right,
    );
    let problem = http.post("/v1/git/clone", &none).await.problem(404, "not_found");
    assert!(problem.to_string().contains("not found"), "{problem}");
    for secret in [&right, &wrong] {
        assert_eq!(files_with(secret, daemon.directory()), Vec::<PathBuf>::new());
        assert!(!daemon.log().contains(secret), "in the log");
    }
    let asked = server.asked();
    let has = |user: &str, request: &str, status: &str| {
        let holds =
            |line: &String| line.starts_with(user) && line.contains(request) && line.ends_with(status);
        assert!(asked.iter().any(holds), "{user} {request} {status}: {asked:#?}");
    };
    has("somebody ", "POST /x.git/git-upload-pack ", " 200");
    has("somebody ", "POST /x.git/git-receive-pack ", " 200");
    has("- ", "GET /x.git/info/refs", " 401");
    has("somebody ", "GET /x.git/info/refs", " 401");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_ends_with_whoever_asked_for_it() {
    let daemon = Daemon::start();
    let http = daemon.http();
    // It takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x.git", silent.local_addr().unwrap());
    let asked = json!({ "url": url, "path": "half" });
    let asking = tokio::spawn(async move { http.post("/v1/git/clone", &asked).await });
    processes::wait_until_there(&url, PATIENCE);
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    processes::wait_until_gone(&url, PATIENCE);
}
