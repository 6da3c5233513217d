//! `boxd update` where no daemon runs: what is taken, what is refused, and what a kill at any step leaves.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::releases::{Releases, another, install, sha256};
use crate::harness::{PATIENCE, eventually, require};

/// An installed program in a directory of its own, and where it looks for releases.
struct Installed {
    directory: TempDir,
    program: PathBuf,
    before: String,
}

impl Installed {
    #[track_caller]
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let bin = directory.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let program = install(&bin);
        Self {
            before: digest(&program),
            program,
            directory,
        }
    }

    fn home(&self) -> &Path {
        self.directory.path()
    }

    /// `boxd update` with releases from `base`.
    fn command(&self, releases: &Releases, base: &str) -> Command {
        self.settled(Command::new(&self.program), releases, base)
    }

    fn settled(&self, mut command: Command, releases: &Releases, base: &str) -> Command {
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home())
            .env("BOXD_STATE_DIR", self.home().join("state"))
            .env("BOXD_CONFIG_DIR", self.home().join("config"))
            .env("BOXD_UPDATE_PUBLIC_KEYS", &releases.key)
            .env("BOXD_UPDATE_BASE_URL", base)
            .current_dir(self.home());
        command
    }

    #[track_caller]
    fn update(&self, releases: &Releases, arguments: &[&str]) -> Output {
        let mut command = self.command(releases, releases.base());
        command.arg("update").args(arguments).output().unwrap()
    }

    /// The update is refused with this code, says `why`, and has changed nothing.
    #[track_caller]
    fn refuses(&self, releases: &Releases, arguments: &[&str], code: i32, why: &str) {
        let output = self.update(releases, arguments);
        self.was_refused(&output, code, why);
    }

    #[track_caller]
    fn was_refused(&self, output: &Output, code: i32, why: &str) {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(why), "{said}");
        assert_eq!(digest(&self.program), self.before, "{said}");
        let names = names(self.program.parent().unwrap());
        assert!(!names.iter().any(|name| name.contains("staged")), "{names:?}");
    }
}

