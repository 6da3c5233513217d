//! `boxd call` over both doors.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Output;

use super::{call_with, complaint, run};
use crate::harness::{Connection, Daemon, NatsServer};

/// A daemon, and the flags that reach it through one door.
pub(super) struct Way {
    pub(super) name: &'static str,
    pub(super) flags: Vec<OsString>,
}

impl Way {
    #[track_caller]
    pub(super) fn call<A: AsRef<OsStr>>(&self, daemon: &Daemon, arguments: &[A], input: &[u8]) -> Output {
        let mut words = self.flags.clone();
        words.extend(arguments.iter().map(|argument| argument.as_ref().to_owned()));
        call_with(&daemon.state_directory(), &words, input)
    }
}

/// Runs a test through HTTP and through NATS against one daemon.
#[track_caller]
pub(super) fn through_each_door(test: impl Fn(&Way, &Daemon)) {
    let broker = NatsServer::start();
    let (daemon, link) = Daemon::linked(&broker);
    test(
        &Way {
            name: "http",
            flags: Vec::new(),
        },
        &daemon,
    );
    test(&over_nats(&daemon, &link, &broker.url()), &daemon);
}

/// The way through the broker at `url`.
pub(super) fn over_nats(daemon: &Daemon, link: &Connection, url: &str) -> Way {
    let token = daemon.directory().join("nats-token");
    std::fs::write(&token, &link.bearer).unwrap();
    let flags = [
        "--nats-url".into(),
        url.into(),
        "--workspace-id".into(),
        link.workspace_id.clone().into(),
        "--agent-id".into(),
        link.agent_id.clone().into(),
        "--nats-token-file".into(),
        token.into(),
    ];
    Way {
        name: "nats",
        flags: flags.to_vec(),
    }
}

/// The way over HTTP through another address than the daemon's own.
pub(super) fn over_http(daemon: &Daemon, address: SocketAddr) -> Way {
    let token = daemon.state_directory().join("token");
    let url = format!("http://{address}");
    let flags = ["--url".into(), url.into(), "--token-file".into(), token.into()];
    Way {
        name: "http",
        flags: flags.to_vec(),
    }
}

#[test]
fn exec_is_as_if_the_command_had_run_here() {
    through_each_door(|way, daemon| {
        let script = "cat; printf 'out\\377'; printf err >&2; exit 7";
        let output = way.call(
            daemon,
            &["exec", "--stdin", "-", "--", "sh", "-c", script],
            b"in\0",
        );
        assert_eq!(
            output.status.code(),
            Some(7),
            "{}: {}",
            way.name,
            complaint(&output)
        );
        assert_eq!(output.stdout, b"in\0out\xff", "{}", way.name);
        assert_eq!(output.stderr, b"err", "{}", way.name);

        let shell = [
            "exec", "--shell", "--cwd", "/", "--env", "A=b c", "--", "pwd;", "echo $A",
        ];
        assert_eq!(way.call(daemon, &shell, b"").stdout, b"/\nb c\n", "{}", way.name);
    });
}

#[test]
fn exec_tells_that_the_time_limit_ended_a_command() {
    through_each_door(|way, daemon| {
        let timed = way.call(daemon, &["exec", "--timeout", "200ms", "--", "sleep", "60"], b"");
        assert_eq!(
            timed.status.code(),
            Some(124),
            "{}: {}",
            way.name,
            complaint(&timed)
        );
        assert!(complaint(&timed).contains("time limit"), "{}", way.name);
    });
}

#[test]
fn exec_tells_which_signal_ended_a_command() {
    let daemon = Daemon::start();
    let arguments = ["call", "exec", "--", "sh", "-c", "kill -TERM $$"];
    let killed = run(&daemon.state_directory(), &arguments);
    assert_eq!(killed.status.code(), Some(143), "{}", complaint(&killed));
}

