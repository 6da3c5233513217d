//! `packaging/install.sh` and `uninstall.sh` as a stranger runs them: a home of their own, a PATH with busybox and the
//! programs that a test names, and no service manager.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use super::releases::{Releases, TARGET, sha256};
use super::require;

/// Where the scripts are.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)
}

/// Programs to verify, to download and to lock with, which a test names when it wants one.
const NAMED: [&str; 6] = ["minisign", "rsign", "openssl", "curl", "wget", "flock"];

/// A prefix to install into, and whose releases.
pub(crate) struct Installer {
    directory: TempDir,
    pub(crate) releases: Releases,
}

/// What is below a directory: kinds, modes and digests by name.
pub(crate) type Tree = BTreeMap<String, String>;

impl Installer {
    /// A prefix that does not exist yet, and release 1.0.0.
    #[track_caller]
    pub(crate) fn new() -> Self {
        let installer = Self {
            directory: tempfile::tempdir().unwrap(),
            releases: Releases::new(),
        };
        for name in ["home", "tmp"] {
            fs::create_dir(installer.path(name)).unwrap();
        }
        installer.tools("tools", &["minisign", "flock"]);
        installer.publish("1.0.0");
        installer
    }

    /// A path in the directory of the test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where boxd is installed below.
    pub(crate) fn prefix(&self) -> PathBuf {
        self.path("a prefix")
    }

    /// What is installed.
    pub(crate) fn program(&self) -> PathBuf {
        self.prefix().join("bin/boxd")
    }

    /// Publishes a program that knows its version and nothing more.
    #[track_caller]
    pub(crate) fn publish(&self, version: &str) {
        self.releases.publish(version, stub(version).as_bytes(), |_| {});
    }

    /// A directory with busybox under each of its names and these programs of the machine.
    #[track_caller]
    pub(crate) fn tools(&self, name: &str, programs: &[&str]) -> PathBuf {
        let directory = self.path(name);
        let busybox = require("busybox");
        let listed = Command::new(&busybox).arg("--list").output().unwrap();
        fs::create_dir(&directory).unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        for applet in listed.lines().filter(|applet| !NAMED.contains(applet)) {
            symlink(&busybox, directory.join(applet)).unwrap();
        }
        for program in programs {
            let path = directory.join(program);
            let _ = fs::remove_file(&path);
            symlink(require(program), path).unwrap();
        }
        directory
    }

    /// `install.sh` from the directory of releases, with their key, into the prefix, without a service.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.bare("install.sh");
        command
            .args(["--prefix", self.prefix().to_str().unwrap(), "--no-service"])
            .args(arguments)
            .env("BOXD_INSTALL_BASE_URL", self.releases.base())
            .env("BOXD_INSTALL_PUBLIC_KEY", &self.releases.key);
        command
    }

    /// A script without options.
    pub(crate) fn bare(&self, name: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.arg(script(name));
        self.settle(&mut command);
        command
    }

    /// The same command after the shell script `view` in a mount namespace of its own, which has the prefix as `$PREFIX`.
    pub(crate) fn seeing(&self, view: &str, usual: &Command) -> Command {
        let mut command = Command::new(require("unshare"));
        command
            .args(["--mount", "sh", "-ec", &format!("{view}; exec \"$0\" \"$@\"")])
            .arg(usual.get_program())
            .args(usual.get_args());
        self.settle(&mut command);
        command.env("PREFIX", self.prefix());
        let set = |(name, value): (&OsStr, Option<&OsStr>)| Some((name.to_owned(), value?.to_owned()));
        command.envs(usual.get_envs().filter_map(set));
        command
    }

    /// Gives a command the environment of this test and nothing else.
    pub(crate) fn settle(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", self.path("tools"))
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .current_dir(self.path("home"));
    }

    /// Runs `install.sh`.
    #[track_caller]
    pub(crate) fn install(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// It installs `version`, or it was there.
    #[track_caller]
    pub(crate) fn installs(&self, version: &str, arguments: &[&str]) -> String {
        let said = ended(&self.install(arguments), 0);
        self.has(version);
        said
    }

    /// The program of this version is in place, and nothing of the way there is left.
    #[track_caller]
    pub(crate) fn has(&self, version: &str) {
        let output = Command::new(self.program()).arg("version").output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            format!("boxd {version}\n")
        );
        let left: Vec<String> = tree(self.directory.path())
            .into_keys()
            .filter(|name| name.contains(".boxd.install") || name.starts_with("tmp/"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// It ends with this code, says `why`, and everything is as it was.
    #[track_caller]
    pub(crate) fn refuses(&self, arguments: &[&str], code: i32, why: &str) {
        self.is_refused(&mut self.command(arguments), code, why);
    }

    /// The same of a command that was changed.
    #[track_caller]
    pub(crate) fn is_refused(&self, command: &mut Command, code: i32, why: &str) {
        let before = tree(self.directory.path());
        let said = ended(&command.output().unwrap(), code);
        assert!(said.contains(why), "{why:?} is not in {said}");
        assert_eq!(tree(self.directory.path()), before, "{said}");
    }

    /// Everything below the directory of the test.
    pub(crate) fn everything(&self) -> Tree {
        tree(self.directory.path())
    }

    /// Changes the artifact of a release; its signature and manifest stay.
    #[track_caller]
    pub(crate) fn change_artifact(&self, version: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let artifact = self.releases.artifact(version);
        let mut bytes = fs::read(&artifact).unwrap();
        change(&mut bytes);
        fs::write(&artifact, bytes).unwrap();
    }
}

/// A program that knows its version and nothing more.
pub(crate) fn stub(version: &str) -> String {
    format!("#!/bin/sh\n[ \"$1\" = version ] || exit 9\necho boxd {version}\n# for {TARGET}\n")
}

/// It ended with this code; answers what it said.
#[track_caller]
pub(crate) fn ended(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

/// Everything below a directory; nothing when it does not exist.
#[track_caller]
pub(crate) fn tree(directory: &Path) -> Tree {
    let mut found = Tree::new();
    let mut rest = vec![directory.to_owned()];
    while let Some(next) = rest.pop() {
        let Ok(entries) = fs::read_dir(&next) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let mode = metadata.permissions().mode();
            let content = if metadata.is_file() {
                sha256(&fs::read(&path).unwrap())
            } else {
                String::new()
            };
            let name = path
                .strip_prefix(directory)
                .unwrap()
                .to_string_lossy()
                .into_owned();
            found.insert(name, format!("{mode:o} {content}"));
            if metadata.is_dir() {
                rest.push(path);
            }
        }
    }
    found
}
