//! Transfers with a credential: it reaches the server that it is for, once, and nobody and nothing else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::exec_child::{Decoy, carriers, files_with};
use crate::harness::{Daemon, GitServer, Http, Manner, eventually};
use crate::parity_git::{FIXED, git};

const USER: &str = "somebody";

pub(crate) fn secret() -> String {
    format!("hush{:032x}", fastrand::u128(..))
}

/// A daemon that is no more than its user: as root it may not look into other processes.
pub(crate) fn start() -> (Daemon, Http) {
    let plain = r#"[ "$(id -u)" -ne 0 ] || exec setpriv --bounding-set=-sys_ptrace "$0" "$@""#;
    let mut builder = Daemon::builder().prelude(plain);
    for (name, value) in FIXED {
        builder = builder.environment(name, value);
    }
    let daemon = builder.start();
    let http = daemon.http();
    (daemon, http)
}

/// A directory of repositories with `x.git`, which has one commit and takes more.
pub(crate) fn served(daemon: &Daemon) -> PathBuf {
    let directory = daemon.directory().join("served");
    let seed = directory.join("seed");
    std::fs::create_dir_all(&seed).unwrap();
    git(&seed, &["init", "--quiet", "--initial-branch=main"]);
    std::fs::write(seed.join("file"), "one\n").unwrap();
    git(&seed, &["add", "file"]);
    git(&seed, &["commit", "--quiet", "-m", "first"]);
    git(&directory, &["clone", "--quiet", "--bare", "seed", "x.git"]);
    git(&directory.join("x.git"), &["config", "http.receivepack", "true"]);
    directory
}

pub(crate) fn with(mut body: Value, password: &str) -> Value {
    body["credential"] = json!({ "username": USER, "password": password });
    body
}

pub(crate) fn log(directory: &Path) -> String {
    git(directory, &["log", "--format=%s", "main"])
}

