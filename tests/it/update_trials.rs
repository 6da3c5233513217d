//! A new executable on trial, killed at every step of being confirmed and of being taken back: what runs afterwards is one of
//! both, whole, and says which.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::releases::{Releases, sha256};
use crate::harness::{Daemon, NatsServer, PATIENCE, eventually, require};
use crate::update_daemon::{installed_on_trial, running, status};
use crate::update_guard::remembered;

/// The files that change when one is confirmed, and the system call that changes them.
const CONFIRMED: [(&str, &str); 4] = [
    ("/.boxd.update.fresh", "fsync"),
    ("/.boxd.update.fresh", "rename"),
    ("", "fsync"),
    ("/.boxd.update.served", "unlink"),
];
/// The same for one that is taken back.
const TAKEN_BACK: [(&str, &str); 5] = [
    ("/boxd.previous", "rename"),
    ("", "fsync"),
    ("/.boxd.update.served", "unlink"),
    ("/.boxd.update.fresh", "fsync"),
    ("/.boxd.update.fresh", "rename"),
];

/// A file of the directory, or the directory itself.
fn beside(directory: &Path, name: &str) -> PathBuf {
    PathBuf::from(format!("{}{name}", directory.display()))
}

/// Starts what is on trial, to be killed at its `step`th `call` on `path`.
fn killed_at((call, step): (&str, usize), path: &Path, program: &Path, arguments: &[&str]) -> Command {
    let home = program.parent().unwrap();
    let mut command = Command::new(require("strace"));
    command
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("inject={call}:signal=KILL:when={step}"))
        .arg("-P")
        .arg(path)
        .arg(program)
        .args(["run", "--state-dir"])
        .arg(home.join("state"))
        .args(arguments)
        .env_clear()
        .env("HOME", home)
        .current_dir(home)
        .stderr(fs::File::create(home.join("log")).unwrap());
    command
}

/// A start of what is on trial that waits for its broker.
fn waiting_for(broker: &NatsServer, program: &Path, ready: &Path) -> Child {
    let home = program.parent().unwrap();
    let started = Command::new(program)
        .args(["run", "--http", "127.0.0.1:0", "--nats-url", &broker.url()])
        .args(["--workspace-id", "00000000-0000-0000-0000-000000000001"])
        .args(["--agent-id", "00000000-0000-0000-0000-000000000002"])
        .arg("--state-dir")
        .arg(home.join("state"))
        .arg("--ready-file")
        .arg(ready)
        .env_clear()
        .env("HOME", home)
        .current_dir(home)
        .stderr(fs::File::create(home.join("log")).unwrap())
        .spawn()
        .unwrap();
    eventually("the start to be counted", PATIENCE, || {
        (remembered(program)["trial"]["starts"] == 1).then_some(())
    });
    started
}

