//! A command run to its end: the request of the compatible contract with our additions, and its answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::end::{End, exit_code, is_zero, milliseconds};
use super::launch::{LimitsRequest, check_key, environment, limits, program, stdin, user, without_nul};
use super::text::{captured_text, is_text, to_base64};
use crate::error::Error;
use crate::exec::{Finished, Keep, Kept, Owner, Retention, Stdin};
use crate::ops::{Create, Launch, ProcessConfig, Run};
use crate::stream::Channel;

/// How standard output and standard error are written into the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As text; bytes that are not UTF-8 become U+FFFD.
    #[default]
    Utf8,
    /// base64 of the exact bytes; with an omission, of the kept head followed by the kept tail.
    Base64,
}

/// Run a command to its end.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = ProcessRunRequest)]
pub struct RunRequest {
    /// The program, looked up in `PATH` unless it contains a slash; with `shell`, a line for the shell.
    #[schema(required = true, nullable = false, min_length = 1)]
    pub command: Option<String>,
    /// Its arguments; with `shell`, appended to the line with single spaces.
    pub args: Option<Vec<String>>,
    /// Working directory; relative to the workspace root, which is also the default.
    pub cwd: Option<String>,
    /// Variables set on top of the daemon's cleaned environment.
    pub env: Option<BTreeMap<String, String>>,
    /// Wall time in milliseconds after which the whole process tree is killed. Absent or 0 is the configured default;
    /// more than the configured maximum is lowered to it, and the answer says what applied.
    pub timeout_ms: Option<u64>,
    /// Bytes answered of each output channel; at most the configured limit. Beyond it head and tail are kept.
    pub max_output_bytes: Option<u64>,
    /// Run `command` with `$SHELL -c` (else `/bin/sh -c`).
    pub shell: Option<bool>,
    /// Text for standard input; end of file follows it.
    pub stdin: Option<String>,
    /// Bytes for standard input, base64, instead of `stdin`.
    pub stdin_b64: Option<String>,
    /// How the output is written into the answer.
    pub encoding: Option<Encoding>,
    /// The same key and the same request get the same outcome for ten minutes; the command is never run twice.
    #[schema(min_length = 1, max_length = 256)]
    pub idempotency_key: Option<String>,
    /// The user to run as, by name or `uid:gid`; needs a daemon that runs as root.
    pub user: Option<String>,
    /// What it and everything that it starts may use.
    pub limits: Option<LimitsRequest>,
}

impl RunRequest {
    /// The operation, under the limits of `config`.
    pub fn into_run(self, config: &ProcessConfig) -> Result<Run, Error> {
        check_key(self.idempotency_key.as_deref())?;
        let timeout_ms = self.effective_timeout_ms(config);
        let keep = Keep::both_ends(self.effective_output_bytes(config));
        let command = self.command.ok_or(Error::Invalid {
            field: "command",
            reason: "is required".into(),
        })?;
        let command = program(
            command,
            self.args.unwrap_or_default(),
            self.shell.unwrap_or(false),
        )?;
        Ok(Run {
            launch: Launch {
                cwd: PathBuf::from(without_nul("cwd", self.cwd.unwrap_or_default())?),
                environment: environment(self.env.unwrap_or_default())?,
                timeout: Some(Duration::from_millis(timeout_ms)),
                limits: limits(self.limits)?,
                user: user(self.user)?,
                ..Launch::new(command)
            },
            stdin: stdin(self.stdin, self.stdin_b64)?,
            keep,
            log_bytes: Some(config.max_log_bytes_per_process),
        })
    }

    /// The same as a process that is asked for by its id, which keeps its log.
    pub fn into_create(self, config: &ProcessConfig) -> Result<Create, Error> {
        let run = self.into_run(config)?;
        Ok(Create {
            launch: run.launch,
            stdin: Stdin::Bytes(run.stdin),
            tty: None,
            scope: None,
            retention: Retention::DropOldest(config.max_log_bytes_per_process),
            record_limit: usize::MAX,
            owner: Owner::User,
            labels: BTreeMap::new(),
        })
    }

    /// The time limit that applies, milliseconds.
    pub fn effective_timeout_ms(&self, config: &ProcessConfig) -> u64 {
        match self.timeout_ms {
            None | Some(0) => config.default_run_timeout_ms,
            Some(asked) => asked.min(config.max_run_timeout_ms),
        }
    }

    /// The bytes of each channel that are answered.
    pub fn effective_output_bytes(&self, config: &ProcessConfig) -> u64 {
        self.max_output_bytes.map_or(config.max_output_bytes, |asked| {
            asked.min(config.max_output_bytes)
        })
    }
}

