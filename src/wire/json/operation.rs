//! Any operation by its stable name: JSON payload to [`Op`], [`Reply`] to JSON payload.
//!
//! Used by `POST /v1/ops/{name}`, by extensions over NATS and, through either, by `boxd call op`. Unknown fields are
//! refused, as everywhere on our own surface.

use serde::{Deserialize, Serialize};

use super::{
    Archive, ArchiveArguments, BatchReply, BatchRequest, Capabilities, Changed, ChmodRequest, Config,
    ConfigPatch, CreateRequest, DigestReply, Done, EditRequest, Edited, Encoding, FileContent, GitChange,
    GitQuery, GitTransfer, IdArguments, Info, Infos, InputReply, InputRequest, ListArguments, Listing,
    LogsReply, LogsRequest, LogsText, Metrics, MkdirArguments, MoveRequest, Moved, PackArguments, PathReply,
    Ping, Pong, ProcessListArguments, ReadArguments, RemoveArguments, ResizeRequest, RunReply, RunRequest,
    SearchReply, SearchRequest, SignalReply, SignalRequest, SizeReply, Snapshot, SnapshotArguments, Stat,
    StatArguments, SymlinkRequest, Unknown, Unpacked, UpdateAvailable, UpdateBegun, UpdateRequest,
    UpdateStatus, UploadArguments, UploadId, UploadReply, WaitArguments, WatchArguments, WatchReply,
    WriteArguments, Written, XattrRequest, Xattrs, decode, git_answer, git_did, text,
};
use crate::error::Error;
use crate::git::{Action, Query, Transfer};
use crate::ids::ProcessId;
use crate::ops::{self, OPERATIONS, Op, ProcessConfig, Reply};

