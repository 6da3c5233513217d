//! What a child is born with: descriptors, signals, limits, environment, and nothing of the daemon's secrets. And who
//! is blamed when it can not be born.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::harness::{
    Daemon, NatsServer, PATIENCE, Request, WAYS, Way, Ways, eventually, processes, write_program,
};

#[tokio::test]
async fn a_child_has_three_descriptors_and_nothing_else() {
    let ways = Ways::start().await;
    for way in WAYS {
        let ran = ways.run(way, &Request::shell("ls -l /proc/self/fd")).await;
        let open: Vec<String> = ran
            .text()
            .lines()
            .filter_map(|line| Some(line.rsplit_once(" -> ")?.0.rsplit_once(' ')?.1.to_owned()))
            .collect();
        // The fourth is the directory that ls reads.
        assert_eq!(open, ["0", "1", "2", "3"], "{way:?}: {}", ran.text());
        assert!(ran.text().contains("/proc/"), "{}", ran.text());
    }
}

#[tokio::test]
async fn signals_limits_and_scores_are_those_that_the_daemon_was_given() {
    let builder =
        Daemon::builder().prelude("trap '' PIPE USR1; ulimit -Sn 777; echo 150 > /proc/$$/oom_score_adj");
    let ways = Ways::with(builder, NatsServer::start()).await;
    for way in WAYS {
        let script = "cat /proc/self/status; ulimit -Sn; cat /proc/self/oom_score_adj; umask; \
                      ps -o pgid=,sid=,pid= -p $$ | tr -s ' '; cat /proc/$$/comm";
        let ran = ways.run(way, &Request::shell(script)).await;
        let text = ran.text();
        let zero = "0000000000000000";
        for field in ["SigBlk", "SigIgn", "SigCgt"] {
            assert!(text.contains(&format!("{field}:\t{zero}")), "{way:?}: {text}");
        }
        assert!(text.contains("\n777\n150\n"), "{way:?}: limits and score: {text}");
    }
    let own = std::fs::read_to_string(processes::of(ways.daemon.pid(), "oom_score_adj")).unwrap();
    let own: i32 = own.trim().parse().unwrap();
    if may_lower_scores() {
        assert!(own < 150, "the daemon goes after its children: {own}");
    } else {
        assert_eq!(
            own, 150,
            "without CAP_SYS_RESOURCE nobody can do better than equal"
        );
    }
}

#[tokio::test]
async fn children_of_a_daemon_whose_score_was_lowered_for_it_are_killed_before_it() {
    let builder = Daemon::builder().prelude("echo -600 > /proc/$$/oom_score_adj || :");
    let ways = Ways::with(builder, NatsServer::start()).await;
    let score = |text: &str| text.trim().parse::<i32>().unwrap();
    let own = std::fs::read_to_string(processes::of(ways.daemon.pid(), "oom_score_adj")).unwrap();
    for way in WAYS {
        let ran = ways
            .run(way, &Request::shell("cat /proc/self/oom_score_adj"))
            .await;
        if may_lower_scores() {
            assert_eq!((score(&own), score(&ran.text())), (-600, -100), "{way:?}");
        } else {
            assert_eq!(score(&own), score(&ran.text()), "nobody could lower it: {way:?}");
        }
    }
}

/// Whether this machine lets its root lower an `oom_score_adj`: many containers keep that capability back.
fn may_lower_scores() -> bool {
    const CAP_SYS_RESOURCE: u64 = 24;
    let held = processes::status_field(std::process::id().cast_signed(), "CapEff").unwrap();
    u64::from_str_radix(&held, 16).unwrap() >> CAP_SYS_RESOURCE & 1 == 1
}

