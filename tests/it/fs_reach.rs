//! How far paths reach: a link whose owner did not consent to the whole machine, and a daemon that confines every caller
//! to the workspace. Refused means untouched.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response::Result as Outcome;
use boxd::wire::proto::{
    AgentError, ErrorCode, ExecRequest, Extension, FsListRequest, FsMkdirRequest, FsMoveRequest,
    FsReadRequest, FsRemoveRequest, FsStatRequest, FsWriteRequest, MetricsRequest, PingRequest,
};
use serde_json::json;

use crate::harness::{Connection, ControlPlane, Daemon, NatsServer, Ways};
use crate::parity_git;

/// Every file operation of the wire upon `path`; moves in both directions.
fn every_operation(path: &str) -> Vec<(&'static str, Op)> {
    let path = path.to_owned();
    vec![
        (
            "read",
            Op::FsRead(FsReadRequest {
                path: path.clone(),
                ..FsReadRequest::default()
            }),
        ),
        (
            "write",
            Op::FsWrite(FsWriteRequest {
                path: path.clone(),
                content: b"intruder".as_slice().into(),
                create_parents: true,
                ..FsWriteRequest::default()
            }),
        ),
        (
            "append",
            Op::FsWrite(FsWriteRequest {
                path: path.clone(),
                content: b"intruder".as_slice().into(),
                append: true,
                ..FsWriteRequest::default()
            }),
        ),
        (
            "list",
            Op::FsList(FsListRequest {
                path: path.clone(),
                recursive: true,
            }),
        ),
        (
            "mkdir",
            Op::FsMkdir(FsMkdirRequest {
                path: format!("{path}/new"),
                parents: true,
                mode: 0,
            }),
        ),
        ("stat", Op::FsStat(FsStatRequest { path: path.clone() })),
        (
            "move out",
            Op::FsMove(FsMoveRequest {
                from: "inside".into(),
                to: path.clone(),
                overwrite: true,
            }),
        ),
        (
            "move in",
            Op::FsMove(FsMoveRequest {
                from: path.clone(),
                to: "taken".into(),
                overwrite: true,
            }),
        ),
        (
            "remove",
            Op::FsRemove(FsRemoveRequest {
                path,
                recursive: true,
            }),
        ),
    ]
}

/// A directory beside the workspace with a secret in it, a file inside, and links that lead from the one to the other.
struct Tree {
    workspace: PathBuf,
    outside: PathBuf,
}

impl Tree {
    fn prepare(directory: &Path) {
        let (workspace, outside) = (directory.join("workspace"), directory.join("outside"));
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "secret").unwrap();
        std::fs::write(workspace.join("inside"), "inside").unwrap();
        symlink(&outside, workspace.join("absolute")).unwrap();
        symlink("../outside", workspace.join("relative")).unwrap();
        symlink("inside", workspace.join("harmless")).unwrap();
    }

    fn of(daemon: &Daemon) -> Self {
        Self {
            workspace: daemon.workspace(),
            outside: daemon.directory().join("outside"),
        }
    }

    /// Every way to spell the secret.
    fn escapes(&self) -> Vec<String> {
        vec![
            self.outside.join("secret").to_str().unwrap().to_owned(),
            "../outside/secret".into(),
            "absolute/secret".into(),
            "relative/secret".into(),
            "relative/../outside/secret".into(),
            "/proc/self/root/etc/hostname".into(),
            "~/secret".into(),
        ]
    }

    #[track_caller]
    fn assert_untouched(&self, what: &str) {
        let names = |directory: &Path| {
            let entries = std::fs::read_dir(directory).unwrap().flatten();
            let mut names: Vec<_> = entries
                .map(|entry| entry.file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(&self.outside), ["secret"], "{what}");
        assert_eq!(
            std::fs::read(self.outside.join("secret")).unwrap(),
            b"secret",
            "{what}"
        );
        assert_eq!(
            names(&self.workspace),
            ["absolute", "harmless", "inside", "relative"],
            "{what}"
        );
    }
}

async fn refusal(plane: &ControlPlane, op: Op, what: &str) -> AgentError {
    let answer = plane.ask(op).await;
    answer
        .error
        .unwrap_or_else(|| panic!("{what} was answered: {:?}", answer.result))
}

