//! `packaging/install.sh`: what it installs, by whose word, over what, and for whom it waits.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use serde_json::json;

use crate::harness::enrollment::{Enrollment, credentials, reply};
use crate::harness::file_server::FileServer;
use crate::harness::installer::{Installer, ended, script, stub, tree};
use crate::harness::releases::{another, program, sha256};
use crate::harness::{PATIENCE, eventually, require, write_program};

/// What the program under test says of itself.
const VERSION: &str = env!("CARGO_PKG_VERSION");

#[test]
fn every_shell_and_every_verifier_installs_what_was_signed_either_way() {
    let installer = Installer::new();
    installer.tools("openssl", &["openssl"]);
    let (dash, bash, busybox) = (require("dash"), require("bash"), require("busybox"));
    let shells = [
        vec![dash],
        vec![bash, "--posix".into()],
        vec![busybox, "sh".into()],
    ];
    let mut version = 0;
    for kind in [&[][..], &["-l"]] {
        for verifier in ["tools", "openssl"] {
            for shell in &shells {
                version += 1;
                let name = format!("1.0.{version}");
                installer.publish(&name);
                for file in [installer.releases.artifact(&name), installer.releases.manifest()] {
                    installer.releases.sign_as(kind, &file);
                }
                let usual = installer.command(&[]);
                let mut command = Command::new(&shell[0]);
                command.args(&shell[1..]).args(usual.get_args());
                installer.settle(&mut command);
                command.envs(usual.get_envs().filter_map(|(key, value)| Some((key, value?))));
                command.env("PATH", installer.path(verifier));
                let said = ended(&command.output().unwrap(), 0);
                assert!(said.contains(&format!("installed boxd {name}")), "{said}");
                installer.has(&name);
                assert_eq!(
                    fs::metadata(installer.program()).unwrap().permissions().mode() & 0o777,
                    0o755
                );
            }
        }
    }
    let previous = fs::read_to_string(installer.prefix().join("bin/boxd.previous")).unwrap();
    assert_eq!(previous, stub(&format!("1.0.{}", version - 1)));
}

#[test]
fn every_downloader_brings_it_over_http() {
    let installer = Installer::new();
    let server = FileServer::start(installer.releases.base().as_ref());
    installer.tools("curl", &["minisign", "curl"]);
    installer.tools("wget", &["minisign", "wget"]);
    let small = installer.tools("small", &["minisign"]);
    std::os::unix::fs::symlink(require("busybox"), small.join("wget")).unwrap();
    for (number, tools) in ["curl", "wget", "small"].into_iter().enumerate() {
        let version = format!("1.{number}.0");
        installer.publish(&version);
        let mut command = installer.command(&["--base-url", &server.url()]);
        command.env("PATH", installer.path(tools));
        ended(&command.output().unwrap(), 0);
        installer.has(&version);
    }
    // What it does not have.
    fs::remove_file(installer.releases.manifest()).unwrap();
    for tools in ["curl", "wget", "small"] {
        let mut command = installer.command(&["--base-url", &server.url()]);
        command.env("PATH", installer.path(tools));
        installer.is_refused(&mut command, 69, "manifest.json cannot be had");
    }
    installer.refuses(
        &["--base-url", &server.url()],
        69,
        "neither curl nor wget is here",
    );
}

