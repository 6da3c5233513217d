//! `packaging/install.sh` where something is wrong: each fault has its code and its sentence, and leaves everything as it was.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::file_server::FileServer;
use crate::harness::installer::{Installer, ended, script, stub, tree};
use crate::harness::releases::{Releases, TARGET, sha256};
use crate::harness::{PATIENCE, eventually, require, write_program};

/// A prefix with 1.0.0 in it, and release 1.1.0.
fn with_older() -> Installer {
    let installer = Installer::new();
    installer.installs("1.0.0", &[]);
    installer.publish("1.1.0");
    installer
}

/// Refused with either verifier.
#[track_caller]
fn is_refused(installer: &Installer, code: i32, why: &str) {
    if !installer.path("openssl").exists() {
        installer.tools("openssl", &["openssl"]);
    }
    for tools in ["tools", "openssl"] {
        let mut command = installer.command(&[]);
        command.env("PATH", installer.path(tools));
        installer.is_refused(&mut command, code, why);
    }
}

#[test]
fn what_was_not_signed_is_refused() {
    let installer = with_older();
    let releases = &installer.releases;
    let publish = || installer.publish("1.1.0");
    let manifest = || fs::read_to_string(releases.manifest()).unwrap();
    // The manifest: changed, signed by another key, with the signature of another file, and with none.
    fs::write(releases.manifest(), manifest().replace("1.1.0", "1.1.1")).unwrap();
    is_refused(&installer, 65, "manifest.json was not signed");
    publish();
    Releases::new().sign(&releases.manifest());
    is_refused(&installer, 65, "manifest.json was not signed");
    publish();
    let signature = releases.file("agent/stable/manifest.json.minisig");
    let of_artifact = releases.artifact("1.1.0").with_extension("minisig");
    fs::copy(&of_artifact, &signature).unwrap();
    is_refused(&installer, 65, "manifest.json was not signed");
    for nonsense in ["", "no signature\n", "a\nb\nc\nd\n"] {
        fs::write(&signature, nonsense).unwrap();
        is_refused(&installer, 65, "manifest.json was not signed");
    }
    fs::remove_file(&signature).unwrap();
    is_refused(&installer, 69, "manifest.json.minisig cannot be had");
    // The artifact: other bytes, other bytes that are signed, a part, more, and a signature by another key.
    publish();
    installer.change_artifact("1.1.0", |bytes| *bytes.last_mut().unwrap() ^= 1);
    is_refused(&installer, 65, "has not the digest that was signed");
    releases.sign(&releases.artifact("1.1.0"));
    is_refused(&installer, 65, "has not the digest that was signed");
    installer.change_artifact("1.1.0", |bytes| bytes.truncate(20));
    is_refused(&installer, 65, "bytes that were signed");
    publish();
    installer.change_artifact("1.1.0", |bytes| bytes.push(b'\n'));
    is_refused(&installer, 65, "bytes that were signed");
    installer.change_artifact("1.1.0", |bytes| bytes.resize(1 << 20, b'#'));
    is_refused(&installer, 65, "is larger than");
    publish();
    Releases::new().sign(&releases.artifact("1.1.0"));
    is_refused(&installer, 65, &format!("boxd-{TARGET} was not signed"));
    fs::remove_file(of_artifact).unwrap();
    is_refused(&installer, 69, "cannot be had");
    publish();
    fs::remove_file(releases.artifact("1.1.0")).unwrap();
    is_refused(&installer, 69, "cannot be had");
    publish();
    installer.installs("1.1.0", &[]);
}

#[test]
fn every_part_of_a_signature_counts() {
    let installer = with_older();
    let path = installer.releases.file("agent/stable/manifest.json.minisig");
    for kind in [&[][..], &["-l"]] {
        installer.releases.sign_as(kind, &installer.releases.manifest());
        let signature = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = signature.lines().collect();
        let with = |number: usize, line: &str| {
            let mut lines = lines.clone();
            lines[number] = line;
            lines.join("\n") + "\n"
        };
        // One character in the number of the key, the signature, the comment and the signature of both.
        let flipped = |line: &str, at: usize| {
            let other = if &line[at..=at] == "A" { "B" } else { "A" };
            format!("{}{other}{}", &line[..at], &line[at + 1..])
        };
        let hash = if kind.is_empty() { "RW" } else { "RU" };
        for changed in [
            with(1, &flipped(lines[1], 6)),
            with(1, &flipped(lines[1], 40)),
            with(1, &format!("{hash}{}", &lines[1][2..])),
            with(2, &flipped(lines[2], 20)),
            with(3, &flipped(lines[3], 40)),
            lines[..3].join("\n") + "\n",
        ] {
            fs::write(&path, &changed).unwrap();
            is_refused(&installer, 65, "manifest.json was not signed");
        }
    }
    let other = Releases::new().key;
    let mut command = installer.command(&["--public-key", &other]);
    installer.is_refused(&mut command, 65, "manifest.json was not signed");
}