/// How a command ended and what it wrote.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProcessRunResponse)]
pub struct RunReply {
    /// What it returned; null when a signal or the time limit ended it.
    #[schema(required = true)]
    pub exit_code: Option<i32>,
    /// Whether the time limit ended it.
    pub timed_out: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// base64 of the kept bytes of standard output, when `stdout` is text and they are not UTF-8.
    #[serde(rename = "stdoutB64", skip_serializing_if = "Option::is_none")]
    pub stdout_b64: Option<String>,
    /// base64 of the kept bytes of standard error, when `stderr` is text and they are not UTF-8.
    #[serde(rename = "stderrB64", skip_serializing_if = "Option::is_none")]
    pub stderr_b64: Option<String>,
    /// Whether bytes of standard output are left out.
    pub stdout_truncated: bool,
    /// Whether bytes of standard error are left out.
    pub stderr_truncated: bool,
    /// From spawn to exit, milliseconds.
    pub duration_ms: u64,
    /// Why it ended.
    #[serde(flatten)]
    pub end: End,
    /// The id of the process in this daemon.
    pub process_id: String,
    /// The encoding of `stdout` and `stderr`.
    pub encoding: Encoding,
    /// The time limit that applied, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Bytes that it wrote to standard output.
    pub stdout_bytes: u64,
    /// Bytes that it wrote to standard error.
    pub stderr_bytes: u64,
    /// Bytes of standard output that are left out between the kept head and tail.
    #[serde(skip_serializing_if = "is_zero")]
    pub stdout_omitted_bytes: u64,
    /// Bytes of standard error that are left out between the kept head and tail.
    #[serde(skip_serializing_if = "is_zero")]
    pub stderr_omitted_bytes: u64,
    /// With an omission: bytes of standard output before it.
    #[serde(skip_serializing_if = "is_zero")]
    pub stdout_head_bytes: u64,
    /// With an omission: bytes of standard error before it.
    #[serde(skip_serializing_if = "is_zero")]
    pub stderr_head_bytes: u64,
    /// blake3 of everything written to standard output, lower-case hex.
    pub stdout_blake3: String,
    /// blake3 of everything written to standard error, lower-case hex.
    pub stderr_blake3: String,
}

impl RunReply {
    /// The answer for a finished command. `timeout_ms` is the time limit that applied.
    pub fn new(finished: &Finished, encoding: Encoding, timeout_ms: Option<u64>) -> Self {
        let end = &finished.end;
        Self {
            exit_code: exit_code(end),
            timed_out: end.timed_out,
            stdout: channel(finished, Channel::Stdout, encoding),
            stderr: channel(finished, Channel::Stderr, encoding),
            stdout_b64: exact(&finished.stdout, encoding),
            stderr_b64: exact(&finished.stderr, encoding),
            stdout_truncated: finished.stdout.omitted > 0,
            stderr_truncated: finished.stderr.omitted > 0,
            duration_ms: milliseconds(end.wall),
            end: End::from(&**end),
            process_id: finished.id.to_string(),
            encoding,
            timeout_ms,
            stdout_bytes: end.output[Channel::Stdout].total,
            stderr_bytes: end.output[Channel::Stderr].total,
            stdout_omitted_bytes: finished.stdout.omitted,
            stderr_omitted_bytes: finished.stderr.omitted,
            stdout_head_bytes: head_bytes(&finished.stdout),
            stderr_head_bytes: head_bytes(&finished.stderr),
            stdout_blake3: end.output[Channel::Stdout].digest.to_string(),
            stderr_blake3: end.output[Channel::Stderr].digest.to_string(),
        }
    }
}

fn channel(finished: &Finished, channel: Channel, encoding: Encoding) -> String {
    let captured = match channel {
        Channel::Stderr => &finished.stderr,
        _ => &finished.stdout,
    };
    match encoding {
        Encoding::Utf8 => captured_text(captured, finished.id, channel),
        Encoding::Base64 => bytes_of(captured),
    }
}

/// The bytes, where text does not say them.
fn exact(captured: &Kept, encoding: Encoding) -> Option<String> {
    (encoding == Encoding::Utf8 && !is_text(captured)).then(|| bytes_of(captured))
}

fn bytes_of(captured: &Kept) -> String {
    if captured.tail.is_empty() {
        return to_base64(&captured.head);
    }
    to_base64(&[captured.head.as_ref(), captured.tail.as_ref()].concat())
}