#[test]
fn the_one_line_pipes_it_into_a_shell_and_the_real_program_runs() {
    let installer = Installer::new();
    installer.releases.publish(VERSION, program(), |_| {});
    fs::copy(script("install.sh"), installer.releases.file("install.sh")).unwrap();
    let server = FileServer::start(installer.releases.base().as_ref());
    installer.tools("curl", &["minisign", "curl"]);
    let line = "curl -fsSL \"$BASE/install.sh\" | sh -s -- --base-url \"$BASE\" --public-key \"$KEY\"";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]);
    installer.settle(&mut command);
    command
        .env("PATH", installer.path("curl"))
        .env("BASE", server.url())
        .env("KEY", &installer.releases.key)
        .env("BOXD_INSTALL_PREFIX", installer.prefix());
    // No manager of this machine is asked, whatever it has.
    let mut alone = installer.seeing("mount -t tmpfs none /run", &command);
    alone.env(
        "PATH",
        format!("{}:/usr/bin:/bin", installer.path("curl").display()),
    );
    let said = ended(&alone.output().unwrap(), 0);
    assert!(said.contains("no service manager runs here"), "{said}");
    installer.has(VERSION);
    assert_eq!(fs::read(installer.program()).unwrap(), program());
}

#[test]
fn only_a_newer_one_replaces_what_is_there_unless_somebody_insists() {
    let installer = Installer::new();
    installer.installs("1.0.0", &[]);
    let before = tree(&installer.prefix());
    let said = installer.installs("1.0.0", &[]);
    assert!(said.contains("boxd 1.0.0 is already there"), "{said}");
    assert_eq!(tree(&installer.prefix()), before);
    // Pre-releases come before their release, and count as numbers where they are.
    for (older, newer) in [
        ("1.0.0", "1.0.1-alpha.9"),
        ("1.0.1-alpha.9", "1.0.1-alpha.10"),
        ("1.0.1-alpha.10", "1.0.1-alpha.beta"),
        ("1.0.1-alpha.beta", "1.0.1"),
        ("1.0.1", "1.0.9"),
        ("1.0.9", "1.0.10"),
        ("1.0.10", "18446744073709551615.0.0"),
        ("18446744073709551615.0.0", "18446744073709551616.0.0"),
    ] {
        installer.publish(newer);
        installer.installs(newer, &[]);
        installer.publish(older);
        installer.refuses(&[], 65, &format!("{older} is older"));
        installer.refuses(&["--force"], 65, "--allow-downgrade");
    }
    installer.publish("1.0.0");
    installer.installs("1.0.0", &["--allow-downgrade"]);
    // The same version with other bytes, when somebody insists.
    let changed = stub("1.0.0") + "# built again\n";
    installer.releases.publish("1.0.0", changed.as_bytes(), |_| {});
    installer.installs("1.0.0", &[]);
    assert_eq!(fs::read_to_string(installer.program()).unwrap(), stub("1.0.0"));
    installer.installs("1.0.0", &["--force"]);
    assert_eq!(fs::read_to_string(installer.program()).unwrap(), changed);
    // One that does not say what it is.
    write_program(&installer.program(), "#!/bin/sh\nexit 3\n");
    installer.refuses(&[], 65, "does not say its version");
    installer.installs("1.0.0", &["--force"]);
}

#[test]
fn a_dry_run_verifies_everything_and_changes_nothing() {
    let installer = Installer::new();
    let before = installer.everything();
    let said = ended(&installer.install(&["--dry-run"]), 0);
    assert!(said.contains("would install boxd 1.0.0"), "{said}");
    assert_eq!(installer.everything(), before);
    installer.installs("1.0.0", &[]);
    let before = installer.everything();
    let said = ended(&installer.install(&["--dry-run"]), 0);
    assert!(said.contains("already there"), "{said}");
    assert_eq!(installer.everything(), before);
    installer.publish("1.1.0");
    installer.change_artifact("1.1.0", |bytes| bytes[3] ^= 1);
    installer.refuses(&["--dry-run"], 65, "not the digest");
}