#[test]
fn a_manifest_of_another_shape_channel_or_machine_is_refused_however_well_it_is_signed() {
    let installer = with_older();
    let releases = &installer.releases;
    let stub = stub("1.1.0");
    let changed = |change: &dyn Fn(&mut Value)| releases.publish("1.1.0", stub.as_bytes(), change);
    changed(&|manifest| manifest["channel"] = "beta".into());
    is_refused(&installer, 65, "is of channel beta");
    changed(&|manifest| manifest["artifacts"][0]["target"] = "other".into());
    is_refused(&installer, 69, &format!("nothing for {TARGET}"));
    changed(&|manifest| manifest["artifacts"] = Value::Array(Vec::new()));
    is_refused(&installer, 69, &format!("nothing for {TARGET}"));
    changed(&|manifest| manifest["artifacts"][0]["sha256"] = sha256(b"other").into());
    is_refused(&installer, 65, "has not the digest that was signed");
    changed(&|manifest| manifest["artifacts"][0]["size"] = 7.into());
    is_refused(&installer, 65, "has not the 7 bytes");
    changed(&|manifest| manifest["version"] = "1.1.1".into());
    is_refused(&installer, 69, "1.1.1/boxd-");
    let shapeless: [&dyn Fn(&mut Value); 10] = [
        &|manifest| manifest["version"] = "../../1.1.0".into(),
        &|manifest| manifest["version"] = "1.1".into(),
        &|manifest| manifest["version"] = "01.1.0".into(),
        &|manifest| manifest["version"] = "1.1.0-".into(),
        &|manifest| manifest["version"] = 1.into(),
        &|manifest| manifest["channel"] = "sta\"ble".into(),
        &|manifest| manifest["artifacts"] = "none".into(),
        &|manifest| manifest["artifacts"][0]["size"] = "100".into(),
        &|manifest| manifest["artifacts"][0]["sha256"] = "00".into(),
        &|manifest| {
            let artifact = manifest["artifacts"][0].clone();
            manifest["artifacts"].as_array_mut().unwrap().push(artifact);
        },
    ];
    for change in shapeless {
        changed(change);
        installer.refuses(&[], 65, "has not the shape of one");
    }
    installer.publish("1.1.0");
    let whole = fs::read_to_string(releases.manifest()).unwrap();
    let texts = [
        String::new(),
        "null".into(),
        whole[..whole.len() - 1].to_owned(),
        format!("{whole}{{}}"),
        whole.replacen('{', "{\"version\":\"1.2.0\",", 1),
        whole.replacen("\"version\"", "\"versi\\u006fn\"", 1),
        whole.replacen(',', ";", 1),
    ];
    for text in texts {
        fs::write(releases.manifest(), text).unwrap();
        releases.sign(&releases.manifest());
        installer.refuses(&[], 65, "has not the shape of one");
    }
    // Another way to write the same down.
    let pretty: Value = serde_json::from_str(&whole).unwrap();
    let pretty = serde_json::to_string_pretty(&pretty)
        .unwrap()
        .replace('\n', "\r\n");
    fs::write(releases.manifest(), pretty).unwrap();
    releases.sign(&releases.manifest());
    installer.installs("1.1.0", &[]);
}

#[test]
fn a_program_that_does_not_run_here_or_is_another_is_not_put_in_place() {
    let installer = with_older();
    for (program, why) in [
        ("no program\n", "does not run here"),
        ("#!/bin/sh\necho cannot >&2; exit 3\n", "cannot"),
        ("#!/bin/sh\necho boxd 1.0.9\n", "boxd 1.0.9"),
    ] {
        installer.releases.publish("1.1.0", program.as_bytes(), |_| {});
        installer.refuses(&[], 65, why);
    }
}