#[test]
fn what_fails_by_itself_exits_125_and_says_why() {
    through_each_door(|way, daemon| {
        let cases: [(&[&str], &str); 6] = [
            (&["exec", "--", "no-such-program"], "no-such-program"),
            (&["exec", "--cwd", "/no/such", "--", "true"], "/no/such"),
            (&["read", "no-such-file"], "no-such-file"),
            (&["op", "fs.nope"], "fs.nope"),
            (&["op", "ping", "{\"bogus\":1}"], "bogus"),
            (&["exec", "--no-such-flag"], "--no-such-flag"),
        ];
        for (arguments, part) in cases {
            let output = way.call(daemon, arguments, b"");
            assert_eq!(output.status.code(), Some(125), "{} {arguments:?}", way.name);
            assert!(
                complaint(&output).contains(part),
                "{} {arguments:?}: {}",
                way.name,
                complaint(&output)
            );
            assert!(output.stdout.is_empty(), "{} {arguments:?}", way.name);
        }
    });
}

#[test]
fn files_go_there_and_back() {
    through_each_door(|way, daemon| {
        let name = |text: &str| format!("{}-{text}", way.name);
        let content: Vec<u8> = (0..900_000_u32)
            .flat_map(|number| (number as u8).to_le_bytes())
            .collect();
        let ok = |arguments: &[&str], input: &[u8]| {
            let output = way.call(daemon, arguments, input);
            assert!(
                output.status.success(),
                "{} {arguments:?}: {}",
                way.name,
                complaint(&output)
            );
            output.stdout
        };
        let file = name("dir/file");
        ok(&["write", &file, "--mode", "0640"], &content);
        assert_eq!(ok(&["read", &file], b""), content, "{}", way.name);
        assert_eq!(
            ok(&["read", &file, "--offset", "899999"], b""),
            content[899_999..],
            "{}",
            way.name
        );
        assert_eq!(
            ok(&["read", &file, "--offset", "5", "--length", "3"], b""),
            content[5..8],
            "{}",
            way.name
        );
        assert!(
            ok(&["read", &file, "--offset", "900001"], b"").is_empty(),
            "{}",
            way.name
        );
        ok(&["write", "--append", &file], b"tail");
        assert_eq!(
            ok(&["read", &file, "--offset", "900000"], b""),
            b"tail",
            "{}",
            way.name
        );
        assert!(
            String::from_utf8(ok(&["stat", &file], b""))
                .unwrap()
                .contains("0640"),
            "{}",
            way.name
        );

        ok(&["mkdir", "-p", &name("a/b")], b"");
        ok(&["mv", &name("a"), &name("c")], b"");
        assert_eq!(ok(&["ls", &name("c")], b""), b"b\n", "{}", way.name);
        assert_eq!(
            way.call(daemon, &["rm", &name("c")], b"").status.code(),
            Some(125),
            "{}",
            way.name
        );
        ok(&["rm", "-r", &name("c")], b"");
        assert_eq!(
            way.call(daemon, &["stat", &name("c")], b"").status.code(),
            Some(1),
            "{}",
            way.name
        );
    });
}

#[test]
fn names_that_are_no_text_are_listed_exactly() {
    through_each_door(|way, daemon| {
        let directory = daemon.workspace().join(format!("names-{}", way.name));
        std::fs::create_dir(&directory).unwrap();
        let odd = OsStr::from_bytes(b"line\nend \xff");
        std::fs::write(directory.join(odd), "odd").unwrap();
        let listed = way.call(
            daemon,
            &[OsStr::new("ls"), OsStr::new("-0"), directory.as_os_str()],
            b"",
        );
        assert_eq!(
            listed.stdout,
            [odd.as_bytes(), b"\0"].concat(),
            "{}: {}",
            way.name,
            complaint(&listed)
        );
        let removed = way.call(daemon, &[OsStr::new("rm"), directory.join(odd).as_os_str()], b"");
        assert!(removed.status.success(), "{}: {}", way.name, complaint(&removed));
    });
}

