//! `boxd connect` against a control plane: yes, no, later, nonsense, nobody there; and what it leaves behind.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::enrollment::{Enrollment, credentials, reply};
use crate::harness::{Connection, ControlPlane, Daemon, NatsServer, PATIENCE, eventually, require};

fn boxd(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_boxd"));
    command
        .env_clear()
        .env("HOME", config)
        .env("BOXD_CONFIG_DIR", config);
    command
}

fn connect(api: &str, config: &Path, more: &[&str]) -> Output {
    boxd(config)
        .args([
            "connect",
            "--api-url",
            api,
            "--workspace-id",
            "workspace-1",
            "--name",
            "a test",
        ])
        .args(more)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn ended(output: &Output, code: i32, words: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    assert!(
        !said.contains("panicked") && !said.contains("the bearer"),
        "{said}"
    );
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_clock_that_is_off_by_an_hour_keeps_nobody_out() {
    for off in ["+1h", "-1h"] {
        let plane = Enrollment::start();
        let authorized = json!({ "state": "authorized", "credentials": credentials("nats://127.0.0.1:1") });
        plane.polls([
            reply(200, &json!({ "state": "pending" })),
            reply(200, &authorized),
        ]);
        let config = tempfile::tempdir().unwrap();
        // The clock of this one program; what counts seconds goes on as it is.
        let output = Command::new(require("faketime"))
            .args([
                "-f",
                off,
                env!("CARGO_BIN_EXE_boxd"),
                "connect",
                "--api-url",
                &plane.url(),
            ])
            .args(["--workspace-id", "workspace-1"])
            .env_clear()
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("HOME", config.path())
            .env("BOXD_CONFIG_DIR", config.path())
            .output()
            .unwrap();
        ended(&output, 0, &["ABCD-EFGH"]);
        assert_eq!(plane.seen("device/poll").len(), 2, "{off}");
    }
}

#[test]
fn a_person_says_yes_and_the_link_is_there() {
    let plane = Enrollment::start();
    let authorized = json!({ "state": "authorized", "credentials": credentials("nats://127.0.0.1:1") });
    plane.polls([
        reply(200, &json!({ "state": "pending" })),
        reply(200, &authorized),
    ]);
    let config = tempfile::tempdir().unwrap();
    let output = connect(&plane.url(), config.path(), &["--screen-control"]);
    ended(
        &output,
        0,
        &["ABCD-EFGH", "https://example.com/device?code=ABCD-EFGH"],
    );
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let id = shown.trim().strip_prefix("connected: ").unwrap().to_owned();
    let asked = &plane.seen("device/start")[0];
    assert_eq!(
        (
            &asked["workspaceId"],
            &asked["machineName"],
            &asked["requestsScreenControl"]
        ),
        (&json!("workspace-1"), &json!("a test"), &json!(true))
    );
    assert_eq!(asked["publicKey"].as_str().unwrap().len(), 43, "{asked}");
    assert!(
        plane
            .seen("device/poll")
            .iter()
            .all(|body| body["deviceCode"] == "device")
    );

    let file = config.path().join("connections").join(format!("{id}.json"));
    let text = std::fs::read(&file).unwrap();
    let document: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(document["api_url"], plane.url());
    assert_eq!(document["credentials"]["nats_bearer"], "the bearer");
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let key = config.path().join("machine-identity.ed25519");
    assert_eq!((std::fs::metadata(&key).unwrap().len(), mode(&key)), (32, 0o600));

    let listed = boxd(config.path()).arg("connections").output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains(&id));
    // One file that is none hides no other.
    let none = file.with_file_name("a.json");
    std::fs::write(&none, "{").unwrap();
    std::fs::set_permissions(&none, std::fs::Permissions::from_mode(0o600)).unwrap();
    let listed = boxd(config.path()).arg("connections").output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains(&id));
    ended(&listed, 64, &["a.json", "not a JSON object"]);
    std::fs::remove_file(&none).unwrap();
    // It is said that there is one; the key survives another enrollment.
    ended(&connect(&plane.url(), config.path(), &[]), 70, &["--force"]);
    ended(&connect(&plane.url(), config.path(), &["--force"]), 0, &[]);
    let keys: Vec<Value> = plane
        .seen("device/start")
        .iter()
        .map(|body| body["publicKey"].clone())
        .collect();
    assert_eq!((keys.len(), &keys[0]), (2, &keys[1]));
    let gone = boxd(config.path())
        .args(["disconnect", &id[..8]])
        .output()
        .unwrap();
    assert_eq!(gone.status.code(), Some(0), "{}", said(&gone));
    assert!(!file.exists());
    ended(
        &boxd(config.path())
            .args(["disconnect", &id[..8]])
            .output()
            .unwrap(),
        73,
        &["not found"],
    );
}

