//! A fresh Debian or Ubuntu of this machine's own suite, made by `debootstrap` once and kept in `target/`: what is always
//! there and openssl. Nobody writes to it; each test works in a layer above it that ends with its processes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};

use super::require;

/// The root, made when it is not there.
#[track_caller]
fn root() -> PathBuf {
    let release = fs::read_to_string("/etc/os-release").unwrap();
    let suite = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let suite = suite.expect("a suite of Debian or Ubuntu in /etc/os-release");
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let root = target.join(format!("debootstrap-{suite}"));
    // One test makes it, and the others wait.
    let lock = File::create(root.with_extension("lock")).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .unwrap();
    if root.exists() {
        return root;
    }
    let draft = root.with_extension("draft");
    let _ = fs::remove_dir_all(&draft);
    let output = Command::new(require("debootstrap"))
        .args(["--variant=minbase", "--include=openssl", suite])
        .arg(&draft)
        .arg(mirror(suite))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "debootstrap: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    fs::rename(draft, &root).unwrap();
    root
}

/// Where this machine has the suite from.
#[track_caller]
fn mirror(suite: &str) -> String {
    let format = "$(CODENAME) $(COMPONENT) $(REPO_URI)";
    let output = Command::new(require("apt-get"))
        .args(["indextargets", "--format", format])
        .output()
        .unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    let wanted = format!("{suite} main ");
    let found = listed.lines().find_map(|line| line.strip_prefix(&wanted));
    found
        .unwrap_or_else(|| panic!("apt-get knows no source of {suite} main"))
        .to_owned()
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
