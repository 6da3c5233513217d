//! What a command may use, kept and told: memory, processes, descriptors, output, time, the user it runs as. And how far a
//! stop reaches, and whom it must not.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::{ControlRequest, ExecRequest, OperationResourcePolicy, PingRequest};
use http_body_util::Full;
use hyper::Method;
use prost::Message;
use serde_json::{Value, json};

use crate::harness::http::Http;
use crate::harness::op::query;
use crate::harness::ways::unique_seconds;
use crate::harness::{Daemon, NatsServer, PATIENCE, Ways, eventually, percentile, processes, require};
use crate::http_process_life::{ended, made, made_of};
use crate::nats_requests::ran;

const MIB: u64 = 1 << 20;

/// 200 MiB in one process, with a shell that would go on afterwards.
const HOG: &str = "head -c 209715200 /dev/zero | tail | sleep 30; echo survived; sleep N";

/// Somebody who has nothing to do with it, and is to live on.
async fn neighbour(http: &Http) -> String {
    made(http, &format!("exec sleep {}", unique_seconds())).await
}

async fn assert_alive(http: &Http, id: &str) {
    let info = http.get(&format!("/v1/processes/{id}")).await.json();
    assert_eq!(info["status"], "running", "{info}");
    let pid = info["pid"].as_i64().unwrap();
    assert!(pid > 0, "{info}");
}

/// What an answer says of a command that had more memory than it may.
#[track_caller]
fn assert_told_of_memory(info: &Value) {
    let told = (info["limit"].as_str(), info["oom"].clone());
    let expected = match info["limitMechanism"].as_str() {
        Some("cgroup_v1" | "cgroup_v2") => json!(true),
        Some("watchdog") => json!("unknown"),
        other => panic!("no mechanism is named: {other:?} {info}"),
    };
    assert_eq!(told, (Some("memory"), expected), "{info}");
}

#[tokio::test]
async fn a_hog_is_killed_within_seconds_and_told_over_http() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let beside = neighbour(&http).await;
    let seconds = unique_seconds();
    let asked = json!({ "command": HOG.replace('N', &seconds), "shell": true,
                        "limits": { "memoryMax": 64 * MIB } });
    let begin = Instant::now();
    let id = made_of(&http, &asked).await;
    let info = ended(&http, &id).await;
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_told_of_memory(&info);
    assert_eq!(info["signal"], "SIGKILL", "{info}");
    let logged = http.get(&format!("/v1/processes/{id}/logs?format=raw")).await;
    // The shell may say of what it waited for that it was killed, before it is killed itself.
    assert!(!logged.text().contains("survived"), "{}", logged.text());
    processes::assert_none(&seconds);
    assert_alive(&http, &beside).await;
    assert_eq!(http.get("/v1/health").await.status, 200);
}

/// The kernel may choose the leader itself; then nobody is to live on without it.
#[tokio::test]
async fn a_hog_that_leads_takes_its_tree_along() {
    let daemon = Daemon::start();
    let http = daemon.http();
    for round in 0..8 {
        let seconds = unique_seconds();
        let line = format!("setsid sleep {seconds} & setsid sleep {seconds} & exec tail /dev/zero");
        let asked = json!({ "command": line, "shell": true, "limits": { "memoryMax": 24 * MIB } });
        let info = ended(&http, &made_of(&http, &asked).await).await;
        assert_told_of_memory(&info);
        let left = processes::with_argument(&seconds);
        assert!(left.is_empty(), "round {round}: {left:?}");
    }
}

