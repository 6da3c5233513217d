//! `boxd call run|ps|logs|kill`: processes as scripts and people drive them, over both doors and over connections that break.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::boxd;
use super::call::{Way, over_http, over_nats, through_each_door};
use super::complaint;
use crate::harness::{Connection, Daemon, Heard, NatsServer, PATIENCE, Proxy, eventually, take_signals};

/// A `boxd call` that runs while the test goes on.
struct Running {
    child: Child,
    stdout: Heard,
    stderr: Heard,
}

impl Running {
    #[track_caller]
    fn start(way: &Way, daemon: &Daemon, arguments: &[&str]) -> Self {
        let mut command = boxd(&daemon.state_directory());
        command
            .arg("call")
            .args(&way.flags)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self::of(command)
    }

    #[track_caller]
    fn of(mut command: Command) -> Self {
        take_signals();
        let mut child = command.spawn().unwrap();
        Self {
            stdout: Heard::from(child.stdout.take().unwrap()),
            stderr: Heard::from(child.stderr.take().unwrap()),
            child,
        }
    }

    /// The pid that its command prints first.
    #[track_caller]
    fn pid_of_command(&mut self) -> Pid {
        if let Some(line) = self.stdout.line(PATIENCE) {
            return Pid::from_raw(line.trim().parse().unwrap());
        }
        let said = String::from_utf8_lossy(&self.stderr.rest_so_far()).into_owned();
        panic!("no pid was printed, but {said:?}");
    }