#[test]
fn two_at_once_install_it_once_and_keep_the_one_before() {
    let installer = Installer::new();
    installer.tools("no flock", &["minisign"]);
    for (tools, round) in [("tools", 1), ("no flock", 2)] {
        let path = installer.path(tools);
        let (old, new) = (format!("{round}.0.0"), format!("{round}.1.0"));
        installer.publish(&old);
        installer.installs(&old, &[]);
        installer.publish(&new);
        let children: Vec<_> = (0..3)
            .map(|_| {
                let mut command = installer.command(&[]);
                command.env("PATH", &path).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        let said: Vec<String> = children
            .into_iter()
            .map(|child| ended(&child.wait_with_output().unwrap(), 0))
            .collect();
        let did = said.iter().filter(|said| said.contains("installed boxd")).count();
        assert_eq!(did, 1, "{said:#?}");
        installer.has(&new);
        let previous = installer.prefix().join("bin/boxd.previous");
        assert_eq!(fs::read_to_string(previous).unwrap(), stub(&old));
    }
}

#[test]
fn it_waits_for_an_update_that_is_at_work_and_takes_the_place_of_an_install_that_was_killed() {
    let installer = Installer::new();
    let bin = installer.prefix().join("bin");
    fs::create_dir_all(bin.join(".boxd.install")).unwrap();
    // The number of a process that has ended.
    let ended_one = Command::new("true").spawn().unwrap();
    let number = ended_one.id();
    ended_one.wait_with_output().unwrap();
    fs::write(bin.join(".boxd.install/pid"), format!("{number}\n")).unwrap();
    let lock = fs::File::create(bin.join(".boxd.update.lock")).unwrap();
    let lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .unwrap();
    let mut child = installer.command(&[]).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none() && !installer.program().exists());
    // Whoever may only read the directory is not waited for.
    let _reader = Flock::lock(fs::File::open(&bin).unwrap(), FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .unwrap();
    drop(lock);
    ended(&child.wait_with_output().unwrap(), 0);
    installer.has("1.0.0");
    // The same without a flock program, also when it was killed before it said who it was.
    installer.tools("no flock", &["minisign"]);
    for (owner, version) in [(format!("{number}\n"), "1.1.0"), (String::new(), "1.2.0")] {
        fs::create_dir_all(bin.join(".boxd.install")).unwrap();
        fs::write(bin.join(".boxd.install/pid"), owner).unwrap();
        installer.publish(version);
        let mut command = installer.command(&[]);
        ended(
            &command.env("PATH", installer.path("no flock")).output().unwrap(),
            0,
        );
        installer.has(version);
    }
}

#[test]
fn a_running_daemon_is_replaced_under_its_feet() {
    let installer = Installer::new();
    installer.releases.publish(VERSION, program(), |_| {});
    installer.installs(VERSION, &[]);
    let ready = installer.path("ready");
    let mut daemon = Command::new(installer.program());
    installer.settle(&mut daemon);
    daemon
        .args(["run", "--http", "127.0.0.1:0", "--workspace-root"])
        .arg(installer.path("home"))
        .arg("--ready-file")
        .arg(&ready)
        .env("BOXD_STATE_DIR", installer.path("state"))
        .env("BOXD_CONFIG_DIR", installer.path("config"))
        .stderr(Stdio::null());
    let mut daemon = daemon.spawn().unwrap();
    eventually("the daemon", PATIENCE, || {
        fs::metadata(&ready).ok().filter(|found| found.len() > 0)
    });
    let fresh = another("the same, built again");
    installer.releases.publish(VERSION, &fresh, |_| {});
    let output = installer.install(&["--force"]);
    let runs = daemon.try_wait().unwrap().is_none();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    ended(&output, 0);
    assert!(runs, "it goes on");
    assert_eq!(sha256(&fs::read(installer.program()).unwrap()), sha256(&fresh));
}

/// A program that writes down how it is asked to connect, and by whom it is seen.
const WITNESS: &str = r#"#!/bin/sh
case $1 in
  version) echo boxd 2.0.0; env >>"$HOME/others" ;;
  connections) env >>"$HOME/others" ;;
  connect) printf '%s\n' "$*" >"$HOME/arguments"; env >"$HOME/environment" ;;
esac
"#;

