//! Installation in other roots: one with busybox and nothing else, one where systemd seems to run, and a fresh Debian, where
//! one line goes all the way from a directory of releases to a command over NATS.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use boxd::wire::proto::ExecRequest;
use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response;
use serde_json::json;

use crate::harness::enrollment::{Enrollment, credentials, reply};
use crate::harness::group::Group;
use crate::harness::installer::{Installer, ended, script, stub};
use crate::harness::releases::{Releases, another, program, sha256};
use crate::harness::{Connection, ControlPlane, NatsServer, debian, require, write_program};

/// What the program under test says of itself.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The line of the README, from a directory.
const LINE: &str = "cat /releases/install.sh | sh -s -- --base-url /releases --public-key \"$KEY\"";

#[test]
fn a_root_with_busybox_alone_is_enough() {
    let releases = Releases::new();
    releases.publish("1.0.0", stub("1.0.0").as_bytes(), |_| {});
    let root = tempfile::tempdir().unwrap();
    let inside = |name: &str| root.path().join(name);
    for name in ["bin", "dev", "tmp", "releases"] {
        fs::create_dir(inside(name)).unwrap();
    }
    fs::write(inside("dev/null"), "").unwrap();
    write_program(&inside("bin/busybox"), fs::read(require("busybox")).unwrap());
    let listed = Command::new(require("busybox")).arg("--list").output().unwrap();
    for applet in String::from_utf8(listed.stdout).unwrap().lines() {
        if applet != "busybox" {
            symlink("busybox", inside("bin").join(applet)).unwrap();
        }
    }
    for name in ["install.sh", "uninstall.sh"] {
        fs::copy(script(name), releases.file(name)).unwrap();
    }
    // Of what every system has, /dev/null is there; /proc, /etc and /run are not.
    let enter = |line: &str| {
        let mut command = Command::new(require("unshare"));
        let view = "mount --bind \"$1\" \"$2/releases\"; mount --bind /dev/null \"$2/dev/null\"; \
                    exec chroot \"$2\" /bin/sh -c \"$3\"";
        command
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-ec",
                view,
                "sh",
            ])
            .args([Path::new(releases.base()), root.path()])
            .arg(line)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("KEY", &releases.key)
            .env("DIGEST", sha256(stub("1.0.0").as_bytes()));
        command.output().unwrap()
    };
    let said = ended(&enter(LINE), 69);
    assert!(said.contains("BOXD_INSTALL_SHA256"), "{said}");
    assert!(!inside("usr").exists());
    let with_digest = format!("export BOXD_INSTALL_SHA256=\"$DIGEST\"; {LINE}");
    let said = ended(&enter(&with_digest), 0);
    assert!(said.contains("no service manager runs here"), "{said}");
    let output = enter("/usr/local/bin/boxd version");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "boxd 1.0.0\n");
    ended(&enter("sh /releases/uninstall.sh --purge"), 0);
    assert!(!inside("usr/local/bin/boxd").exists());
}

/// A script where systemd seems to run: what it is asked is written down, and no manager of this machine hears of it.
fn managed(installer: &Installer, usual: &Command) -> Command {
    let systemctl = installer.path("tools/systemctl");
    // A unit that was started is active.
    let fake = "#!/bin/sh\necho \"$*\" >>\"$HOME/asked\"\n\
                case $* in *status*) [ -e \"$HOME/active\" ] ;; start* | restart*) : >\"$HOME/active\" ;; esac\n";
    write_program(&systemctl, fake);
    let units = installer.path("units");
    let _ = fs::create_dir(&units);
    let view =
        "mount -t tmpfs none /run; mkdir -p /run/systemd/system; mount --bind \"$UNITS\" /etc/systemd/system";
    let mut with_service = Command::new(usual.get_program());
    with_service.args(usual.get_args().filter(|argument| *argument != "--no-service"));
    let set = usual.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let mut command = installer.seeing(view, with_service.envs(set));
    command.env("UNITS", units).env(
        "PATH",
        format!("{}:/usr/bin:/bin", installer.path("tools").display()),
    );
    command
}

