//! Every operation through every door: one table, the same payload, one property of the answer, and the answers of all
//! doors the same. A new row of `OPERATIONS` without a case here fails.

use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use boxd::ops::OPERATIONS;
use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response::Result as Outcome;
use boxd::wire::proto::{ErrorCode, Extension};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use serde_json::{Map, Value, json};

use crate::harness::daemon::BOXD;
use crate::harness::releases::Releases;
use crate::harness::{Daemon, NatsServer, Ways};
use crate::parity_git;

/// A way to say `name` and a JSON payload to the daemon.
#[derive(Debug, Clone, Copy)]
enum Door {
    Http,
    Nats,
    CallHttp,
    CallNats,
}

const DOORS: [Door; 4] = [Door::Http, Door::Nats, Door::CallHttp, Door::CallNats];

impl Door {
    /// Each works in a directory of its own, where it finds the same things; the names are equally long.
    fn directory(self) -> &'static str {
        match self {
            Self::Http => "door-1",
            Self::Nats => "door-2",
            Self::CallHttp => "door-3",
            Self::CallNats => "door-4",
        }
    }

    /// The answer, or the words of the refusal with the stable code where this door tells it.
    async fn ask(self, ways: &Ways, name: &str, payload: &Value) -> Result<Value, Refusal> {
        match self {
            Self::Http => {
                let answer = ways.http.post(&format!("/v1/ops/{name}"), payload).await;
                let body = answer.json();
                if answer.status.is_success() {
                    return Ok(body);
                }
                Err(Refusal {
                    code: text(&body["code"]),
                    words: text(&body["detail"]),
                })
            }
            Self::Nats => {
                let request = Extension {
                    op: name.to_owned(),
                    payload: payload.to_string().into(),
                };
                let answer = ways.control.ask(Op::Ext(request)).await;
                match (answer.result, answer.error) {
                    (Some(Outcome::Ext(answer)), None) => {
                        assert_eq!(answer.op, name, "the name is echoed");
                        Ok(serde_json::from_slice(&answer.payload).unwrap())
                    }
                    (None, Some(error)) => {
                        assert!(error.detail.contains_key("id"), "{error:?}");
                        assert_ne!(error.code(), ErrorCode::Unspecified, "{error:?}");
                        let code = error.detail.get("code").cloned();
                        Err(Refusal {
                            code,
                            words: Some(error.message),
                        })
                    }
                    other => panic!("{other:?}"),
                }
            }
            Self::CallHttp | Self::CallNats => self.call(ways, name, payload).await,
        }
    }

    /// `boxd call op NAME JSON`.
    async fn call(self, ways: &Ways, name: &str, payload: &Value) -> Result<Value, Refusal> {
        let mut command = Command::new(BOXD);
        let home = ways.daemon.directory().join("home");
        command
            .env_clear()
            .env("HOME", &home)
            .current_dir(&home)
            .stdin(Stdio::null())
            .arg("call");
        if let Self::CallNats = self {
            command.args(["--nats-url", &ways.broker.url()]);
            command.args([
                "--workspace-id",
                &ways.link.workspace_id,
                "--agent-id",
                &ways.link.agent_id,
            ]);
        } else {
            // As a person would: by the ready file in the state directory.
            command.arg("--state-dir").arg(ways.daemon.state_directory());
        }
        command.args(["op", name, &payload.to_string()]);
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = output.await.unwrap().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        if output.status.success() {
            assert_eq!(said, "", "{name} through {self:?}");
            return Ok(serde_json::from_slice(&output.stdout).unwrap());
        }
        assert_eq!(output.status.code(), Some(125), "{name} through {self:?}: {said}");
        assert!(
            output.stdout.is_empty(),
            "{name} through {self:?} printed an answer as well"
        );
        Err(Refusal {
            code: None,
            words: Some(said),
        })
    }
}

