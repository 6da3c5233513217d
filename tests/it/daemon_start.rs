//! Starting where something is in the way: another daemon, a newer layout, a directory that cannot be written, no HOME,
//! a configuration that makes no sense, a port that is taken. And the file that says that it started.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Connection, Daemon, NatsServer};

#[tokio::test]
async fn a_second_daemon_on_one_state_directory_says_who_has_it() {
    let first = Daemon::start();
    let before = std::fs::read(first.state_directory().join("token")).unwrap();
    let second = Daemon::builder().state_directory(&first.state_directory());
    let (code, said) = second.refused_in(|_| {});
    assert_eq!(code, 75, "{said}");
    assert!(
        said.contains(&first.pid().to_string()),
        "it names the pid {}: {said}",
        first.pid()
    );
    assert!(said.contains("--state-dir"), "it says what to do: {said}");
    // The first one was not disturbed.
    assert_eq!(
        std::fs::read(first.state_directory().join("token")).unwrap(),
        before
    );
    assert!(first.state_directory().join("ready.json").exists());
    let ran = first.http().run(&json!({ "command": "true" })).await;
    assert_eq!(ran.json()["exitCode"], 0, "{}", ran.text());
}

#[tokio::test]
async fn a_crash_leaves_nothing_that_keeps_the_next_one_from_starting() {
    let mut daemon = Daemon::start();
    let (token, instance) = (daemon.token(), daemon.instance());
    daemon.crash();
    let state = daemon.state_directory();
    assert!(
        state.join("boxd.lock").exists() && state.join("ready.json").exists(),
        "as a crash leaves it"
    );
    std::fs::write(state.join("tmp/half an upload"), "x").unwrap();
    daemon.start_again();
    assert_eq!(daemon.token(), token, "the token is kept");
    assert_ne!(daemon.instance(), instance);
    assert!(!state.join("tmp/half an upload").exists());
    assert_eq!(daemon.http().get("/v1/fs/entries").await.status, 200);
}

#[test]
fn a_newer_layout_is_refused_and_left_alone() {
    let mut kept = None;
    let (code, said) = Daemon::builder().refused_in(|directory| {
        std::fs::write(directory.join("state/version"), "2\n").unwrap();
        std::fs::write(directory.join("state/token"), "of the newer one").unwrap();
        kept = Some(directory.join("state"));
    });
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("layout") && said.contains("update"), "{said}");
}

/// What must work without a place to keep anything.
async fn works_without_state(daemon: &Daemon) {
    assert!(
        daemon.log().contains("no state directory"),
        "a warning: {}",
        daemon.log()
    );
    assert_eq!(daemon.http().anonymous().get("/v1/health").await.status, 200);
    let http = daemon.http();
    let ran = http
        .run(&json!({ "command": "id", "args": ["-u"], "idempotencyKey": "one" }))
        .await;
    assert_eq!(ran.json()["exitCode"], 0, "{}", ran.text());
    let again = http
        .run(&json!({ "command": "id", "args": ["-u"], "idempotencyKey": "one" }))
        .await;
    assert_eq!(
        again.json()["processId"],
        ran.json()["processId"],
        "repeats are known while it lives"
    );
    assert_eq!(http.put("/v1/fs/file?path=file", "x").await.status, 200);
    assert_eq!(http.get("/v1/fs/file?path=file").await.body, "x");
}

fn given_token(directory: &Path) {
    std::fs::write(directory.join("workspace/token"), "given\n").unwrap();
}

