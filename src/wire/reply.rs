//! From the [`Reply`] of an operation to its result on the control wire: pure.
//!
//! File content is read by the door, which then calls [`super::file_reply`]; operations without a message of their own answer as
//! extensions only.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::proto::control_response::Result as Outcome;
use super::proto::{
    AgentUpdateApplyResponse, ExecResponse, FsEntry, FsEntryKind, FsListResponse, FsMkdirResponse,
    FsMoveResponse, FsRemoveResponse, FsStatResponse, FsWriteResponse, GitFileStatus, GitResponse, GitStatus,
    GpuSample, HostCapacitySample, MetricsSample, PingResponse,
};
use crate::error::Error;
use crate::exec;
use crate::fs;
use crate::git;
use crate::host;
use crate::ops::Reply;
use crate::stream::Channel;

/// The result for the operation of the stable name `name`; `limit` is what the broker carries, bytes.
pub fn outcome(name: &'static str, reply: Reply, limit: u64) -> Result<Outcome, Error> {
    Ok(match reply {
        Reply::Pong { nonce, uptime_ms } => Outcome::Ping(PingResponse {
            nonce,
            agent_monotonic_ms: uptime_ms,
        }),
        Reply::Ran(finished) => Outcome::Exec(ran(&finished, limit)?),
        Reply::Written(written) => Outcome::FsWrite(FsWriteResponse {
            bytes_written: written.bytes,
        }),
        Reply::Listing(listing) => Outcome::FsList(listed(&listing)),
        Reply::Path(_) if name == "fs.remove" => Outcome::FsRemove(FsRemoveResponse {}),
        Reply::Path(_) => Outcome::FsMkdir(FsMkdirResponse {}),
        Reply::Moved(_) => Outcome::FsMove(FsMoveResponse {}),
        Reply::Stat(found) => Outcome::FsStat(FsStatResponse {
            exists: found.is_some(),
            entry: found.map(|entry| entry_at(&entry, &entry.path)),
        }),
        Reply::Metrics(sample) => Outcome::Metrics(metrics(&sample)),
        Reply::UpdateBegun(applied) => Outcome::AgentUpdateApply(AgentUpdateApplyResponse {
            accepted: true,
            operation_id: applied.operation_id,
            current_version: applied.current_version.into(),
            current_sha256: applied.current_sha256,
            target_version: applied.version,
        }),
        Reply::File(_)
        | Reply::Batch(_)
        | Reply::Process(_)
        | Reply::Processes(_)
        | Reply::Input(_)
        | Reply::Resized(_)
        | Reply::Shown(_)
        | Reply::Signalled { .. }
        | Reply::Logs(_)
        | Reply::ProcessConfig(_)
        | Reply::Edited(_)
        | Reply::UploadTaken(_)
        | Reply::Done
        | Reply::Digest(_)
        | Reply::Changed(_)
        | Reply::Attributes(_)
        | Reply::Unpacked(_)
        | Reply::Packed(_)
        | Reply::Searched(_)
        | Reply::Watched(_)
        | Reply::GitAnswer(_)
        | Reply::GitDid(_)
        | Reply::Capabilities(_)
        | Reply::UpdateStatus(_)
        | Reply::UpdateAvailable(_) => {
            return Err(Error::Internal {
                reason: format!("{name} has no message on the control wire"),
            });
        }
    })
}

/// A command's answer: whole, or [`Error::TooLarge`] when output had to be dropped to bound memory.
fn ran(finished: &exec::Finished, limit: u64) -> Result<ExecResponse, Error> {
    if finished.stdout.omitted > 0 || finished.stderr.omitted > 0 {
        let size = finished.end.output[Channel::Stdout].total + finished.end.output[Channel::Stderr].total;
        return Err(Error::TooLarge {
            what: "the output of the command",
            size,
            limit,
        });
    }
    Ok(ExecResponse {
        exit_code: exit_code(&finished.end),
        stdout: finished.stdout.head.clone(),
        stderr: finished.stderr.head.clone(),
        timed_out: finished.end.timed_out,
        duration_ms: finished.end.wall.as_millis() as u64,
    })
}

