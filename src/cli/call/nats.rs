//! A daemon over NATS: one request on its plain RPC subject for each call, as a control plane sends it.
//!
//! The client library is used here as well as in the NATS door: this is the other end of the wire.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{ConnectOptions, Event, Request, Subscriber};
use bytes::Bytes;
use prost::Message;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::Notify;

use super::output;
use super::remote::{ExecAnswer, ExecRequest, WriteRequest, refused, unexpected};
use crate::config::Config;
use crate::error::Error;
use crate::wire::proto;
use proto::control_request::Op;
use proto::control_response::Result as Answer;

/// How long an operation that does not run a command may take.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How much longer than its own time limit a command's answer may take.
const EXEC_MARGIN: Duration = Duration::from_secs(15);

/// Bytes of a file asked for at once, where the broker allows it.
const CHUNK: u64 = 512 * 1024;

/// What the rest of a message may need beside a file's bytes.
const ENVELOPE: usize = 4096;

/// A daemon behind a broker.
#[derive(Debug)]
pub(super) struct Nats {
    client: async_nats::Client,
    /// What the subjects of the daemon begin with.
    base: String,
    subject: String,
    disconnected: Arc<Notify>,
}

impl Nats {
    /// Connects to the broker that the flags name.
    pub(super) async fn connect(config: &Config) -> Result<Self, Error> {
        let link = &config.link;
        for (flag, value) in [
            ("--workspace-id", &link.workspace_id),
            ("--agent-id", &link.agent_id),
        ] {
            if value.is_empty() {
                return Err(Error::Invalid {
                    field: flag,
                    reason: "is needed with --nats-url".into(),
                });
            }
        }
        let disconnected = Arc::new(Notify::new());
        let notify = disconnected.clone();
        let mut options = ConnectOptions::new()
            .name("boxd call")
            .event_callback(move |event| {
                let notify = notify.clone();
                async move {
                    if matches!(event, Event::Disconnected | Event::Closed) {
                        notify.notify_waiters();
                    }
                }
            });
        if let Some(token) = &link.nats_token {
            options = options.token(token.expose().clone());
        }
        if let Some(path) = &link.nats_creds {
            options = options
                .credentials_file(path)
                .await
                .map_err(|source| Error::from_path_io("credentials file", "read", path, source))?;
        }
        let client = options
            .connect(&link.nats_urls)
            .await
            .map_err(|error| Error::Unavailable {
                what: "the broker".into(),
                reason: error.to_string(),
            })?;
        let base = format!("{}.{}.{}", config.nats.root, link.workspace_id, link.agent_id);
        let subject = format!("{base}.rpc");
        Ok(Self {
            client,
            base,
            subject,
            disconnected,
        })
    }

    /// Performs the operation `name` with a JSON payload, as an extension of the wire.
    pub(super) async fn operation(&self, name: &str, payload: &Value) -> Result<Value, Error> {
        let extension = proto::Extension {
            op: name.to_owned(),
            payload: payload.to_string().into(),
        };
        match self
            .ask(fresh_id(), Op::Ext(extension), Some(ANSWER_TIMEOUT))
            .await?
        {
            Answer::Ext(extension) => serde_json::from_slice(&extension.payload)
                .map_err(|_| unexpected("something that is not JSON")),
            _ => Err(unexpected("another operation")),
        }
    }

