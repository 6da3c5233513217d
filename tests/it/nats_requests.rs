//! Requests over NATS, one by one: what is answered to good ones, bad ones, repeated ones and those that do not fit.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;

use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response::Result as Outcome;
use boxd::wire::proto::{
    AgentError, ControlRequest, ControlResponse, DesktopScreenshotRequest, ErrorCode, ExecRequest,
    ExecResponse, Extension, FsEntryKind, FsListRequest, FsMkdirRequest, FsMoveRequest, FsReadRequest,
    FsRemoveRequest, FsStatRequest, FsWriteRequest, Hello, MetricsRequest, OpLostReason, OpQuery, OpState,
    OperationResourcePolicy, PingRequest, PtyOpenRequest, ReservedOp, ResumeRequest, UpdateMayProceedRequest,
};
use bytes::Bytes;
use futures_util::StreamExt;
use prost::Message;

use crate::harness::{Connection, ControlPlane, Daemon, Family, NatsServer, eventually};

pub(crate) fn argv(words: &[&str]) -> ExecRequest {
    ExecRequest {
        command: words.iter().map(ToString::to_string).collect(),
        ..ExecRequest::default()
    }
}

pub(crate) fn shell(line: &str) -> ExecRequest {
    ExecRequest {
        shell: true,
        ..argv(&[line])
    }
}

#[track_caller]
pub(crate) fn ran(response: ControlResponse) -> ExecResponse {
    match response.result {
        Some(Outcome::Exec(exec)) => exec,
        other => panic!("not an exec result: {other:?} {:?}", response.error),
    }
}

#[track_caller]
pub(crate) fn failed(response: ControlResponse, code: ErrorCode) -> AgentError {
    let error = response
        .error
        .unwrap_or_else(|| panic!("no error but {:?}", response.result));
    assert_eq!(error.code(), code, "{error:?}");
    assert!(!error.message.is_empty());
    error
}

async fn linked() -> (NatsServer, Daemon, Connection, ControlPlane) {
    let broker = NatsServer::start();
    let (daemon, link) = Daemon::linked(&broker);
    let plane = ControlPlane::connect(&link).await;
    (broker, daemon, link, plane)
}

#[tokio::test]
async fn ping_echoes_on_both_families() {
    let (_broker, daemon, _link, plane) = linked().await;
    for family in [Family::Plain, Family::Instance(daemon.instance())] {
        let response = plane
            .speaking(family)
            .ask(Op::Ping(PingRequest { nonce: u64::MAX }))
            .await;
        let Some(Outcome::Ping(pong)) = response.result else {
            panic!("{response:?}")
        };
        assert_eq!(pong.nonce, u64::MAX);
        assert!(pong.agent_monotonic_ms > 0);
    }
}

#[tokio::test]
async fn what_is_no_request_is_a_protocol_error() {
    let (_broker, _daemon, _link, plane) = linked().await;
    let response = plane.ask_bytes(Bytes::from_static(b"\xff\xff\xff")).await;
    assert_eq!(response.request_id, "");
    failed(response, ErrorCode::Protocol);

    let empty = ControlRequest {
        request_id: "r-1".into(),
        ..ControlRequest::default()
    };
    let response = plane.ask_bytes(empty.encode_to_vec().into()).await;
    assert_eq!(response.request_id, "r-1");
    failed(response, ErrorCode::Protocol);

    // A field that nobody knows is tolerated; an operation that nobody knows is none.
    let mut unknown = empty.encode_to_vec();
    unknown.extend([0xca, 0x3e, 0x00]);
    failed(plane.ask_bytes(unknown.into()).await, ErrorCode::Protocol);

    for op in [
        Op::Hello(Hello::default()),
        Op::Resume(ResumeRequest::default()),
        Op::UpdateMayProceed(UpdateMayProceedRequest::default()),
    ] {
        failed(plane.ask(op).await, ErrorCode::Protocol);
    }
}

