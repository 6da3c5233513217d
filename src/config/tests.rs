//! Tests of the layers as a whole.

use std::path::Path;

use super::*;

fn sources(variables: &[(&str, &str)], flags: Vec<(&'static str, Given)>) -> Sources {
    Sources {
        flags,
        environment: variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        current_dir: Some("/".into()),
        root: false,
        client: false,
    }
}

fn word(text: &str) -> Given {
    Given::Words(vec![text.into()])
}

fn with_file(
    text: &str,
    variables: &[(&str, &str)],
    flags: Vec<(&'static str, Given)>,
) -> Result<Loaded, Error> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.toml"), text).unwrap();
    let mut sources = sources(variables, flags);
    sources
        .environment
        .insert("BOXD_CONFIG_DIR".into(), directory.path().into());
    load(&sources)
}

fn problems(result: Result<Loaded, Error>) -> Vec<String> {
    match result {
        Err(Error::Config { problems }) => problems,
        other => panic!("{other:?}"),
    }
}

fn layer(loaded: &Loaded, key: &str) -> String {
    let (_, layer) = loaded
        .origins
        .iter()
        .find(|(setting, _)| setting.key == key)
        .unwrap();
    layer.to_string()
}

#[test]
fn flags_win_over_variables_over_the_file_over_defaults() {
    let file = "[exec]\nlinger = \"1ms\"\n[shutdown]\ngrace = \"1s\"\n[nats]\nroot = \"file\"\n";
    let loaded = with_file(
        file,
        &[("BOXD_SHUTDOWN_GRACE", "2s"), ("BOXD_LOG", "debug")],
        vec![("log.filter", word("trace"))],
    )
    .unwrap();
    assert_eq!(loaded.config.exec.linger, Duration::from_millis(1));
    assert_eq!(loaded.config.shutdown_grace, Duration::from_secs(2));
    assert_eq!(loaded.config.log_filter.to_string(), "trace");
    assert_eq!(loaded.config.nats.root, "file");
    assert!(layer(&loaded, "exec.linger").starts_with("file /"));
    assert_eq!(layer(&loaded, "shutdown.grace"), "variable BOXD_SHUTDOWN_GRACE");
    assert_eq!(layer(&loaded, "log.filter"), "flag --log");
    assert_eq!(layer(&loaded, "fs.confine"), "default");
}

#[test]
fn all_problems_of_all_layers_come_together() {
    let file = "[exec]\nlinger = 20\nlingre = \"1s\"\n[htpp]\nlisten = \"off\"\n";
    let found = problems(with_file(
        file,
        &[
            ("BOXD_TOKN", "x"),
            ("BOXD_FS_CONFINE", "maybe"),
            ("BOXD_WORKSPACE_ROOT", "/no/such"),
        ],
        vec![("log.format", word("xml"))],
    ));
    for part in [
        "exec.linger is 20 without a unit",
        "exec.lingre is not known (known here: linger, kill_grace)",
        "htpp is not known",
        "variable BOXD_TOKN: is not known",
        "variable BOXD_FS_CONFINE: fs.confine is \"maybe\"",
        "flag --log-format: log.format is \"xml\"",
        "workspace.root \"/no/such\" is not a directory",
    ] {
        assert!(
            found.iter().any(|problem| problem.contains(part)),
            "{part} is missing in {found:#?}"
        );
    }
    assert_eq!(found.len(), 7, "{found:#?}");
}

#[test]
fn a_broken_file_is_blamed_by_line_without_quoting_it() {
    let found = problems(with_file("[http]\ntoken = \"s3cret\" oops\n", &[], vec![]));
    assert!(found[0].contains("line 2"), "{found:?}");
    assert!(!found[0].contains("s3cret"), "{found:?}");
}

#[test]
fn the_process_marker_is_the_one_foreign_variable() {
    let loaded = load(&sources(&[("BOXD_PROCESS", "a:b"), ("PATH", "/bin")], vec![])).unwrap();
    assert_eq!(loaded.config.children, [("PATH".into(), "/bin".into())]);
}

#[test]
fn children_see_nothing_that_is_meant_for_boxd() {
    let ours = [
        ("BOXD_TOKEN", "s3cret"),
        ("BOXD_NATS_URL", ""),
        ("NOTIFY_SOCKET", "/x"),
        ("WATCHDOG_USEC", "1"),
        ("LISTEN_FDS", "1"),
        ("CREDENTIALS_DIRECTORY", "/c"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "key"),
        ("HOME", "/root"),
        ("LISTENER", "kept"),
    ];
    let loaded = load(&sources(&ours, vec![])).unwrap();
    let names: Vec<_> = loaded
        .config
        .children
        .iter()
        .map(|(name, _)| name.to_str().unwrap())
        .collect();
    assert_eq!(names, ["HOME", "LISTENER"]);
    assert_eq!(
        loaded.config.http.token,
        Token::Given(Secret::new("s3cret".into()))
    );
}

#[test]
fn secrets_are_never_shown() {
    let loaded = load(&sources(
        &[
            ("BOXD_TOKEN", "s3cret"),
            ("BOXD_NATS_URL", "nats://user:s3cret@127.0.0.1:4222"),
            ("BOXD_WORKSPACE_ID", "w"),
            ("BOXD_AGENT_ID", "a"),
            ("BOXD_NATS_TOKEN", "s3cret"),
            ("BOXD_RELAY_URL", "ws://127.0.0.1/stream"),
            ("BOXD_RELAY_TOKEN", "s3cret"),
        ],
        vec![],
    ))
    .unwrap();
    let shown = format!("{:?}", loaded.rows());
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(shown.contains("nats://***@127.0.0.1:4222"), "{shown}");
    let row = loaded
        .rows()
        .into_iter()
        .find(|(key, ..)| *key == "http.token")
        .unwrap();
    assert_eq!(
        (row.1.as_str(), row.2.as_str()),
        ("\"***\"", "variable BOXD_TOKEN")
    );
}

#[test]
fn the_highest_layer_that_names_any_credential_wins() {
    let file = "[http]\nno_token = true\n";
    let loaded = with_file(file, &[], vec![("http.token", word("t"))]).unwrap();
    assert_eq!(loaded.config.http.token, Token::Given(Secret::new("t".into())));
    let loaded = with_file(file, &[], vec![]).unwrap();
    assert_eq!(loaded.config.http.token, Token::Off);
    let found = problems(with_file("[http]\nno_token = true\ntoken = \"t\"\n", &[], vec![]));
    assert!(
        found[0].contains("http.no_token excludes http.token"),
        "{found:?}"
    );
    let loaded = with_file("[http]\nno_token = false\ntoken = \"t\"\n", &[], vec![]).unwrap();
    assert_eq!(loaded.config.http.token, Token::Given(Secret::new("t".into())));
}

#[test]
fn no_token_is_for_loopback_or_those_who_know() {
    let open = |listen: &str, insist: bool| {
        let mut flags = vec![("http.no_token", Given::Present), ("http.listen", word(listen))];
        if insist {
            flags.push(("http.i_know", Given::Present));
        }
        load(&sources(&[], flags))
    };
    assert!(open("127.0.0.1:0", false).is_ok());
    assert!(open("[::1]:0", false).is_ok());
    assert!(open("off", false).is_ok());
    assert!(problems(open("0.0.0.0:0", false))[0].contains("--i-know"));
    assert!(problems(open("unix:/run/boxd.sock", false))[0].contains("same user"));
    assert!(open("0.0.0.0:0", true).is_ok());
    assert!(open("unix:/run/boxd.sock", true).is_ok());
}

#[test]
fn half_a_link_names_the_other_half() {
    let found = problems(load(&sources(&[("BOXD_NATS_URL", "http://x")], vec![])));
    assert!(
        found[0].contains("--workspace-id") && found[0].contains("--agent-id"),
        "{found:?}"
    );
    assert!(found[1].contains("nats://"), "{found:?}");
    let wild = [
        ("BOXD_NATS_URL", "nats://x"),
        ("BOXD_WORKSPACE_ID", "a.b"),
        ("BOXD_AGENT_ID", ">"),
    ];
    assert_eq!(problems(load(&sources(&wild, vec![]))).len(), 2);
}

#[test]
fn directories_follow_home_and_root() {
    let of = |variables: &[(&str, &str)], root| {
        let mut sources = sources(variables, vec![]);
        sources.root = root;
        let config = load(&sources).unwrap().config;
        (config.state_dir, config.config_dir)
    };
    let paths = |state: &str, config: &str| (PathBuf::from(state), PathBuf::from(config));
    assert_eq!(
        of(&[("HOME", "/h")], false),
        paths("/h/.local/state/boxd", "/h/.config/boxd")
    );
    assert_eq!(
        of(&[("HOME", "/root")], true),
        paths("/var/lib/boxd", "/etc/boxd")
    );
    assert_eq!(of(&[], false), paths("/var/lib/boxd", "/etc/boxd"));
    let xdg = [("XDG_STATE_HOME", "/s"), ("XDG_CONFIG_HOME", "/c")];
    assert_eq!(of(&xdg, true), paths("/s/boxd", "/c/boxd"));
}

#[test]
fn token_files_are_read_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, " s3cret\n").unwrap();
    let flag = |path: &Path| vec![("http.token_file", Given::Words(vec![path.into()]))];
    let loaded = load(&sources(&[], flag(&path))).unwrap();
    assert_eq!(
        loaded.config.http.token,
        Token::File {
            path,
            token: Secret::new("s3cret".into())
        }
    );
    let missing = directory.path().join("missing");
    assert!(problems(load(&sources(&[], flag(&missing))))[0].contains("cannot be read"));
}