#[tokio::test]
async fn a_state_directory_on_a_read_only_mount_is_a_warning() {
    let script = "state=\"$WORKSPACE/../state\"; mount --bind \"$state\" \"$state\"; mount -o remount,bind,ro \"$state\"";
    let builder = Daemon::builder()
        .namespace(script)
        .environment("BOXD_TOKEN_FILE", "token");
    let mut daemon = builder.start_in(given_token);
    works_without_state(&daemon).await;
    assert_eq!(daemon.stop().code(), Some(0));
    assert_eq!(std::fs::read_dir(daemon.state_directory()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_state_directory_of_somebody_else_is_a_warning() {
    let script = "exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$0\" \"$@\"";
    let builder = Daemon::builder()
        .prelude(script)
        .environment("BOXD_TOKEN_FILE", "token");
    let daemon = builder.start_in(|directory| {
        given_token(directory);
        let mode =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        mode(directory, 0o755);
        mode(&directory.join("state"), 0o700);
        for path in ["workspace", "workspace/token", "ready", "home"] {
            std::os::unix::fs::chown(directory.join(path), Some(65534), Some(65534)).unwrap();
        }
    });
    works_without_state(&daemon).await;
    let ran = daemon
        .http()
        .run(&json!({ "command": "id", "args": ["-u"] }))
        .await;
    assert_eq!(ran.json()["stdout"], "65534\n");
    assert_eq!(std::fs::read_dir(daemon.state_directory()).unwrap().count(), 0);
}

/// Without a token file the token lives in memory: nobody but a terminal was shown it, and nobody else comes in.
#[tokio::test]
async fn a_token_that_cannot_be_kept_is_not_left_out() {
    let script = "state=\"$WORKSPACE/../state\"; mount --bind \"$state\" \"$state\"; mount -o remount,bind,ro \"$state\"";
    let daemon = Daemon::builder().namespace(script).start();
    assert_eq!(daemon.ready["tokenFile"], Value::Null);
    let http = crate::harness::Http {
        address: daemon.address(),
        token: None,
    };
    assert_eq!(http.get("/v1/health").await.status, 200);
    assert_eq!(http.get("/v1/fs/entries").await.status, 401);
    assert_eq!(http.with_token("").get("/v1/fs/entries").await.status, 401);
}

#[tokio::test]
async fn it_runs_without_home() {
    let daemon = Daemon::builder().prelude("unset HOME").start();
    let http = daemon.http();
    let ran = http
        .run(&json!({ "command": "sh", "args": ["-c", "echo fine"] }))
        .await;
    assert_eq!(ran.json()["stdout"], "fine\n", "{}", ran.text());
    let home = http.get("/v1/fs/stat?path=~/x").await;
    assert!(home.status.is_client_error(), "a typed answer: {}", home.text());
    assert_eq!(http.put("/v1/fs/file?path=file", "x").await.status, 200);
}

#[test]
fn every_problem_of_the_configuration_is_reported_at_once() {
    let builder = Daemon::builder()
        .environment("BOXD_NO_SUCH_THING", "1")
        .environment("BOXD_SHUTDOWN_GRACE", "soonish")
        .environment("BOXD_PROCESS", "tolerated:it-marks-children")
        .config("[fs]\nconfine = \"perhaps\"\nno_such_key = 1\n[no_such_section]\nx = 1\n");
    let (code, said) = builder.refused_in(|_| {});
    assert_eq!(code, 78, "{said}");
    for word in [
        "BOXD_NO_SUCH_THING",
        "BOXD_SHUTDOWN_GRACE",
        "fs.confine",
        "no_such_key",
        "no_such_section",
    ] {
        assert!(said.contains(word), "{word} is missing in: {said}");
    }
    assert!(!said.contains("BOXD_PROCESS"), "{said}");
}

#[test]
fn a_configuration_that_is_no_toml_names_the_line() {
    let (code, said) = Daemon::builder()
        .config("[fs]\nconfine = tru\n")
        .refused_in(|_| {});
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("config.toml") && said.contains('2'), "{said}");
}

#[test]
fn a_listener_that_is_taken_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) = Daemon::builder().listen(&[&address]).refused_in(|_| {});
    assert_eq!(code, 73, "{said}");
    assert!(said.contains(&address), "{said}");

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let (code, said) = Daemon::builder()
        .listen(&[&format!("unix:{}", path.display())])
        .refused_in(|_| {});
    assert_eq!(code, 73, "{said}");
    assert!(said.contains("socket") && path.exists(), "{said}");
}

#[test]
fn words_that_are_no_flags_are_a_matter_of_usage() {
    for flag in [
        "--no-such-flag",
        "--http=nonsense:port:number",
        "--log-format=prose",
    ] {
        let (code, said) = Daemon::builder().argument(flag).refused_in(|_| {});
        assert!([64, 78].contains(&code), "{flag}: {code}: {said}");
        assert!(
            said.contains(flag.split('=').next().unwrap()) || said.contains("BOXD") || said.contains("http"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn the_ready_file_tells_everything_and_is_written_whole() {
    let broker = NatsServer::start();
    let link = Connection::to(&broker.url());
    let refused = Connection::to("nats://127.0.0.1:1");
    let socket = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", socket.path().join("boxd.sock").display());
    let builder = Daemon::builder()
        .connection(&link)
        .connection(&refused)
        .listen(&["127.0.0.1:0", &socket]);
    let mut daemon = builder.start();

    let ready = daemon.ready.clone();
    assert_eq!(ready["pid"], daemon.pid());
    assert_eq!(
        ready["http"],
        json!([format!("http://{}", daemon.address()), socket])
    );
    assert_eq!(
        ready["tokenFile"],
        daemon.state_directory().join("token").to_str().unwrap()
    );
    assert!(uuid::Uuid::parse_str(&daemon.instance()).is_ok(), "{ready}");
    let links = ready["links"].as_array().unwrap();
    let state = |link: &Connection| {
        let row = links
            .iter()
            .find(|row| row["agentId"] == link.agent_id.as_str())
            .expect("each link is there");
        assert_eq!(row["workspaceId"], link.workspace_id.as_str());
        row["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(state(&link), "connected");
    assert_ne!(state(&refused), "connected");
    let own: Value =
        serde_json::from_slice(&std::fs::read(daemon.state_directory().join("ready.json")).unwrap()).unwrap();
    assert_eq!(own, ready, "the same in the state directory");
    let token = std::fs::metadata(daemon.state_directory().join("token")).unwrap();
    assert_eq!(token.permissions().mode() & 0o777, 0o600);
    assert_eq!(
        std::fs::read_dir(daemon.directory().join("ready"))
            .unwrap()
            .count(),
        1,
        "no draft beside it"
    );
    // Whatever it names is served at that moment.
    assert_eq!(daemon.http().get("/v1/fs/entries").await.status, 200);
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(
        !daemon.state_directory().join("ready.json").exists(),
        "it does not outlive the daemon"
    );
}

/// A script that waits for the file may read it at any moment: it sees nothing, or all of it.
#[test]
fn a_reader_of_the_ready_file_never_sees_a_piece() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0;
            while !done.load(Ordering::Relaxed) {
                if let Ok(text) = std::fs::read(state.join("ready.json")) {
                    let ready: Value = serde_json::from_slice(&text).expect("whole JSON");
                    assert!(ready["instance"].is_string(), "{ready}");
                    seen += 1;
                }
            }
            seen
        });
        for _ in 0..4 {
            let mut daemon = Daemon::builder().state_directory(&state).start();
            assert_eq!(daemon.stop().code(), Some(0));
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}