    fn interrupt(&self) {
        self.signal(Signal::SIGINT);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// The exit code, and what was written since it was last asked.
    #[track_caller]
    fn end(mut self) -> (Option<i32>, Vec<u8>, Vec<u8>) {
        let (stdout, stderr) = (self.stdout.rest(), self.stderr.rest());
        (self.child.wait().unwrap().code(), stdout, stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a process: its id.
#[track_caller]
pub(super) fn create(way: &Way, daemon: &Daemon, process: &Value) -> String {
    let payload = process.to_string();
    let output = way.call(daemon, &["op", "process.create", &payload], b"");
    assert!(output.status.success(), "{}: {}", way.name, complaint(&output));
    let created: Value = serde_json::from_slice(&output.stdout).unwrap();
    created["id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn shell(way: &Way, daemon: &Daemon, script: &str) -> String {
    create(way, daemon, &json!({ "command": "sh", "args": ["-c", script] }))
}

/// The row of a process in the table of `ps`.
#[track_caller]
pub(super) fn row(way: &Way, daemon: &Daemon, id: &str) -> String {
    let table = String::from_utf8(way.call(daemon, &["ps"], b"").stdout).unwrap();
    let row = table.lines().find(|line| line.split(' ').next() == Some(id));
    row.unwrap_or_else(|| panic!("{id} is not in {table}")).to_owned()
}

#[test]
fn run_passes_both_channels_as_they_come() {
    through_each_door(|way, daemon| {
        let go = daemon.workspace().join(format!("go-{}", way.name));
        let script = format!(
            "printf 'out\\377\\000'; printf 'err\\376' >&2; until [ -e {} ]; do sleep 0.02; done; echo late; exit 7",
            go.display()
        );
        let mut run = Running::start(way, daemon, &["run", "--stream", "--", "sh", "-c", &script]);
        assert_eq!(run.stdout.until("\0"), b"out\xff\0", "{}", way.name);
        assert_eq!(run.stderr.until("err"), b"err", "{}", way.name);
        std::fs::write(go, "").unwrap();
        let end = run.end();
        assert_eq!(
            end,
            (Some(7), b"late\n".to_vec(), b"\xfe".to_vec()),
            "{}",
            way.name
        );
    });
}

#[test]
fn run_ends_as_the_command_did() {
    through_each_door(|way, daemon| {
        let endings = [
            ("exit 0", 0),
            ("exit 1", 1),
            ("exit 255", 255),
            ("kill -TERM $$", 143),
            ("kill -KILL $$", 137),
            ("kill -HUP $$", 129),
        ];
        for (script, code) in endings {
            let ended = way.call(daemon, &["run", "--", "sh", "-c", script], b"");
            let said = complaint(&ended);
            assert_eq!(ended.status.code(), Some(code), "{} {script}: {said}", way.name);
        }
        let timed = way.call(daemon, &["run", "--timeout", "200ms", "--", "sleep", "60"], b"");
        assert_eq!(
            timed.status.code(),
            Some(124),
            "{}: {}",
            way.name,
            complaint(&timed)
        );
        let absent = way.call(daemon, &["run", "--", "no-such-program"], b"");
        assert_eq!(absent.status.code(), Some(125), "{}", way.name);
        assert!(
            complaint(&absent).contains("no-such-program"),
            "{}: {}",
            way.name,
            complaint(&absent)
        );
    });
}

#[test]
fn a_signal_that_ends_run_ends_the_command() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        ends_the_command(signal);
    }
}

fn ends_the_command(signal: Signal) {
    through_each_door(|way, daemon| {
        let name = &signal.as_str()[3..];
        let script = format!("trap 'echo caught; exit 3' {name}; echo $$; while :; do sleep 0.02; done");
        let mut run = Running::start(way, daemon, &["run", "--", "sh", "-c", &script]);
        let pid = run.pid_of_command();
        run.signal(signal);
        let (code, stdout, stderr) = run.end();
        let said = String::from_utf8_lossy(&stderr).into_owned();
        if way.name == "http" {
            assert_eq!((code, &stdout[..]), (Some(3), &b"caught\n"[..]), "{said}");
        } else {
            // It was cancelled, which it is not asked about.
            assert!(code > Some(128), "{code:?} {said}");
        }
        eventually("the end of the command", PATIENCE, || {
            kill(pid, None).is_err().then_some(())
        });
    });
}

#[test]
fn a_signal_that_comes_while_the_command_is_asked_for_ends_it_too() {
    through_each_door(|way, daemon| {
        let stopped = Pid::from_raw(daemon.pid());
        kill(stopped, Signal::SIGSTOP).unwrap();
        let run = Running::start(way, daemon, &["run", "--", "sleep", "600"]);
        let status = format!("/proc/{}/status", run.child.id());
        eventually("a client that takes signals", PATIENCE, || {
            let status = std::fs::read_to_string(&status).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
            let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
            (caught >> (Signal::SIGINT as i32 - 1) & 1 == 1).then_some(())
        });
        run.signal(Signal::SIGINT);
        kill(stopped, Signal::SIGCONT).unwrap();
        let (code, _, stderr) = run.end();
        let said = String::from_utf8_lossy(&stderr).into_owned();
        assert!(code > Some(128), "{}: {code:?} {said}", way.name);
        let table = String::from_utf8(way.call(daemon, &["ps", "--running"], b"").stdout).unwrap();
        assert!(!table.contains("sleep 600"), "{}: {table}", way.name);
    });
}

#[test]
fn a_signal_that_is_ignored_stays_ignored() {
    through_each_door(|way, daemon| {
        let mut run = Command::new("sh");
        run.args([
            "-c",
            "trap '' HUP; exec \"$@\"",
            "sh",
            env!("CARGO_BIN_EXE_boxd"),
            "call",
        ])
        .args(&way.flags)
        .args([
            "run",
            "--",
            "sh",
            "-c",
            "trap 'exit 4' TERM; echo $$; while :; do sleep 0.02; done",
        ])
        .env("BOXD_STATE_DIR", daemon.state_directory())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
        let mut run = Running::of(run);
        let pid = run.pid_of_command();
        run.signal(Signal::SIGHUP);
        run.signal(Signal::SIGTERM);
        let (code, ..) = run.end();
        // Over NATS it is cancelled, which it is not asked about.
        assert!(
            code == Some(4) || way.name == "nats" && code > Some(128),
            "{} {code:?}",
            way.name
        );
        eventually("the end of the command", PATIENCE, || {
            kill(pid, None).is_err().then_some(())
        });
    });
}

#[test]
fn who_closes_the_output_of_run_ends_the_command() {
    through_each_door(|way, daemon| {
        let script = "echo $$; exec yes";
        let mut run = boxd(&daemon.state_directory())
            .arg("call")
            .args(&way.flags)
            .args(["run", "--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        let stdout = run.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut pid).unwrap();
        // Its reader is gone with this line.
        let pid = Pid::from_raw(pid.trim().parse().unwrap());
        assert_ne!(run.wait().unwrap().code(), Some(0), "{}", way.name);
        eventually("the end of the command", PATIENCE, || {
            kill(pid, None).is_err().then_some(())
        });
    });
}

#[test]
fn ps_lists_what_runs_and_ran() {
    through_each_door(|way, daemon| {
        let sleeping = shell(way, daemon, "echo ps of sleeping; exec sleep 600");
        let ended = shell(way, daemon, "exit 9");
        eventually("an end", PATIENCE, || {
            row(way, daemon, &ended).contains("exit 9").then_some(())
        });
        let running = row(way, daemon, &sleeping);
        assert!(
            running.contains(" running ") && running.ends_with("exec sleep 600"),
            "{}: {running}",
            way.name
        );
        let table = String::from_utf8(way.call(daemon, &["ps", "--running"], b"").stdout).unwrap();
        assert!(
            table.contains(&sleeping) && !table.contains(&format!("{ended} ")),
            "{}: {table}",
            way.name
        );
        let listing = way.call(daemon, &["ps", "--running", "--json"], b"").stdout;
        let listing: Value = serde_json::from_slice(&listing).unwrap();
        let ids = listing["processes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|process| &process["id"]);
        assert!(ids.eq([&json!(sleeping)]), "{}: {listing}", way.name);
        assert!(
            way.call(daemon, &["kill", &sleeping], b"").status.success(),
            "{}",
            way.name
        );
    });
}

#[test]
fn kill_ends_a_process_and_says_how() {
    through_each_door(|way, daemon| {
        let id = shell(way, daemon, "sleep 600 & sleep 600");
        let output = way.call(daemon, &["kill", &id, "--signal", "USR1"], b"");
        assert!(output.status.success(), "{}: {}", way.name, complaint(&output));
        eventually("an end by USR1", PATIENCE, || {
            row(way, daemon, &id).contains("USR1").then_some(())
        });

        let stubborn = shell(
            way,
            daemon,
            "trap '' TERM; echo ready; while :; do sleep 0.05; done",
        );
        Running::start(way, daemon, &["logs", "-f", &stubborn])
            .stdout
            .until("ready\n");
        let output = way.call(daemon, &["kill", &stubborn, "--after", "100ms"], b"");
        assert!(output.status.success(), "{}: {}", way.name, complaint(&output));
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(
            said.contains(&stubborn) && said.contains("KILL"),
            "{}: {said:?}",
            way.name
        );
        assert!(row(way, daemon, &stubborn).contains(" KILL "), "{}", way.name);

        let wrong = way.call(daemon, &["kill", &stubborn, "--signal", "NOPE"], b"");
        assert_eq!(wrong.status.code(), Some(125), "{}", way.name);
        assert!(
            complaint(&wrong).contains("NOPE"),
            "{}: {}",
            way.name,
            complaint(&wrong)
        );
    });
}

#[test]
fn a_process_that_is_not_there_is_named() {
    through_each_door(|way, daemon| {
        let asked: [&[&str]; 4] = [
            &["kill", "proc_99"],
            &["kill", "proc_99", "--after", "1s"],
            &["logs", "proc_99"],
            &["logs", "-f", "proc_99"],
        ];
        for arguments in asked {
            let output = way.call(daemon, arguments, b"");
            let said = complaint(&output);
            assert_eq!(
                output.status.code(),
                Some(125),
                "{} {arguments:?}: {said}",
                way.name
            );
            assert!(said.contains("proc_99"), "{} {arguments:?}: {said}", way.name);
        }
    });
}

#[test]
fn who_cannot_be_reached_is_not_waited_for() {
    let daemon = Daemon::start();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let way = over_http(&daemon, nobody);
    for arguments in [["logs", "-f", "proc_1"], ["attach", "proc_1", "--json"]] {
        let begin = std::time::Instant::now();
        let output = way.call(&daemon, &arguments, b"");
        assert_eq!(output.status.code(), Some(125), "{arguments:?}");
        assert!(
            begin.elapsed().as_secs() < 10,
            "{arguments:?} took {:?}",
            begin.elapsed()
        );
    }
}

#[test]
fn logs_tell_what_was_written_so_far() {
    through_each_door(|way, daemon| {
        let id = shell(way, daemon, "printf 'a\\377'; printf b >&2; exit 4");
        let follow = way.call(daemon, &["logs", "-f", &id], b"");
        assert_eq!(
            (follow.status.code(), &follow.stdout[..], &follow.stderr[..]),
            (Some(4), &b"a\xff"[..], &b"b"[..]),
            "{}",
            way.name
        );
        let logs = way.call(daemon, &["logs", &id], b"");
        assert_eq!(
            (logs.status.code(), &logs.stdout[..], &logs.stderr[..]),
            (Some(0), &b"a\xff"[..], &b"b"[..]),
            "{}",
            way.name
        );
        let json = way.call(daemon, &["logs", "-f", "--json", &id], b"").stdout;
        let lines: Vec<Value> = json
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!(lines.last().unwrap()["exitCode"], 4, "{}: {lines:?}", way.name);
    });
}

#[test]
fn an_interrupt_of_logs_leaves_the_process_alone() {
    through_each_door(|way, daemon| {
        let id = shell(way, daemon, "echo here; exec sleep 600");
        let mut logs = Running::start(way, daemon, &["logs", "-f", &id]);
        logs.stdout.until("here\n");
        logs.interrupt();
        let (code, _, stderr) = logs.end();
        assert_eq!(
            code,
            Some(130),
            "{}: {}",
            way.name,
            String::from_utf8_lossy(&stderr)
        );
        assert!(row(way, daemon, &id).contains(" running "), "{}", way.name);
    });
}

/// Follows a process through a proxy that is cut twice: nothing is lost, nothing comes twice.
#[track_caller]
fn follows_over_cuts(way: &Way, daemon: &Daemon, proxy: &Proxy, arguments: &[&str]) {
    let mut logs = Running::start(way, daemon, arguments);
    let mut heard = logs.stdout.until("\nturn 30\n");
    proxy.cut();
    heard.extend(logs.stdout.until("\nturn 70\n"));
    proxy.cut();
    let (code, rest, stderr) = logs.end();
    heard.extend(rest);
    let mut expected = String::new();
    for turn in 1..=120 {
        writeln!(expected, "turn {turn}").unwrap();
        for number in 1..=2000 {
            writeln!(expected, "{number}").unwrap();
        }
    }
    assert_eq!(
        code,
        Some(9),
        "{}: {}",
        way.name,
        String::from_utf8_lossy(&stderr)
    );
    assert_eq!(heard.len(), expected.len(), "{}", way.name);
    assert!(heard == expected.as_bytes(), "{}: other bytes", way.name);
}

const TURNS: &str =
    "i=1; while [ $i -le 120 ]; do echo turn $i; seq 1 2000; i=$((i + 1)); sleep 0.02; done; exit 9";

#[test]
fn following_over_http_survives_cut_connections() {
    let daemon = Daemon::start();
    let proxy = Proxy::before(daemon.address());
    let way = over_http(&daemon, proxy.address());
    let id = shell(&way, &daemon, TURNS);
    follows_over_cuts(&way, &daemon, &proxy, &["logs", "-f", &id]);
    follows_over_cuts(&way, &daemon, &proxy, &["run", "--", "sh", "-c", TURNS]);
}

#[test]
fn following_over_nats_survives_cut_connections() {
    let broker = NatsServer::start();
    let link = Connection::to(&broker.url());
    let daemon = Daemon::builder().connection(&link).start();
    let proxy = Proxy::to(&broker);
    let way = over_nats(&daemon, &link, &proxy.url());
    let id = shell(&way, &daemon, TURNS);
    follows_over_cuts(&way, &daemon, &proxy, &["logs", "-f", &id]);
    follows_over_cuts(&way, &daemon, &proxy, &["run", "--", "sh", "-c", TURNS]);
}