#[track_caller]
fn digest(path: &Path) -> String {
    sha256(&fs::read(path).unwrap())
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_newer_release_is_looked_at_and_taken_once() {
    let (installed, releases) = (Installed::new(), Releases::new());
    let fresh = another("the next one");
    releases.publish("99.0.0", &fresh, |_| {});
    let checked = succeeded(&installed.update(&releases, &["--check"]));
    assert!(
        checked.contains("newest 99.0.0: an update is available"),
        "{checked}"
    );
    let checked: Value =
        serde_json::from_slice(&installed.update(&releases, &["--check", "--json"]).stdout).unwrap();
    assert_eq!(
        (&checked["newest"], &checked["due"]),
        (&json!("99.0.0"), &json!(true))
    );
    assert_eq!(
        digest(&installed.program),
        installed.before,
        "looking changes nothing"
    );
    let said = succeeded(&installed.update(&releases, &[]));
    for stage in ["downloading", "verifying", "applying 99.0.0", "installed 99.0.0"] {
        assert!(said.contains(stage), "{said}");
    }
    assert_eq!(digest(&installed.program), sha256(&fresh));
    let previous = installed.program.with_file_name("boxd.previous");
    assert_eq!(digest(&previous), installed.before);
    let mut version = Command::new(&installed.program);
    succeeded(&version.arg("version").output().unwrap());
}

#[test]
fn a_release_that_is_not_what_was_signed_is_refused() {
    let (installed, releases) = (Installed::new(), Releases::new());
    let fresh = another("signed");
    let publish = || releases.publish("99.0.0", &fresh, |_| {});
    // The manifest.
    publish();
    let manifest = fs::read_to_string(releases.manifest()).unwrap();
    fs::write(releases.manifest(), manifest.replace("99.0.0", "99.0.1")).unwrap();
    installed.refuses(&releases, &[], 77, "not signed by the release key");
    // By somebody else.
    publish();
    Releases::new().sign(&releases.manifest());
    installed.refuses(&releases, &[], 77, "not signed by the release key");
    // A signature of nothing, and none.
    let signature = releases.file("agent/stable/manifest.json.minisig");
    fs::write(&signature, "no signature").unwrap();
    installed.refuses(&releases, &[], 77, "cannot be read");
    fs::remove_file(&signature).unwrap();
    installed.refuses(&releases, &[], 73, "not found");
    // The executable: other bytes, signed or not, and a part of them.
    publish();
    let mut other = fresh.clone();
    *other.last_mut().unwrap() ^= 1;
    fs::write(releases.artifact("99.0.0"), &other).unwrap();
    installed.refuses(&releases, &[], 77, "the manifest says");
    releases.sign(&releases.artifact("99.0.0"));
    installed.refuses(&releases, &[], 77, "the manifest says");
    fs::write(releases.artifact("99.0.0"), &fresh[..fresh.len() / 2]).unwrap();
    installed.refuses(&releases, &[], 77, "the manifest says");
    let longer = [&fresh[..], b"more"].concat();
    fs::write(releases.artifact("99.0.0"), longer).unwrap();
    installed.refuses(&releases, &[], 70, "the limit is");
    publish();
    Releases::new().sign(&releases.artifact("99.0.0"));
    installed.refuses(&releases, &[], 77, "not signed by the release key");
}

#[test]
fn an_old_release_is_refused_however_well_it_is_signed() {
    let (installed, releases) = (Installed::new(), Releases::new());
    releases.publish("0.0.1", &another("old"), |_| {});
    let said = succeeded(&installed.update(&releases, &[]));
    assert!(said.contains("up to date"), "{said}");
    installed.refuses(&releases, &["--version", "0.0.1"], 77, "older than");
    // Its manifest is older than one that was seen, while its version is newer than what runs.
    releases.publish("99.0.0", &another("newest"), |manifest| {
        manifest["signed_at_ms"] = 2_000.into();
    });
    succeeded(&installed.update(&releases, &[]));
    let newest = digest(&installed.program);
    releases.publish("99.1.0", &another("somebody shows an old one"), |manifest| {
        manifest["signed_at_ms"] = 1_999.into();
    });
    let output = installed.update(&releases, &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{said}");
    assert!(said.contains("older than one that was seen"), "{said}");
    assert_eq!(digest(&installed.program), newest);
}

#[test]
fn a_release_that_was_seen_and_not_taken_is_not_undone_by_an_older_one() {
    for first in [&[][..], &["--check"]] {
        let (installed, releases) = (Installed::new(), Releases::new());
        releases.publish("99.1.0", &another("withheld"), |manifest| {
            manifest["rollout_percent"] = 0.into();
            manifest["signed_at_ms"] = 2_000.into();
        });
        succeeded(&installed.update(&releases, first));
        releases.publish("99.0.0", &another("withdrawn"), |manifest| {
            manifest["signed_at_ms"] = 1_999.into();
        });
        installed.refuses(&releases, &[], 77, "older than one that was seen");
    }
}

#[test]
fn who_owns_the_directory_goes_on_behind_root() {
    let (installed, releases) = (Installed::new(), Releases::new());
    let fresh = another("the next one");
    releases.publish("99.0.0", &fresh, |_| {});
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    open(releases.base().as_ref());
    open(installed.home());
    let nobody = |path: &Path| std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    nobody(installed.home());
    nobody(installed.program.parent().unwrap());
    nobody(&installed.program);
    // As root, which leaves what it remembers.
    succeeded(&installed.update(&releases, &["--check"]));
    let mut command = Command::new(require("setpriv"));
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&installed.program)
        .arg("update");
    succeeded(
        &installed
            .settled(command, &releases, releases.base())
            .output()
            .unwrap(),
    );
    assert_eq!(digest(&installed.program), sha256(&fresh));
}

#[test]
fn what_was_never_started_is_replaced_and_what_is_being_tried_is_not() {
    let (installed, releases) = (Installed::new(), Releases::new());
    releases.publish("99.0.0", &another("the first"), |_| {});
    succeeded(&installed.update(&releases, &[]));
    let first = digest(&installed.program);
    releases.publish("99.1.0", &another("the second"), |_| {});
    // As a start does that is still on its way.
    let record = installed.program.with_file_name(".boxd.update");
    let idle = fs::read_to_string(&record).unwrap();
    fs::write(&record, idle.replace("\"starts\":0", "\"starts\":1")).unwrap();
    let output = installed.update(&releases, &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("has not served yet"),
        "{said}"
    );
    assert_eq!(digest(&installed.program), first);
    succeeded(&installed.update(&releases, &["--force"]));
    let second = digest(&installed.program);
    assert_ne!(second, first);
    releases.publish("99.2.0", &another("the third"), |_| {});
    succeeded(&installed.update(&releases, &[]));
    assert_ne!(digest(&installed.program), second);
    // The one to go back to is the one that has served.
    assert_eq!(
        digest(&installed.program.with_file_name("boxd.previous")),
        installed.before
    );
}

#[test]
fn an_executable_that_does_not_run_is_not_put_in_place() {
    let (installed, releases) = (Installed::new(), Releases::new());
    releases.publish("99.0.0", b"no program", |_| {});
    installed.refuses(&releases, &[], 64, "cannot be started");
    releases.publish("99.0.1", b"#!/bin/sh\necho is broken >&2; exit 3\n", |manifest| {
        manifest["signed_at_ms"] = 1_001.into();
    });
    installed.refuses(&releases, &[], 64, "is broken");
    // Its self-test passes; as a daemon it does not come up.
    let real = installed.program.display();
    let script =
        format!("#!/bin/sh\n[ \"$1\" = doctor ] || {{ echo no daemon >&2; exit 4; }}\nexec {real} \"$@\"\n");
    releases.publish("99.0.2", script.as_bytes(), |manifest| {
        manifest["signed_at_ms"] = 1_002.into();
    });
    installed.refuses(&releases, &[], 64, "no daemon");
}

#[test]
fn what_is_not_for_this_machine_is_left_or_refused() {
    let (installed, releases) = (Installed::new(), Releases::new());
    let fresh = another("the next one");
    releases.publish("99.0.0", &fresh, |manifest| {
        manifest["rollout_percent"] = 0.into();
    });
    let said = succeeded(&installed.update(&releases, &[]));
    assert!(said.contains("not rolled out to this machine yet"), "{said}");
    assert_eq!(digest(&installed.program), installed.before);
    releases.publish("99.0.0", &fresh, |manifest| manifest["channel"] = "beta".into());
    installed.refuses(&releases, &[], 77, "is of channel \"beta\"");
    releases.publish("99.0.0", &fresh, |manifest| {
        manifest["artifacts"][0]["target"] = "other".into();
    });
    installed.refuses(&releases, &[], 64, "nothing for");
    installed.refuses(&releases, &["--channel", "../stable"], 64, "no name of a channel");
    installed.refuses(&releases, &["--channel", "nightly"], 73, "not found");
    releases.publish("99.0.0", &fresh, |manifest| {
        manifest["rollout_percent"] = 0.into();
    });
    succeeded(&installed.update(&releases, &["--force"]));
    assert_eq!(digest(&installed.program), sha256(&fresh));
}

#[test]
fn without_a_key_a_source_or_a_server_it_says_so() {
    let (installed, releases) = (Installed::new(), Releases::new());
    releases.publish("99.0.0", &another("x"), |_| {});
    let mut keyless = installed.command(&releases, releases.base());
    let output = keyless
        .env_remove("BOXD_UPDATE_PUBLIC_KEYS")
        .arg("update")
        .output();
    installed.was_refused(&output.unwrap(), 64, "update.public_keys");
    let mut homeless = installed.command(&releases, releases.base());
    let output = homeless.env_remove("BOXD_UPDATE_BASE_URL").arg("update").output();
    installed.was_refused(&output.unwrap(), 64, "update.base_url");
    let mut offline = installed.command(&releases, "http://127.0.0.1:1");
    installed.was_refused(&offline.arg("update").output().unwrap(), 69, "the release server");
    let mut plain = installed.command(&releases, "http://releases.example.com");
    installed.was_refused(&plain.arg("update").output().unwrap(), 64, "use https://");
}

#[test]
fn a_directory_that_may_not_be_changed_is_named() {
    let (installed, releases) = (Installed::new(), Releases::new());
    releases.publish("99.0.0", &another("x"), |_| {});
    let bin = installed.program.parent().unwrap().display().to_string();
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\" && exec \"$1/boxd\" update";
    let mut command = Command::new(require("unshare"));
    command.args(["--mount", "sh", "-c", script, "sh", &bin]);
    let output = installed
        .settled(command, &releases, releases.base())
        .output()
        .unwrap();
    installed.was_refused(&output, 77, &bin);
}

#[test]
fn a_full_disk_is_said_and_leaves_what_was_there() {
    let (installed, releases) = (Installed::new(), Releases::new());
    releases.publish("99.0.0", &another("x"), |_| {});
    let bin = installed.program.parent().unwrap();
    let size = fs::metadata(&installed.program).unwrap().len() * 3 / 2;
    let script = "mkdir \"$1/full\" && mount -t tmpfs -o size=$2 none \"$1/full\" && cp \"$1/boxd\" \"$1/full/\" && \
                  { \"$1/full/boxd\" update; code=$?; ls -A \"$1/full\"; exit $code; }";
    let mut command = Command::new(require("unshare"));
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(bin)
        .arg(size.to_string());
    let output = installed
        .settled(command, &releases, releases.base())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(73), "{said}");
    assert!(said.contains("no space left"), "{said}");
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(listed.ends_with("\nboxd\n"), "{listed}");
}