    /// Runs a command to its end.
    pub(super) async fn exec(&self, request: ExecRequest) -> Result<ExecAnswer, Error> {
        let request_id = request.request_id.unwrap_or_else(fresh_id);
        let timeout_ms = request
            .timeout
            .map_or(Ok(0), |timeout| u32::try_from(timeout.as_millis().max(1)));
        let exec = proto::ExecRequest {
            command: request.command,
            shell: request.shell,
            cwd: request.cwd,
            env: request.env.into_iter().collect(),
            stdin: request.stdin,
            timeout_ms: timeout_ms.map_err(|_| Error::Invalid {
                field: "--timeout",
                reason: "is more than 49 days".into(),
            })?,
        };
        let patience = request.timeout.map(|timeout| timeout.saturating_add(EXEC_MARGIN));
        let Answer::Exec(answer) = self.ask(request_id.clone(), Op::Exec(exec), patience).await? else {
            return Err(unexpected("another operation"));
        };
        let ended_by_itself = answer.exit_code >= 0;
        let signal = if ended_by_itself || answer.timed_out {
            None
        } else {
            self.signal_of(&request_id).await
        };
        Ok(ExecAnswer {
            json: json!({
                "exitCode": ended_by_itself.then_some(answer.exit_code),
                "signalNumber": signal,
                "timedOut": answer.timed_out,
                "durationMs": answer.duration_ms,
                "stdout": String::from_utf8_lossy(&answer.stdout),
                "stderr": String::from_utf8_lossy(&answer.stderr),
            }),
            stdout: answer.stdout.into(),
            stderr: answer.stderr.into(),
            exit_code: ended_by_itself.then_some(answer.exit_code),
            signal,
            timed_out: answer.timed_out,
            omitted: (0, 0),
        })
    }

    /// The signal that ended a command: the unary answer has no field for it, the end record does. `None` when the
    /// daemon does not keep end records.
    async fn signal_of(&self, request_id: &str) -> Option<i32> {
        let query = Op::OpQuery(proto::OpQuery {
            op_id: request_id.to_owned(),
        });
        match self.ask(fresh_id(), query, Some(ANSWER_TIMEOUT)).await {
            Ok(Answer::OpStatus(status)) => status.exit?.failure_detail.get("signal")?.parse().ok(),
            _ => None,
        }
    }

    /// Copies a file or a range of it to standard output, piece by piece.
    pub(super) async fn read(&self, path: &Path, offset: u64, length: Option<u64>) -> Result<(), Error> {
        let path = utf8(path)?;
        let largest = (self.max_payload() - ENVELOPE) as u64;
        let mut position = offset;
        let mut left = length.unwrap_or(u64::MAX);
        loop {
            let piece = left.min(CHUNK).min(largest);
            let request = proto::FsReadRequest {
                path: path.clone(),
                offset: position,
                length: piece,
            };
            let Answer::FsRead(answer) = self
                .ask(fresh_id(), Op::FsRead(request), Some(ANSWER_TIMEOUT))
                .await?
            else {
                return Err(unexpected("another operation"));
            };
            output::answer(&answer.content)?;
            let got = answer.content.len() as u64;
            position += got;
            left -= got.min(left);
            if got == 0 || left == 0 || position >= answer.total_size {
                return Ok(());
            }
        }
    }

    /// Writes a file that fits in one message: several messages could leave half of it behind.
    pub(super) async fn write(
        &self,
        request: WriteRequest,
        source: Box<dyn AsyncRead + Send + Unpin>,
    ) -> Result<Value, Error> {
        let limit = (self.max_payload() - ENVELOPE) as u64;
        let mut content = Vec::new();
        source
            .take(limit + 1)
            .read_to_end(&mut content)
            .await
            .map_err(|source| Error::Io {
                doing: "read standard input".into(),
                source,
            })?;
        if content.len() as u64 > limit {
            return Err(Error::TooLarge {
                what: "standard input (over NATS a file must fit in one message; HTTP has no limit)",
                size: content.len() as u64,
                limit,
            });
        }
        let mode = request
            .mode
            .as_deref()
            .map_or(Ok(0), |mode| u32::from_str_radix(mode, 8));
        let write = proto::FsWriteRequest {
            path: utf8(&request.path)?,
            content: content.into(),
            create_parents: true,
            append: request.append,
            mode: mode.map_err(|_| Error::Invalid {
                field: "--mode",
                reason: "is not octal".into(),
            })?,
        };
        match self
            .ask(fresh_id(), Op::FsWrite(write), Some(ANSWER_TIMEOUT))
            .await?
        {
            Answer::FsWrite(answer) => Ok(json!({ "bytesWritten": answer.bytes_written })),
            _ => Err(unexpected("another operation")),
        }
    }