#[tokio::test]
async fn a_hog_is_killed_within_seconds_and_told_over_nats() {
    let ways = Ways::start().await;
    let beside = neighbour(&ways.http).await;
    let seconds = unique_seconds();
    let request = ControlRequest {
        request_id: "hog".into(),
        resource_policy: Some(OperationResourcePolicy {
            memory_max_bytes: Some(64 * MIB),
            ..OperationResourcePolicy::default()
        }),
        op: Some(Op::Exec(ExecRequest {
            command: vec![HOG.replace('N', &seconds)],
            shell: true,
            ..ExecRequest::default()
        })),
        ..ControlRequest::default()
    };
    let begin = Instant::now();
    let exec = ran(ways.control.ask_bytes(request.encode_to_vec().into()).await);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_eq!(
        (exec.exit_code, exec.timed_out, &exec.stdout[..]),
        (-1, false, &b""[..])
    );
    let exit = query(&ways.control, "hog").await.exit.unwrap();
    assert_eq!(exit.failure_detail["signal_name"], "SIGKILL", "{exit:?}");
    assert!(
        ["true", "unknown"].contains(&exit.failure_detail["oom"].as_str()),
        "{exit:?}"
    );
    processes::assert_none(&seconds);
    assert_alive(&ways.http, &beside).await;
    assert_eq!(
        ways.control.ask(Op::Ping(PingRequest { nonce: 1 })).await.error,
        None
    );
}

/// Forks for ever in every process but one, which takes some megabytes every few milliseconds.
const BOMB: &str = r"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int count, char **words) {
    if (count < 2) return 2;
    if (fork() == 0) for (;;) fork();
    for (;;) {
        char *taken = malloc(4 << 20);
        if (taken) memset(taken, 1, 4 << 20);
        usleep(10000);
    }
}
";

fn compiled(directory: &Path, name: &str, source: &str) -> PathBuf {
    let (file, program) = (directory.join(format!("{name}.c")), directory.join(name));
    std::fs::write(&file, source).unwrap();
    let mut compile = Command::new(require("cc"));
    let compiled = compile.arg("-O1").arg("-o").arg(&program).arg(&file).status();
    assert!(compiled.unwrap().success());
    program
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_bomb_with_a_hog_disturbs_nobody() {
    crate::harness::alone();
    // Whatever it does, it ends with the namespace.
    let ways = Ways::with(Daemon::builder().namespace("true"), NatsServer::start()).await;
    let beside = neighbour(&ways.http).await;
    // That the limit holds is seen with a number of forks that does no harm.
    let seconds = unique_seconds();
    let line = format!("i=0; while [ $i -lt 60 ]; do sleep {seconds} & i=$((i+1)); done; echo all; wait");
    let asked = json!({ "command": line, "shell": true, "limits": { "pidsMax": 20 } });
    let id = made_of(&ways.http, &asked).await;
    let info = ended(&ways.http, &id).await;
    assert_eq!(info["limit"], "pids", "{info}");
    let here = processes::with_argument(&seconds).len();
    assert!(here < 20, "{here} where 20 may be, with their shell");
    let logged = ways
        .http
        .get(&format!("/v1/processes/{id}/logs?format=raw"))
        .await;
    assert!(!logged.text().contains("all"), "{}", logged.text());
    ways.http
        .post(&format!("/v1/processes/{id}/kill"), &json!({}))
        .await;
    processes::wait_until_gone(&seconds, PATIENCE);

    let program = compiled(ways.daemon.directory(), "bomb", BOMB);
    let mark = unique_seconds();
    let asked = json!({ "command": program, "args": [mark],
                        "limits": { "pidsMax": 100, "memoryMax": 128 * MIB } });
    let id = made_of(&ways.http, &asked).await;
    let (mut pings, mut healths) = (Vec::new(), Vec::new());
    let mut health = ways.http.keep().await;
    let begin = Instant::now();
    // Looking at those who fork all the time takes long, so somebody else does.
    let counting = {
        let mark = mark.clone();
        std::thread::spawn(move || {
            let counts = std::iter::repeat_with(|| processes::with_argument(&mark).len());
            counts.take_while(|count| *count > 0).max().unwrap_or(0)
        })
    };
    while !counting.is_finished() {
        let one = Instant::now();
        let pong = ways.control.ask(Op::Ping(PingRequest { nonce: 1 })).await;
        assert_eq!(pong.error, None);
        pings.push(one.elapsed());
        let one = Instant::now();
        let request = ways.http.anonymous().request(Method::GET, "/v1/health");
        let answer = health.send(request.body(Full::default()).unwrap()).await;
        assert_eq!(answer.status, 200);
        healths.push(one.elapsed());
        assert!(begin.elapsed() < Duration::from_secs(60), "it ends by its memory");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let most = counting.join().unwrap();
    let info = ended(&ways.http, &id).await;
    let (ping, health) = (percentile(&mut pings, 99), percentile(&mut healths, 99));
    eprintln!(
        "{} pings and healths in {:?} beside {most} processes: p99 {ping:?} and {health:?}",
        pings.len(),
        begin.elapsed()
    );
    if info["limitMechanism"] == "watchdog" {
        assert!(info["limit"] == "pids" || info["limit"] == "memory", "{info}");
    } else {
        assert_told_of_memory(&info);
        // Seen now and then, so the highest moment may be missed.
        assert!((10..=100).contains(&most), "{most} processes where 100 may be");
    }
    processes::wait_until_gone(&mark, Duration::from_secs(5));
    assert_alive(&ways.http, &beside).await;
    assert!(
        health < Duration::from_millis(50),
        "p99 of {}: {health:?}",
        healths.len()
    );
    assert!(
        ping < Duration::from_millis(100),
        "p99 of {}: {ping:?}",
        pings.len()
    );
}

#[tokio::test]
async fn it_runs_as_the_user_that_was_asked_for() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let asked = json!({ "command": "id -u; id -un; echo $HOME; id -G", "shell": true, "user": "nobody" });
    let id = made_of(&http, &asked).await;
    assert_eq!(ended(&http, &id).await["exitCode"], 0);
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let expected = format!(
        "{}\nnobody\n{}\n{}\n",
        nobody.uid,
        nobody.dir.display(),
        nobody.gid
    );
    let logged = http.get(&format!("/v1/processes/{id}/logs?format=raw")).await;
    assert_eq!(logged.text(), expected);
    let ran = http
        .run(&json!({ "command": "id", "args": ["-u"], "user": "12345:54321" }))
        .await;
    assert_eq!(ran.json()["stdout"], "12345\n", "{}", ran.text());
    let asked = json!({ "command": "true", "user": "nobody-of-that-name" });
    for path in ["/v1/processes", "/v1/processes/run"] {
        let problem = http.post(path, &asked).await.problem(404, "not_found");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains("user") && detail.contains("nobody-of-that-name"),
            "{detail}"
        );
    }
}