#[test]
fn without_a_verifier_only_a_digest_from_elsewhere_is_believed() {
    let installer = with_older();
    let none = installer.tools("none", &[]);
    // Its openssl is too old to know the answers.
    let old = installer.tools("old", &[]);
    write_program(&old.join("openssl"), "#!/bin/sh\nexit 1\n");
    // One that says yes to everything is none either.
    let credulous = installer.tools("credulous", &[]);
    write_program(&credulous.join("openssl"), "#!/bin/sh\nexit 0\n");
    for tools in [&none, &old, &credulous] {
        let mut command = installer.command(&[]);
        command.env("PATH", tools);
        installer.is_refused(&mut command, 69, "neither minisign, rsign nor openssl 3 is here");
    }
    let digest = sha256(stub("1.1.0").as_bytes());
    let with = |digest: &str, tools: &Path| {
        let mut command = installer.command(&[]);
        command.env("PATH", tools).env("BOXD_INSTALL_SHA256", digest);
        command
    };
    installer.is_refused(
        &mut with(&sha256(b"other"), &none),
        65,
        "BOXD_INSTALL_SHA256 is another",
    );
    // It holds beside a signature, too.
    installer.is_refused(
        &mut with(&sha256(b"other"), &installer.path("tools")),
        65,
        "BOXD_INSTALL_SHA256 is another",
    );
    // A manifest that claims the digest does not help other bytes.
    installer.change_artifact("1.1.0", |bytes| bytes[30] ^= 1);
    installer.is_refused(&mut with(&digest, &none), 65, "not the digest");
    installer.publish("1.1.0");
    let said = ended(&with(&digest.to_uppercase(), &none).output().unwrap(), 0);
    assert!(said.contains("signatures are not verified"), "{said}");
    installer.has("1.1.0");
}

#[test]
fn where_nobody_listens_or_the_answer_breaks_off_it_gives_up() {
    let installer = with_older();
    installer.tools("curl", &["minisign", "curl"]);
    let small = installer.tools("small", &["minisign"]);
    std::os::unix::fs::symlink(require("busybox"), small.join("wget")).unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for tools in ["curl", "small"] {
        let mut command = installer.command(&["--base-url", &format!("http://{closed}")]);
        command.env("PATH", installer.path(tools));
        installer.is_refused(&mut command, 69, "manifest.json cannot be had");
    }
    let breaking = FileServer::breaking(installer.releases.base().as_ref(), TARGET);
    for tools in ["curl", "small"] {
        let mut command = installer.command(&["--base-url", &breaking.url()]);
        command.env("PATH", installer.path(tools));
        let before = installer.everything();
        let output = command.output().unwrap();
        // Some downloaders notice, and from others it is a file that is too short.
        assert!(matches!(output.status.code(), Some(65 | 69)), "{output:?}");
        assert_eq!(installer.everything(), before);
    }
}

#[test]
fn what_cannot_be_meant_is_a_matter_of_usage() {
    let installer = with_older();
    for (arguments, why) in [
        (&["--prefix", ""][..], "empty or /"),
        (&["--prefix", "///"], "empty or /"),
        (&["--prefix", "usr/local"], "not absolute"),
        (&["--prefix"], "needs a value"),
        (&["--sideways"], "unknown option --sideways"),
        (&["extra"], "unknown option extra"),
        (&["--channel", "../stable"], "no name of a channel"),
        (&["--public-key", "RWshort"], "no minisign key"),
        (&["--public-key", "untrusted comment: x"], "no minisign key"),
        (&["--base-url", ""], "where are the releases?"),
        (&["--base-url", "releases"], "neither an https://"),
        (&["--base-url", "ftp://127.0.0.1"], "neither an https://"),
        (&["--base-url", "http://example.com"], "use https://"),
        (&["--base-url", "http://127.0.0.1.example.com"], "use https://"),
        (&["--base-url", "http://127.0.0.1@example.com/"], "use https://"),
        (
            &["--base-url", "http://localhost:80@example.com/"],
            "use https://",
        ),
        (&["--api-url", "https://api.example.com"], "a token is needed"),
        (&["--token-file", "/dev/null"], "--api-url is needed"),
    ] {
        installer.refuses(arguments, 64, why);
    }
    let mut command = installer.command(&[]);
    command.env("BOXD_INSTALL_PUBLIC_KEY", "");
    installer.is_refused(&mut command, 64, "whose signature is to be believed?");
    let mut command = installer.command(&[]);
    command.env("BOXD_INSTALL_SHA256", "beef");
    installer.is_refused(&mut command, 64, "64 digits");
    for (system, machine, why) in [
        ("Linux", "riscv64", "processor riscv64"),
        ("Plan9", "x86_64", "for Plan9"),
    ] {
        let tools = installer.tools(system, &["minisign"]);
        fs::remove_file(tools.join("uname")).unwrap();
        let uname = format!("#!/bin/sh\n[ \"$1\" = -s ] && echo {system} || echo {machine}\n");
        write_program(&tools.join("uname"), uname);
        let mut command = installer.command(&[]);
        command.env("PATH", &tools);
        installer.is_refused(&mut command, 69, why);
    }
    let shown = installer.install(&["--help"]);
    ended(&shown, 0);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("--allow-downgrade"));
}

