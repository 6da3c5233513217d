//! `boxd call attach` in a real terminal: typing, resizing, leaving, and connections that break.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portable_pty::CommandBuilder;
use serde_json::json;

use super::call::{Way, over_http};
use super::processes::{create, row};
use super::{complaint, run};
use crate::harness::daemon::BOXD;
use crate::harness::{Daemon, PATIENCE, Proxy, Pty, eventually};

/// Runs `boxd call attach` in a terminal.
#[track_caller]
fn attach(way: &Way, daemon: &Daemon, arguments: &[&str]) -> Pty {
    let state = daemon.state_directory();
    let mut command = CommandBuilder::new(BOXD);
    command.env_clear();
    command.env("HOME", &state);
    command.env("BOXD_STATE_DIR", &state);
    command.env("BOXD_CONFIG_DIR", state.join("no-config"));
    command.cwd(&state);
    command.arg("call");
    command.args(&way.flags);
    command.arg("attach");
    command.args(arguments);
    Pty::run(command, 100, 30)
}

fn straight() -> Way {
    Way {
        name: "http",
        flags: Vec::new(),
    }
}

/// A process with a terminal.
#[track_caller]
fn terminal(daemon: &Daemon, script: &str) -> String {
    let process = json!({ "command": "sh", "args": ["-c", script], "tty": true });
    create(&straight(), daemon, &process)
}

#[test]
fn typing_output_size_and_exit_code_pass() {
    let daemon = Daemon::start();
    let script = "printf 'ready\\n'; read line; echo \"got <$line>\"; stty size; read line; exit 7";
    let mut pty = attach(&straight(), &daemon, &["--", "sh", "-c", script]);
    pty.screen.until("ready");
    pty.types("some w\u{f6}rds\r");
    pty.screen.until("got <some w\u{f6}rds>\r\n30 100\r\n");
    pty.types("\r");
    assert_eq!(pty.ends(PATIENCE), 7);
}

#[test]
fn another_size_of_the_window_reaches_the_program() {
    let daemon = Daemon::start();
    let id = terminal(&daemon, "while :; do stty size; sleep 0.05; done");
    let mut pty = attach(&straight(), &daemon, &[&id]);
    pty.screen.until("30 100\r\n");
    pty.resize(120, 40);
    pty.screen.until("40 120\r\n");
    // Control-C is for the program.
    pty.types("\x03");
    assert_eq!(pty.ends(PATIENCE), 130);
}

#[test]
fn a_process_that_is_killed_leaves_the_terminal_as_it_was() {
    let daemon = Daemon::start();
    let id = terminal(&daemon, "printf '\\033[?1049h\\033[?25lready'; exec sleep 600");
    let mut pty = attach(&straight(), &daemon, &[&id]);
    pty.screen.until("ready");
    let killed = run(
        &daemon.state_directory(),
        &["call", "kill", &id, "--signal", "KILL"],
    );
    assert!(killed.status.success(), "{}", complaint(&killed));
    assert_eq!(pty.ends(PATIENCE), 137);
    pty.screen.until("\x1b[?1049l");
    pty.screen.until("\x1b[?25h");
}

#[test]
fn who_is_told_to_end_leaves_the_terminal_as_it_was() {
    let daemon = Daemon::start();
    let id = terminal(&daemon, "echo ready; exec cat");
    let mut pty = attach(&straight(), &daemon, &[&id]);
    pty.screen.until("ready");
    kill(Pid::from_raw(pty.pid()), Signal::SIGTERM).unwrap();
    assert_eq!(pty.ends(PATIENCE), 143);
    assert!(row(&straight(), &daemon, &id).contains(" running "));
}

#[test]
fn a_terminal_that_was_left_is_there_as_it_was() {
    let daemon = Daemon::start();
    let id = terminal(&daemon, "echo first; exec cat");
    let mut pty = attach(&straight(), &daemon, &[&id]);
    pty.screen.until("first");
    pty.types("typed\r");
    pty.screen.until("typed\r\ntyped\r\n");
    pty.types("\x1d");
    pty.screen.until(&format!("boxd: {id} goes on"));
    assert_eq!(pty.ends(PATIENCE), 0);
    assert!(row(&straight(), &daemon, &id).contains(" running "));

    let mut again = attach(&straight(), &daemon, &[&id]);
    again.screen.until("first");
    again.screen.until("typed");
    again.types("\x04");
    assert_eq!(again.ends(PATIENCE), 0);
}

