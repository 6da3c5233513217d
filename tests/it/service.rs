//! `boxd service`: the units as systemd and a reader of property lists see them, where they are written and what is not
//! written over, and what managers are asked. No manager of this machine is ever asked: those here are programs that write
//! down their arguments, in a view of the machine of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::daemon::BOXD;
use crate::harness::{require, write_program};

/// Where the checked-in unit expects the program.
const USUAL: &str = "/usr/local/bin/boxd";

/// A home, and programs that play managers.
struct Guest {
    directory: tempfile::TempDir,
}

impl Guest {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let guest = Self { directory };
        for name in ["systemctl", "launchctl"] {
            let script =
                "#!/bin/sh\nprintf '%s %s\\n' \"${0##*/}\" \"$*\" >> \"$ASKED\"\nexit \"${FAKE_EXIT:-0}\"\n";
            let program = guest.path("bin").join(name);
            std::fs::create_dir_all(program.parent().unwrap()).unwrap();
            write_program(&program, script);
        }
        guest
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `boxd service` where no manager runs, whatever this machine has.
    fn alone(&self, arguments: &[&str]) -> Output {
        self.seeing("mount -t tmpfs none /run", arguments, "0")
    }

    /// `boxd service` where systemd runs, whose program exits with `code`.
    fn managed(&self, arguments: &[&str], code: &str) -> Output {
        self.seeing(
            "mount -t tmpfs none /run; mkdir -p /run/systemd/system",
            arguments,
            code,
        )
    }

    /// After `script` in a mount namespace of its own.
    fn seeing(&self, script: &str, arguments: &[&str], code: &str) -> Output {
        let path = std::env::var("PATH").unwrap();
        Command::new(require("unshare"))
            .args([
                "--mount",
                "sh",
                "-ec",
                &format!("{script}; exec \"$0\" service \"$@\""),
                BOXD,
            ])
            .args(arguments)
            .env_clear()
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("HOME", self.path("home"))
            .env("ASKED", self.path("asked"))
            .env("FAKE_EXIT", code)
            .output()
            .unwrap()
    }

    /// What managers were asked since the last time.
    fn asked(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("asked")).unwrap_or_default();
        let _ = std::fs::remove_file(self.path("asked"));
        text.lines().map(str::to_owned).collect()
    }
}

/// `boxd service` as it is.
fn service(arguments: &[&str]) -> Output {
    let mut command = Command::new(BOXD);
    command.env_clear().env("HOME", "/nowhere").arg("service");
    command.args(arguments).output().unwrap()
}

#[track_caller]
fn ended(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    let shown = String::from_utf8(output.stdout.clone()).unwrap();
    if code == 0 { shown } else { said }
}

#[test]
fn the_unit_in_the_tree_is_the_one_that_is_printed() {
    let printed = ended(&service(&["print", "--system", "--binary", USUAL]), 0);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/boxd.service");
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        kept, printed,
        "systemd/boxd.service; write it by `boxd service print --system --binary {USUAL}`"
    );
    let own = ended(&service(&["print", "--system"]), 0);
    let own_path = std::fs::canonicalize(BOXD).unwrap();
    assert_eq!(own.replace(own_path.to_str().unwrap(), USUAL), printed);
}

/// Has systemd read a unit; answers its complaints. What it says of a key that is newer than itself is none.
fn complaints(scope: &str, unit: &Path) -> String {
    let analyze = || Command::new(require("systemd-analyze"));
    let version = analyze().arg("--version").output().unwrap().stdout;
    let version = String::from_utf8(version).unwrap();
    let version: u32 = version.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    let directory = unit.parent().unwrap();
    let output = analyze()
        .args([scope, "verify"])
        .arg(unit)
        .env("XDG_RUNTIME_DIR", directory)
        .env("HOME", directory)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let newer =
        |line: &&str| version < 254 && line.contains("Unknown key") && line.contains("'DelegateSubgroup'");
    let lines: Vec<_> = said.lines().filter(|line| !newer(line)).collect();
    if !output.status.success() && lines.is_empty() {
        return format!("it ended with {}", output.status);
    }
    lines.join("\n")
}