/// The system calls that change what is on the disk, as `strace` names them.
const STEPS: &str = "fsync,rename,renameat2,link,linkat,unlink,unlinkat";

#[test]
fn what_is_renamed_was_synced_before_and_its_directory_after() {
    let (installed, releases) = (Installed::new(), Releases::new());
    releases.publish("99.0.0", &another("the next one"), |_| {});
    let trace = installed.home().join("trace");
    let mut command = Command::new(require("strace"));
    command
        .args(["-f", "-y", "-qq", "-e", &format!("trace={STEPS}"), "-o"])
        .arg(&trace)
        .arg(&installed.program)
        .arg("update");
    succeeded(
        &installed
            .settled(command, &releases, releases.base())
            .output()
            .unwrap(),
    );
    let trace = fs::read_to_string(trace).unwrap();
    let lines: Vec<&str> = trace.lines().filter(|line| line.contains("/bin")).collect();
    let find = |what: &str, from: usize| {
        let found = lines[from..].iter().position(|line| {
            let mut parts = what.split(' ');
            parts.all(|part| line.contains(part))
        });
        from + found.unwrap_or_else(|| panic!("no {what:?} behind line {from} of {lines:#?}"))
    };
    let synced = find("fsync .boxd.staged", 0);
    let kept = find("rename boxd.previous", synced);
    let kept_synced = find("fsync /bin>", kept);
    let noted = find("rename .boxd.update\"", kept_synced);
    let replaced = find("rename .boxd.staged\"", noted);
    find("fsync /bin>", replaced);
}

