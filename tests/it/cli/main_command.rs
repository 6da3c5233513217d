//! `boxd run -- COMMAND`: boxd as the entry point of an image.

use std::process::Stdio;

use super::boxd;

#[test]
fn the_daemon_ends_with_its_main_command_and_its_code() {
    let state = tempfile::tempdir().unwrap();
    for (script, code) in [("exit 7", 7), ("kill -9 $$", 137), ("cat; exit 0", 0)] {
        let output = boxd(state.path())
            .args([
                "run",
                "--http",
                "off",
                "--exit-with-main",
                "--",
                "sh",
                "-c",
                script,
            ])
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{script}\n{log}");
    }
}

#[test]
fn the_main_command_has_our_standard_output_and_no_variable_of_ours() {
    let state = tempfile::tempdir().unwrap();
    let output = boxd(state.path())
        .args(["run", "--http", "off", "--exit-with-main", "--", "env"])
        .env("KEPT", "yes")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let ours: Vec<_> = text.lines().filter(|line| line.starts_with("BOXD_")).collect();
    assert!(text.lines().any(|line| line == "KEPT=yes"), "{text}");
    assert!(
        ours.iter().all(|line| line.starts_with("BOXD_PROCESS=")),
        "{ours:?}"
    );
}
