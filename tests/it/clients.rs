//! Clients that are not ours: programs in tests/clients that drive the daemon over each door.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::relay::{Relay, token_of, viewer_claims, viewer_token};
use crate::harness::{Connection, Daemon, NatsServer, PATIENCE, require};

/// Runs one test file with node; its output is shown when it fails.
fn node(file: &str, daemon: &Daemon, environment: &[(&str, OsString)]) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    assert!(
        directory.join("node_modules").is_dir(),
        "this test needs the npm packages of {}: run `make test`, or `npm ci` in there",
        directory.display()
    );
    let mut command = Command::new(require("node"));
    command
        .args(["--test", "--test-reporter=spec", file])
        .current_dir(&directory)
        // What it writes goes away with the daemon's own directories.
        .env("TMPDIR", daemon.directory().join("home"))
        .env("BOXD_WORKSPACE", daemon.workspace());
    let output = command
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{file}: {}\n{text}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_published_sdk_works_over_http() {
    let daemon = Daemon::start();
    node(
        "sandbox_agent.test.js",
        &daemon,
        &[
            ("BOXD_URL", format!("http://{}", daemon.address()).into()),
            ("BOXD_TOKEN", daemon.token().into()),
        ],
    );
}

#[test]
fn a_control_plane_in_javascript_works_over_nats() {
    let link_token = "a bearer of this test";
    let broker = NatsServer::builder().token(link_token).start();
    let link = Connection {
        bearer: link_token.to_owned(),
        ..Connection::to(&broker.url())
    };
    let daemon = Daemon::builder().connection(&link).start();
    node(
        "control_wire.test.js",
        &daemon,
        &[
            ("BOXD_NATS_URL", broker.url().into()),
            ("BOXD_NATS_TOKEN", link_token.into()),
            (
                "BOXD_LINK",
                format!("{}.{}", link.workspace_id, link.agent_id).into(),
            ),
            ("BOXD_INSTANCE", daemon.instance().into()),
        ],
    );
}

#[test]
fn a_browser_in_javascript_sees_a_terminal_over_a_relay_that_is_restarted() {
    let mut relay = Relay::start();
    let broker = NatsServer::start();
    let mut link = Connection::to(&broker.url());
    link.relay = (relay.url(), token_of(&link.workspace_id, &link.agent_id));
    let daemon = Daemon::builder().connection(&link).start();
    let claims = boxd::wire::relay_token::ViewerClaims {
        workspace_id: link.workspace_id.clone(),
        ..viewer_claims()
    };
    let asked = daemon.directory().join("restart");
    let done = daemon.directory().join("restarted");
    let environment = [
        ("BOXD_NATS_URL", broker.url().into()),
        ("BOXD_NATS_TOKEN", link.bearer.clone().into()),
        (
            "BOXD_LINK",
            OsString::from(format!("{}.{}", link.workspace_id, link.agent_id)),
        ),
        ("BOXD_RELAY", relay.url().into()),
        ("BOXD_RELAY_TOKEN", viewer_token(&claims).into()),
        ("BOXD_RESTART", asked.clone().into()),
        ("BOXD_RESTARTED", done.clone().into()),
    ];
    std::thread::scope(|scope| {
        let client = scope.spawn(|| node("relay_viewer.test.js", &daemon, &environment));
        let begin = Instant::now();
        while !asked.exists() && !client.is_finished() {
            assert!(begin.elapsed() < 2 * PATIENCE, "the client does not come so far");
            std::thread::sleep(Duration::from_millis(10));
        }
        if asked.exists() {
            relay.restart();
            std::fs::write(&done, "").unwrap();
        }
    });
}
