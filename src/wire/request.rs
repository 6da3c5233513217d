//! From a request on the control wire to the [`Op`] it stands for: pure.
//!
//! Requests that are answered without an operation (fenced, not an op, ops of rooms that do not exist) are the
//! door's business and never get here. The NATS door calls this.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use super::proto::PtyOpenRequest;
use super::proto::{
    AgentUpdateApplyRequest, ExecRequest, FsListRequest, FsMkdirRequest, FsMoveRequest, FsReadRequest,
    FsRemoveRequest, FsWriteBegin, FsWriteRequest, GitOp, GitRequest, OperationResourcePolicy,
};
use crate::error::Error;
use crate::exec;
use crate::fs;
use crate::ops::{Create, Launch, Op, Run};
use crate::update;

/// A command; `keep` is how much of each output channel the answer can carry.
pub fn exec(request: ExecRequest, keep: exec::Keep) -> Result<Op, Error> {
    let (launch, stdin) = launch(request)?;
    Ok(Op::ProcessRun(Box::new(Run {
        launch,
        stdin,
        keep,
        log_bytes: None,
    })))
}

/// A command whose output is streamed as it comes: all of it is kept until it was acknowledged, at most `capacity` bytes, in
/// records of at most `record_limit` bytes. `left` is the time until its deadline.
pub fn streamed_exec(
    request: ExecRequest,
    left: Option<Duration>,
    capacity: u64,
    record_limit: usize,
) -> Result<Op, Error> {
    let (mut launch, stdin) = launch(request)?;
    launch.timeout = launch.timeout.into_iter().chain(left).min();
    Ok(Op::ProcessCreate(Box::new(Create {
        launch,
        stdin: exec::Stdin::Bytes(stdin),
        tty: None,
        scope: None,
        retention: exec::Retention::Block(capacity),
        record_limit,
        owner: exec::Owner::User,
        labels: BTreeMap::new(),
    })))
}

/// Bytes that the log of a terminal keeps for a relay that is away for a while.
const TERMINAL_RETENTION: u64 = 64 << 20;

/// A terminal, or the live one of its scope.
pub fn pty_open(request: PtyOpenRequest) -> Result<Op, Error> {
    let command = if request.command.is_empty() {
        exec::Command::LoginShell
    } else {
        command(request.command, false)?
    };
    let mut environment: Vec<(OsString, OsString)> = request
        .env
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    if !request.term.is_empty() {
        environment.push(("TERM".into(), request.term.into()));
    }
    let size = match (request.cols, request.rows) {
        (0, 0) => exec::Size::DEFAULT,
        (cols, rows) => exec::Size::new(cols, rows)?,
    };
    Ok(Op::ProcessCreate(Box::new(Create {
        launch: Launch {
            cwd: request.cwd.into(),
            environment: exec::Environment::Overlay(environment),
            ..Launch::new(command)
        },
        stdin: exec::Stdin::Open,
        tty: Some(size),
        scope: (!request.scope_id.is_empty()).then_some(request.scope_id),
        retention: exec::Retention::DropOldest(TERMINAL_RETENTION),
        record_limit: usize::MAX,
        owner: exec::Owner::User,
        labels: BTreeMap::new(),
    })))
}

/// The program of a command, and its standard input.
fn launch(request: ExecRequest) -> Result<(Launch, Bytes), Error> {
    let command = command(request.command, request.shell)?;
    let environment = request
        .env
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let launch = Launch {
        cwd: request.cwd.into(),
        environment: exec::Environment::Overlay(environment),
        timeout: (request.timeout_ms > 0).then(|| Duration::from_millis(request.timeout_ms.into())),
        ..Launch::new(command)
    };
    Ok((launch, request.stdin))
}

/// What git is told where it is only asked: a repository names programs that it would run for a mere look (git-config(1)),
/// and the index is not to be written.
const ASKED: [&str; 7] = [
    "--no-optional-locks",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "log.showSignature=false",
];