#[tokio::test]
async fn descriptors_output_and_time_are_limited_and_told() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let asked = json!({ "command": "ulimit -Sn; ulimit -Hn", "shell": true, "limits": { "nofile": 77 } });
    let ran = http.run(&asked).await.json();
    assert_eq!(ran["stdout"], "77\n77\n", "{ran}");
    assert_eq!(ran["limitMechanism"], "rlimit", "{ran}");

    let seconds = unique_seconds();
    let line = format!("setsid sleep {seconds} & yes; sleep {seconds}");
    let asked = json!({ "command": line, "shell": true, "limits": { "outputMax": 100_000 } });
    for path in ["/v1/processes", "/v1/processes/run"] {
        let answer = http.post(path, &asked).await;
        let info = match path {
            "/v1/processes" => ended(&http, answer.json()["id"].as_str().unwrap()).await,
            _ => answer.json(),
        };
        assert_eq!(
            (&info["limit"], &info["signal"], &info["timedOut"]),
            (&json!("output"), &json!("SIGKILL"), &json!(false)),
            "{info}"
        );
        assert_eq!(info["limitMechanism"], "daemon", "{info}");
        processes::assert_none(&seconds);
    }

    let line = format!("setsid sleep {seconds} & sleep {seconds}");
    let asked = json!({ "command": line, "shell": true, "timeoutMs": 300 });
    let info = ended(&http, &made_of(&http, &asked).await).await;
    assert_eq!(
        (&info["limit"], &info["timedOut"]),
        (&json!("wall"), &json!(true)),
        "{info}"
    );
    assert!(info.get("exitCode").is_none(), "{info}");
    processes::assert_none(&seconds);
}