    /// Listens on a subject of the daemon; the broker knows of it when this returns.
    pub(super) async fn subscribe(&self, leaf: &str) -> Result<Subscriber, Error> {
        let unavailable = |reason: String| Error::Unavailable {
            what: "the broker".into(),
            reason,
        };
        let subscriber = self.client.subscribe(format!("{}.{leaf}", self.base)).await;
        let subscriber = subscriber.map_err(|error| unavailable(error.to_string()))?;
        let flushed = self.client.flush().await;
        flushed.map_err(|error| unavailable(error.to_string()))?;
        Ok(subscriber)
    }

    /// Publishes on a subject of the daemon; with `flush` it is on its way when this returns.
    pub(super) async fn publish(&self, leaf: &str, payload: Bytes, flush: bool) -> Result<(), Error> {
        let unavailable = |reason: String| Error::Unavailable {
            what: "the broker".into(),
            reason,
        };
        let sent = self
            .client
            .publish(format!("{}.{leaf}", self.base), payload)
            .await;
        sent.map_err(|error| unavailable(error.to_string()))?;
        if flush {
            let flushed = self.client.flush().await;
            flushed.map_err(|error| unavailable(error.to_string()))?;
        }
        Ok(())
    }

    fn max_payload(&self) -> usize {
        self.client.server_info().max_payload.max(2 * ENVELOPE)
    }

    /// One request and its answer.
    pub(super) async fn ask(
        &self,
        request_id: String,
        op: Op,
        patience: Option<Duration>,
    ) -> Result<Answer, Error> {
        let message = proto::ControlRequest {
            request_id: request_id.clone(),
            op: Some(op),
            ..proto::ControlRequest::default()
        };
        let payload = message.encode_to_vec();
        let limit = self.client.server_info().max_payload;
        if payload.len() > limit {
            return Err(Error::TooLarge {
                what: "the request",
                size: payload.len() as u64,
                limit: limit as u64,
            });
        }
        let request = Request::new().payload(Bytes::from(payload)).timeout(patience);
        let lost = self.disconnected.notified();
        let answer = tokio::select! {
            answer = self.client.send_request(self.subject.clone(), request) => answer.map_err(|error| {
                Error::Unavailable {
                    what: format!("the daemon at {}", self.subject),
                    reason: format!("{error}; the request id was {request_id}"),
                }
            })?,
            () = lost => return Err(Error::Unavailable {
                what: "the broker".into(),
                reason: format!("the connection was lost; repeat with --request-id {request_id} to run nothing twice"),
            }),
        };
        let response = proto::ControlResponse::decode(answer.payload).map_err(|error| Error::Protocol {
            reason: format!("the answer cannot be decoded: {error}"),
        })?;
        if let Some(error) = response.error {
            return Err(of_wire(&error));
        }
        response.result.ok_or_else(|| unexpected("nothing"))
    }
}

/// The daemon's error in its own words, with its stable code where it gives one.
fn of_wire(error: &proto::AgentError) -> Error {
    let code = error.detail.get("code").map_or_else(
        || {
            error
                .code()
                .as_str_name()
                .trim_start_matches("ERROR_CODE_")
                .to_lowercase()
        },
        String::clone,
    );
    refused(
        &code,
        &error.message,
        error.detail.get("hint").map(String::as_str),
    )
}

pub(super) fn fresh_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn utf8(path: &Path) -> Result<String, Error> {
    std::str::from_utf8(path.as_os_str().as_bytes())
        .map(str::to_owned)
        .map_err(|_| Error::Invalid {
            field: "path",
            reason: "is not UTF-8, which the control wire cannot carry; use HTTP".into(),
        })
}