#[test]
fn a_client_is_not_held_to_the_rules_of_a_daemon() {
    let mut sources = sources(&[("BOXD_NATS_URL", "nats://x")], vec![]);
    sources.client = true;
    assert!(load(&sources).is_ok());
}

#[test]
fn the_names_of_secrets_are_those_of_the_table() {
    let names = secret_names();
    assert_eq!(names.flags, ["token", "nats-token", "relay-token"]);
    assert_eq!(
        names.variables,
        [
            "BOXD_TOKEN",
            "BOXD_NATS_TOKEN",
            "BOXD_RELAY_TOKEN",
            "BOXD_ENROLL_TOKEN"
        ]
    );
    assert_eq!(
        (names.url_flags, names.url_variables),
        (vec!["nats-url"], vec!["BOXD_NATS_URL"])
    );
}

#[test]
fn the_table_is_consistent() {
    let mut keys = std::collections::BTreeSet::new();
    let mut names = std::collections::BTreeSet::new();
    for setting in SETTINGS {
        assert!(keys.insert(setting.key), "{} twice", setting.key);
        assert_eq!(setting.key.split('.').count(), 2, "{}", setting.key);
        assert!(setting.doc.ends_with('.'), "{}", setting.key);
        for name in setting.variable.into_iter().chain(setting.flag) {
            assert!(names.insert(name), "{name} twice");
        }
        assert!(
            setting.variable.is_none_or(|name| name.starts_with("BOXD_")),
            "{}",
            setting.key
        );
    }
}