#[test]
fn no_and_nobody_and_nonsense_are_sentences_with_a_code() {
    let plane = Enrollment::start();
    let state = |state: &str| reply(200, &json!({ "state": state }));
    let attempt = |code, words: &[&str]| {
        let config = tempfile::tempdir().unwrap();
        ended(&connect(&plane.url(), config.path(), &[]), code, words);
        assert!(!config.path().join("connections").exists(), "nothing is left");
    };
    for (answer, code, words) in [
        (state("denied"), 77, "denied"),
        (state("expired"), 69, "timed out"),
        (state("disabled"), 69, "switched off"),
        (state("someday"), 70, "someday"),
        (
            reply(400, &json!({ "message": "no such code" })),
            70,
            "no such code",
        ),
        (
            reply(
                200,
                &json!({ "state": "authorized", "credentials": { "agentId": "a" } }),
            ),
            70,
            "lack",
        ),
        ((200, None, "<html>".into()), 70, "no JSON"),
    ] {
        plane.polls([answer]);
        attempt(code, &[words]);
    }
    for (answer, code, words) in [
        (reply(404, &json!({})), 69, "does not enroll"),
        (reply(503, &json!({})), 69, "not set up"),
        (reply(403, &json!({ "message": "not you" })), 77, "not you"),
        ((429, Some(7), String::new()), 69, "7 s"),
        (reply(500, &json!({})), 69, "500"),
        (reply(201, &json!({ "userCode": "x" })), 70, "lack"),
        ((201, None, "{\"deviceCode\"".into()), 70, "no JSON"),
    ] {
        plane.starts(answer);
        attempt(code, &[words]);
    }
    let config = tempfile::tempdir().unwrap();
    ended(
        &connect("http://127.0.0.1:1", config.path(), &[]),
        69,
        &["127.0.0.1:1"],
    );
    ended(
        &connect("http://example.com", config.path(), &[]),
        64,
        &["https://"],
    );
    ended(
        &connect("ftp://example.com", config.path(), &[]),
        64,
        &["https://"],
    );
}

#[test]
fn who_is_asked_to_slow_down_does_and_a_flow_ends_in_time() {
    let plane = Enrollment::start();
    plane.polls([
        (429, Some(1), String::new()),
        reply(
            200,
            &json!({ "state": "authorized", "credentials": credentials("nats://127.0.0.1:1") }),
        ),
    ]);
    let config = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    ended(&connect(&plane.url(), config.path(), &[]), 0, &[]);
    assert!(begin.elapsed() >= Duration::from_secs(5), "{:?}", begin.elapsed());

    let plane = Enrollment::start();
    let short = json!({
        "deviceCode": "d", "userCode": "u", "verificationUri": "https://x", "intervalSeconds": 1, "expiresInSeconds": 2,
    });
    plane.starts(reply(201, &short));
    let begin = Instant::now();
    let config = tempfile::tempdir().unwrap();
    ended(&connect(&plane.url(), config.path(), &[]), 69, &["approval"]);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn a_control_plane_that_goes_away_while_a_person_is_waited_for_is_named() {
    let plane = Enrollment::start();
    let short = json!({
        "deviceCode": "d", "userCode": "u", "verificationUri": "https://x", "intervalSeconds": 1, "expiresInSeconds": 4,
    });
    plane.starts(reply(201, &short));
    let (api, config) = (plane.url(), tempfile::tempdir().unwrap());
    let begin = Instant::now();
    let output = std::thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&api, config.path(), &[]));
        eventually("the first question", PATIENCE, || {
            (!plane.seen("device/poll").is_empty()).then_some(())
        });
        plane.leave();
        connecting.join().unwrap()
    });
    ended(&output, 69, &["the control plane cannot be reached"]);
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    assert!(!config.path().join("connections").exists());
    // One that comes back is not what it ends for.
    for state in ["pending", "slow_down"] {
        let plane = Enrollment::start();
        plane.starts(reply(201, &short));
        plane.polls([reply(503, &json!({})), reply(200, &json!({ "state": state }))]);
        let output = connect(&plane.url(), config.path(), &[]);
        ended(&output, 69, &["approval"]);
    }
}

