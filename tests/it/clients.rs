//! Clients that are not ours: programs in tests/clients that drive the daemon over each door.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use crate::harness::{Connection, Daemon, NatsServer, require};

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