/// A refusal, as far as the door tells it.
#[derive(Debug)]
struct Refusal {
    code: Option<String>,
    words: Option<String>,
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// One operation with a payload, and what must be true of the answer.
pub(crate) struct Case {
    pub(crate) operation: &'static str,
    /// `DIR` stands for the directory of the door.
    pub(crate) payload: Value,
    /// Looks at the answer and at the directory of the door.
    holds: fn(&Value, &Path) -> bool,
    /// What refuses it: a payload and the stable code.
    refused: (Value, &'static str),
    /// A process that is made for each door before; `ID` stands for it.
    process: Option<Made>,
}

/// A process that is there when a case begins.
#[derive(Debug, Clone, Copy)]
enum Made {
    /// It reads its input to the end, and lives on.
    Reading,
    /// It wrote something and has ended.
    Ended,
    /// Its terminal shows a line.
    Shown,
}

impl Made {
    /// Its id.
    async fn make(self, ways: &Ways) -> String {
        let line = match self {
            Self::Reading => "cat; sleep 600",
            Self::Ended => "echo one; echo two >&2; exit 4",
            Self::Shown => "printf shown; exec cat",
        };
        let tty = matches!(self, Self::Shown);
        let asked = json!({ "command": line, "shell": true, "interactive": true, "tty": tty });
        let made = ways.http.post("/v1/processes", &asked).await.json();
        let id = made["id"].as_str().unwrap().to_owned();
        if let Self::Ended = self {
            let ended = ways.http.get(&format!("/v1/processes/{id}/wait")).await.json();
            assert_eq!(ended["status"], "exited", "{ended}");
        }
        if tty {
            ways.http.until_logged(&id, "shown").await;
        }
        id
    }
}

/// A case on one process.
fn on(
    process: Made,
    operation: &'static str,
    payload: Value,
    holds: fn(&Value, &Path) -> bool,
    refused: (Value, &'static str),
) -> Case {
    Case {
        process: Some(process),
        ..case(operation, payload, holds, refused)
    }
}

pub(crate) fn case(
    operation: &'static str,
    payload: Value,
    holds: fn(&Value, &Path) -> bool,
    refused: (Value, &'static str),
) -> Case {
    Case {
        operation,
        payload,
        holds,
        refused,
        process: None,
    }
}

/// What each directory holds.
fn prepare(directory: &Path) {
    std::fs::create_dir_all(directory.join("tree/deep")).unwrap();
    std::fs::write(directory.join("tree/a file"), "0123456789").unwrap();
    std::fs::write(directory.join("tree/deep/b"), b"\xff\0").unwrap();
    std::os::unix::fs::symlink("a file", directory.join("tree/link")).unwrap();
    // An archive has the times of what is in it, to the second: those of all doors are the same.
    let long_ago = TimeSpec::new(1_767_225_600, 0);
    for name in ["tree/a file", "tree/deep/b", "tree/link", "tree/deep", "tree"] {
        let path = directory.join(name);
        utimensat(
            AT_FDCWD,
            &path,
            &long_ago,
            &long_ago,
            UtimensatFlags::NoFollowSymlink,
        )
        .unwrap();
    }
    std::fs::write(directory.join("edited"), "one\ntwo\nthree\n").unwrap();
    for name in ["to move", "to remove", "for chmod"] {
        std::fs::write(directory.join(name), name).unwrap();
    }
}

/// A tar archive with one file.
fn archive() -> String {
    let mut header = [0_u8; 512];
    header[..8].copy_from_slice(b"one file");
    header[100..107].copy_from_slice(b"0000644");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..135].copy_from_slice(b"00000000003");
    header[136..147].copy_from_slice(b"00000000000");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut bytes = header.to_vec();
    bytes.extend_from_slice(b"abc");
    bytes.resize(512 * 4, 0);
    BASE64.encode(bytes)
}

fn cases() -> Vec<Case> {
    let mut cases = process_cases();
    cases.extend(cases_on_processes());
    cases.extend(cases_on_terminals());
    cases.extend(cases_that_end_processes());
    cases.extend(file_cases());
    cases.extend(cases_of_changes());
    cases.extend(cases_of_metadata());
    cases.extend(parity_git::cases());
    let unknown = || (json!({ "no such field": 1 }), "invalid_request");
    cases.extend([
        case(
            "ping",
            json!({ "nonce": u64::MAX }),
            |answer, _| answer["nonce"] == u64::MAX,
            unknown(),
        ),
        case(
            "host.metrics",
            json!({}),
            |answer, _| answer["memTotalBytes"].as_u64() > Some(1 << 20),
            unknown(),
        ),
        case(
            "host.capabilities",
            json!({}),
            |answer, _| {
                let rows = answer["capabilities"].as_array().unwrap();
                rows.iter()
                    .any(|row| row["name"] == "process.run" && row["available"] == true)
                    && rows
                        .iter()
                        .all(|row| row["available"] == true || row["why"].is_string())
            },
            unknown(),
        ),
        // Before anything is updated, for every door.
        case(
            "update.status",
            json!({}),
            |answer, _| answer["current"].is_string() && answer.get("progress").is_none(),
            unknown(),
        ),
        case(
            "update.check",
            json!({}),
            |answer, _| answer["newest"] == answer["current"] && answer["due"] == false,
            (json!({ "channel": "no/channel" }), "invalid_request"),
        ),
        case(
            "update.apply",
            json!({ "operationId": "there is nothing to do" }),
            |answer, _| {
                answer["currentSha256"]
                    .as_str()
                    .is_some_and(|digest| digest.len() == 64)
            },
            (json!({ "expectedVersion": "0.0.1" }), "conflict"),
        ),
    ]);
    cases
}

/// A daemon that is current: what it runs is the newest release.
async fn ways() -> (Ways, Releases) {
    let releases = Releases::new();
    releases.publish(env!("CARGO_PKG_VERSION"), b"what runs", |_| {});
    let mut builder = Daemon::builder();
    for (name, value) in parity_git::FIXED {
        builder = builder.environment(name, value);
    }
    let builder = builder
        .environment("BOXD_UPDATE_PUBLIC_KEYS", &releases.key)
        .environment("BOXD_UPDATE_BASE_URL", releases.base());
    (Ways::with(builder, NatsServer::start()).await, releases)
}

fn digest(content: &Value) -> String {
    blake3::hash(content.as_str().unwrap().as_bytes()).to_string()
}

fn process_cases() -> Vec<Case> {
    vec![
        case(
            "process.run",
            json!({
                "command": "sh", "args": ["-c", "cat; pwd; echo wrong >&2; exit 3"], "stdin": "in ", "cwd": "DIR",
                "env": { "A": "b" }, "idempotencyKey": "DIR once",
            }),
            |answer, directory| {
                answer["exitCode"] == 3
                    && answer["stdout"] == format!("in {}\n", directory.display())
                    && answer["stderr"] == "wrong\n"
                    && answer["stdoutBlake3"] == digest(&answer["stdout"])
            },
            (json!({ "command": "/no/such/program" }), "not_found"),
        ),
        case(
            "process.config.set",
            json!({ "maxConcurrentProcesses": 33 }),
            |answer, _| answer["maxConcurrentProcesses"] == 33 && answer["maxRunTimeoutMs"] == 300_000,
            (json!({ "maxOutputBytes": 0 }), "invalid_request"),
        ),
        case(
            "process.config.get",
            json!({}),
            |answer, _| answer["maxConcurrentProcesses"] == 33,
            (json!({ "maxOutputBytes": 1 }), "invalid_request"),
        ),
    ]
}

fn cases_on_processes() -> Vec<Case> {
    let nobody = || (json!({ "id": "proc_999999" }), "not_found");
    vec![
        case(
            "process.batch",
            json!({ "runs": [{ "command": "echo", "args": ["x"] }, { "command": "/no/such" }, { "command": "true" }],
                    "parallel": 1, "stopOnFailure": true }),
            |answer, _| {
                let results = &answer["results"];
                results[0]["stdout"] == "x\n"
                    && results[1]["code"] == "not_found"
                    && results[2] == json!({ "skipped": true })
            },
            (json!({ "runs": [] }), "invalid_request"),
        ),
        case(
            "process.create",
            json!({ "command": "sh", "args": ["-c", "cat"], "cwd": "DIR", "interactive": true, "idempotencyKey": "DIR made",
                    "labels": { "a": "b" } }),
            |answer, directory| {
                answer["status"] == "running"
                    && answer["cwd"] == directory.display().to_string()
                    && answer["labels"]["a"] == "b"
            },
            (json!({ "command": "/no/such/program" }), "not_found"),
        ),
        on(
            Made::Reading,
            "process.list",
            json!({ "owner": "user" }),
            |answer, _| {
                let processes = answer["processes"].as_array().unwrap();
                processes
                    .iter()
                    .any(|process| process["command"] == "cat; sleep 600")
            },
            (json!({ "owner": "nobody" }), "invalid_request"),
        ),
        on(
            Made::Ended,
            "process.get",
            json!({ "id": "ID" }),
            |answer, _| answer["status"] == "exited" && answer["exitCode"] == 4,
            nobody(),
        ),
        on(
            Made::Ended,
            "process.wait",
            json!({ "id": "ID" }),
            |answer, _| answer["exitCode"] == 4 && answer["channels"]["stdout"]["bytes"] == 4,
            nobody(),
        ),
        on(
            Made::Reading,
            "process.input",
            json!({ "id": "ID", "data": "eHl6" }),
            |answer, _| answer["bytesWritten"] == 3,
            (json!({ "id": "proc_999999", "data": "" }), "not_found"),
        ),
        on(
            Made::Reading,
            "process.stdin.close",
            json!({ "id": "ID" }),
            |answer, _| answer["interactive"] == true,
            nobody(),
        ),
        on(
            Made::Reading,
            "process.signal",
            json!({ "id": "ID", "signal": "CONT", "scope": "leader" }),
            |answer, _| answer["signalled"].as_array().unwrap().len() == 1 && answer["status"] == "running",
            (json!({ "id": "proc_1", "signal": "SIGNOPE" }), "invalid_request"),
        ),
    ]
}

fn cases_on_terminals() -> Vec<Case> {
    vec![
        on(
            Made::Shown,
            "process.resize",
            json!({ "id": "ID", "cols": 90, "rows": 30 }),
            |answer, _| answer["cols"] == 90 && answer["rows"] == 30,
            (json!({ "id": "proc_1", "cols": 0, "rows": 1 }), "invalid_request"),
        ),
        on(
            Made::Shown,
            "process.snapshot",
            json!({ "id": "ID" }),
            |answer, _| answer["lines"][0] == "shown" && answer["cursor"] == json!([0, 5]),
            (json!({ "id": "proc_999999" }), "not_found"),
        ),
    ]
}

fn cases_that_end_processes() -> Vec<Case> {
    let nobody = || (json!({ "id": "proc_999999" }), "not_found");
    vec![
        on(
            Made::Reading,
            "process.stop",
            json!({ "id": "ID", "waitMs": 20_000 }),
            |answer, _| answer["status"] == "exited" && answer["signal"] == "SIGTERM",
            nobody(),
        ),
        on(
            Made::Reading,
            "process.kill",
            json!({ "id": "ID", "waitMs": 20_000 }),
            |answer, _| answer["status"] == "exited" && answer["signal"] == "SIGKILL",
            nobody(),
        ),
        on(
            Made::Ended,
            "process.delete",
            json!({ "id": "ID" }),
            |answer, _| answer["status"] == "exited",
            nobody(),
        ),
        on(
            Made::Ended,
            "process.logs",
            json!({ "id": "ID" }),
            |answer, _| {
                let entries = answer["entries"].as_array().unwrap();
                entries.len() == 2 && entries.iter().any(|entry| entry["data"] == "b25lCg==")
            },
            nobody(),
        ),
        on(
            Made::Ended,
            "process.logs",
            json!({ "id": "ID", "format": "text", "stream": "stderr", "grep": "^t", "head": 1 }),
            |answer, _| answer["text"] == "1:two\n" && answer["matches"] == 1,
            (
                json!({ "id": "ID", "format": "text", "grep": "(" }),
                "invalid_request",
            ),
        ),
    ]
}

/// What changes files and tells of them besides.
fn cases_of_changes() -> Vec<Case> {
    vec![
        case(
            "fs.edit",
            json!({ "path": "DIR/edited", "replace": { "old": "two", "new": "2" } }),
            |answer, directory| {
                answer["diff"].as_str().unwrap().contains("-two\n+2\n")
                    && answer["places"] == 1
                    && std::fs::read(directory.join("edited")).unwrap() == b"one\n2\nthree\n"
            },
            (
                json!({ "path": "DIR/edited", "replace": { "old": "twoo", "new": "2" } }),
                "invalid_request",
            ),
        ),
        case(
            "fs.upload",
            json!({ "id": "one DIR", "path": "DIR/uploaded", "seq": 1, "offset": 0, "last": true, "contentB64": "YWJj" }),
            |answer, directory| {
                answer["committed"]["bytesWritten"] == 3
                    && std::fs::read(directory.join("uploaded")).unwrap() == b"abc"
            },
            (
                json!({ "id": "two DIR", "path": "DIR/tree", "seq": 1, "offset": 0, "contentB64": "" }),
                "wrong_kind",
            ),
        ),
        case(
            "fs.upload",
            json!({ "id": "begun DIR", "path": "DIR/never", "seq": 2, "offset": 9, "contentB64": "YWJj" }),
            |answer, _| answer["seq"] == 2 && answer["committed"].is_null(),
            (
                json!({ "id": "", "path": "DIR/never", "seq": 2, "offset": 9, "contentB64": "" }),
                "invalid_request",
            ),
        ),
        case(
            "fs.upload.abort",
            json!({ "id": "begun DIR" }),
            |answer, directory| answer == &json!({}) && !directory.join("never").exists(),
            (json!({ "id": "none" }), "not_found"),
        ),
    ]
}

/// What copies files, and what tells and changes what the file system says of them.
fn cases_of_metadata() -> Vec<Case> {
    vec![
        case(
            "fs.copy",
            json!({ "from": "DIR/tree", "to": "DIR/copied" }),
            |_, directory| {
                std::fs::read(directory.join("copied/a file")).unwrap() == b"0123456789"
                    && std::fs::read_link(directory.join("copied/link")).unwrap() == Path::new("a file")
            },
            (
                json!({ "from": "DIR/tree", "to": "DIR/tree/deep" }),
                "invalid_request",
            ),
        ),
        case(
            "fs.digest",
            json!({ "path": "DIR/tree/a file" }),
            |answer, _| answer["blake3"] == blake3::hash(b"0123456789").to_string(),
            (json!({ "path": "DIR/tree" }), "wrong_kind"),
        ),
        case(
            "fs.chmod",
            json!({ "path": "DIR/for chmod", "mode": "0640" }),
            |answer, directory| {
                use std::os::unix::fs::PermissionsExt;
                let mode = std::fs::metadata(directory.join("for chmod"))
                    .unwrap()
                    .permissions()
                    .mode();
                answer["changed"] == 1 && mode & 0o7777 == 0o640
            },
            (json!({ "path": "DIR/for chmod" }), "invalid_request"),
        ),
        case(
            "fs.symlink",
            json!({ "path": "DIR/new link", "target": "any/where" }),
            |_, directory| std::fs::read_link(directory.join("new link")).unwrap() == Path::new("any/where"),
            (
                json!({ "path": "DIR/tree/link", "target": "x" }),
                "already_exists",
            ),
        ),
        case(
            "fs.xattr.set",
            json!({ "path": "DIR/for chmod", "name": "user.origin", "valueB64": "YWJj" }),
            |answer, directory| answer["path"] == directory.join("for chmod").to_str().unwrap(),
            (
                json!({ "path": "DIR/for chmod", "name": "user.none" }),
                "not_found",
            ),
        ),
        case(
            "fs.xattrs",
            json!({ "path": "DIR/for chmod" }),
            |answer, _| {
                let attributes = answer["attributes"].as_array().unwrap();
                attributes.contains(&json!({ "name": "user.origin", "valueB64": "YWJj" }))
            },
            (json!({ "path": "DIR/none" }), "not_found"),
        ),
        case(
            "fs.pack",
            json!({ "path": "DIR/tree", "format": "tar" }),
            |answer, _| {
                let archive = BASE64.decode(answer["contentB64"].as_str().unwrap()).unwrap();
                answer["name"] == "tree.tar" && archive.windows(10).any(|part| part == b"0123456789")
            },
            (json!({ "path": "DIR/none" }), "not_found"),
        ),
    ]
}

fn file_cases() -> Vec<Case> {
    vec![
        case(
            "fs.read",
            json!({ "path": "DIR/tree/a file", "offset": 3, "length": 4 }),
            |answer, _| answer["contentB64"] == BASE64.encode("3456") && answer["totalSize"] == 10,
            (json!({ "path": "DIR/tree" }), "wrong_kind"),
        ),
        case(
            "fs.write",
            json!({ "path": "DIR/new/file", "contentB64": BASE64.encode([0xff, 0]), "mode": "0600" }),
            |answer, directory| {
                answer["bytesWritten"] == 2
                    && answer["atomic"] == true
                    && std::fs::read(directory.join("new/file")).unwrap() == [0xff, 0]
            },
            (
                json!({ "path": "DIR/tree/a file/below", "content": "" }),
                "wrong_kind",
            ),
        ),
        case(
            "fs.list",
            json!({ "path": "DIR/tree", "recursive": true }),
            |answer, _| {
                let entries = answer["entries"].as_array().unwrap();
                let names: Vec<_> = entries
                    .iter()
                    .map(|entry| entry["name"].as_str().unwrap())
                    .collect();
                names == ["a file", "deep", "b", "link"]
            },
            (json!({ "path": "DIR/nothing" }), "not_found"),
        ),
        case(
            "fs.mkdir",
            json!({ "path": "DIR/one/two", "mode": "0700" }),
            |_, directory| directory.join("one/two").is_dir(),
            (json!({ "path": "DIR/tree", "parents": false }), "already_exists"),
        ),
        case(
            "fs.move",
            json!({ "from": "DIR/to move", "to": "DIR/moved" }),
            |_, directory| !directory.join("to move").exists() && directory.join("moved").exists(),
            (
                json!({ "from": "DIR/moved", "to": "DIR/tree/a file" }),
                "already_exists",
            ),
        ),
        case(
            "fs.stat",
            json!({ "path": "DIR/tree/link" }),
            |answer, _| {
                let entry = &answer["entry"];
                answer["exists"] == true && entry["kind"] == "symlink" && entry["target"] == "a file"
            },
            (json!({}), "invalid_request"),
        ),
        case(
            "fs.remove",
            json!({ "pathB64": "DIR/to remove" }),
            |_, directory| !directory.join("to remove").exists(),
            (json!({ "path": "DIR/tree" }), "conflict"),
        ),
        case(
            "fs.search",
            json!({ "path": "DIR/tree", "pattern": "3.5" }),
            |answer, directory| {
                let found = &answer["matches"][0];
                found["path"] == directory.join("tree/a file").to_str().unwrap()
                    && (&found["line"], &found["column"]) == (&json!(1), &json!(4))
                    && answer["stats"]["binarySkipped"] == 1
            },
            (json!({ "path": "DIR/tree", "pattern": "(" }), "invalid_request"),
        ),
        case(
            "fs.watch",
            json!({ "path": "DIR/tree" }),
            |answer, _| answer["events"] == json!([]) && answer["ended"] == false && answer["id"].is_string(),
            (json!({ "path": "DIR/tree", "since": "none-1" }), "not_found"),
        ),
        case(
            "fs.unpack",
            json!({ "path": "DIR/unpacked", "contentB64": archive() }),
            |answer, directory| {
                answer["truncated"] == false
                    && std::fs::read(directory.join("unpacked/one file")).unwrap() == b"abc"
            },
            (
                json!({ "path": "DIR/unpacked", "contentB64": "not base64!" }),
                "invalid_request",
            ),
        ),
    ]
}

/// The payload for one door: its directory in place of `DIR`, and base64 where the field wants it.
fn payload_for(door: Door, payload: &Value, id: &str) -> Value {
    let mut fields = Map::new();
    for (name, value) in payload.as_object().unwrap() {
        let value = match value {
            Value::String(text) => {
                let text = text.replace("DIR", door.directory());
                let text = if text == "ID" { id.to_owned() } else { text };
                Value::String(if name == "pathB64" {
                    BASE64.encode(text)
                } else {
                    text
                })
            }
            other => other.clone(),
        };
        fields.insert(name.clone(), value);
    }
    Value::Object(fields)
}

/// Figures that differ from one call to the next: of them only the type is compared.
const VOLATILE: &[&str] = &[
    "uptimeMs",
    "ms",
    "durationMs",
    "cpuMs",
    "peakRssBytes",
    "processId",
    "id",
    "pid",
    "createdAtMs",
    "exitedAtMs",
    "timestampMs",
    "signalled",
    "processes",
    "stdoutBlake3",
    "modified",
    "sampledAt",
    "cpuPercent",
    "load",
    "memUsedBytes",
    "diskUsedBytes",
    "runQueue",
    "memoryUsedBytes",
    "utilPercent",
];

/// What is the same for every door.
fn comparable(door: Door, value: &Value) -> Value {
    match value {
        Value::String(text) => json!(text.replace(door.directory(), "DIR")),
        Value::Array(values) => values.iter().map(|value| comparable(door, value)).collect(),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| {
                let value = match value {
                    _ if !VOLATILE.contains(&name.as_str()) => comparable(door, value),
                    Value::String(_) => json!("some text"),
                    Value::Array(_) => json!("some values"),
                    _ => json!("some number"),
                };
                (name.clone(), value)
            };
            // Whether the peak is known depends on how large the daemon was at that moment.
            fields
                .iter()
                .filter(|(name, _)| *name != "peakRssBytes")
                .map(field)
                .collect::<Map<_, _>>()
                .into()
        }
        other => other.clone(),
    }
}

#[tokio::test]
async fn every_operation_answers_the_same_through_every_door() {
    let (ways, _releases) = ways().await;
    let workspace = ways.daemon.workspace();
    for door in DOORS {
        prepare(&workspace.join(door.directory()));
        parity_git::prepare(&workspace.join(door.directory()));
    }
    let cases = cases();
    for row in OPERATIONS {
        let mut of_row = cases.iter().filter(|case| case.operation == row.name).peekable();
        assert!(of_row.peek().is_some(), "{} has no case in this table", row.name);
    }
    for case in &cases {
        assert!(
            boxd::ops::operation(case.operation).is_some(),
            "{} is not an operation",
            case.operation
        );
        let mut answers = Vec::new();
        for door in DOORS {
            let directory = workspace.join(door.directory());
            let id = match case.process {
                Some(made) => made.make(&ways).await,
                None => String::new(),
            };
            let payload = payload_for(door, &case.payload, &id);
            let what = format!("{} through {door:?}", case.operation);
            let answer = door.ask(&ways, case.operation, &payload).await;
            let answer = answer.unwrap_or_else(|refusal| panic!("{what}: {refusal:?}"));
            assert!((case.holds)(&answer, &directory), "{what}: {answer:#}");
            answers.push(comparable(door, &answer));
        }
        for (door, answer) in DOORS.iter().zip(&answers) {
            assert_eq!(
                *answer, answers[0],
                "{} through {door:?} and {:?}",
                case.operation, DOORS[0]
            );
        }
    }
}

#[tokio::test]
async fn every_operation_is_refused_alike_through_every_door() {
    let (ways, _releases) = ways().await;
    for door in DOORS {
        let directory = ways.daemon.workspace().join(door.directory());
        prepare(&directory);
        parity_git::prepare(&directory);
        std::fs::rename(directory.join("to move"), directory.join("moved")).unwrap();
    }
    for case in &cases() {
        let (payload, code) = &case.refused;
        let mut told = Vec::new();
        for door in DOORS {
            let what = format!("{} through {door:?}", case.operation);
            let answer = door
                .ask(&ways, case.operation, &payload_for(door, payload, "proc_1"))
                .await;
            let refusal = answer.expect_err(&what);
            if let Some(stable) = &refusal.code {
                assert_eq!(stable, code, "{what}: {refusal:?}");
            }
            let words = refusal.words.unwrap_or_else(|| panic!("{what}: no words"));
            assert!(
                !matches!(door, Door::Http | Door::Nats) || refusal.code.is_some(),
                "{what}: no stable code"
            );
            told.push(words.replace(door.directory(), "DIR"));
        }
        for (door, words) in DOORS.iter().zip(&told) {
            assert!(
                words.contains(&told[0]),
                "{} through {door:?}: {words:?} and {:?}",
                case.operation,
                told[0]
            );
        }
    }
}

/// No door knows a name that another does not.
#[tokio::test]
async fn an_unknown_name_is_refused_by_every_door_with_the_known_ones() {
    let ways = Ways::start().await;
    for door in DOORS {
        for name in ["fs.nope", "FS.READ", "process", "hello"] {
            let refusal = door
                .ask(&ways, name, &json!({}))
                .await
                .expect_err("an unknown name");
            let words = refusal.words.unwrap();
            for row in OPERATIONS {
                assert!(
                    words.contains(row.name),
                    "{door:?} does not list {}: {words}",
                    row.name
                );
            }
        }
    }
}