#[tokio::test]
async fn limits_that_mean_nothing_are_refused_by_name() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let fields = [
        "memoryMax",
        "memoryHigh",
        "cpuMillicores",
        "pidsMax",
        "nofile",
        "outputMax",
    ];
    for path in ["/v1/processes", "/v1/processes/run"] {
        for name in fields {
            let asked = json!({ "command": "true", "limits": { name: 0 } });
            let problem = http.post(path, &asked).await.problem(400, "invalid_request");
            assert_eq!(problem["details"]["field"], format!("limits.{name}"), "{problem}");
            for wrong in [json!(-1), json!(1.5), json!("64M"), json!([])] {
                let asked = json!({ "command": "true", "limits": { name: wrong } });
                let answer = http.post(path, &asked).await;
                let status = answer.status.as_u16();
                assert!([400, 422].contains(&status), "{asked}: {}", answer.text());
                answer.problem(status, "invalid_request");
            }
        }
        for senseless in [
            json!({ "memoryMax": MIB, "memoryHigh": 2 * MIB }),
            json!({ "memoryMax": 1 }),
        ] {
            let asked = json!({ "command": "true", "limits": senseless });
            http.post(path, &asked).await.problem(400, "invalid_request");
        }
    }
    let left = http.get("/v1/processes").await.json();
    assert_eq!(left["processes"], json!([]), "nothing was started");
}

#[tokio::test]
async fn what_cannot_be_limited_here_is_refused_and_what_can_be_watched_is() {
    let daemon = Daemon::builder().namespace("umount -R /sys/fs/cgroup").start();
    let http = daemon.http();
    for name in ["cpuMillicores", "memoryHigh"] {
        let asked = json!({ "command": "touch ran", "shell": true, "limits": { name: 100 * MIB } });
        for path in ["/v1/processes", "/v1/processes/run"] {
            let problem = http.post(path, &asked).await.problem(501, "unsupported");
            assert!(
                problem["detail"].as_str().unwrap().contains("control group"),
                "{problem}"
            );
        }
    }
    assert!(!daemon.workspace().join("ran").exists());
    let seconds = unique_seconds();
    let asked = json!({ "command": HOG.replace('N', &seconds), "shell": true,
                        "limits": { "memoryMax": 64 * MIB } });
    let info = ended(&http, &made_of(&http, &asked).await).await;
    assert_eq!(info["limitMechanism"], "watchdog", "{info}");
    assert_told_of_memory(&info);
    processes::assert_none(&seconds);
}

#[tokio::test]
async fn a_stop_says_that_who_cleared_everything_may_escape_it() {
    let mut daemon = Daemon::start();
    let http = daemon.http();
    // It has no marker, no session, no parent and no output of the tree.
    let line = |hidden: &str, seconds: &str| {
        format!(
            "(env -i setsid sleep {hidden} < /dev/null > /dev/null 2>&1 &); echo ready; exec sleep {seconds}"
        )
    };
    let (hidden, seconds) = (unique_seconds(), unique_seconds());
    let id = made(&http, &line(&hidden, &seconds)).await;
    http.until_logged(&id, "ready\n").await;
    processes::wait_until_there(&hidden, PATIENCE);
    let said = http
        .post(&format!("/v1/processes/{id}/stop?waitMs=20000"), &json!({}))
        .await
        .json();
    assert_eq!(
        (&said["status"], &said["tree"]),
        (&json!("exited"), &json!("best_effort")),
        "{said}"
    );
    processes::assert_none(&seconds);
    // From a group of its own nobody escapes.
    let (grouped, seconds) = (unique_seconds(), unique_seconds());
    let asked = json!({ "command": line(&grouped, &seconds), "shell": true, "limits": { "pidsMax": 50 } });
    let id = made_of(&http, &asked).await;
    http.until_logged(&id, "ready\n").await;
    processes::wait_until_there(&grouped, PATIENCE);
    let said = http
        .post(&format!("/v1/processes/{id}/kill?waitMs=20000"), &json!({}))
        .await
        .json();
    processes::assert_none(&seconds);
    match said["tree"].as_str() {
        Some("cgroup") => processes::assert_none(&grouped),
        other => assert_eq!(other, Some("best_effort"), "{said}"),
    }
    // Whoever escaped one stop does not escape the last one.
    assert_eq!(daemon.stop().code(), Some(0));
    processes::assert_none(&hidden);
    processes::assert_none(&grouped);
}