#[test]
fn a_prefix_that_may_not_be_written_to_or_is_full_is_named() {
    let installer = with_older();
    let seeing = |view: &str| installer.seeing(view, &installer.command(&[]));
    let read_only = "mount --bind \"$PREFIX\" \"$PREFIX\"; mount -o remount,ro,bind \"$PREFIX\"";
    installer.is_refused(&mut seeing(read_only), 77, "Read-only file system");
    // Room for the manifest and not for the program, which is noticed before, and none at all.
    let big = stub("1.1.0") + &"# large\n".repeat(100_000);
    installer.releases.publish("1.1.0", big.as_bytes(), |_| {});
    let small = "mount -t tmpfs -o size=512k none \"$PREFIX\"";
    installer.is_refused(&mut seeing(small), 73, "no room");
    let full = format!("{small}; dd if=/dev/zero of=\"$PREFIX/zero\" 2>/dev/null || true");
    let mut command = seeing(&full);
    let before = installer.everything();
    ended(&command.output().unwrap(), 73);
    assert_eq!(installer.everything(), before);
    // The file system does not say how much it has left: it is noticed on the way.
    let tools = installer.path("tools");
    fs::remove_file(tools.join("df")).unwrap();
    let checked =
        format!("{small}; trap 'ls -A \"$PREFIX/bin\" 2>/dev/null || true' EXIT; \"$0\" \"$@\"; exit");
    let mut command = seeing(&checked);
    let output = command.output().unwrap();
    assert!(matches!(output.status.code(), Some(69 | 73)), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "",
        "nothing is left in the prefix"
    );
    // What is in the way.
    let other = installer.path("file");
    fs::write(&other, "").unwrap();
    installer.refuses(&["--prefix", other.to_str().unwrap()], 73, "is no directory");
    fs::remove_file(installer.program()).unwrap();
    fs::create_dir(installer.program()).unwrap();
    installer.refuses(&[], 73, "is a directory");
    fs::remove_dir(installer.program()).unwrap();
    std::os::unix::fs::symlink("/bin/true", installer.program()).unwrap();
    installer.refuses(&[], 73, "a symbolic link");
}

#[test]
fn a_signal_on_the_way_leaves_everything_as_it_was() {
    let installer = Installer::new();
    installer.tools("curl", &["minisign", "curl"]);
    let server = FileServer::stalling(installer.releases.base().as_ref(), TARGET);
    for (version, signal, code) in [
        ("1.1.0", Signal::SIGTERM, 143),
        ("1.2.0", Signal::SIGHUP, 129),
        ("1.3.0", Signal::SIGTERM, 143),
    ] {
        installer.publish(version);
        let before = installer.everything();
        let mut command = installer.command(&["--base-url", &server.url()]);
        // A group of its own, so that what is left of it can be asked for.
        command
            .env("PATH", installer.path("curl"))
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().unwrap();
        server.until_stalled();
        let part = installer.prefix().join("bin/.boxd.install/boxd");
        eventually("a part of the program", PATIENCE, || part.exists().then_some(()));
        let group = Pid::from_raw(child.id().cast_signed());
        kill(group, signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        // Its end of the pipe is closed by all of them.
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            line.unwrap();
        }
        assert_eq!(installer.everything(), before, "after {signal}");
        // The second time there is one to replace, the third time one more.
        installer.installs(version, &[]);
    }
}

#[test]
fn a_script_that_was_cut_off_does_nothing() {
    let installer = with_older();
    let cut = installer.path("cut.sh");
    for name in ["install.sh", "uninstall.sh"] {
        let whole = fs::read(script(name)).unwrap();
        let last = whole.len() - whole.rsplitn(3, |byte| *byte == b'\n').nth(1).unwrap().len() - 1;
        let lines = (0..last).filter(|at| whole[*at] == b'\n').map(|at| at + 1);
        let before = tree(&installer.prefix());
        // At the end of each line, and everywhere in the last one.
        for end in lines.chain(last..whole.len() - 1) {
            fs::write(&cut, &whole[..end]).unwrap();
            let mut command = installer.command(&[]);
            command.env("BOXD_INSTALL_PREFIX", installer.prefix());
            let arguments: Vec<_> = command
                .get_args()
                .skip(1)
                .map(std::ffi::OsStr::to_owned)
                .collect();
            let environment: Vec<_> = command
                .get_envs()
                .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())))
                .collect();
            let mut command = Command::new("/bin/sh");
            // As through a pipe: without a name, and as fast as it comes.
            command.args(["-s", "--"]);
            if name == "install.sh" {
                command.args(arguments);
            }
            installer.settle(&mut command);
            let output = command
                .envs(environment)
                .stdin(fs::File::open(&cut).unwrap())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                !said.contains("install: "),
                "{name} cut at {end} of {}: {said}",
                whole.len()
            );
            assert_eq!(tree(&installer.prefix()), before, "{name} cut at {end}");
        }
    }
}