#[test]
fn the_example_is_the_committed_one_and_every_value_in_it_is_accepted() {
    let committed = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/config.example.toml"));
    assert!(
        committed.unwrap() == example(),
        "write it with: boxd doctor --print-example > docs/config.example.toml"
    );
    let uncommented: String = example()
        .lines()
        .filter_map(|line| line.strip_prefix("# ").or(Some(line)))
        .fold(String::new(), |text, line| {
            let is_value = line
                .split_once(" = ")
                .is_some_and(|(name, _)| !name.contains(' '));
            if is_value || line.starts_with('[') {
                text + line + "\n"
            } else {
                text
            }
        });
    let table: toml::Table = toml::from_str(&uncommented).unwrap();
    for setting in SETTINGS.iter().filter(|setting| setting.in_file) {
        let (section, name) = setting.key.split_once('.').unwrap();
        let value = table[section]
            .get(name)
            .unwrap_or_else(|| panic!("{} is missing", setting.key));
        let mut config = load(&sources(&[], vec![])).unwrap().config;
        if setting.flag.is_some_and(|flag| flag.ends_with("token-file")) {
            continue;
        }
        (setting.set)(&mut config, &Given::File(value.clone()))
            .unwrap_or_else(|problem| panic!("{} {problem}", setting.key));
    }
}

#[test]
fn names_that_could_never_match_are_told() {
    for host in ["box.example:2468", "http://box.example", "*.example", ""] {
        let file = format!("[http]\nhosts = [\"ok.example\", \"::1\", \"[::1]\", {host:?}]\n");
        let problems = problems(with_file(&file, &[], Vec::new()));
        assert!(
            problems.len() == 1 && problems[0].contains("http.hosts"),
            "{host}: {problems:?}"
        );
    }
    for origin in [
        "*",
        "app.example",
        "https://*.example",
        "https://app.example/page",
    ] {
        let file = format!(
            "[http]\norigins = [\"https://ok.example/\", \"http://[::1]:3000\", \"app://page\", {origin:?}]\n"
        );
        let problems = problems(with_file(&file, &[], Vec::new()));
        assert!(
            problems.len() == 1 && problems[0].contains("http.origins"),
            "{origin}: {problems:?}"
        );
    }
}

#[test]
fn what_nobody_is_there_for_has_its_time() {
    let file = "[pty]\ndetach_timeout = \"5m\"\n[op]\nframe_bytes = 4096\n";
    let config = with_file(file, &[("BOXD_OP_ABANDON", "1h")], Vec::new())
        .unwrap()
        .config;
    assert_eq!(config.pty.detach_timeout, Duration::from_secs(300));
    assert_eq!(
        (config.op.frame_bytes, config.op.abandon),
        (4096, Duration::from_secs(3600))
    );
    let wrong = [
        ("BOXD_PTY_DETACH_TIMEOUT", "0s"),
        ("BOXD_OP_FRAME_BYTES", "1023"),
        ("BOXD_OP_ABANDON", "11years"),
    ];
    let problems = problems(load(&sources(&wrong, Vec::new())));
    let parts = [
        "pty.detach_timeout is 0s, it must be from 100ms to 10years",
        "op.frame_bytes is 1023, it must be from 1024 to 1048576",
        "op.abandon is 11years, it must be from 100ms to 10years",
    ];
    for (problem, part) in problems.iter().zip(parts) {
        assert!(problem.ends_with(part), "{problem:?}");
    }
    assert_eq!(problems.len(), 3, "{problems:?}");
}

#[test]
fn every_variable_is_in_the_guide_for_operators() {
    let guide = include_str!("../../docs/operations.md");
    for setting in SETTINGS {
        let Some(variable) = setting.variable else {
            continue;
        };
        assert!(
            guide.contains(&format!("| `{variable}` | `{}`", setting.key)),
            "{variable} has no row in docs/operations.md"
        );
    }
}