/// A run of the git program; with its output read where it is a status.
pub fn git(reply: &Reply, is_status: bool, limit: u64) -> Result<Outcome, Error> {
    let Reply::Ran(finished) = reply else {
        return Err(Error::Internal {
            reason: "git was answered as something else".into(),
        });
    };
    let ran = ran(finished, limit)?;
    let status = (is_status && ran.exit_code == 0).then(|| git_status(&ran.stdout));
    Ok(Outcome::Git(GitResponse {
        exit_code: ran.exit_code,
        stdout: ran.stdout,
        stderr: ran.stderr,
        status,
    }))
}

fn git_status(stdout: &[u8]) -> GitStatus {
    let found = git::porcelain(stdout);
    let file = |file: &git::PorcelainFile| GitFileStatus {
        path: String::from_utf8_lossy(&file.path).into_owned(),
        code: file.code.clone(),
        staged: file.staged,
    };
    GitStatus {
        clean: found.files.is_empty(),
        files: found.files.iter().map(file).collect(),
        branch: found.branch,
        upstream: found.upstream,
        ahead: found.ahead,
        behind: found.behind,
    }
}

/// The code of a leader that returned one by itself, else -1.
pub(super) fn exit_code(end: &exec::EndRecord) -> i32 {
    match end.exit {
        exec::Exit::Code(code) if !end.timed_out && !end.cancelled => code,
        exec::Exit::Code(_) | exec::Exit::Signal { .. } => -1,
    }
}

fn listed(listing: &fs::Listing) -> FsListResponse {
    let entries = listing.entries.iter().map(|entry| {
        let relative = entry.path.strip_prefix(&listing.root).unwrap_or(&entry.path);
        entry_at(entry, relative)
    });
    FsListResponse {
        entries: entries.collect(),
    }
}

/// Names that are not UTF-8 carry replacement characters: the field is a string.
fn entry_at(entry: &fs::Entry, path: &Path) -> FsEntry {
    FsEntry {
        name: entry.name().to_string_lossy().into_owned(),
        path: path.to_string_lossy().into_owned(),
        kind: kind(entry.kind).into(),
        size: entry.size,
        modified_ms: unix_ms(entry.modified),
        mode: entry.mode,
    }
}

fn kind(kind: fs::Kind) -> FsEntryKind {
    match kind {
        fs::Kind::File => FsEntryKind::File,
        fs::Kind::Directory => FsEntryKind::Directory,
        fs::Kind::Symlink => FsEntryKind::Symlink,
        fs::Kind::Fifo | fs::Kind::Socket | fs::Kind::BlockDevice | fs::Kind::CharDevice => {
            FsEntryKind::Unspecified
        }
    }
}

/// The cached sample of the machine.
pub fn metrics(sample: &host::Sample) -> MetricsSample {
    let gpus = sample.gpus.iter().map(|gpu| GpuSample {
        name: gpu.name.clone(),
        util_percent: gpu.util_percent,
        mem_used_bytes: gpu.mem_used,
        mem_total_bytes: gpu.mem_total,
    });
    MetricsSample {
        sampled_at_ms: unix_ms(sample.at),
        cpu_percent: sample.cpu_percent,
        load1: sample.load[0],
        load5: sample.load[1],
        load15: sample.load[2],
        mem_used_bytes: sample.mem_used,
        mem_total_bytes: sample.mem_total,
        disk_used_bytes: sample.disk_used,
        disk_total_bytes: sample.disk_total,
        run_queue: sample.run_queue,
        gpus: gpus.collect(),
    }
}

/// What the machine can still take.
pub fn capacity(capacity: &host::Capacity) -> HostCapacitySample {
    HostCapacitySample {
        mem_available_bytes: capacity.mem_available,
        disk_free_bytes: capacity.disk_free,
        fd_headroom: capacity.fd_headroom,
        pid_headroom: capacity.pid_headroom,
        nproc: capacity.nproc,
    }
}