#[test]
fn systemd_reads_every_unit_without_complaint() {
    let directory = tempfile::tempdir().unwrap();
    // systemd looks the program up, so that it says whether it read the path as it is.
    let odd = directory.path().join("a b %n $HOME");
    std::fs::create_dir(&odd).unwrap();
    let odd = odd.join("boxd");
    std::os::unix::fs::symlink(BOXD, &odd).unwrap();
    for scope in ["--system", "--user"] {
        for (index, binary) in [BOXD, odd.to_str().unwrap()].into_iter().enumerate() {
            let print = [
                "print",
                scope,
                "--binary",
                binary,
                "--workspace-root",
                "/srv/100% \"q\" 'r' \\x $HOME",
            ];
            let unit = directory.path().join(index.to_string()).join("boxd.service");
            std::fs::create_dir_all(unit.parent().unwrap()).unwrap();
            std::fs::write(&unit, ended(&service(&print), 0)).unwrap();
            assert_eq!(complaints(scope, &unit), "", "{scope} {binary}");
        }
    }
    // It does complain.
    let unit = directory.path().join("boxd.service");
    let gone = ["print", "--system", "--binary", "/no/such/boxd"];
    std::fs::write(&unit, ended(&service(&gone), 0)).unwrap();
    assert!(complaints("--system", &unit).contains("/no/such/boxd"));
}

#[test]
fn a_property_list_says_what_it_should_to_who_reads_them() {
    let root = "/srv/<a> & \"b\"";
    let print = [
        "print",
        "--manager",
        "launchd",
        "--system",
        "--binary",
        USUAL,
        "--workspace-root",
        root,
    ];
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("boxd.plist");
    std::fs::write(&file, ended(&service(&print), 0)).unwrap();
    let script = "import json, plistlib, sys; print(json.dumps(plistlib.load(open(sys.argv[1], 'rb'))))";
    let read = Command::new(require("python3"))
        .args(["-c", script])
        .arg(&file)
        .output()
        .unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let list: Value = serde_json::from_slice(&read.stdout).unwrap();
    let arguments = json!([
        USUAL,
        "run",
        "--config-dir",
        "/etc/boxd",
        "--state-dir",
        "/var/lib/boxd",
        "--workspace-root",
        root
    ]);
    assert_eq!(list["ProgramArguments"], arguments);
    for (key, value) in [
        ("Label", json!("boxd")),
        ("KeepAlive", json!(true)),
        ("RunAtLoad", json!(true)),
        ("ThrottleInterval", json!(10)),
    ] {
        assert_eq!(list[key], value, "{key}: {list}");
    }
}

#[test]
fn below_a_root_the_unit_is_written_and_removed_and_nobody_is_asked() {
    let guest = Guest::new();
    let root = guest.path("image");
    let root = root.to_str().unwrap();
    let unit = guest.path("image/etc/systemd/system/boxd.service");
    let install = ["install", "--system", "--root", root, "--binary", USUAL];
    let shown = ended(&guest.alone(&install), 0);
    assert_eq!(shown, format!("written: {}\n", unit.display()));
    let printed = ended(&service(&["print", "--system", "--binary", USUAL]), 0);
    assert_eq!(std::fs::read_to_string(&unit).unwrap(), printed);
    ended(&guest.alone(&install), 0);
    let uninstall = ["uninstall", "--system", "--root", root];
    ended(&guest.alone(&uninstall), 0);
    assert!(!unit.exists());
    assert!(ended(&guest.alone(&uninstall), 73).contains("not found"));

    // Somebody else's.
    std::fs::write(&unit, "[Service]\nExecStart=/bin/true\n").unwrap();
    assert!(ended(&guest.alone(&install), 70).contains("--force"));
    assert!(ended(&guest.alone(&uninstall), 70).contains("not written by boxd"));
    assert!(std::fs::read_to_string(&unit).unwrap().contains("/bin/true"));
    ended(&guest.alone(&[&install[..], &["--force"]].concat()), 0);
    assert_eq!(std::fs::read_to_string(&unit).unwrap(), printed);
    assert_eq!(guest.asked(), [""; 0]);
}

