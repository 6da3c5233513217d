//! `packaging/uninstall.sh`: what it removes, what it leaves, and what it refuses.

use std::fs;
use std::process::Command;

use crate::harness::installer::{Installer, ended, script, tree};
use crate::harness::require;

/// `uninstall.sh` of the prefix where no service manager runs, whatever this machine has.
fn uninstaller(installer: &Installer, arguments: &[&str]) -> Command {
    let mut command = Command::new(require("unshare"));
    command
        .args([
            "--mount",
            "sh",
            "-ec",
            "mount -t tmpfs none /run; exec \"$0\" \"$@\"",
            "/bin/sh",
        ])
        .arg(script("uninstall.sh"))
        .args(arguments);
    installer.settle(&mut command);
    command
        .env("BOXD_INSTALL_PREFIX", installer.prefix())
        .env("BOXD_CONFIG_DIR", installer.path("data/config"))
        .env("BOXD_STATE_DIR", installer.path("data/state"));
    command
}

#[test]
fn it_removes_what_install_wrote_and_nothing_else_however_often() {
    let installer = Installer::new();
    installer.installs("1.0.0", &[]);
    installer.publish("1.1.0");
    installer.installs("1.1.0", &[]);
    let bin = installer.prefix().join("bin");
    for (directory, name) in [
        (bin.clone(), "other"),
        (bin.clone(), ".boxd.update"),
        (bin.clone(), ".boxd.staged"),
        (installer.prefix(), "boxd"),
        (installer.path("data/config"), "config.toml"),
        (installer.path("data/state"), "token"),
    ] {
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(name), "").unwrap();
    }
    let before = installer.everything();
    let said = ended(&uninstaller(&installer, &["--dry-run"]).output().unwrap(), 0);
    assert!(said.contains("would remove"), "{said}");
    assert_eq!(installer.everything(), before);
    ended(&uninstaller(&installer, &[]).output().unwrap(), 0);
    let left: Vec<String> = tree(&installer.prefix()).into_keys().collect();
    assert_eq!(left, ["bin", "bin/other", "boxd"]);
    assert_eq!(tree(&installer.path("data")).len(), 4);
    let said = ended(&uninstaller(&installer, &[]).output().unwrap(), 0);
    assert!(said.contains("there is no boxd"), "{said}");
    // What is purged is named before anything is removed.
    installer.installs("1.1.0", &[]);
    let said = ended(&uninstaller(&installer, &["--purge"]).output().unwrap(), 0);
    for name in ["data/config", "data/state"] {
        let named = said.find(&format!("everything in it: {}", installer.path(name).display()));
        assert!(named.unwrap() < said.find("removed").unwrap(), "{said}");
    }
    assert!(tree(&installer.path("data")).is_empty());
    ended(&uninstaller(&installer, &["--purge"]).output().unwrap(), 0);
}

#[test]
fn a_directory_that_cannot_be_meant_is_refused() {
    let installer = Installer::new();
    installer.installs("1.0.0", &[]);
    let home = installer.path("home");
    let above = installer.path("home/../tools");
    for (arguments, variable, why) in [
        (&["--prefix", ""][..], ("X", ""), "empty or /"),
        (&["--prefix="], ("X", ""), "empty or /"),
        (&[], ("BOXD_INSTALL_PREFIX", ""), "empty or /"),
        (&["--prefix", "//"], ("X", ""), "empty or /"),
        (&["--prefix", "a prefix"], ("X", ""), "not absolute"),
        (&["--prefix", above.to_str().unwrap()], ("X", ""), ". or .. in it"),
        (&["--prefix"], ("X", ""), "needs a value"),
        (&["--everything"], ("X", ""), "unknown option"),
        (
            &["--purge"],
            ("BOXD_CONFIG_DIR", ""),
            "configuration directory is empty",
        ),
        (&["--purge"], ("BOXD_STATE_DIR", "/"), "state directory is empty"),
        (&["--purge"], ("BOXD_STATE_DIR", "state"), "not absolute"),
        (&["--purge"], ("BOXD_STATE_DIR", "/nowhere"), "not boxd's alone"),
        (&["--purge"], ("BOXD_STATE_DIR", "//nowhere"), "// in it"),
        (&["--purge"], ("BOXD_CONFIG_DIR", "/usr/lib"), "nothing of boxd's"),
        (
            &["--purge"],
            ("BOXD_STATE_DIR", home.to_str().unwrap()),
            "holds your home",
        ),
    ] {
        let mut command = uninstaller(&installer, arguments);
        command.env(variable.0, variable.1);
        installer.is_refused(&mut command, 64, why);
    }
}

#[test]
fn what_may_not_be_changed_or_is_a_directory_stays() {
    let installer = Installer::new();
    installer.installs("1.0.0", &[]);
    let mut command = Command::new(require("unshare"));
    let read_only = "mount -t tmpfs none /run; mount --bind \"$1\" \"$1\"; mount -o remount,ro,bind \"$1\"; \
                     exec sh \"$2\" --prefix \"$1\"";
    command
        .args(["--mount", "sh", "-ec", read_only, "sh"])
        .arg(installer.prefix())
        .arg(script("uninstall.sh"));
    installer.settle(&mut command);
    installer.is_refused(&mut command, 77, "Read-only file system");
    fs::remove_file(installer.program()).unwrap();
    fs::create_dir(installer.program()).unwrap();
    installer.is_refused(&mut uninstaller(&installer, &[]), 73, "is a directory");
}