/// Milliseconds since the Unix epoch, negative before it.
fn unix_ms(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_millis() as i64,
        Err(before) => -(before.duration().as_millis() as i64),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::error::Code;
    use crate::ids::ProcessId;
    use crate::stream::Totals;

    fn finished(exit: exec::Exit, timed_out: bool) -> exec::Finished {
        let captured = || exec::Kept {
            head: Bytes::from_static(b"ab"),
            tail: Bytes::new(),
            omitted: 0,
        };
        exec::Finished {
            id: ProcessId(1),
            stdout: captured(),
            stderr: captured(),
            end: Arc::new(exec::EndRecord {
                seq: 3,
                exit,
                timed_out,
                cancelled: false,
                sent_signal: None,
                limit: None,
                mechanism: None,
                tree: exec::Promise::BestEffort,
                oom: exec::Oom::Unknown,
                peak_rss: None,
                user_cpu: Duration::ZERO,
                system_cpu: Duration::ZERO,
                wall: Duration::from_millis(7),
                output: Totals::of(&[(Channel::Stdout, b"ab"), (Channel::Stderr, b"ab")]),
                lingering: Vec::new(),
            }),
        }
    }

    fn exec_response(finished: exec::Finished) -> Result<ExecResponse, Error> {
        match outcome("process.run", Reply::Ran(Arc::new(finished)), 100)? {
            Outcome::Exec(response) => Ok(response),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_a_leader_that_ended_by_itself_has_a_code() {
        let signal = exec::Exit::Signal {
            number: 9,
            core_dumped: false,
        };
        let cases = [
            (finished(exec::Exit::Code(3), false), 3),
            (finished(exec::Exit::Code(0), true), -1),
            (finished(signal, false), -1),
            (finished(signal, true), -1),
        ];
        for (finished, code) in cases {
            let timed_out = finished.end.timed_out;
            let response = exec_response(finished).unwrap();
            assert_eq!((response.exit_code, response.timed_out), (code, timed_out));
            assert_eq!((&response.stdout[..], response.duration_ms), (&b"ab"[..], 7));
        }
    }

    #[test]
    fn output_that_was_dropped_is_never_passed_off_as_whole() {
        let mut finished = finished(exec::Exit::Code(0), false);
        finished.stderr.omitted = 5;
        let mut end = exec::EndRecord::clone(&finished.end);
        end.output = Totals::of(&[(Channel::Stdout, b"ab"), (Channel::Stderr, &[b'x'; 1000])]);
        finished.end = Arc::new(end);
        let error = exec_response(finished).unwrap_err();
        assert_eq!(error.code(), Code::TooLarge);
        assert!(error.to_string().contains("1002"), "{error}");
    }

    #[test]
    fn listed_paths_are_relative_to_the_listed_directory() {
        let entry = fs::Entry {
            path: "/a/b/c".into(),
            kind: fs::Kind::Fifo,
            size: 0,
            modified: UNIX_EPOCH - Duration::from_millis(1500),
            mode: 0o644,
            uid: 0,
            gid: 0,
            target: None,
        };
        let listing = fs::Listing {
            root: "/a".into(),
            entries: vec![entry],
            next: None,
            unreadable: Vec::new(),
        };
        let Outcome::FsList(list) = outcome("fs.list", Reply::Listing(listing), 100).unwrap() else {
            panic!("not a list");
        };
        let entry = &list.entries[0];
        assert_eq!((entry.name.as_str(), entry.path.as_str()), ("c", "b/c"));
        assert_eq!(
            (entry.kind(), entry.modified_ms),
            (FsEntryKind::Unspecified, -1500)
        );
    }

    #[test]
    fn every_figure_of_the_capacity_is_in_its_own_field() {
        let sample = capacity(&host::Capacity {
            mem_available: 1,
            disk_free: 2,
            fd_headroom: 3,
            pid_headroom: 4,
            nproc: 5,
        });
        let expected = HostCapacitySample {
            mem_available_bytes: 1,
            disk_free_bytes: 2,
            fd_headroom: 3,
            pid_headroom: 4,
            nproc: 5,
        };
        assert_eq!(sample, expected);
    }
}