#[test]
fn where_no_manager_runs_it_is_said_what_to_do_and_nothing_is_written() {
    let guest = Guest::new();
    std::fs::remove_file(guest.path("bin/launchctl")).unwrap();
    for manager in ["systemd", "launchd"] {
        for verb in ["install", "start", "stop", "restart", "status"] {
            let said = ended(&guest.alone(&[verb, "--user", "--manager", manager]), 69);
            assert!(said.contains("no service manager runs here"), "{said}");
            assert!(said.contains("`boxd run` is the entry point"), "{said}");
        }
    }
    assert!(!guest.path("home").exists());
    assert_eq!(guest.asked(), [""; 0]);
}

#[test]
fn systemctl_is_asked_and_its_code_is_ours() {
    let guest = Guest::new();
    let unit = guest.path("home/.config/systemd/user/boxd.service");
    ended(&guest.managed(&["install", "--user", "--now"], "0"), 0);
    assert!(unit.exists());
    let enabled = [
        "systemctl --user daemon-reload",
        "systemctl --user enable boxd.service",
    ];
    assert_eq!(
        guest.asked(),
        [&enabled[..], &["systemctl --user restart boxd.service"]].concat()
    );
    ended(&guest.managed(&["install", "--user"], "0"), 0);
    assert_eq!(guest.asked(), enabled);
    for verb in ["start", "stop", "restart"] {
        ended(&guest.managed(&[verb, "--system"], "0"), 0);
        assert_eq!(guest.asked(), [format!("systemctl {verb} boxd.service")]);
    }
    assert_eq!(guest.managed(&["status", "--system"], "3").status.code(), Some(3));
    assert_eq!(guest.asked(), ["systemctl --no-pager status boxd.service"]);
    // The first that is not content is the last that is asked.
    assert_eq!(
        guest.managed(&["install", "--user", "--now"], "5").status.code(),
        Some(5)
    );
    assert_eq!(guest.asked(), &enabled[..1]);
    // What could not be stopped keeps its unit.
    let kept = guest.managed(&["uninstall", "--user"], "5");
    assert_eq!(kept.status.code(), Some(5));
    assert!(unit.exists());
    assert_eq!(guest.asked(), ["systemctl --user disable --now boxd.service"]);
    ended(&guest.managed(&["uninstall", "--user"], "0"), 0);
    let disabled = [
        "systemctl --user disable --now boxd.service",
        "systemctl --user daemon-reload",
    ];
    assert_eq!(guest.asked(), disabled);
    assert!(!unit.exists());
    std::fs::remove_file(guest.path("bin/systemctl")).unwrap();
    let without = guest.seeing(
        "mount -t tmpfs none /run; mkdir -p /run/systemd/system; PATH=/nowhere",
        &["start"],
        "0",
    );
    assert!(ended(&without, 73).contains("systemctl"));
}

#[test]
fn launchctl_is_asked() {
    let guest = Guest::new();
    let user = nix::unistd::getuid();
    let unit = guest.path("home/Library/LaunchAgents/boxd.plist");
    let launchd = ["--user", "--manager", "launchd"];
    ended(&guest.alone(&[&["install", "--now"], &launchd[..]].concat()), 0);
    assert_eq!(
        guest.asked(),
        [
            format!("launchctl enable gui/{user}/boxd"),
            format!("launchctl bootout gui/{user}/boxd"),
            format!("launchctl bootstrap gui/{user} {}", unit.display()),
        ]
    );
    // One that is not loaded is removed all the same.
    let uninstall = [&["uninstall"], &launchd[..]].concat();
    ended(&guest.seeing("true", &uninstall, "3"), 0);
    assert_eq!(guest.asked()[0], format!("launchctl disable gui/{user}/boxd"));
    assert!(!unit.exists());
}