fn head_bytes(captured: &Kept) -> u64 {
    if captured.omitted > 0 {
        captured.head.len() as u64
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use bytes::Bytes;

    use crate::exec::{Command, EndRecord, Exit, Oom};
    use crate::ids::ProcessId;
    use crate::stream::Totals;
    use crate::wire::json::{Unknown, decode};

    fn request(text: &str) -> Result<Run, Error> {
        decode::<RunRequest>(text.as_bytes(), Unknown::Ignored)?.into_run(&ProcessConfig::default())
    }

    fn refused(text: &str) -> &'static str {
        match request(text) {
            Err(Error::Invalid { field, .. }) => field,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        assert_eq!(refused("{}"), "command");
        assert_eq!(refused(r#"{"command":""}"#), "command");
        assert_eq!(refused(r#"{"command":"a\u0000b"}"#), "command");
        assert_eq!(refused(r#"{"command":"a","env":{"A=B":"c"}}"#), "env");
        assert_eq!(refused(r#"{"command":"a","args":["\u0000"]}"#), "args");
        assert_eq!(refused(r#"{"command":"a","stdinB64":"*"}"#), "stdinB64");
        assert_eq!(
            refused(r#"{"command":"a","stdin":"x","stdinB64":"eA=="}"#),
            "stdinB64"
        );
        assert_eq!(refused(r#"{"command":"a","encoding":"latin1"}"#), "encoding");
        assert_eq!(
            refused(r#"{"command":"a","idempotencyKey":""}"#),
            "idempotencyKey"
        );
    }

    #[test]
    fn user_and_limits_are_taken_and_nonsense_is_refused_by_name() {
        let run =
            request(r#"{"command":"a","user":"nobody","limits":{"pidsMax":5,"memoryMax":1048576}}"#).unwrap();
        assert_eq!(run.launch.user.as_deref(), Some("nobody"));
        let limits = run.launch.limits;
        assert_eq!((limits.pids_max, limits.memory_max), (Some(5), Some(1 << 20)));
        assert_eq!(refused(r#"{"command":"a","user":""}"#), "user");
        assert_eq!(
            refused(r#"{"command":"a","limits":{"pidsMax":0}}"#),
            "limits.pidsMax"
        );
        assert!(request(r#"{"command":"a","limits":{"someday":1}}"#).is_err());
        assert!(request(r#"{"command":"a","user":null,"args":null,"env":null}"#).is_ok());
    }

    #[test]
    fn limits_are_those_of_the_configuration() {
        let timeout = |text: &str| request(text).unwrap().launch.timeout.unwrap().as_millis();
        assert_eq!(timeout(r#"{"command":"a"}"#), 30_000);
        assert_eq!(timeout(r#"{"command":"a","timeoutMs":0}"#), 30_000);
        assert_eq!(timeout(r#"{"command":"a","timeoutMs":999999999}"#), 300_000);
        let keep = request(r#"{"command":"a","maxOutputBytes":9999999999}"#)
            .unwrap()
            .keep;
        assert_eq!(keep, Keep::both_ends(1_048_576));
        let keep = request(r#"{"command":"a","maxOutputBytes":1}"#).unwrap().keep;
        assert_eq!(keep, Keep::both_ends(1));
    }

    #[test]
    fn a_shell_line_takes_its_arguments() {
        let run = request(r#"{"command":"echo a","args":["b c"],"shell":true}"#).unwrap();
        assert_eq!(run.launch.command, Command::Shell("echo a b c".into()));
    }

    fn finished(exit: Exit, stdout: Kept) -> Finished {
        Finished {
            id: ProcessId(7),
            stdout,
            stderr: Kept::default(),
            end: Arc::new(EndRecord {
                seq: 1,
                exit,
                timed_out: false,
                cancelled: false,
                sent_signal: None,
                limit: None,
                mechanism: None,
                tree: crate::exec::Promise::BestEffort,
                oom: Oom::Unknown,
                peak_rss: Some(4096),
                user_cpu: Duration::from_millis(2),
                system_cpu: Duration::from_millis(3),
                wall: Duration::from_millis(9),
                output: Totals::of(&[(Channel::Stdout, b"abc"), (Channel::Stderr, b"abc")]),
                lingering: vec![12],
            }),
        }
    }

    #[test]
    fn an_answer_has_the_fields_of_the_contract() {
        let stdout = Kept {
            head: "hi\n".into(),
            tail: Bytes::new(),
            omitted: 0,
        };
        let reply = RunReply::new(&finished(Exit::Code(3), stdout), Encoding::Utf8, Some(30_000));
        let value = serde_json::to_value(&reply).unwrap();
        assert_eq!(value["exitCode"], 3);
        assert_eq!(value["stdout"], "hi\n");
        assert_eq!(value["stdoutTruncated"], false);
        assert_eq!(value["durationMs"], 9);
        assert_eq!(value["cpuMs"], 5);
        assert_eq!(value["oom"], "unknown");
        assert_eq!(value["processId"], "proc_7");
        assert!(value.get("signal").is_none());
    }

    #[test]
    fn a_signal_has_no_exit_code() {
        let exit = Exit::Signal {
            number: 9,
            core_dumped: false,
        };
        let reply = RunReply::new(&finished(exit, Kept::default()), Encoding::Utf8, None);
        let value = serde_json::to_value(&reply).unwrap();
        assert!(value["exitCode"].is_null());
        assert_eq!(
            (&value["signal"], &value["signalNumber"]),
            (&serde_json::Value::from("SIGKILL"), &serde_json::Value::from(9))
        );
    }

    #[test]
    fn a_truncated_answer_says_where_the_hole_is() {
        let stdout = Kept {
            head: "ab".into(),
            tail: "yz".into(),
            omitted: 22,
        };
        let reply = RunReply::new(&finished(Exit::Code(0), stdout), Encoding::Base64, None);
        assert_eq!(reply.stdout, to_base64(b"abyz"));
        assert_eq!((reply.stdout_omitted_bytes, reply.stdout_head_bytes), (22, 2));
        assert!(reply.stdout_truncated);
    }
}