/// What changes when a new one is put in place, and the system call that changes it.
const CHANGES: [(&str, &str); 9] = [
    ("/.boxd.staged", "fsync"),
    ("/.boxd.previous", "unlink"),
    ("/.boxd.previous", "linkat"),
    ("/.boxd.previous", "rename"),
    ("", "fsync"),
    ("/.boxd.update.fresh", "fsync"),
    ("/.boxd.update.fresh", "rename"),
    ("/.boxd.staged", "rename"),
    ("/.boxd.staged", "unlink"),
];

#[test]
fn a_kill_at_any_step_leaves_the_old_one_or_the_new_one_and_the_next_update_goes_on() {
    let releases = Releases::new();
    let fresh = another("the next one");
    releases.publish("99.0.0", &fresh, |_| {});
    let mut outcomes = [0, 0];
    // strace counts for each thread and call, so each file and call has a count of its own.
    for (name, call) in CHANGES {
        for step in 1.. {
            let installed = Installed::new();
            // The manifest was seen: what counts is what puts the executable in place.
            succeeded(&installed.update(&releases, &["--check"]));
            let path = format!("{}{name}", installed.program.parent().unwrap().display());
            let mut command = Command::new(require("strace"));
            command
                .args(["-f", "-qq", "-o", "/dev/null", "-e"])
                .arg(format!("inject={call}:signal=KILL:when={step}"))
                .args(["-P", &path]);
            command.arg(&installed.program).arg("update");
            let output = installed
                .settled(command, &releases, releases.base())
                .output()
                .unwrap();
            let there = digest(&installed.program);
            assert!(
                there == installed.before || there == sha256(&fresh),
                "{call} {step} of {name:?}: neither the old nor the new one"
            );
            if output.status.success() {
                assert!(step > 1, "there is no {call} of {name:?}");
                break;
            }
            outcomes[usize::from(there != installed.before)] += 1;
            // Nobody is in the way of the next one.
            eventually("an update after the kill", PATIENCE, || {
                installed.update(&releases, &[]).status.success().then_some(())
            });
            assert_eq!(
                digest(&installed.program),
                sha256(&fresh),
                "{call} {step} of {name:?}"
            );
        }
    }
    assert!(outcomes[0] > 4 && outcomes[1] > 1, "{outcomes:?}");
}