#[tokio::test]
async fn rooms_that_do_not_exist_are_unsupported_and_not_advertised() {
    let broker = NatsServer::start();
    let link = Connection::to(&broker.url());
    let plane = ControlPlane::connect(&link).await;
    let mut hellos = plane.hellos().await;
    let _daemon = Daemon::builder().connection(&link).start();
    let hello = hellos.next().await;
    let capabilities = hello.capabilities.unwrap();
    assert!(capabilities.exec && capabilities.filesystem && capabilities.git);
    assert!(!capabilities.pty && !capabilities.desktop && capabilities.op_stream);
    assert!(!capabilities.browser_bridge);
    assert!(!capabilities.desktop_unavailable_reason.is_empty());
    for op in [
        Op::PtyOpen(PtyOpenRequest::default()),
        Op::DesktopScreenshot(DesktopScreenshotRequest::default()),
        Op::Reserved36(ReservedOp {}),
        Op::Reserved37(ReservedOp {}),
        Op::Reserved38(ReservedOp {}),
    ] {
        let error = failed(plane.ask(op).await, ErrorCode::Unsupported);
        assert!(
            !error.retryable && !error.detail["reason"].is_empty(),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn requests_without_an_acceptable_reply_subject_are_dropped_with_a_line() {
    let (_broker, daemon, _link, plane) = linked().await;
    let request = |id: &str| {
        let op = Some(Op::Exec(shell(&format!("touch {id}"))));
        Bytes::from(
            ControlRequest {
                request_id: id.into(),
                op,
                ..ControlRequest::default()
            }
            .encode_to_vec(),
        )
    };
    let rpc = plane.subject("rpc");
    let mut own = plane.client().subscribe("agent.elsewhere.>").await.unwrap();
    plane
        .client()
        .publish(rpc.clone(), request("none"))
        .await
        .unwrap();
    for reply in ["agent.elsewhere.rpc", "$SYS.x"] {
        plane
            .client()
            .publish_with_reply(rpc.clone(), reply, request("refused"))
            .await
            .unwrap();
    }
    plane.ask(Op::Ping(PingRequest::default())).await;
    let line = "a request without an acceptable reply subject was dropped";
    eventually("a line for each", crate::harness::PATIENCE, || {
        (daemon.log().matches(line).count() == 3).then_some(())
    });
    assert!(futures_util::FutureExt::now_or_never(own.next()).is_none());
    assert!(!daemon.workspace().join("none").exists() && !daemon.workspace().join("refused").exists());
}

#[tokio::test]
async fn commands_run_as_the_contract_says() {
    let (_broker, daemon, _link, plane) = linked().await;
    let done = ran(plane.ask(Op::Exec(shell("echo out; echo err >&2; exit 3"))).await);
    assert_eq!(
        (done.exit_code, &done.stdout[..], &done.stderr[..]),
        (3, &b"out\n"[..], &b"err\n"[..])
    );
    assert!(!done.timed_out);

    let mut request = argv(&["sh", "-c", "cat; printf %s \"$GREETING\"; pwd"]);
    request.stdin = Bytes::from_static(b"in ");
    request.env = BTreeMap::from([("GREETING".into(), "hé ".into())]);
    let done = ran(plane.ask(Op::Exec(request)).await);
    let workspace = daemon.workspace().canonicalize().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&done.stdout),
        format!("in hé {}\n", workspace.display())
    );

    let done = ran(plane.ask(Op::Exec(shell("kill -9 $$"))).await);
    assert_eq!((done.exit_code, done.timed_out), (-1, false));

    let late = ExecRequest {
        timeout_ms: 200,
        ..shell("echo early; sleep 60")
    };
    let done = ran(plane.ask(Op::Exec(late)).await);
    assert_eq!(
        (done.exit_code, done.timed_out, &done.stdout[..]),
        (-1, true, &b"early\n"[..])
    );

    let error = failed(plane.ask(Op::Exec(argv(&[]))).await, ErrorCode::Os);
    assert_eq!((error.detail["errno"].as_str(), error.retryable), ("22", false));
    let error = failed(
        plane.ask(Op::Exec(argv(&["no-such-program"]))).await,
        ErrorCode::NotFound,
    );
    assert!(error.message.contains("no-such-program"), "{error:?}");
    let nowhere = ExecRequest {
        cwd: "/no/such/place".into(),
        ..argv(&["true"])
    };
    let error = failed(plane.ask(Op::Exec(nowhere)).await, ErrorCode::NotFound);
    assert!(error.message.contains("/no/such/place"), "{error:?}");
}

#[tokio::test]
async fn files_are_written_read_listed_moved_and_removed() {
    let (_broker, daemon, _link, plane) = linked().await;
    let write = FsWriteRequest {
        path: "a/b/file".into(),
        content: Bytes::from_static(b"0123456789"),
        create_parents: true,
        mode: 0o640,
        ..FsWriteRequest::default()
    };
    let response = plane.ask(Op::FsWrite(write)).await;
    let Some(Outcome::FsWrite(written)) = response.result else {
        panic!("{response:?}")
    };
    assert_eq!(written.bytes_written, 10);

    for (offset, length, expected) in [(0, 0, "0123456789"), (3, 4, "3456"), (8, 0, "89"), (99, 5, "")] {
        let read = FsReadRequest {
            path: "a/b/file".into(),
            offset,
            length,
        };
        let response = plane.ask(Op::FsRead(read)).await;
        let Some(Outcome::FsRead(read)) = response.result else {
            panic!("{response:?}")
        };
        assert_eq!((&read.content[..], read.total_size), (expected.as_bytes(), 10));
    }

    let response = plane
        .ask(Op::FsMkdir(FsMkdirRequest {
            path: "a/dir".into(),
            ..Default::default()
        }))
        .await;
    assert!(
        matches!(response.result, Some(Outcome::FsMkdir(_))),
        "{response:?}"
    );
    let list = FsListRequest {
        path: "a".into(),
        recursive: true,
    };
    let response = plane.ask(Op::FsList(list)).await;
    let Some(Outcome::FsList(list)) = response.result else {
        panic!("{response:?}")
    };
    let seen: Vec<_> = list
        .entries
        .iter()
        .map(|entry| (entry.path.as_str(), entry.kind(), entry.size))
        .collect();
    let size_of = |path: &str| list.entries.iter().find(|entry| entry.path == path).unwrap().size;
    assert_eq!(
        seen,
        [
            ("b", FsEntryKind::Directory, size_of("b")),
            ("b/file", FsEntryKind::File, 10),
            ("dir", FsEntryKind::Directory, size_of("dir")),
        ]
    );

    let rename = FsMoveRequest {
        from: "a/b/file".into(),
        to: "moved".into(),
        overwrite: false,
    };
    let response = plane.ask(Op::FsMove(rename)).await;
    assert!(
        matches!(response.result, Some(Outcome::FsMove(_))),
        "{response:?}"
    );
    let append = FsWriteRequest {
        path: "moved".into(),
        content: Bytes::from_static(b"+"),
        append: true,
        ..FsWriteRequest::default()
    };
    assert_eq!(plane.ask(Op::FsWrite(append)).await.error, None);
    assert_eq!(
        std::fs::read(daemon.workspace().join("moved")).unwrap(),
        b"0123456789+"
    );
    let stat = |path: &str| plane.ask(Op::FsStat(FsStatRequest { path: path.into() }));
    let Some(Outcome::FsStat(found)) = stat("moved").await.result else {
        panic!("no stat")
    };
    let entry = found.entry.unwrap();
    assert_eq!((found.exists, entry.size, entry.mode & 0o777), (true, 11, 0o640));
    let Some(Outcome::FsStat(missing)) = stat("a/b/file").await.result else {
        panic!("no stat")
    };
    assert_eq!((missing.exists, missing.entry), (false, None));

    let remove = |path: &str| {
        plane.ask(Op::FsRemove(FsRemoveRequest {
            path: path.into(),
            recursive: true,
        }))
    };
    assert!(matches!(remove("a").await.result, Some(Outcome::FsRemove(_))));
    assert!(!daemon.workspace().join("a").exists());
    failed(remove("a").await, ErrorCode::NotFound);
}

#[tokio::test]
async fn a_directory_is_no_file_and_metrics_are_there() {
    let (_broker, _daemon, _link, plane) = linked().await;
    let error = failed(
        plane
            .ask(Op::FsRead(FsReadRequest {
                path: "/".into(),
                ..Default::default()
            }))
            .await,
        ErrorCode::Os,
    );
    assert_eq!(error.detail["errno"], libc::EISDIR.to_string());

    let response = plane.ask(Op::Metrics(MetricsRequest {})).await;
    let Some(Outcome::Metrics(metrics)) = response.result else {
        panic!("{response:?}")
    };
    assert!(metrics.mem_total_bytes > 0 && metrics.sampled_at_ms > 0);
}

#[tokio::test]
async fn replies_larger_than_the_broker_carries_are_typed_errors() {
    let (_broker, daemon, _link, plane) = linked().await;
    std::fs::write(daemon.workspace().join("large"), vec![b'x'; 3 << 20]).unwrap();
    let read = FsReadRequest {
        path: "large".into(),
        ..Default::default()
    };
    let first = |length| {
        Op::FsRead(FsReadRequest {
            length,
            ..read.clone()
        })
    };
    assert_eq!(plane.ask(first(1_048_520)).await.error, None, "it fits");
    let cases = [
        (
            Op::Exec(argv(&["head", "-c", "3000000", "/dev/zero"])),
            "exec",
            3_000_000,
        ),
        // Just over: only the envelope makes it too large.
        (
            Op::Exec(argv(&["head", "-c", "1048570", "/dev/zero"])),
            "exec",
            1_048_576,
        ),
        (Op::FsRead(read.clone()), "fs_read", 3 << 20),
        // Ten bytes over, with the id and the lengths.
        (first(1_048_536), "fs_read", 1_048_577),
    ];
    for (op, name, at_least) in cases {
        let error = failed(plane.ask(op).await, ErrorCode::PayloadTooLarge);
        assert!(!error.retryable);
        assert_eq!(
            (error.detail["op"].as_str(), error.detail["max_payload"].as_str()),
            (name, "1048576")
        );
        assert!(
            error.detail["encoded_bytes"].parse::<u64>().unwrap() >= at_least,
            "{error:?}"
        );
    }
    let part = FsReadRequest {
        length: 1_000_000,
        ..read
    };
    let Some(Outcome::FsRead(part)) = plane.ask(Op::FsRead(part)).await.result else {
        panic!("no content")
    };
    assert_eq!((part.content.len(), part.total_size), (1_000_000, 3 << 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_id_is_never_run_twice() {
    let (_broker, daemon, _link, plane) = linked().await;
    let command = Op::Exec(shell(
        "echo ran >> count; while [ ! -e go ]; do sleep 0.02; done; cat count",
    ));
    let first = tokio::spawn(plane.ask_as("same", 0, command.clone()));
    let count = daemon.workspace().join("count");
    eventually("the first to run", crate::harness::PATIENCE, || {
        count.exists().then_some(())
    });
    let error = failed(
        plane.ask_as("same", 0, command.clone()).await,
        ErrorCode::Draining,
    );
    assert_eq!(
        (error.detail["backpressure"].as_str(), error.retryable),
        ("duplicate_in_flight", true)
    );
    std::fs::write(daemon.workspace().join("go"), "").unwrap();
    let first = ran(first.await.unwrap());
    assert_eq!(&first.stdout[..], b"ran\n");
    let again = ran(plane.ask_as("same", 0, command).await);
    assert_eq!(again, first, "the stored reply comes back, duration and all");
    assert_eq!(std::fs::read_to_string(count).unwrap(), "ran\n");
}

#[tokio::test]
async fn requests_without_an_id_have_nothing_to_do_with_each_other() {
    let (_broker, daemon, _link, plane) = linked().await;
    for _ in 0..2 {
        ran(plane.ask_as("", 0, Op::Exec(shell("echo ran >> count"))).await);
    }
    let count = std::fs::read_to_string(daemon.workspace().join("count")).unwrap();
    assert_eq!(count, "ran\nran\n");
}

#[tokio::test]
async fn what_became_of_a_command_can_be_asked() {
    let broker = NatsServer::start();
    let (mut daemon, link) = Daemon::linked(&broker);
    let plane = ControlPlane::connect(&link).await;
    let status = async |id: &str| {
        let query = Op::OpQuery(OpQuery { op_id: id.into() });
        let Some(Outcome::OpStatus(status)) = plane.ask(query).await.result else {
            panic!("no status")
        };
        status
    };
    let unknown = status("never").await;
    assert_eq!(
        (unknown.state(), unknown.lost_reason()),
        (OpState::Lost, OpLostReason::AgentRestarted)
    );
    plane
        .ask_as("killed", 0, Op::Exec(shell("printf abc; kill -9 $$")))
        .await;
    let killed = status("killed").await;
    assert_eq!(
        (killed.state(), killed.op_id.as_str()),
        (OpState::Complete, "killed")
    );
    let exit = killed.exit.unwrap();
    assert_eq!((exit.exit_code, exit.failure_code.as_str()), (-1, ""));
    let detail = &exit.failure_detail;
    assert_eq!(
        (
            detail["signal"].as_str(),
            detail["signal_name"].as_str(),
            detail["oom"].as_str()
        ),
        ("9", "SIGKILL", "unknown")
    );
    assert_eq!((exit.totals["stdout"], exit.totals["stderr"]), (3, 0));
    assert_eq!(exit.digests["stdout"], blake3::hash(b"abc").to_hex().as_str());
    daemon.crash();
    daemon.start_again();
    let lost = status("killed").await;
    assert_eq!(
        (lost.state(), lost.lost_reason()),
        (OpState::Lost, OpLostReason::AgentRestarted)
    );
}

#[tokio::test]
async fn the_same_request_id_after_a_crash_is_lost_and_not_run_again() {
    let broker = NatsServer::start();
    let (mut daemon, link) = Daemon::linked(&broker);
    let plane = ControlPlane::connect(&link).await;
    let command = Op::Exec(shell("echo ran >> count"));
    ran(plane.ask_as("once", 0, command.clone()).await);
    daemon.crash();
    daemon.start_again();
    let error = failed(plane.ask_as("once", 0, command).await, ErrorCode::Os);
    assert_eq!(
        (error.detail["reason"].as_str(), error.retryable),
        ("lost", false)
    );
    assert_eq!(
        std::fs::read_to_string(daemon.workspace().join("count")).unwrap(),
        "ran\n"
    );
}

#[tokio::test]
async fn epochs_of_several_sessions_do_not_fence_each_other() {
    let (_broker, _daemon, _link, plane) = linked().await;
    for epoch in [9, 3, 9, 3, 0, 1] {
        let response = plane
            .ask_as("session", epoch, Op::Ping(PingRequest::default()))
            .await;
        assert_eq!(response.error, None, "epoch {epoch}");
    }
}

#[tokio::test]
async fn a_stale_epoch_is_fenced_before_anything_else() {
    let broker = NatsServer::start();
    let mut link = Connection::to(&broker.url());
    link.epoch = 5;
    let daemon = Daemon::builder().connection(&link).start();
    let plane = ControlPlane::connect(&link).await;
    for op in [
        Op::Ping(PingRequest::default()),
        Op::Exec(shell("touch fenced")),
        Op::Hello(Hello::default()),
    ] {
        let error = failed(plane.ask_as("r", 4, op).await, ErrorCode::Fenced);
        assert!(error.retryable);
        assert_eq!(
            (
                error.detail["op_epoch"].as_str(),
                error.detail["held_epoch"].as_str()
            ),
            ("4", "5")
        );
    }
    assert!(!daemon.workspace().join("fenced").exists());
    for epoch in [0, 5, 6] {
        assert_eq!(
            plane
                .ask_as("r", epoch, Op::Ping(PingRequest::default()))
                .await
                .error,
            None
        );
    }

    let path = daemon
        .config_directory()
        .join("connections")
        .join(format!("{}.json", link.id));
    let before = std::fs::read(&path).unwrap();
    assert_eq!(
        plane
            .ask_as("r", 99, Op::Ping(PingRequest::default()))
            .await
            .error,
        None
    );
    assert_eq!(
        plane.ask_as("r", 5, Op::Ping(PingRequest::default())).await.error,
        None,
        "traffic raised it"
    );
    assert_eq!(
        std::fs::read(&path).unwrap(),
        before,
        "the daemon rewrote the connection file"
    );

    link.epoch = 9;
    link.write(&daemon.config_directory());
    let begin = std::time::Instant::now();
    loop {
        let response = plane.ask_as("r", 8, Op::Ping(PingRequest::default())).await;
        if response.error.is_some() {
            failed(response, ErrorCode::Fenced);
            break;
        }
        assert!(begin.elapsed().as_secs() < 3, "the changed file was not noticed");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_resource_policy_is_checked_and_never_ignored() {
    let (_broker, daemon, _link, plane) = linked().await;
    let ask = |max: Option<u64>, high: Option<u64>| {
        let request = ControlRequest {
            request_id: format!("policy {max:?} {high:?}"),
            resource_policy: Some(OperationResourcePolicy {
                memory_max_bytes: max,
                memory_high_bytes: high,
                cpu_max_millicores: None,
            }),
            op: Some(Op::Exec(shell("echo ran >> ran"))),
            ..ControlRequest::default()
        };
        plane.ask_bytes(request.encode_to_vec().into())
    };
    assert_eq!(
        failed(ask(Some(0), None).await, ErrorCode::Os).detail["errno"],
        "22"
    );
    assert_eq!(
        failed(ask(Some(1), Some(2)).await, ErrorCode::Os).detail["errno"],
        "22"
    );
    assert!(!daemon.workspace().join("ran").exists());
    ran(ask(Some(1 << 30), None).await);
    ran(ask(None, None).await);
    // What runs nothing has nothing to limit, and says so.
    let request = ControlRequest {
        request_id: "policy".into(),
        resource_policy: Some(OperationResourcePolicy {
            memory_max_bytes: Some(1 << 30),
            ..OperationResourcePolicy::default()
        }),
        op: Some(Op::FsStat(FsStatRequest { path: ".".into() })),
        ..ControlRequest::default()
    };
    let error = failed(
        plane.ask_bytes(request.encode_to_vec().into()).await,
        ErrorCode::Unsupported,
    );
    assert!(error.message.contains("resource_policy for fs.stat"), "{error:?}");
}

#[tokio::test]
async fn extensions_reach_operations_by_their_stable_name() {
    let (_broker, _daemon, _link, plane) = linked().await;
    let ask = |name: &str, payload: &'static str| {
        plane.ask(Op::Ext(Extension {
            op: name.into(),
            payload: Bytes::from_static(payload.as_bytes()),
        }))
    };
    let response = ask(
        "process.run",
        r#"{"command":"sh","args":["-c","echo hi; exit 4"]}"#,
    )
    .await;
    let Some(Outcome::Ext(extension)) = response.result else {
        panic!("{response:?}")
    };
    let answer: serde_json::Value = serde_json::from_slice(&extension.payload).unwrap();
    assert_eq!(
        (extension.op.as_str(), &answer["exitCode"], &answer["stdout"]),
        ("process.run", &4.into(), &"hi\n".into())
    );

    let response = ask("fs.write", r#"{"path":"x","content":"abc"}"#).await;
    assert_eq!(response.error, None);
    let response = ask("fs.read", r#"{"path":"x"}"#).await;
    let Some(Outcome::Ext(extension)) = response.result else {
        panic!("{response:?}")
    };
    let answer: serde_json::Value = serde_json::from_slice(&extension.payload).unwrap();
    assert_eq!(
        (&answer["contentB64"], &answer["totalSize"]),
        (&"YWJj".into(), &3.into())
    );

    let error = failed(ask("code.nope", "{}").await, ErrorCode::Unsupported);
    assert!(
        error.message.contains("process.run") && error.message.contains("fs.list"),
        "{error:?}"
    );
    assert_eq!(error.detail["code"], "unsupported");
    let error = failed(ask("fs.read", r#"{"path":"missing"}"#).await, ErrorCode::NotFound);
    assert_eq!(error.detail["code"], "not_found");
    assert!(!error.detail["id"].is_empty() && error.detail.contains_key("hint"));
    let error = failed(ask("fs.read", r#"{"path":7}"#).await, ErrorCode::Os);
    assert_eq!(error.detail["code"], "invalid_request");
}

#[tokio::test]
async fn without_consent_to_the_whole_machine_only_the_workspace_is_reached() {
    let broker = NatsServer::start();
    let mut link = Connection::to(&broker.url());
    link.whole_machine = false;
    let daemon = Daemon::builder().connection(&link).start();
    let plane = ControlPlane::connect(&link).await;
    std::fs::write(daemon.workspace().join("mine"), "x").unwrap();
    failed(
        plane.ask(Op::Exec(shell("touch ran"))).await,
        ErrorCode::ConsentRequired,
    );
    assert!(!daemon.workspace().join("ran").exists());
    let read = |path: &str| {
        plane.ask(Op::FsRead(FsReadRequest {
            path: path.into(),
            ..Default::default()
        }))
    };
    failed(read("/etc/hostname").await, ErrorCode::ConsentRequired);
    failed(read("../../../etc/hostname").await, ErrorCode::ConsentRequired);
    let Some(Outcome::FsRead(mine)) = read("mine").await.result else {
        panic!("the workspace is out of reach")
    };
    assert_eq!(&mine.content[..], b"x");
}

#[tokio::test]
async fn odd_names_are_listed_and_do_not_hide_others() {
    let (_broker, daemon, _link, plane) = linked().await;
    for name in [&b"line\nbreak"[..], b"not\xffutf8", b"plain"] {
        std::fs::write(daemon.workspace().join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
    }
    let list = FsListRequest {
        path: String::new(),
        recursive: false,
    };
    let Some(Outcome::FsList(list)) = plane.ask(Op::FsList(list)).await.result else {
        panic!("no list")
    };
    let names: Vec<_> = list.entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["line\nbreak", "not\u{fffd}utf8", "plain"]);
    let read = FsReadRequest {
        path: "line\nbreak".into(),
        ..Default::default()
    };
    assert_eq!(plane.ask(Op::FsRead(read)).await.error, None);
}
