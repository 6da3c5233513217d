//! Configuration as `run` and `doctor` take it.

use std::process::Stdio;

use super::{boxd, complaint, run};

#[test]
fn all_problems_come_together_and_exit_78() {
    let state = tempfile::tempdir().unwrap();
    let config = state.path().join("config.toml");
    std::fs::write(&config, "[http]\nlisen = \"off\"\n[exec]\nlinger = 5\n").unwrap();
    for verb in ["run", "doctor"] {
        let output = boxd(state.path())
            .args([verb, "--http", "nowhere", "--config"])
            .arg(&config)
            .env("BOXD_TOKN", "x")
            .env("BOXD_PROCESS", "ours:1")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(78), "{verb}");
        let text = complaint(&output);
        for part in [
            "http.lisen is not known",
            "exec.linger is 5 without a unit",
            "BOXD_TOKN",
            "--http",
        ] {
            assert!(text.contains(part), "{verb}: {part} is missing in {text}");
        }
        assert!(!text.contains("BOXD_PROCESS"), "{text}");
    }
}

#[test]
fn usage_errors_exit_64_and_name_the_flag() {
    let state = tempfile::tempdir().unwrap();
    for arguments in [
        &["run", "--no-such-flag"][..],
        &["nonsense"],
        &[],
        &["run", "--exit-with-main"],
    ] {
        let output = run(state.path(), arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
    assert!(complaint(&run(state.path(), &["run", "--no-such-flag"])).contains("--no-such-flag"));
}

#[test]
fn print_config_shows_values_layers_and_no_secret() {
    let state = tempfile::tempdir().unwrap();
    let config = state.path().join("config.toml");
    std::fs::write(&config, "[shutdown]\ngrace = \"9s\"\n[nats]\nroot = \"fleet\"\n").unwrap();
    let output = boxd(state.path())
        .args([
            "doctor",
            "--print-config",
            "--token",
            "s3cret-of-a-flag",
            "--config",
        ])
        .arg(&config)
        .env("BOXD_SHUTDOWN_GRACE", "8s")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{}", complaint(&output));
    let row = |key: &str| {
        text.lines()
            .find(|line| line.starts_with(key))
            .unwrap_or_default()
    };
    for (key, value, layer) in [
        ("shutdown.grace", "\"8s\"", "variable BOXD_SHUTDOWN_GRACE"),
        ("nats.root", "\"fleet\"", "file /"),
        ("http.token ", "\"***\"", "flag --token"),
        ("exec.linger", "\"20ms\"", "default"),
    ] {
        assert!(
            row(key).contains(value) && row(key).contains(layer),
            "{key}: {}",
            row(key)
        );
    }
    assert!(!text.contains("s3cret"), "{text}");
}

#[test]
fn the_printed_example_is_a_configuration() {
    let state = tempfile::tempdir().unwrap();
    let example = run(state.path(), &["doctor", "--print-example"]).stdout;
    let path = state.path().join("config.toml");
    std::fs::write(&path, example).unwrap();
    let output = run(state.path(), &["doctor", "--config", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", complaint(&output));
}

#[test]
fn doctor_works_and_tests_itself() {
    let state = tempfile::tempdir().unwrap();
    let output = run(
        state.path(),
        &["doctor", "--self-test", "--json", "--http", "127.0.0.1:0"],
    );
    assert!(output.status.success(), "{}", complaint(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    for name in ["state", "process.run", "self-test run", "self-test files"] {
        let found = findings.iter().find(|row| row["name"] == name);
        assert_eq!(
            found.unwrap_or_else(|| panic!("{name} is missing"))["ok"],
            true,
            "{name}"
        );
    }
    assert_eq!(
        std::fs::read_dir(state.path()).unwrap().count(),
        0,
        "doctor left something behind"
    );
}

#[test]
fn verbs_for_programs_print_to_standard_output() {
    let state = tempfile::tempdir().unwrap();
    let version = run(state.path(), &["version", "--json"]).stdout;
    let version: serde_json::Value = serde_json::from_slice(&version).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    let openapi = run(state.path(), &["openapi"]).stdout;
    let openapi: serde_json::Value = serde_json::from_slice(&openapi).unwrap();
    assert!(openapi["paths"]["/v1/processes/run"].is_object());
    for shell in ["bash", "zsh", "fish"] {
        let script = run(state.path(), &["completions", shell]).stdout;
        assert!(
            String::from_utf8(script).unwrap().contains("workspace-root"),
            "{shell}"
        );
    }
}

#[test]
fn a_reader_who_has_seen_enough_hears_no_complaint() {
    let state = tempfile::tempdir().unwrap();
    let mut child = boxd(state.path())
        .arg("openapi")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The document is larger than a pipe, so it cannot all be written before this.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), complaint(&output).as_str()),
        (Some(70), "")
    );
}