/// A run of the git program: the subcommand of its op, then the arguments; and whether its output is a status.
pub fn git(request: GitRequest, keep: exec::Keep) -> Result<(Op, bool), Error> {
    let op = request.op();
    let subcommand: &[&str] = match op {
        GitOp::Status => &["status", "--porcelain=v2", "--branch", "-z"],
        // What the caller asks for comes behind it and counts.
        GitOp::Diff => &["diff", "--no-ext-diff", "--no-textconv"],
        GitOp::Log => &["log", "--no-ext-diff", "--no-textconv"],
        GitOp::Add => &["add"],
        GitOp::Commit => &["commit"],
        GitOp::Branch => &["branch"],
        GitOp::Checkout => &["checkout"],
        GitOp::Pull => &["pull"],
        GitOp::Push => &["push"],
        GitOp::Raw => &[],
        GitOp::Unspecified => {
            return Err(Error::Invalid {
                field: "op",
                reason: "names no operation of git that this version knows".into(),
            });
        }
    };
    let asked: &[&str] = match op {
        GitOp::Status | GitOp::Diff | GitOp::Log => &ASKED,
        _ => &[],
    };
    let words = ["git", "--no-pager"].iter().chain(asked).chain(subcommand);
    let words = words
        .map(OsString::from)
        .chain(request.args.into_iter().map(OsString::from));
    let quiet = [
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_PAGER", "cat"),
        ("PAGER", "cat"),
    ];
    let quiet = quiet.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let run = Op::ProcessRun(Box::new(Run {
        launch: Launch {
            cwd: request.cwd.into(),
            environment: exec::Environment::Overlay(quiet.into()),
            without_filters: !asked.is_empty(),
            ..Launch::new(exec::Command::Argv(words.collect()))
        },
        stdin: Bytes::new(),
        keep,
        log_bytes: None,
    }));
    Ok((run, op == GitOp::Status))
}

fn command(words: Vec<String>, shell: bool) -> Result<exec::Command, Error> {
    if words.is_empty() {
        let reason = "is empty, give a program and its arguments".into();
        return Err(Error::Invalid {
            field: "command",
            reason,
        });
    }
    if shell {
        return Ok(exec::Command::Shell(words.join(" ").into()));
    }
    Ok(exec::Command::Argv(
        words.into_iter().map(OsString::from).collect(),
    ))
}

/// A file or a range of it; length 0 reads to the end.
pub fn fs_read(request: FsReadRequest) -> Op {
    let length = (request.length > 0).then_some(request.length);
    Op::FsRead(fs::Read {
        path: request.path.into(),
        offset: request.offset,
        length,
    })
}

/// A file to be written.
pub fn fs_write(request: FsWriteRequest) -> Op {
    Op::FsWrite(fs::Write {
        path: request.path.into(),
        create_parents: request.create_parents,
        append: request.append,
        mode: mode(request.mode),
        in_place: fs::InPlace::IfConfigured,
        base: None,
        body: fs::Body::Bytes(request.content),
    })
}

/// A file to be written piece by piece.
pub fn fs_upload(request: FsWriteBegin) -> Result<fs::Begin, Error> {
    let base = match request.expected_base_digest.as_str() {
        "" => None,
        "absent" => Some(fs::Base::Absent),
        digest => {
            let digest = blake3::Hash::from_hex(digest).map_err(|_| Error::Invalid {
                field: "expected_base_digest",
                reason: format!("{digest:.80?} is neither a BLAKE3 digest in hex nor `absent`"),
            })?;
            Some(fs::Base::Content(digest))
        }
    };
    Ok(fs::Begin {
        path: request.path.into(),
        create_parents: request.create_parents,
        mode: mode(request.mode),
        in_place: fs::InPlace::IfConfigured,
        base,
    })
}

/// A directory to be listed.
pub fn fs_list(request: FsListRequest) -> Op {
    Op::FsList(fs::List {
        path: request.path.into(),
        recursive: request.recursive,
        select: fs::Select::default(),
    })
}

/// A directory to be made.
pub fn fs_mkdir(request: FsMkdirRequest) -> Op {
    Op::FsMkdir(fs::Mkdir {
        path: request.path.into(),
        parents: request.parents,
        mode: mode(request.mode),
    })
}

/// A move or rename.
pub fn fs_move(request: FsMoveRequest) -> Op {
    Op::FsMove(fs::Move {
        from: request.from.into(),
        to: request.to.into(),
        overwrite: request.overwrite,
    })
}

/// An update of the daemon. Fields that are empty ask for nothing in particular.
pub fn agent_update_apply(apply: AgentUpdateApplyRequest) -> Op {
    let given = |text: String| (!text.is_empty()).then_some(text);
    Op::UpdateApply(update::Apply {
        operation_id: given(apply.operation_id).unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
        version: given(apply.target_version),
        channel: given(apply.channel),
        base_url: given(apply.release_base_url),
        expected_version: given(apply.expected_current_version),
        expected_sha256: given(apply.expected_current_sha256),
        agent_id: None,
        force: false,
    })
}

/// An entry to look at.
pub fn fs_stat(path: String) -> Op {
    Op::FsStat {
        path: PathBuf::from(path),
    }
}

/// An entry to be removed.
pub fn fs_remove(request: FsRemoveRequest) -> Op {
    Op::FsRemove(fs::Remove {
        path: request.path.into(),
        recursive: request.recursive,
    })
}

/// Zero is "not given" on the wire, and a file without any permission is not something to ask for.
fn mode(mode: u32) -> Option<u32> {
    (mode > 0).then_some(mode)
}