#[test]
fn where_systemd_runs_the_service_is_installed_started_and_removed() {
    let installer = Installer::new();
    installer.releases.publish(VERSION, program(), |_| {});
    let asked = || {
        let path = installer.path("home/asked");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut command = managed(&installer, &installer.command(&["--dry-run"]));
    let said = ended(&command.output().unwrap(), 0);
    assert!(said.contains("would install and start the service"), "{said}");
    assert!(asked().is_empty());
    let mut command = managed(&installer, &installer.command(&[]));
    let said = ended(&command.output().unwrap(), 0);
    assert!(said.contains("the service runs"), "{said}");
    let status = "--no-pager status boxd.service";
    assert_eq!(
        asked(),
        [
            status,
            "daemon-reload",
            "enable boxd.service",
            "restart boxd.service"
        ]
    );
    let unit = installer.path("units/boxd.service");
    let text = fs::read_to_string(&unit).unwrap();
    assert!(text.contains(installer.program().to_str().unwrap()), "{text}");
    // One that runs is not stopped for a newer one.
    installer
        .releases
        .publish(VERSION, &another("built again"), |_| {});
    let mut command = managed(&installer, &installer.command(&["--force"]));
    let said = ended(&command.output().unwrap(), 0);
    assert!(said.contains("service restart"), "{said}");
    assert_eq!(asked(), [status, "daemon-reload", "enable boxd.service"]);
    // Removed with its unit, and no second time.
    let mut uninstall = installer.bare("uninstall.sh");
    uninstall.arg("--prefix").arg(installer.prefix());
    let mut command = managed(&installer, &uninstall);
    ended(&command.output().unwrap(), 0);
    assert_eq!(asked(), ["disable --now boxd.service", "daemon-reload"]);
    assert!(!unit.exists() && !installer.program().exists());
    ended(&command.output().unwrap(), 0);
    assert!(asked().is_empty());
    // A unit of somebody else is neither written over nor removed, and boxd stays where it is.
    fs::write(&unit, "[Service]\nExecStart=/bin/true\n").unwrap();
    let mut command = managed(&installer, &installer.command(&[]));
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    installer.has(VERSION);
    let output = managed(&installer, &uninstall).output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    installer.has(VERSION);
}

#[test]
fn a_fresh_debian_without_a_verifier_is_told_so_and_takes_a_digest_from_elsewhere() {
    let releases = Releases::new();
    releases.publish(VERSION, program(), |_| {});
    fs::copy(script("install.sh"), releases.file("install.sh")).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let line = format!(
        "rm /usr/bin/openssl; code=0; {{ {LINE}; }} || code=$?; [ $code -eq 69 ]; [ ! -e /usr/local/bin/boxd ]\n\
         export BOXD_INSTALL_SHA256=\"$DIGEST\"; {LINE}; /usr/local/bin/boxd version"
    );
    let mut command = debian::command(scratch.path(), releases.base().as_ref(), &line);
    command.env("KEY", &releases.key).env("DIGEST", sha256(program()));
    let output = command.output().unwrap();
    let said = ended(&output, 0);
    assert!(said.contains("install one of them"), "{said}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("boxd {VERSION}\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_fresh_debian_one_line_installs_and_enrolls_and_a_command_runs_over_nats() {
    let (broker, plane) = (NatsServer::start(), Enrollment::start());
    plane.exchanges(reply(201, &json!({ "credentials": credentials(&broker.url()) })));
    let mut link = Connection::to(&broker.url());
    (link.workspace_id, link.agent_id) = ("workspace-1".into(), "agent-1".into());
    let control = ControlPlane::connect(&link).await;
    let mut hellos = control.hellos().await;
    let releases = Releases::new();
    releases.publish(VERSION, program(), |_| {});
    fs::copy(script("install.sh"), releases.file("install.sh")).unwrap();
    let (scratch, logs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Nothing of this machine's managers is seen.
    let line = format!(
        "[ ! -e /run/systemd ]; [ ! -e /run/dbus ]; ! command -v systemctl\n\
         {LINE} --api-url \"$API\" --workspace-id workspace-1 --name fresh\n\
         unset BOXD_ENROLL_TOKEN; exec boxd run --http 127.0.0.1:0"
    );
    // Debootstrap may have to be run first, which is no matter for this runtime.
    let base = releases.base().to_owned();
    let directory = scratch.path().to_owned();
    let command =
        tokio::task::spawn_blocking(move || debian::command(&directory, base.as_ref(), &line)).await;
    let mut command = command.unwrap();
    command
        .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("KEY", &releases.key)
        .env("API", plane.url())
        .env("BOXD_ENROLL_TOKEN", "sesame");
    let group = Group::spawn("the fresh Debian", &mut command, &logs.path().join("log"));
    let hello = hellos.next_within(Duration::from_secs(60)).await;
    assert_eq!(hello.agent_id, "agent-1", "{}", group.log());
    assert!(
        group.log().contains(&format!("installed boxd {VERSION}")),
        "{}",
        group.log()
    );
    let asked = &plane.seen("token/exchange")[0];
    assert_eq!(
        (&asked["token"], &asked["machineName"]),
        (&json!("sesame"), &json!("fresh"))
    );
    let exec = ExecRequest {
        command: vec!["cat /proc/1/comm; readlink /proc/1/exe; ls /releases".into()],
        shell: true,
        ..ExecRequest::default()
    };
    let answer = control.ask(Op::Exec(exec)).await;
    let Some(control_response::Result::Exec(ran)) = answer.result else {
        panic!("{:?}", answer.error);
    };
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout),
        "boxd\n/usr/local/bin/boxd\nagent\ninstall.sh\nkey\nkey.pub\n"
    );
}
