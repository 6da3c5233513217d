//! A directory of releases as a publisher leaves it, signed by the real `minisign` with a key of the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::daemon::BOXD;
use super::{require, write_program};

/// What the program under test was built for.
pub(crate) const TARGET: &str = env!("TARGET_TRIPLE");

/// Releases and the key that they are signed with.
pub(crate) struct Releases {
    directory: TempDir,
    /// The minisign public key, one line.
    pub(crate) key: String,
}

impl Releases {
    /// None yet.
    #[track_caller]
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (public, secret) = (directory.path().join("key.pub"), directory.path().join("key"));
        run(Command::new(require("minisign"))
            .args(["-G", "-W", "-p"])
            .arg(&public)
            .arg("-s")
            .arg(&secret));
        let key = fs::read_to_string(&public).unwrap();
        let key = key.lines().last().unwrap().to_owned();
        Self { directory, key }
    }

    /// Where they are.
    pub(crate) fn base(&self) -> &str {
        self.directory.path().to_str().unwrap()
    }

    /// The file of a path below the base.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// The manifest of the channel `stable`.
    pub(crate) fn manifest(&self) -> PathBuf {
        self.file("agent/stable/manifest.json")
    }

    /// The executable of a release.
    pub(crate) fn artifact(&self, version: &str) -> PathBuf {
        self.file(&format!("agent/{version}/boxd-{TARGET}"))
    }

    /// Publishes `executable` as a version on `stable`; `change` may change the manifest before it is signed.
    #[track_caller]
    pub(crate) fn publish(&self, version: &str, executable: &[u8], change: impl FnOnce(&mut Value)) {
        let artifact = self.artifact(version);
        fs::create_dir_all(artifact.parent().unwrap()).unwrap();
        fs::write(&artifact, executable).unwrap();
        self.sign(&artifact);
        let mut manifest = json!({
            "channel": "stable", "version": version, "min_supported": "", "rollout_percent": 100, "cohort_salt": "",
            "notes_url": "", "signed_at_ms": 1_000, "force": false,
            "artifacts": [{
                "target": TARGET, "url": "", "size": executable.len(), "minisig_url": "",
                "sha256": sha256(executable),
            }],
        });
        change(&mut manifest);
        fs::create_dir_all(self.manifest().parent().unwrap()).unwrap();
        fs::write(self.manifest(), manifest.to_string()).unwrap();
        self.sign(&self.manifest());
    }

    /// Signs a file with the key of these releases.
    #[track_caller]
    pub(crate) fn sign(&self, file: &Path) {
        self.sign_as(&[], file);
    }

    /// Signs a file with other options of `minisign -S`.
    #[track_caller]
    pub(crate) fn sign_as(&self, options: &[&str], file: &Path) {
        run(Command::new(require("minisign"))
            .arg("-S")
            .args(options)
            .arg("-s")
            .arg(self.directory.path().join("key"))
            .arg("-m")
            .arg(file));
    }
}

/// Lower-case hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// The program under test without what a debugger needs, which is most of it.
#[track_caller]
pub(crate) fn program() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let stripped = directory.path().join("boxd");
        run(Command::new(require("strip")).arg("-o").arg(&stripped).arg(BOXD));
        fs::read(stripped).unwrap()
    })
}

/// The program under test with other bytes behind it: it runs the same and has another digest.
#[track_caller]
pub(crate) fn another(tail: &str) -> Vec<u8> {
    let mut bytes = program().to_vec();
    bytes.extend_from_slice(tail.as_bytes());
    bytes
}

/// A copy of the program under test that a test may replace.
#[track_caller]
pub(crate) fn install(directory: &Path) -> PathBuf {
    let path = directory.join("boxd");
    write_program(&path, program());
    path
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