#[test]
fn a_connection_file_of_somebody_else_is_named_with_what_to_do() {
    let config = tempfile::tempdir().unwrap();
    let link = Connection::to("nats://127.0.0.1:1");
    link.write(config.path());
    for open in [config.path().to_owned(), config.path().join("connections")] {
        std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(require("setpriv"));
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(env!("CARGO_BIN_EXE_boxd"))
        .arg("connections")
        .env_clear()
        .env("HOME", config.path())
        .env("BOXD_CONFIG_DIR", config.path());
    let output = command.output().unwrap();
    ended(&output, 77, &[&format!("{}.json", link.id), "chown"]);
    // And so says a daemon, whose root is no other than its user here.
    let script = r#"exec setpriv --bounding-set -all --inh-caps -all "$0" "$@""#;
    let daemon = Daemon::builder().prelude(script).start_in(|directory| {
        link.write(&directory.join("config"));
        let file = directory.join(format!("config/connections/{}.json", link.id));
        std::os::unix::fs::chown(file, Some(65534), Some(65534)).unwrap();
    });
    eventually("the refusal", PATIENCE, || {
        daemon.log().contains("chown").then_some(())
    });
}

#[test]
fn a_token_is_given_for_credentials_and_is_seen_nowhere() {
    let plane = Enrollment::start();
    plane.exchanges(reply(
        201,
        &json!({ "credentials": credentials("nats://127.0.0.1:1") }),
    ));
    let config = tempfile::tempdir().unwrap();
    let file = config.path().join("token");
    std::fs::write(&file, "sesame\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let by_file = ["--token-file", file.to_str().unwrap()];
    ended(
        &connect(&plane.url(), config.path(), &by_file),
        64,
        &["chmod 600"],
    );
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    ended(&connect(&plane.url(), config.path(), &by_file), 0, &[]);
    let by_variable = boxd(config.path())
        .args([
            "connect",
            "--force",
            "--api-url",
            &plane.url(),
            "--workspace-id",
            "workspace-1",
        ])
        .env("BOXD_ENROLL_TOKEN", "sesame")
        .output()
        .unwrap();
    ended(&by_variable, 0, &[]);
    let tokens: Vec<Value> = plane
        .seen("token/exchange")
        .iter()
        .map(|body| body["token"].clone())
        .collect();
    assert_eq!(tokens, [json!("sesame"), json!("sesame")]);
    plane.exchanges(reply(401, &json!({})));
    let refused = connect(&plane.url(), config.path(), &["--force", "--token", "wrong"]);
    ended(&refused, 77, &["not accepted"]);
    assert!(!said(&refused).contains("wrong"));
    // A token is good once: it is not spent where its connection could not be written.
    let spent = plane.seen("token/exchange").len();
    let connections = config.path().join("connections");
    let file = std::fs::read_dir(&connections)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = connect(&plane.url(), config.path(), &["--force", "--token", "sesame"]);
    ended(&refused, 77, &["chmod 600"]);
    std::fs::remove_dir_all(&connections).unwrap();
    std::fs::write(&connections, "").unwrap();
    let refused = connect(&plane.url(), config.path(), &["--force", "--token", "sesame"]);
    ended(&refused, 70, &["connections"]);
    assert_eq!(plane.seen("token/exchange").len(), spent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_daemon_picks_the_link_up_and_lets_it_go() {
    let broker = NatsServer::start();
    let plane = Enrollment::start();
    plane.exchanges(reply(201, &json!({ "credentials": credentials(&broker.url()) })));
    let daemon = Daemon::start();
    let mut link = Connection::to(&broker.url());
    (link.workspace_id, link.agent_id) = ("workspace-1".into(), "agent-1".into());
    let control = ControlPlane::connect(&link).await;
    let mut hellos = control.hellos().await;
    let config = daemon.config_directory();
    let (api, directory) = (plane.url(), config.clone());
    let output = tokio::task::spawn_blocking(move || connect(&api, &directory, &["--token", "sesame"])).await;
    ended(&output.unwrap(), 0, &[]);
    assert_eq!(
        hellos.next_within(Duration::from_secs(3)).await.agent_id,
        "agent-1"
    );
    let listed = boxd(&config).args(["connections", "--json"]).output().unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    let gone = boxd(&config).args(["disconnect", &id]).output().unwrap();
    assert_eq!(gone.status.code(), Some(0), "{}", said(&gone));
    eventually("the link to end", PATIENCE, || {
        daemon.log().contains("link removed").then_some(())
    });
}

#[test]
fn connections_of_another_directory_are_taken_over() {
    let (from, config) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let import = |from: &Path| {
        boxd(config.path())
            .args(["connect", "--import"])
            .arg(from)
            .output()
            .unwrap()
    };
    ended(&import(from.path()), 73, &["not found"]);
    let inner = credentials("nats://127.0.0.1:1");
    let file = from.path().join("credentials.json");
    std::fs::write(&file, inner.to_string()).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    ended(&import(from.path()), 77, &["chmod 600"]);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    ended(&import(from.path()), 0, &[]);
    let listed = boxd(config.path()).arg("connections").output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains("agent-1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_file_that_others_can_read_is_not_used_until_it_is_put_right() {
    let broker = NatsServer::start();
    let link = Connection::to(&broker.url());
    let control = ControlPlane::connect(&link).await;
    let mut hellos = control.hellos().await;
    let config = tempfile::tempdir().unwrap();
    link.write(config.path());
    let daemon = Daemon::start();
    let file = format!("connections/{}.json", link.id);
    let (from, to) = (config.path().join(&file), daemon.config_directory().join(&file));
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    let draft = to.with_extension("draft");
    std::fs::copy(from, &draft).unwrap();
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::fs::rename(&draft, &to).unwrap();
    let told = || daemon.log().contains("chmod 600").then_some(());
    eventually("the refusal", PATIENCE, told);
    assert!(hellos.quiet_for(Duration::from_millis(500)).await);
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).unwrap();
    hellos.next_within(Duration::from_secs(3)).await;
}

#[test]
fn absurd_times_of_a_control_plane_are_bounded() {
    let plane = Enrollment::start();
    plane.starts(reply(
        201,
        &json!({
            "deviceCode": "d", "userCode": "\u{1b}[2JAB-CD", "verificationUri": "https://example.com/x",
            "intervalSeconds": 0, "expiresInSeconds": u64::MAX,
        }),
    ));
    plane.polls([
        reply(200, &json!({ "state": "pending" })),
        reply(200, &json!({ "state": "denied" })),
    ]);
    let config = tempfile::tempdir().unwrap();
    let output = connect(&plane.url(), config.path(), &[]);
    ended(&output, 77, &["denied", "[2JAB-CD"]);
    assert!(
        !output.stderr.contains(&0x1b),
        "an escape sequence reaches the terminal"
    );
}

#[test]
fn a_token_needs_no_workspace_and_enrolls_once() {
    let plane = Enrollment::start();
    plane.exchanges(reply(
        201,
        &json!({ "credentials": credentials("nats://127.0.0.1:1") }),
    ));
    let config = tempfile::tempdir().unwrap();
    let url = plane.url();
    let enroll = |more: &[&str]| {
        let words = ["connect", "--api-url", &url, "--token", "t"];
        boxd(config.path()).args(words).args(more).output().unwrap()
    };
    ended(&enroll(&[]), 0, &[]);
    ended(&enroll(&[]), 70, &["already", "--force"]);
    ended(&enroll(&["--force"]), 0, &[]);
    let without = boxd(config.path())
        .args(["connect", "--api-url", &url])
        .output()
        .unwrap();
    ended(&without, 64, &["workspace-id"]);
}

/// Writes a bare `credentials.json`.
fn bare(config: &Path, credentials: &Value) {
    let file = config.join("credentials.json");
    std::fs::write(&file, credentials.to_string()).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bare_credentials_file_becomes_a_connection_that_can_be_removed() {
    let broker = NatsServer::start();
    let daemon = Daemon::builder().start_in(|directory| {
        bare(&directory.join("config"), &credentials(&broker.url()));
    });
    let config = daemon.config_directory();
    assert!(
        daemon.log().contains("credentials.json was imported"),
        "{}",
        daemon.log()
    );
    let listed = boxd(&config).args(["connections", "--json"]).output().unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    ended(&boxd(&config).args(["disconnect", &id]).output().unwrap(), 0, &[]);
    eventually("the link to end", PATIENCE, || {
        daemon.log().contains("link removed").then_some(())
    });
    assert!(!config.join("credentials.json").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_chooses_what_subjects_begin_with() {
    use futures_util::StreamExt;

    let broker = NatsServer::start();
    let client = async_nats::connect(broker.url()).await.unwrap();
    let mut hellos = client.subscribe("tenant7.*.*.hello").await.unwrap();
    client.flush().await.unwrap();
    let mut inner = credentials(&broker.url());
    inner["subjectPrefix"] = json!("tenant7");
    let _daemon = Daemon::builder().start_in(|directory| bare(&directory.join("config"), &inner));
    let hello = tokio::time::timeout(PATIENCE, hellos.next()).await;
    hello.expect("a hello below tenant7").unwrap();
}