/// An operation with what its payload says about the call and the answer.
#[derive(Debug)]
pub struct Decoded {
    /// The operation.
    pub op: Op,
    /// The key under which a repeat gets the same outcome, where the payload names one.
    pub idempotency_key: Option<String>,
    /// How output bytes are to be written into the answer.
    pub encoding: Encoding,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Nothing {}

/// Decodes the payload of the operation `name`; `config` bounds what a run may ask for.
///
/// [`Error::Unsupported`] when there is no such operation, listing those there are.
pub fn decode_op(name: &str, payload: &[u8], config: &ProcessConfig) -> Result<Decoded, Error> {
    let mut idempotency_key = None;
    let mut encoding = Encoding::default();
    let op = match name {
        "ping" => Op::Ping {
            nonce: strict::<Ping>(payload)?.nonce,
        },
        "process.run" => {
            let mut request = strict::<RunRequest>(payload)?;
            idempotency_key = request.idempotency_key.take();
            encoding = request.encoding.take().unwrap_or_default();
            Op::ProcessRun(Box::new(request.into_run(config)?))
        }
        "process.batch" => Op::ProcessBatch(strict::<BatchRequest>(payload)?.into_batch(config)?),
        "process.create" => {
            let mut request = strict::<CreateRequest>(payload)?;
            idempotency_key = request.idempotency_key.take();
            Op::ProcessCreate(Box::new(request.into_create(config)?))
        }
        "process.list" => strict::<ProcessListArguments>(payload)?.into_op(),
        "process.get" => Op::ProcessGet { id: id(payload)? },
        "process.wait" => strict::<WaitArguments>(payload)?.into_wait()?,
        "process.input" => strict::<InputRequest>(payload)?.into_op(None, config)?,
        "process.stdin.close" => Op::ProcessCloseStdin { id: id(payload)? },
        "process.signal" => strict::<SignalRequest>(payload)?.into_op(None)?,
        "process.stop" => strict::<WaitArguments>(payload)?.into_stop()?,
        "process.kill" => strict::<WaitArguments>(payload)?.into_kill()?,
        "process.resize" => strict::<ResizeRequest>(payload)?.into_op(None)?,
        "process.snapshot" => strict::<SnapshotArguments>(payload)?.into_op(None)?,
        "process.delete" => Op::ProcessDelete { id: id(payload)? },
        "process.logs" => Op::ProcessLogs(Box::new(strict::<LogsRequest>(payload)?.into_page()?)),
        "process.config.get" => strict::<Nothing>(payload).map(|_| Op::ProcessConfigGet)?,
        "process.config.set" => Op::ProcessConfigSet(strict::<ConfigPatch>(payload)?.into()),
        "fs.read" => Op::FsRead(strict::<ReadArguments>(payload)?.into_op()?),
        "fs.write" => Op::FsWrite(strict::<WriteArguments>(payload)?.into_op()?),
        "fs.edit" => Op::FsEdit(strict::<EditRequest>(payload)?.into_op()?),
        "fs.upload" => Op::FsUpload(Box::new(strict::<UploadArguments>(payload)?.into_op()?)),
        "fs.upload.abort" => Op::FsUploadAbort {
            id: strict::<UploadId>(payload)?.required()?,
        },
        "fs.list" => Op::FsList(strict::<ListArguments>(payload)?.into_op()?),
        "fs.mkdir" => Op::FsMkdir(strict::<MkdirArguments>(payload)?.into_op()?),
        "fs.move" => Op::FsMove(strict::<MoveRequest>(payload)?.into_op()?),
        "fs.copy" => Op::FsCopy(strict::<MoveRequest>(payload)?.into_op()?),
        "fs.stat" => Op::FsStat {
            path: strict::<StatArguments>(payload)?.into_path()?,
        },
        "fs.digest" => Op::FsDigest {
            path: strict::<StatArguments>(payload)?.into_path()?,
        },
        "fs.chmod" => Op::FsChmod(strict::<ChmodRequest>(payload)?.into_op()?),
        "fs.symlink" => {
            let (path, target) = strict::<SymlinkRequest>(payload)?.into_paths()?;
            Op::FsSymlink { path, target }
        }
        "fs.xattrs" => Op::FsXattrs {
            path: strict::<StatArguments>(payload)?.into_path()?,
        },
        "fs.xattr.set" => Op::FsXattrSet(strict::<XattrRequest>(payload)?.into_op()?),
        "fs.remove" => Op::FsRemove(strict::<RemoveArguments>(payload)?.into_op()?),
        "fs.unpack" => Op::FsUnpack(strict::<ArchiveArguments>(payload)?.into_op()?),
        "fs.pack" => Op::FsPack(strict::<PackArguments>(payload)?.into_op()?),
        "fs.search" => Op::FsSearch(Box::new(strict::<SearchRequest>(payload)?.into_search()?)),
        "fs.watch" => {
            let asked = strict::<WatchArguments>(payload)?;
            let wait = asked.wait()?;
            Op::FsWatch {
                watch: Box::new(asked.into_watch()?),
                wait,
            }
        }
        _ if Query::NAMES.contains(&name) => strict::<GitQuery>(payload)?.into_op(name)?,
        _ if Action::NAMES.contains(&name) => strict::<GitChange>(payload)?.into_op(name)?,
        _ if Transfer::NAMES.contains(&name) => strict::<GitTransfer>(payload)?.into_op(name)?,
        "host.metrics" => strict::<Nothing>(payload).map(|_| Op::HostMetrics)?,
        "host.capabilities" => strict::<Nothing>(payload).map(|_| Op::HostCapabilities)?,
        "update.status" => strict::<Nothing>(payload).map(|_| Op::UpdateStatus)?,
        "update.check" => Op::UpdateCheck(strict::<UpdateRequest>(payload)?.into()),
        "update.apply" => Op::UpdateApply(strict::<UpdateRequest>(payload)?.into()),
        unknown => return Err(no_such(unknown)),
    };
    Ok(Decoded {
        op,
        idempotency_key,
        encoding,
    })
}

fn strict<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, Error> {
    decode(payload, Unknown::Refused)
}

fn id(payload: &[u8]) -> Result<ProcessId, Error> {
    strict::<IdArguments>(payload)?.id()
}

fn no_such(name: &str) -> Error {
    let known: Vec<_> = OPERATIONS.iter().map(|row| row.name).collect();
    Error::Unsupported {
        what: format!("operation {name:?}"),
        why: format!("this build knows {}", known.join(", ")),
        fix: None,
    }
}

/// Encodes an answer. [`Reply::File`] and [`Reply::Packed`] are not among them: their caller reads the content at its own
/// pace and limit and uses [`encode_file`] or [`encode_archive`].
pub fn encode_reply(reply: &Reply, encoding: Encoding) -> Result<Vec<u8>, Error> {
    match reply {
        Reply::Pong { nonce, uptime_ms } => bytes(&Pong {
            nonce: *nonce,
            uptime_ms: *uptime_ms,
        }),
        Reply::Ran(finished) => bytes(&RunReply::new(finished, encoding, None)),
        Reply::Batch(outcomes) => bytes(&BatchReply::from(outcomes.as_slice())),
        Reply::Process(process) => bytes(&Info::from(&**process)),
        Reply::Processes(processes) => bytes(&Infos::from(processes.as_slice())),
        Reply::Input(bytes_written) => bytes(&InputReply {
            bytes_written: *bytes_written,
        }),
        Reply::Resized(size) => bytes(&SizeReply::from(*size)),
        Reply::Shown(shown) => bytes(&Snapshot::from(&**shown)),
        Reply::Signalled { process, signalled } => bytes(&SignalReply::new(process, signalled)),
        Reply::Logs(ops::LogsReply::Page(page)) => bytes(&LogsReply::from(page)),
        Reply::Logs(ops::LogsReply::Text(read)) => bytes(&LogsText::from(read)),
        Reply::Logs(ops::LogsReply::Reader(_)) => Err(Error::Internal {
            reason: "what is read record by record is encoded by its door".into(),
        }),
        Reply::ProcessConfig(config) => bytes(&Config::from(*config)),
        Reply::File(_) => Err(Error::Internal {
            reason: "the content of a file is encoded by encode_file".into(),
        }),
        Reply::Written(written) => bytes(&Written::from(written)),
        Reply::Edited(edited) => bytes(&Edited::from(edited)),
        Reply::UploadTaken(taken) => bytes(&UploadReply::from(taken)),
        Reply::Done => bytes(&Done {}),
        Reply::Listing(listing) => bytes(&Listing::from(listing)),
        Reply::Path(path) => bytes(&PathReply::from(path.as_path())),
        Reply::Moved(moved) => bytes(&Moved::from(moved)),
        Reply::Stat(entry) => bytes(&Stat::from(entry.as_ref())),
        Reply::Digest(digest) => bytes(&DigestReply {
            blake3: digest.to_string(),
        }),
        Reply::Changed(changed) => bytes(&Changed::from(changed)),
        Reply::Attributes(attributes) => bytes(&Xattrs::from(attributes.as_slice())),
        Reply::Packed(_) => Err(Error::Internal {
            reason: "an archive is encoded by encode_archive".into(),
        }),
        Reply::Unpacked(unpacked) => bytes(&Unpacked::from(unpacked)),
        Reply::Searched(answer) => bytes(&SearchReply::from(answer)),
        Reply::Watched(watched) => bytes(&WatchReply::from(watched)),
        Reply::GitAnswer(answer) => bytes(&git_answer(answer)),
        Reply::GitDid(did) => bytes(&git_did(did)),
        Reply::Metrics(sample) => bytes(&Metrics::from(&**sample)),
        Reply::Capabilities(rows) => bytes(&Capabilities::from(rows.clone())),
        Reply::UpdateStatus(status) => bytes(&UpdateStatus::from(status)),
        Reply::UpdateAvailable(available) => bytes(&UpdateAvailable::from(available)),
        Reply::UpdateBegun(applied) => bytes(&UpdateBegun::from(applied)),
    }
}

/// Encodes the content that was read of a file of `total_size` bytes, beginning at `offset`.
pub fn encode_file(content: &[u8], offset: u64, total_size: u64) -> Result<Vec<u8>, Error> {
    bytes(&FileContent {
        content_b64: text::to_base64(content),
        offset,
        total_size,
    })
}

/// Encodes an archive that was read whole.
pub fn encode_archive(name: &str, content: &[u8]) -> Result<Vec<u8>, Error> {
    bytes(&Archive::new(name, content))
}

fn bytes<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::Internal {
        reason: format!("an answer cannot be written as JSON: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn payload(name: &str) -> &'static str {
        match name {
            "process.run" => r#"{"command":"true","idempotencyKey":"k","encoding":"base64"}"#,
            "process.batch" => r#"{"runs":[{"command":"true"}]}"#,
            "process.create" => r#"{"command":"true","idempotencyKey":"k","interactive":true}"#,
            "process.input" => r#"{"id":"proc_1","data":"eA=="}"#,
            "process.signal" => r#"{"id":"proc_1","signal":"TERM"}"#,
            "process.resize" => r#"{"id":"proc_1","cols":80,"rows":24}"#,
            "process.get"
            | "process.snapshot"
            | "process.wait"
            | "process.stdin.close"
            | "process.stop"
            | "process.kill"
            | "process.logs"
            | "process.delete" => r#"{"id":"proc_1"}"#,
            "fs.write" => r#"{"path":"a","content":"x","mode":"0600"}"#,
            "fs.move" | "fs.copy" => r#"{"from":"a","to":"b"}"#,
            "git.blame" => r#"{"file":"a"}"#,
            "git.branch.create" | "git.branch.delete" | "git.tag" | "git.remote.set" => r#"{"name":"a"}"#,
            "git.switch" => r#"{"to":"a"}"#,
            "git.worktree.add" | "git.worktree.remove" => r#"{"worktree":"a"}"#,
            "git.clone" => r#"{"url":"a","path":"b"}"#,
            "fs.edit" => r#"{"path":"a","replace":{"old":"x","new":"y"}}"#,
            "fs.upload" => r#"{"id":"u","path":"a","seq":1,"offset":0,"contentB64":""}"#,
            "fs.upload.abort" => r#"{"id":"u"}"#,
            "fs.chmod" => r#"{"path":"a","mode":"0600"}"#,
            "fs.symlink" => r#"{"path":"a","target":"b"}"#,
            "fs.xattr.set" => r#"{"path":"a","name":"user.x"}"#,
            "fs.unpack" => r#"{"contentB64":""}"#,
            "fs.read" | "fs.mkdir" | "fs.stat" | "fs.digest" | "fs.xattrs" | "fs.remove" => {
                r#"{"pathB64":"Yf8="}"#
            }
            _ => "",
        }
    }

    #[test]
    fn every_operation_of_the_table_decodes_to_itself() {
        for row in OPERATIONS {
            let decoded = decode_op(row.name, payload(row.name).as_bytes(), &ProcessConfig::default())
                .unwrap_or_else(|error| panic!("{}: {error}", row.name));
            assert_eq!(decoded.op.name(), row.name);
            assert_eq!(decoded.idempotency_key.is_some(), row.once, "{}", row.name);
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = decode_op("fs.nope", b"{}", &ProcessConfig::default()).unwrap_err();
        assert_eq!(error.code(), Code::Unsupported);
        assert!(error.to_string().contains("process.run, "), "{error}");
    }

    #[test]
    fn unknown_fields_are_refused() {
        for row in OPERATIONS {
            let error = decode_op(row.name, br#"{"bogus":1}"#, &ProcessConfig::default()).unwrap_err();
            assert!(error.to_string().contains("bogus"), "{}: {error}", row.name);
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_arrive_whole() {
        use std::os::unix::ffi::OsStrExt;
        let decoded = decode_op(
            "fs.stat",
            payload("fs.stat").as_bytes(),
            &ProcessConfig::default(),
        )
        .unwrap();
        match decoded.op {
            Op::FsStat { path } => assert_eq!(path.as_os_str().as_bytes(), b"a\xff"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_mode_is_octal() {
        let config = ProcessConfig::default();
        for wrong in ["rw", "0888", "77777", "+644"] {
            let text = format!(r#"{{"path":"a","content":"","mode":"{wrong}"}}"#);
            assert_eq!(
                decode_op("fs.write", text.as_bytes(), &config)
                    .unwrap_err()
                    .code(),
                Code::Invalid
            );
        }
    }
}
