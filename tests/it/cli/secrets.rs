//! Secrets that arrive in arguments or the environment are gone from `/proc`, and never were in logs or state.

use std::path::Path;

use crate::harness::group::Group;
use crate::harness::ready::Watch;
use crate::harness::{Daemon, processes};

/// Whether a file of a process holds `needle`.
fn holds(pid: i32, file: &str, needle: &str) -> bool {
    let bytes = std::fs::read(processes::of(pid, file)).unwrap_or_default();
    bytes
        .windows(needle.len())
        .any(|window| window == needle.as_bytes())
}

#[test]
fn secrets_of_arguments_and_environment_are_gone() {
    let daemon = Daemon::builder()
        .environment("BOXD_TOKEN", "s3cret-env-token")
        .environment("BOXD_RELAY_URL", "ws://127.0.0.1:9/stream")
        .environment("BOXD_RELAY_TOKEN", "s3cret-env-relay")
        .environment("DECOY", "planted-decoy")
        .argument("--nats-token")
        .argument("s3cret-flag-nats")
        .argument("--nats-url=nats://user:s3cret-flag-url@127.0.0.1:9")
        .argument("--workspace-id=w")
        .argument("--agent-id=planted-agent")
        .start();
    let pid = daemon.pid();
    // The decoys show that this looks in the right place.
    assert!(holds(pid, "environ", "planted-decoy"));
    assert!(holds(pid, "cmdline", "planted-agent") && holds(pid, "cmdline", "@127.0.0.1:9"));
    for file in ["environ", "cmdline"] {
        assert!(
            !holds(pid, file, "s3cret"),
            "{file} of the daemon still holds a secret"
        );
    }
    assert!(!daemon.log().contains("s3cret"), "the log holds a secret");
    for file in files(&daemon.state_directory()) {
        let text = std::fs::read(&file).unwrap();
        assert!(
            !String::from_utf8_lossy(&text).contains("s3cret"),
            "{file:?} holds a secret"
        );
    }
}

#[test]
fn a_token_may_come_by_a_descriptor() {
    let state = tempfile::tempdir().unwrap();
    let ready = state.path().join("ready");
    std::fs::create_dir(&ready).unwrap();
    let boxd = super::boxd(state.path());
    let script = "exec 3<<EOF\ntoken-of-a-descriptor\nEOF\n\
                  exec \"$0\" run --http 127.0.0.1:0 --token-file /dev/fd/3 --ready-file ready/file";
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", script])
        .arg(boxd.get_program())
        .env_clear()
        .envs(boxd.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(state.path());
    let watch = Watch::new(&ready);
    let mut daemon = Group::spawn("boxd", &mut shell, &state.path().join("log"));
    let said = watch.wait(&mut daemon, |_| std::fs::read(ready.join("file")).ok());
    let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
    assert!(
        said["tokenFile"].is_null(),
        "no client can read a descriptor of ours: {said}"
    );
    let called = super::boxd(state.path())
        .args(["call", "ping"])
        .env("BOXD_TOKEN", "token-of-a-descriptor")
        .output()
        .unwrap();
    assert!(called.status.success(), "{}", super::complaint(&called));
}

#[test]
fn children_see_neither_our_variables_nor_our_secrets() {
    let daemon = Daemon::builder()
        .environment("BOXD_TOKEN", "s3cret-env-token")
        .environment("NOTIFY_SOCKET", "/nowhere")
        .environment("OTEL_EXPORTER_OTLP_HEADERS", "s3cret-header")
        .environment("KEPT", "yes")
        .start();
    let token = daemon.directory().join("token");
    std::fs::write(&token, "s3cret-env-token").unwrap();
    let arguments = [
        "call",
        "--token-file",
        token.to_str().unwrap(),
        "exec",
        "--",
        "env",
    ];
    let output = super::run(&daemon.state_directory(), &arguments);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(
        text.lines().any(|line| line == "KEPT=yes"),
        "{text}{}",
        super::complaint(&output)
    );
    for part in ["s3cret", "NOTIFY_SOCKET", "OTEL_", "BOXD_TOKEN", "BOXD_STATE_DIR"] {
        assert!(!text.contains(part), "{part} in {text}");
    }
}

fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory)
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}