/// From now on the process is to be killed at its `step`th `call` on `path`.
fn kill_at((call, step): (&str, usize), path: &Path, pid: u32) -> Child {
    let mut tracer = Command::new(require("strace"))
        .args(["-f", "-o", "/dev/null", "-e"])
        .arg(format!("inject={call}:signal=KILL:when={step}"))
        .arg("-P")
        .arg(path)
        .args(["-p", &pid.to_string()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tracer.stderr.take().unwrap()).lines();
    let attached = lines.find(|line| line.as_ref().unwrap().contains("attached"));
    assert!(attached.is_some(), "strace attaches to nothing");
    // What else it says is for nobody, and it is not to be held up.
    std::thread::spawn(move || lines.for_each(drop));
    tracer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_killed_while_it_is_confirmed_is_confirmed_by_its_next_start() {
    let (releases, mut broker) = (Releases::new(), NatsServer::start());
    for (name, call) in CONFIRMED {
        for step in 1.. {
            let directory = tempfile::tempdir().unwrap();
            let (program, _before, fresh) = installed_on_trial(directory.path(), &releases);
            let ready = directory.path().join("ready");
            broker.signal(Signal::SIGSTOP);
            let mut started = waiting_for(&broker, &program, &ready);
            let mut tracer = kill_at((call, step), &beside(directory.path(), name), started.id());
            broker.signal(Signal::SIGCONT);
            let was_killed = eventually("the start or its end", PATIENCE, || {
                let ended = started.try_wait().unwrap();
                ended.map(|_| true).or(ready.exists().then_some(false))
            });
            // It may also be killed at this moment.
            started.kill().unwrap();
            started.wait().unwrap();
            tracer.wait().unwrap();
            let daemon = Daemon::builder().program(&program).start();
            assert_eq!(running(daemon.pid()), fresh, "{call} {step} of {name:?}");
            let status = status(&daemon).await;
            assert_eq!(
                status["completed"]["version"], "99.0.0",
                "{call} {step} of {name:?}: {status}"
            );
            assert_eq!(remembered(&program)["trial"], Value::Null);
            if !was_killed {
                assert!(step > 1, "there is no {call} of {name:?}");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_killed_while_it_is_taken_back_is_taken_back_by_the_next_start_or_serves() {
    let releases = Releases::new();
    let mut outcomes = [0, 0];
    for (name, call) in TAKEN_BACK {
        for step in 1.. {
            let directory = tempfile::tempdir().unwrap();
            let (program, before, fresh) = installed_on_trial(directory.path(), &releases);
            let path = beside(directory.path(), name);
            let ended = killed_at((call, step), &path, &program, &["--http", "nowhere"])
                .status()
                .unwrap();
            let was_killed = ended.code() != Some(78);
            let daemon = Daemon::builder().program(&program).start();
            let (runs, status) = (running(daemon.pid()), status(&daemon).await);
            let is_back = runs == before;
            assert!(
                is_back || runs == fresh,
                "{call} {step} of {name:?}: neither of both"
            );
            let (told, not) = if is_back {
                ("rolledBack", "completed")
            } else {
                ("completed", "rolledBack")
            };
            assert_eq!(
                status[told]["version"], "99.0.0",
                "{call} {step} of {name:?}: {status}"
            );
            assert_eq!(status[not], Value::Null, "{call} {step} of {name:?}: {status}");
            assert_eq!(sha256(&fs::read(&program).unwrap()), runs);
            if !was_killed {
                assert!(is_back && step > 1, "there is no {call} of {name:?}");
                break;
            }
            outcomes[usize::from(is_back)] += 1;
        }
    }
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_somebody_else_takes_back_becomes_the_one_before() {
    let (directory, releases) = (tempfile::tempdir().unwrap(), Releases::new());
    let (program, before, _fresh) = installed_on_trial(directory.path(), &releases);
    let beside = |name: &str| program.with_file_name(name);
    let mut record = remembered(&program);
    record["rolled_back"] = record["trial"]["update"].take();
    record["trial"] = Value::Null;
    fs::write(beside("taken-back"), record.to_string()).unwrap();
    fs::copy(beside("boxd.previous"), beside("again")).unwrap();
    // What is remembered waits to be written, so that it is read when the start has begun.
    let (gate, remembered) = (beside("gate"), beside(".boxd.update"));
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::rename(&gate, &remembered).unwrap();
    let executable = program.clone();
    let guard = std::thread::spawn(move || {
        let mut gate = fs::OpenOptions::new().write(true).open(&remembered).unwrap();
        fs::rename(executable.with_file_name("again"), &executable).unwrap();
        let said = fs::read(executable.with_file_name("taken-back")).unwrap();
        fs::rename(executable.with_file_name("taken-back"), &remembered).unwrap();
        gate.write_all(&said).unwrap();
    });
    let daemon = Daemon::builder().program(&program).start();
    guard.join().unwrap();
    assert_eq!(running(daemon.pid()), before);
    assert_eq!(status(&daemon).await["rolledBack"]["version"], "99.0.0");
}