#[tokio::test]
async fn the_daemon_goes_ahead_of_its_children_who_queue_as_it_did() {
    let builder = Daemon::builder().prelude("renice -n 3 -p $$ > /dev/null");
    let ways = Ways::with(builder, NatsServer::start()).await;
    for way in WAYS {
        let script = "nice; cat /proc/$$/autogroup 2> /dev/null | cut -d ' ' -f 3";
        let ran = ways.run(way, &Request::shell(script)).await;
        let said = ran.text();
        assert!(matches!(said.trim(), "3" | "3\n0"), "{way:?}: {said:?}");
    }
    let script = "ps -o nice= -L -p $0; cut -d ' ' -f 3 < /proc/$0/autogroup";
    let of_daemon = std::process::Command::new("sh")
        .args(["-c", script, &ways.daemon.pid().to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&of_daemon.stdout);
    assert!(said.lines().all(|nice| nice.trim() == "-10"), "{said}");
}

#[tokio::test]
async fn the_environment_is_cleaned_and_quiet() {
    let builder = Daemon::builder()
        .environment("PASSED", "on")
        .environment("NOTIFY_SOCKET", "/run/none")
        .environment("WATCHDOG_USEC", "1")
        .environment("LISTEN_FDS_START", "3")
        .environment("CREDENTIALS_DIRECTORY", "/run/none")
        .environment("OTEL_EXPORTER_OTLP_HEADERS", "key=secret")
        .environment("BOXD_LOG", "info");
    let ways = Ways::with(builder, NatsServer::start()).await;
    for way in WAYS {
        let ran = ways
            .run(
                way,
                &Request::argv(&["env", "-0"])
                    .env("MINE", "a\nb")
                    .env("PATH", "/bin:/usr/bin"),
            )
            .await;
        let text = ran.text();
        let all: BTreeMap<&str, &str> = text
            .split('\0')
            .filter_map(|entry| entry.split_once('='))
            .collect();
        assert_eq!(
            (all["PASSED"], all["MINE"], all["PATH"]),
            ("on", "a\nb", "/bin:/usr/bin"),
            "{way:?}"
        );
        assert_eq!(
            (all["PAGER"], all["GIT_PAGER"], all["GIT_TERMINAL_PROMPT"]),
            ("cat", "cat", "0")
        );
        let marker = all["BOXD_PROCESS"];
        assert!(
            marker.starts_with(&format!("{}:", ways.daemon.instance())),
            "{marker}"
        );
        let foreign: Vec<&&str> = all
            .keys()
            .filter(|name| {
                ["NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY"].contains(name)
                    || ["BOXD_", "WATCHDOG_", "LISTEN_", "OTEL_"]
                        .iter()
                        .any(|prefix| name.starts_with(prefix))
                        && **name != "BOXD_PROCESS"
            })
            .collect();
        assert!(foreign.is_empty(), "{way:?}: {foreign:?}");
    }
}

#[tokio::test]
async fn blame_falls_on_the_right_thing() {
    let ways = Ways::start().await;
    let workspace = ways.daemon.workspace();
    let script = |name: &str, text: &str, mode: u32| {
        write_program(&workspace.join(name), text);
        std::fs::set_permissions(workspace.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    script("plain", "no program", 0o644);
    script("orphaned", "#!/no/such/interpreter\n", 0o755);
    let (missing, denied) = (
        ["ERROR_CODE_NOT_FOUND", "not_found"],
        ["ERROR_CODE_OS", "permission_denied"],
    );
    let cases = [
        (Request::argv(&["no-such-program"]), missing, "no-such-program"),
        (Request::argv(&["./nothing/here"]), missing, "./nothing/here"),
        (
            Request::argv(&["no-such-program"]).cwd("/no/such/cwd"),
            missing,
            "/no/such/cwd",
        ),
        (
            Request::argv(&["true"]).cwd("plain"),
            ["ERROR_CODE_OS", "wrong_kind"],
            "plain",
        ),
        (Request::argv(&["./plain"]), denied, "./plain"),
        (Request::argv(&["./orphaned"]), missing, "interpreter"),
        (Request::argv(&["/"]), denied, "/"),
        (Request::argv(&["env"]).env("PATH", "/nowhere"), missing, "env"),
    ];
    for (request, codes, words) in cases {
        for (way, expected) in WAYS.into_iter().zip(codes) {
            let (code, told) = ways.refused(way, &request).await;
            assert_eq!(code, expected, "{way:?} {request:?}: {told}");
            assert!(told.contains(words), "{way:?} {request:?}: {told}");
        }
    }
}

#[tokio::test]
async fn arguments_are_bytes() {
    let ways = Ways::start().await;
    for way in WAYS {
        let words = ["printf", "%s|", "", " ", "a\nb", "ü", "*", "$(id)", "-n"];
        assert_eq!(
            ways.run(way, &Request::argv(&words)).await.text(),
            "| |a\nb|ü|*|$(id)|-n|",
            "{way:?}"
        );
    }
    // A mebibyte of arguments is more than the kernel takes for one word, and is refused as such.
    let huge = "x".repeat(200_000);
    let (_, words) = ways.refused(Way::Http, &Request::argv(&["echo", &huge])).await;
    assert!(words.contains("argument") || words.contains("long"), "{words}");
}

/// Processes whose environment or arguments contain `secret`.
pub(crate) fn carriers(secret: &str) -> Vec<i32> {
    processes::all()
        .into_iter()
        .filter(|pid| shows(*pid, "environ", secret) || shows(*pid, "cmdline", secret))
        .collect()
}

fn shows(pid: i32, file: &str, secret: &str) -> bool {
    holds(
        &std::fs::read(processes::of(pid, file)).unwrap_or_default(),
        secret,
    )
}

/// A planted carrier: a search that finds it would find others.
pub(crate) struct Decoy(std::process::Child);

impl Decoy {
    pub(crate) fn with(secret: &str) -> Self {
        let child = Command::new("sleep").arg("300").env("DECOY", secret).spawn();
        let decoy = Self(child.unwrap());
        // The kernel lets its parent go on a moment before the environment is there.
        eventually("the environment of the decoy", PATIENCE, || {
            shows(decoy.pid(), "environ", secret).then_some(())
        });
        decoy
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }
}

impl Drop for Decoy {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _ = self.0.wait();
    }
}

fn holds(bytes: &[u8], secret: &str) -> bool {
    bytes
        .windows(secret.len())
        .any(|window| window == secret.as_bytes())
}

pub(crate) fn files_with(secret: &str, directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(secret, &path));
        } else if std::fs::read(&path).is_ok_and(|bytes| holds(&bytes, secret)) {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn secrets_leave_no_trace() {
    let (flag, variable) = (
        format!("flag{:032x}", fastrand::u128(..)),
        format!("env{:032x}", fastrand::u128(..)),
    );
    let broker = NatsServer::builder().token(&flag).start();
    let by_flag = Daemon::builder().argument("--token").argument(&flag).start();
    let by_variable = Daemon::builder()
        .environment("BOXD_TOKEN", &variable)
        .argument("--nats-url")
        .argument(broker.url())
        .argument("--workspace-id")
        .argument(uuid::Uuid::new_v4().to_string())
        .argument("--agent-id")
        .argument(uuid::Uuid::new_v4().to_string())
        .argument("--nats-token")
        .argument(&flag)
        .start();
    for (daemon, secret) in [(&by_flag, &flag), (&by_variable, &variable)] {
        let http = crate::harness::Http {
            address: daemon.address(),
            token: Some(secret.clone()),
        };
        let ran = http.run(&serde_json::json!({ "command": "env" })).await;
        assert_eq!(ran.status, 200, "the token is in force: {}", ran.text());
        assert!(!ran.text().contains(secret.as_str()));
    }
    let decoy = Decoy::with(&format!("{flag}{variable}"));
    let found = (carriers(&flag), carriers(&variable));
    assert_eq!(found, (vec![decoy.pid()], vec![decoy.pid()]));
    for daemon in [&by_flag, &by_variable] {
        for secret in [&flag, &variable] {
            assert!(!daemon.log().contains(secret.as_str()), "in the log");
            assert_eq!(
                files_with(secret, &daemon.state_directory()),
                Vec::<std::path::PathBuf>::new()
            );
        }
    }
}