#[test]
fn a_token_is_seen_by_connect_alone_and_never_on_a_command_line() {
    let installer = Installer::new();
    installer.releases.publish("2.0.0", WITNESS.as_bytes(), |_| {});
    let to = [
        "--api-url",
        "https://api.example.com/",
        "--workspace-id",
        "w 1",
        "--name",
        "it's *",
    ];
    let mut command = installer.command(&to);
    ended(&command.env("BOXD_ENROLL_TOKEN", "sesame").output().unwrap(), 0);
    let read = |name: &str| fs::read_to_string(installer.path("home").join(name)).unwrap();
    assert_eq!(
        read("arguments").trim(),
        "connect --api-url https://api.example.com/ --workspace-id w 1 --name it's *"
    );
    assert!(read("environment").contains("BOXD_ENROLL_TOKEN=sesame\n"));
    assert!(!read("others").contains("sesame"));
    let file = installer.path("token");
    fs::write(&file, "sesame").unwrap();
    let mut arguments = to.to_vec();
    arguments.extend(["--token-file", file.to_str().unwrap()]);
    ended(&installer.install(&arguments), 0);
    assert!(read("arguments").contains(&format!("--token-file {}", file.display())));
    assert!(!read("environment").contains("sesame"));
}

#[test]
fn it_enrolls_once_and_a_token_that_is_refused_leaves_nothing() {
    let installer = Installer::new();
    installer.releases.publish(VERSION, program(), |_| {});
    let plane = Enrollment::start();
    plane.exchanges(reply(401, &json!({})));
    let url = plane.url();
    let config = installer.path("config");
    let enrolling = || {
        let mut command = installer.command(&["--api-url", &url, "--workspace-id", "workspace-1"]);
        command
            .env("BOXD_ENROLL_TOKEN", "sesame")
            .env("BOXD_CONFIG_DIR", &config)
            .env("BOXD_STATE_DIR", installer.path("state"));
        command
    };
    let said = ended(&enrolling().output().unwrap(), 77);
    assert!(
        said.contains("not accepted") && !said.contains("sesame"),
        "{said}"
    );
    assert!(!installer.prefix().exists(), "{said}");
    plane.exchanges(reply(
        201,
        &json!({ "credentials": credentials("nats://127.0.0.1:1") }),
    ));
    ended(&enrolling().output().unwrap(), 0);
    installer.has(VERSION);
    let said = ended(&enrolling().output().unwrap(), 0);
    assert!(said.contains("already enrolled"), "{said}");
    assert_eq!(plane.seen("token/exchange").len(), 2);
    assert_eq!(tree(&config.join("connections")).len(), 1);
}

#[test]
fn somebody_who_is_not_root_installs_below_home_and_nowhere_else() {
    let installer = Installer::new();
    let nobody = 65534;
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    open(&installer.path(""));
    open(installer.releases.base().as_ref());
    for name in ["home", "tmp"] {
        std::os::unix::fs::chown(installer.path(name), Some(nobody), Some(nobody)).unwrap();
    }
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new(require("setpriv"));
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "/bin/sh"])
            .arg(script("install.sh"))
            .arg("--no-service")
            .args(arguments);
        installer.settle(&mut command);
        command
            .env("BOXD_INSTALL_BASE_URL", installer.releases.base())
            .env("BOXD_INSTALL_PUBLIC_KEY", &installer.releases.key);
        command
    };
    let prefix = installer.prefix();
    let prefix = prefix.to_str().unwrap();
    installer.is_refused(&mut as_nobody(&["--prefix", prefix]), 77, "Permission denied");
    installer.installs("1.0.0", &[]);
    installer.publish("1.1.0");
    installer.is_refused(&mut as_nobody(&["--prefix", prefix]), 77, "Permission denied");
    ended(&as_nobody(&[]).output().unwrap(), 0);
    let program = installer.path("home/.local/bin/boxd");
    assert_eq!(fs::read_to_string(program).unwrap(), stub("1.1.0"));
}