#[test]
fn a_repeat_with_the_same_id_runs_nothing() {
    through_each_door(|way, daemon| {
        let script = format!("echo ran >> {0}-count; cat {0}-count", way.name);
        for _ in 0..2 {
            let words = ["exec", "--request-id", "once", "--", "sh", "-c", &script];
            assert_eq!(way.call(daemon, &words, b"").stdout, b"ran\n", "{}", way.name);
        }
    });
}

#[test]
fn ping_and_metrics_are_for_people_and_programs() {
    through_each_door(|way, daemon| {
        let text = way.call(daemon, &["ping"], b"").stdout;
        assert!(
            text.starts_with(b"pong in "),
            "{}: {}",
            way.name,
            String::from_utf8_lossy(&text)
        );
        let json = |arguments: &[&str]| -> serde_json::Value {
            serde_json::from_slice(&way.call(daemon, arguments, b"").stdout).unwrap()
        };
        assert!(json(&["ping", "--json"])["uptimeMs"].is_u64(), "{}", way.name);
        assert!(
            json(&["metrics", "--json"])["memTotalBytes"].as_u64().unwrap() > 0,
            "{}",
            way.name
        );
        assert!(
            json(&["op", "host.capabilities"])["capabilities"].is_array(),
            "{}",
            way.name
        );
    });
}

#[test]
fn a_daemon_is_found_by_url_socket_and_ready_file() {
    let daemon = Daemon::builder()
        .listen(&["127.0.0.1:0", "unix:boxd.sock"])
        .start();
    let url = format!("http://{}", daemon.address());
    let socket = format!("unix:{}", daemon.workspace().join("boxd.sock").display());
    let state = daemon.state_directory();
    let token = state.join("token").display().to_string();
    for url in [url.as_str(), &socket] {
        let output = run(&state, &["call", "--url", url, "--token-file", &token, "ping"]);
        assert!(output.status.success(), "{url}: {}", complaint(&output));
        let refused = run(&state, &["call", "--url", url, "ping"]);
        assert_eq!(refused.status.code(), Some(125), "{url}");
        assert!(
            complaint(&refused).contains("token"),
            "{url}: {}",
            complaint(&refused)
        );
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let output = run(elsewhere.path(), &["call", "ping"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(complaint(&output).contains("boxd run"), "{}", complaint(&output));
    let https = run(Path::new("/"), &["call", "--url", "https://example.com", "ping"]);
    assert!(
        complaint(&https).contains("https is not available"),
        "{}",
        complaint(&https)
    );
}

#[test]
fn search_watch_and_git_are_for_people_too() {
    through_each_door(|way, daemon| {
        let root = daemon.workspace().join(format!("for {}", way.name));
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("file"), "one\nneedle two\n").unwrap();
        let text = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
        let path = root.to_str().unwrap();
        let found = way.call(daemon, &["search", "ne+dle", path], b"");
        assert_eq!(
            text(&found),
            format!("{path}/file:2:1:needle two\n"),
            "{}",
            way.name
        );
        assert_eq!(
            way.call(daemon, &["search", "nothing", path], b"").status.code(),
            Some(1)
        );
        let init = way.call(
            daemon,
            &["git", "init", &format!("path={path}"), "branch=main"],
            b"",
        );
        assert!(init.status.success(), "{}", complaint(&init));
        let status = way.call(daemon, &["git", "status", &format!("path={path}")], b"");
        assert_eq!(
            text(&status),
            "## main\n?? file\n",
            "{}: {}",
            way.name,
            complaint(&status)
        );
        let wrong = way.call(daemon, &["git", "nonsense"], b"");
        assert!(complaint(&wrong).contains("is none of"), "{}", complaint(&wrong));
        let writer = root.join("new");
        let writing = std::thread::spawn(move || {
            // Until it is seen: the watch may not stand yet.
            for number in 0..200 {
                std::fs::write(&writer, number.to_string()).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        });
        let watched = way.call(daemon, &["watch", path, "--count", "1"], b"");
        assert!(
            text(&watched).ends_with(&format!("{path}/new\n")),
            "{}: {}",
            way.name,
            complaint(&watched)
        );
        drop(writing);
    });
}