#[test]
fn a_cut_connection_is_survived() {
    let daemon = Daemon::start();
    let proxy = Proxy::before(daemon.address());
    let way = over_http(&daemon, proxy.address());
    let id = terminal(
        &daemon,
        "echo ready; while read line; do [ \"$line\" = end ] && exit 5; echo \"<$line>\"; done",
    );
    let mut pty = attach(&way, &daemon, &[&id]);
    pty.screen.until("ready");
    for round in 0..3 {
        pty.types(&format!("before {round}\r"));
        pty.screen.until(&format!("<before {round}>\r\n"));
        proxy.cut();
        // It may still go to the connection that is dead: then nobody can know, and it is typed again.
        let mut heard = false;
        for _ in 0..20 {
            pty.types(&format!("after {round}\r"));
            if pty
                .screen
                .hears(&format!("<after {round}>\r\n"), Duration::from_secs(1))
            {
                heard = true;
                break;
            }
        }
        assert!(heard, "typing does not go on after cut {round}");
    }
    pty.types("end\r");
    assert_eq!(pty.ends(PATIENCE), 5);
    let shown = String::from_utf8(pty.screen.rest_so_far()).unwrap();
    assert!(!shown.contains("<before"), "shown twice: {shown:?}");
}

#[test]
fn a_terminal_that_cannot_be_reached_any_more_can_be_left() {
    let mut daemon = Daemon::start();
    let id = terminal(&daemon, "echo ready; exec cat");
    let mut pty = attach(&straight(), &daemon, &[&id]);
    pty.screen.until("ready");
    daemon.crash();
    pty.types("\x1d");
    assert_eq!(pty.ends(PATIENCE), 0);
}

#[test]
fn who_may_not_type_is_told_and_may_watch() {
    let daemon = Daemon::start();
    let id = terminal(&daemon, "echo ready; read line; echo got $line; exec cat");
    let mut pty = attach(&straight(), &daemon, &[&id]);
    pty.screen.until("ready");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let locked = runtime.block_on(
        daemon
            .http()
            .post(&path(&id, "lock"), &json!({ "holder": "ada" })),
    );
    assert_eq!(locked.status, 204, "{}", locked.text());
    pty.types("refused\r");
    assert!(!pty.screen.hears("got", Duration::from_millis(500)));
    let unlocked = runtime.block_on(
        daemon
            .http()
            .post(&path(&id, "unlock"), &json!({ "holder": "ada" })),
    );
    assert_eq!(unlocked.status, 204, "{}", unlocked.text());
    pty.types("taken\r");
    pty.screen.until("got taken");
    assert!(
        run(&daemon.state_directory(), &["call", "kill", &id])
            .status
            .success()
    );
    pty.screen.until("ada");
    assert_eq!(pty.ends(PATIENCE), 143);
}

fn path(id: &str, what: &str) -> String {
    format!("/v1/processes/{id}/terminal/{what}")
}

#[test]
fn a_terminal_that_nobody_looks_at_has_its_time() {
    let config = "[pty]\ndetach_timeout = \"1s\"\n";
    let daemon = Daemon::builder().config(config).start();
    // What it writes is nobody who looks.
    let alone = terminal(&daemon, "while :; do echo on and on; sleep 0.1; done");
    let seen = terminal(&daemon, "echo ready; exec cat");
    let mut pty = attach(&straight(), &daemon, &[&seen]);
    pty.screen.until("ready");
    eventually("the end of a terminal that nobody looks at", PATIENCE, || {
        row(&straight(), &daemon, &alone).contains(" KILL ").then_some(())
    });
    // The one that is looked at is as old as that one.
    assert!(row(&straight(), &daemon, &seen).contains(" running "));
    pty.types("still there\r");
    pty.screen.until("still there\r\nstill there\r\n");
    pty.types("\x1d");
    assert_eq!(pty.ends(PATIENCE), 0);
    eventually("the end of a terminal that was left", PATIENCE, || {
        row(&straight(), &daemon, &seen).contains(" KILL ").then_some(())
    });
}

#[test]
fn what_is_no_terminal_is_refused_by_name() {
    let daemon = Daemon::start();
    let plain = create(
        &straight(),
        &daemon,
        &json!({ "command": "sleep", "args": ["600"] }),
    );
    for id in [plain.as_str(), "proc_99"] {
        let mut pty = attach(&straight(), &daemon, &[id]);
        pty.screen.until(id);
        assert_eq!(pty.ends(PATIENCE), 125);
    }
}