#[tokio::test]
async fn a_credential_lets_clone_fetch_pull_and_push_through_and_stays_nowhere() {
    let (daemon, http) = start();
    let (directory, secret) = (served(&daemon), secret());
    let server = GitServer::start(&directory, USER, &secret, &Manner::Answers);
    let url = format!("{}/x.git", server.url());
    let clone = |path: &str| with(json!({ "url": url, "path": path }), &secret);
    for path in ["one", "two"] {
        let answer = http.post("/v1/git/clone", &clone(path)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let commit = json!({ "path": "one", "message": "second", "allowEmpty": true });
    assert_eq!(http.post("/v1/git/commit", &commit).await.status, 200);
    for (route, path) in [("push", "one"), ("fetch", "two"), ("pull", "two")] {
        let answer = http
            .post(
                &format!("/v1/git/{route}"),
                &with(json!({ "path": path }), &secret),
            )
            .await;
        assert_eq!(answer.status, 200, "{route}: {}", answer.text());
    }
    assert_eq!(log(&directory.join("x.git")), "second\nfirst\n");
    assert_eq!(log(&daemon.workspace().join("two")), "second\nfirst\n");
    // What was given for one operation is not there for the next.
    http.post("/v1/git/fetch", &json!({ "path": "one" }))
        .await
        .problem(403, "forbidden");
    assert_eq!(files_with(&secret, daemon.directory()), Vec::<PathBuf>::new());
    assert!(!daemon.log().contains(&secret), "in the log");
}

#[tokio::test]
async fn a_wrong_credential_is_told_apart_and_not_repeated() {
    let (daemon, http) = start();
    let (directory, right, wrong) = (served(&daemon), secret(), secret());
    let server = GitServer::start(&directory, USER, &right, &Manner::Answers);
    let url = format!("{}/x.git", server.url());
    let body = with(json!({ "url": url, "path": "one" }), &wrong);
    let problem = http.post("/v1/git/clone", &body).await.problem(403, "forbidden");
    assert!(!problem.to_string().contains(&wrong), "{problem}");
    assert!(!daemon.workspace().join("one").exists(), "half a clone stayed");
    assert_eq!(files_with(&wrong, daemon.directory()), Vec::<PathBuf>::new());
    assert!(!daemon.log().contains(&wrong), "in the log");
    for bad in ["a\nhost=evil", "a\0"] {
        let body = with(json!({ "url": url, "path": "one" }), bad);
        http.post("/v1/git/clone", &body)
            .await
            .problem(422, "invalid_request");
    }
    let inside = json!({ "url": format!("http://{USER}:{right}@127.0.0.1:1/x.git"), "path": "one" });
    let problem = http
        .post("/v1/git/clone", &inside)
        .await
        .problem(422, "invalid_request");
    assert!(!problem.to_string().contains(&right), "{problem}");
}

/// While git waits for a server that has the credential and says nothing more.
#[tokio::test]
async fn a_credential_in_use_is_in_no_argument_environment_or_file() {
    let (daemon, http) = start();
    let (directory, secret) = (served(&daemon), secret());
    let server = GitServer::start(&directory, USER, &secret, &Manner::Hangs);
    let url = format!("{}/x.git", server.url());
    let body = with(json!({ "url": url, "path": "one", "timeoutMs": 3000 }), &secret);
    let asking = tokio::spawn(async move { http.post("/v1/git/clone", &body).await });
    tokio::task::spawn_blocking(move || server.until_let_in())
        .await
        .unwrap();
    let decoy = Decoy::with(&secret);
    assert_eq!(carriers(&secret), [decoy.pid()]);
    assert_eq!(files_with(&secret, daemon.directory()), Vec::<PathBuf>::new());
    assert!(!daemon.log().contains(&secret), "in the log");
    asking.await.unwrap().problem(504, "timeout");
    let cloned = daemon.workspace().join("one");
    eventually("the end of the clone", Duration::from_secs(10), || {
        (!cloned.exists()).then_some(())
    });
}

#[tokio::test]
async fn a_credential_goes_to_no_other_server_and_not_where_a_repository_leads_it() {
    let (daemon, http) = start();
    let (directory, secret) = (served(&daemon), secret());
    let elsewhere = GitServer::start(&directory, USER, &secret, &Manner::Answers);
    let server = GitServer::start(&directory, USER, &secret, &Manner::Redirects(elsewhere.url()));
    let body = with(
        json!({ "url": format!("{}/x.git", server.url()), "path": "one" }),
        &secret,
    );
    http.post("/v1/git/clone", &body).await.problem(403, "forbidden");
    let shown = elsewhere.shown();
    assert!(
        !shown.is_empty() && shown.iter().all(Option::is_none),
        "{shown:?}"
    );

    git(
        &daemon.workspace(),
        &["clone", "--quiet", "../served/x.git", "two"],
    );
    let address = "http://127.0.0.1:1/x.git";
    let two = daemon.workspace().join("two");
    git(&two, &["remote", "set-url", "origin", address]);
    let instead = format!("url.{}/.insteadOf", elsewhere.url());
    git(&two, &["config", &instead, "http://127.0.0.1:1/"]);
    let body = with(json!({ "path": "two", "remote": address }), &secret);
    http.post("/v1/git/fetch", &body).await.problem(403, "forbidden");
    let shown = elsewhere.shown();
    assert!(
        !shown.is_empty() && shown.iter().all(Option::is_none),
        "{shown:?}"
    );

    git(&two, &["config", "--unset", &instead]);
    git(&two, &["config", "http.proxy", &elsewhere.url()]);
    let problem = http.post("/v1/git/fetch", &body).await.problem(403, "forbidden");
    assert!(
        problem["detail"].as_str().unwrap().contains("http.proxy"),
        "{problem}"
    );
    assert_eq!(elsewhere.shown(), []);
}

/// A password that a configuration already has works as it does for git, and is not repeated.
#[tokio::test]
async fn a_password_in_a_configured_url_is_used_and_not_shown() {
    let (daemon, http) = start();
    let (directory, right, wrong) = (served(&daemon), secret(), secret());
    let server = GitServer::start(&directory, USER, &right, &Manner::Answers);
    let two = daemon.workspace().join("two");
    git(
        &daemon.workspace(),
        &["clone", "--quiet", "../served/x.git", "two"],
    );
    let url = |password: &str| server.url().replace("://", &format!("://{USER}:{password}@")) + "/x.git";
    git(&two, &["remote", "set-url", "origin", &url(&right)]);
    let fetched = http.post("/v1/git/fetch", &json!({ "path": "two" })).await;
    assert_eq!(fetched.status, 200, "{}", fetched.text());
    assert!(!http.get("/v1/git/remotes?path=two").await.text().contains(&right));
    git(&two, &["remote", "set-url", "origin", &url(&wrong)]);
    let problem = http
        .post("/v1/git/fetch", &json!({ "path": "two" }))
        .await
        .problem(403, "forbidden");
    assert!(!problem.to_string().contains(&wrong), "{problem}");
}