#[tokio::test]
async fn without_consent_a_link_stays_in_the_workspace_and_runs_nothing() {
    let broker = NatsServer::start();
    let link = Connection {
        whole_machine: false,
        ..Connection::to(&broker.url())
    };
    let daemon = Daemon::builder().connection(&link).start_in(Tree::prepare);
    let (plane, tree) = (ControlPlane::connect(&link).await, Tree::of(&daemon));

    for path in tree.escapes() {
        for (name, op) in every_operation(&path) {
            let what = format!("{name} {path:?}");
            let error = refusal(&plane, op, &what).await;
            assert_eq!(error.code(), ErrorCode::ConsentRequired, "{what}: {error:?}");
            assert!(
                !error.retryable && error.message.contains("consent"),
                "{what}: {error:?}"
            );
            tree.assert_untouched(&what);
        }
    }
    let marker = tree.outside.join("marker");
    let touch = vec!["touch".to_owned(), marker.to_str().unwrap().to_owned()];
    let exec = Op::Exec(ExecRequest {
        command: touch,
        ..ExecRequest::default()
    });
    assert_eq!(
        refusal(&plane, exec, "exec").await.code(),
        ErrorCode::ConsentRequired
    );
    let payload = json!({ "command": "touch", "args": [marker] }).to_string();
    let extension = Op::Ext(Extension {
        op: "process.run".into(),
        payload: payload.into(),
    });
    let error = refusal(&plane, extension, "process.run").await;
    assert_eq!(
        (error.code(), error.detail["code"].as_str()),
        (ErrorCode::ConsentRequired, "consent_required")
    );
    tree.assert_untouched("exec");

    // What stays inside works, and so does what touches nothing.
    let read = Op::FsRead(FsReadRequest {
        path: "harmless".into(),
        ..FsReadRequest::default()
    });
    let Some(Outcome::FsRead(read)) = plane.ask(read).await.result else {
        panic!("a link inside is followed")
    };
    assert_eq!(read.content, "inside");
    let absolute = tree.workspace.join("inside").to_str().unwrap().to_owned();
    let stat = plane.ask(Op::FsStat(FsStatRequest { path: absolute })).await;
    assert!(stat.error.is_none(), "{stat:?}");
    for op in [Op::Ping(PingRequest { nonce: 1 }), Op::Metrics(MetricsRequest {})] {
        let answer = plane.ask(op).await;
        assert!(answer.error.is_none(), "{answer:?}");
    }
    // The owner's own token on the same daemon is not bound by what the link may do.
    let secret = format!("/v1/fs/file?path={}", tree.outside.join("secret").display());
    assert_eq!(daemon.http().get(&secret).await.body, "secret");
}