/// The limits of a policy; one that makes no sense is [`Error::Invalid`]. A policy without any field asks for nothing.
pub fn resource_policy(policy: &OperationResourcePolicy) -> Result<exec::Limits, Error> {
    let limits = exec::Limits {
        memory_max: policy.memory_max_bytes,
        memory_high: policy.memory_high_bytes,
        cpu_millicores: policy.cpu_max_millicores.map(u64::from),
        ..exec::Limits::default()
    };
    limits.validate_as(&[
        "memory_max_bytes",
        "memory_high_bytes",
        "cpu_max_millicores",
        "pids_max",
        "nofile",
        "output_max",
    ])?;
    Ok(limits)
}

/// Puts limits on an operation; one that starts no process can not keep them, and they are never ignored.
pub fn limited(op: Op, limits: exec::Limits) -> Result<Op, Error> {
    if limits == exec::Limits::default() {
        return Ok(op);
    }
    match op {
        Op::ProcessRun(mut run) => {
            run.launch.limits = run.launch.limits.tightest(limits);
            Ok(Op::ProcessRun(run))
        }
        Op::ProcessCreate(mut create) => {
            create.launch.limits = create.launch.limits.tightest(limits);
            Ok(Op::ProcessCreate(create))
        }
        other => Err(Error::Unsupported {
            what: format!("resource_policy for {}", other.name()),
            why: "it starts no process that could be limited".into(),
            fix: Some("send the request without resource_policy".into()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn run(request: ExecRequest) -> Result<Run, Error> {
        match exec(request, exec::Keep::first(10))? {
            Op::ProcessRun(run) => Ok(*run),
            other => panic!("{other:?}"),
        }
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_shell_command_is_joined_by_single_spaces() {
        let request = ExecRequest {
            command: words(&["echo", "a  b", "$X"]),
            shell: true,
            ..Default::default()
        };
        assert_eq!(
            run(request).unwrap().launch.command,
            exec::Command::Shell("echo a  b $X".into())
        );
    }

    #[test]
    fn argv_stays_as_it_is_and_zero_is_no_timeout() {
        let request = ExecRequest {
            command: words(&["ls", ""]),
            timeout_ms: 0,
            ..Default::default()
        };
        let run = run(request).unwrap();
        assert_eq!(
            run.launch.command,
            exec::Command::Argv(vec!["ls".into(), "".into()])
        );
        assert_eq!(run.launch.timeout, None);
    }

    #[test]
    fn what_is_to_be_replaced_is_a_digest_or_absent_or_anything() {
        let base = |text: &str| {
            let request = FsWriteBegin {
                expected_base_digest: text.into(),
                ..Default::default()
            };
            fs_upload(request).map(|begin| begin.base)
        };
        let digest = blake3::hash(b"content");
        assert_eq!(base("").unwrap(), None);
        assert_eq!(base("absent").unwrap(), Some(fs::Base::Absent));
        assert_eq!(
            base(digest.to_hex().as_str()).unwrap(),
            Some(fs::Base::Content(digest))
        );
        for bad in ["Absent", "0", &"g".repeat(64)] {
            let error = base(bad).unwrap_err();
            assert!(error.to_string().contains("expected_base_digest"), "{error}");
        }
    }

    #[test]
    fn an_empty_command_is_einval() {
        for shell in [false, true] {
            let error = run(ExecRequest {
                shell,
                ..Default::default()
            })
            .unwrap_err();
            assert_eq!((error.code(), error.errno()), (Code::Invalid, Some(libc::EINVAL)));
        }
    }

    #[test]
    fn policies_are_checked_and_never_ignored() {
        let policy = |max, high, cpu| OperationResourcePolicy {
            memory_max_bytes: max,
            memory_high_bytes: high,
            cpu_max_millicores: cpu,
        };
        assert!(resource_policy(&policy(None, None, None)).is_ok());
        for bad in [
            policy(Some(0), None, None),
            policy(None, Some(0), None),
            policy(None, None, Some(0)),
            policy(Some(1), None, None),
            policy(Some(1 << 20), Some(2 << 20), None),
        ] {
            assert_eq!(
                resource_policy(&bad).unwrap_err().code(),
                Code::Invalid,
                "{bad:?}"
            );
        }
        for fine in [
            policy(Some(1 << 20), Some(1 << 20), None),
            policy(None, None, Some(1)),
        ] {
            let limits = resource_policy(&fine).unwrap();
            let run = exec(
                ExecRequest {
                    command: words(&["true"]),
                    ..Default::default()
                },
                exec::Keep::first(0),
            );
            match limited(run.unwrap(), limits).unwrap() {
                Op::ProcessRun(run) => assert_eq!(run.launch.limits, limits),
                other => panic!("{other:?}"),
            }
            let error = limited(Op::HostMetrics, limits).unwrap_err();
            assert_eq!(error.code(), Code::Unsupported, "{fine:?}");
        }
    }
}