#[tokio::test]
async fn a_stop_reaches_who_forked_twice_and_left_its_session() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let seconds = unique_seconds();
    let line = format!(
        "(setsid sh -c '(setsid sleep {seconds} < /dev/null > /dev/null 2>&1 &)' &); echo ready; exec sleep {seconds}"
    );
    let id = made(&http, &line).await;
    let both = eventually("both of them", PATIENCE, || {
        let both = processes::with_argument(&seconds);
        (both.len() == 2).then_some(both)
    });
    let said = http
        .post(&format!("/v1/processes/{id}/stop?waitMs=20000"), &json!({}))
        .await
        .json();
    assert_eq!(said["status"], "exited", "{said}");
    // A shell between them may not have ended yet.
    let signalled = said["signalled"].as_array().unwrap();
    assert!(both.iter().all(|pid| signalled.contains(&json!(pid))), "{said}");
    processes::wait_until_gone(&seconds, Duration::from_secs(5));
}

#[tokio::test]
async fn a_stop_leaves_daemons_of_other_processes_alone() {
    let daemon = Daemon::start();
    let http = daemon.http();
    let boxd = crate::harness::daemon::BOXD;
    let (tmux, inner, third) = (unique_seconds(), unique_seconds(), unique_seconds());
    let line = format!(
        "mkdir w c s && exec {boxd} run --http 127.0.0.1:0 --workspace-root w --config-dir c --state-dir s \
         --ready-file ready.json"
    );
    let nested_id = made(&http, &line).await;
    let ready = daemon.workspace().join("ready.json");
    let nested = eventually("the nested daemon", PATIENCE, || {
        let ready: Value = serde_json::from_slice(&std::fs::read(&ready).ok()?).ok()?;
        let address = ready["http"][0].as_str()?.strip_prefix("http://")?.parse().ok()?;
        let token = std::fs::read_to_string(daemon.workspace().join(ready["tokenFile"].as_str()?)).ok()?;
        Some(Http {
            address,
            token: Some(token.trim().to_owned()),
        })
    });
    let inner_id = made(&nested, &format!("exec sleep {inner}")).await;
    let tmux_program = require("tmux");
    let line = format!(
        "{0} -S socket -f /dev/null new-session -d 'exec sleep {tmux}' && exec sleep {tmux}",
        tmux_program.display()
    );
    made(&http, &line).await;
    eventually("the one in tmux", PATIENCE, || {
        (processes::with_argument(&tmux).len() == 2).then_some(())
    });
    let line = format!("setsid sleep {third} & (setsid sleep {third} &); echo ready; exec sleep {third}");
    let id = made(&http, &line).await;
    http.until_logged(&id, "ready\n").await;
    for request in ["stop?waitMs=20000&killAfterMs=1000", "kill?waitMs=20000"] {
        let said = http
            .post(&format!("/v1/processes/{id}/{request}"), &json!({}))
            .await
            .json();
        assert_eq!(said["status"], "exited", "{said}");
    }
    processes::wait_until_gone(&third, Duration::from_secs(5));
    assert_eq!(processes::with_argument(&tmux).len(), 2, "tmux lives on");
    assert_alive(&nested, &inner_id).await;
    assert_eq!(processes::with_argument(&inner).len(), 1);
    // Stopped itself, it takes its own along.
    let said = http
        .post(
            &format!("/v1/processes/{nested_id}/stop?waitMs=20000"),
            &json!({}),
        )
        .await
        .json();
    assert_eq!(said["status"], "exited", "{said}");
    processes::wait_until_gone(&inner, Duration::from_secs(5));
    assert_eq!(processes::with_argument(&tmux).len(), 2, "tmux lives on");
}