#[tokio::test]
async fn consent_that_is_given_in_the_file_counts_from_then_on() {
    let broker = NatsServer::start();
    let mut link = Connection {
        whole_machine: false,
        ..Connection::to(&broker.url())
    };
    let daemon = Daemon::builder().connection(&link).start_in(Tree::prepare);
    let plane = ControlPlane::connect(&link).await;
    let exec = || {
        Op::Exec(ExecRequest {
            command: vec!["true".into()],
            ..ExecRequest::default()
        })
    };
    assert_eq!(
        refusal(&plane, exec(), "exec").await.code(),
        ErrorCode::ConsentRequired
    );
    for consents in [true, false] {
        link.whole_machine = consents;
        link.write(&daemon.config_directory());
        let changed = async {
            while plane.ask(exec()).await.error.is_none() != consents {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(crate::harness::PATIENCE, changed)
            .await
            .expect("the file to be read again");
    }
}

#[tokio::test]
async fn a_confined_daemon_keeps_every_path_beneath_the_workspace() {
    let broker = NatsServer::start();
    let link = Connection::to(&broker.url());
    let builder = Daemon::builder()
        .connection(&link)
        .config("[fs]\nconfine = true\n");
    let daemon = builder.start_in(Tree::prepare);
    let (plane, http, tree) = (
        ControlPlane::connect(&link).await,
        daemon.http(),
        Tree::of(&daemon),
    );

    for path in tree.escapes() {
        for (name, op) in every_operation(&path) {
            let what = format!("{name} {path:?}");
            let error = refusal(&plane, op, &what).await;
            assert_eq!(
                (error.code(), error.detail["errno"].as_str()),
                (ErrorCode::Os, "13"),
                "{what}: {error:?}"
            );
            assert!(
                error.message.contains("fs.confine"),
                "{what}: the rule is named: {}",
                error.message
            );
            tree.assert_untouched(&what);
        }
        let query = format!("?path={path}");
        let mut answers = vec![
            ("GET file", http.get(&format!("/v1/fs/file{query}")).await),
            (
                "PUT file",
                http.put(&format!("/v1/fs/file{query}"), "intruder").await,
            ),
            (
                "append",
                http.put(&format!("/v1/fs/file{query}&append=true"), "intruder")
                    .await,
            ),
            ("GET entries", http.get(&format!("/v1/fs/entries{query}")).await),
            ("GET stat", http.get(&format!("/v1/fs/stat{query}")).await),
            (
                "DELETE entry",
                http.delete(&format!("/v1/fs/entry{query}&recursive=true")).await,
            ),
            (
                "mkdir",
                http.post(&format!("/v1/fs/mkdir{query}/new"), &json!({})).await,
            ),
        ];
        let moves = [("inside", path.as_str()), (path.as_str(), "taken")];
        for (from, to) in moves {
            let body = json!({ "from": from, "to": to, "overwrite": true });
            answers.push(("move", http.post("/v1/fs/move", &body).await));
        }
        for (name, answer) in answers {
            assert_eq!(answer.status, 403, "{name} {path:?}: {}", answer.text());
            let problem = answer.json();
            assert!(
                problem["detail"].as_str().unwrap().contains("fs.confine"),
                "{name} {path:?}: {problem}"
            );
            tree.assert_untouched(&format!("{name} {path:?}"));
        }
    }
    assert_eq!(http.get("/v1/fs/file?path=harmless").await.body, "inside");
    assert_eq!(http.put("/v1/fs/file?path=deep/er/file", "x").await.status, 200);
    let ran = http
        .run(&json!({ "command": "cat", "args": [tree.outside.join("secret")] }))
        .await;
    assert_eq!(ran.json()["stdout"], "secret", "commands are not files");
}

/// What resolves paths by itself cannot be confined: it is refused wherever the path leads, before anything is looked at.
#[tokio::test]
async fn searches_watches_and_repositories_are_not_for_who_stays_in_the_workspace() {
    let broker = NatsServer::start();
    let confined = Connection::to(&broker.url());
    let without_consent = Connection {
        whole_machine: false,
        ..Connection::to(&broker.url())
    };
    let builder = Daemon::builder()
        .connection(&confined)
        .connection(&without_consent)
        .config("[fs]\nconfine = true\n");
    let daemon = builder.start_in(|directory| {
        Tree::prepare(directory);
        // Two of the same, one inside and one where links lead.
        parity_git::prepare(&directory.join("workspace"));
        parity_git::prepare(&directory.join("outside"));
    });
    let http = daemon.http();
    let outside = daemon.directory().join("outside");
    let before = everything(&outside);
    let planes = [
        (ControlPlane::connect(&confined).await, "unsupported"),
        (ControlPlane::connect(&without_consent).await, "consent_required"),
    ];
    let mut asked: Vec<_> = parity_git::cases()
        .into_iter()
        .map(|case| (case.operation, case.payload))
        .collect();
    asked.push(("fs.search", json!({ "path": "DIR", "pattern": "one" })));
    asked.push(("fs.watch", json!({ "path": "DIR" })));
    for (operation, payload) in asked {
        for directory in ["absolute", "relative", "../outside", "."] {
            let payload = payload.to_string().replace("DIR", directory);
            let value = serde_json::from_str(&payload).unwrap();
            let answer = http.post(&format!("/v1/ops/{operation}"), &value).await;
            answer.problem(501, "unsupported");
            for (plane, code) in &planes {
                let extension = Op::Ext(Extension {
                    op: operation.into(),
                    payload: payload.clone().into(),
                });
                let what = format!("{operation} {payload}");
                let error = refusal(plane, extension, &what).await;
                assert_eq!(error.detail["code"], *code, "{what}: {error:?}");
            }
        }
    }
    for path in ["watch?path=absolute", "watch?path=."] {
        http.get(&format!("/v1/fs/{path}"))
            .await
            .problem(501, "unsupported");
    }
    assert_eq!(everything(&outside), before);
}

/// Every path below a directory, with what a file holds.
fn everything(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            found.extend(everything(&path));
        }
        let content = std::fs::read(&path).unwrap_or_default();
        found.insert(path, content);
    }
    found
}

/// Outside stays outside for the link that did not consent, whatever `fs.confine` says of the others.
#[tokio::test]
async fn confinement_and_missing_consent_are_told_apart() {
    let ways = Ways::with(
        Daemon::builder().config("[fs]\nconfine = true\n"),
        NatsServer::start(),
    )
    .await;
    let other = Connection {
        whole_machine: false,
        ..Connection::to(&ways.broker.url())
    };
    other.write(&ways.daemon.config_directory());
    let plane = ControlPlane::connect(&other).await;
    let stat = || {
        Op::FsStat(FsStatRequest {
            path: "/etc/passwd".into(),
        })
    };
    let joined = async {
        loop {
            // Until the new link listens nobody does.
            let request = plane.client().request(plane.subject("rpc"), bytes::Bytes::new());
            if request.await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(crate::harness::PATIENCE, joined)
        .await
        .expect("the second link");
    assert_eq!(
        refusal(&plane, stat(), "stat").await.code(),
        ErrorCode::ConsentRequired
    );
    assert_eq!(refusal(&ways.control, stat(), "stat").await.code(), ErrorCode::Os);
}
