//! A fresh Debian or Ubuntu of this machine's own suite, made once by `packaging/debian-root.sh`. Nobody writes to it; each test works in a layer above it that ends with its processes.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::require;

/// The root, made when it is not there.
#[track_caller]
fn root() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/debian-root.sh");
    let output = Command::new(script).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim_end().into()
}

/// Runs `script` as the first process of a fresh Debian that sees nothing of this machine but its network, and
/// `releases` at `/releases`. It is over when the process that is answered is killed.
#[track_caller]
pub(crate) fn command(scratch: &Path, releases: &Path, script: &str) -> Command {
    let layers = "\
        mount -t tmpfs none \"$1\"; mkdir \"$1/root\" \"$1/upper\" \"$1/work\"
        mount -t overlay -o \"lowerdir=$2,upperdir=$1/upper,workdir=$1/work\" none \"$1/root\"
        cd \"$1/root\"; mount -t proc none proc; mkdir releases
        mount --bind \"$3\" releases; mount -o remount,ro,bind releases
        exec chroot . /bin/sh -ec \"$4\"";
    let mut command = Command::new(require("unshare"));
    command
        .args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-ec",
            layers,
            "sh",
        ])
        .arg(scratch)
        .arg(root())
        .arg(releases)
        .arg(script)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root");
    command
}
