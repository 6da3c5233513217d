//! The same command through every door: one daemon with a broker beside it, and a request that either door takes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response::Result as Outcome;
use boxd::wire::proto::{AgentError, ExecRequest, Extension, OpStart};
use serde_json::{Value, json};

use super::op::OpClient;
use super::{Answer, Connection, ControlPlane, Daemon, Http, NatsServer, daemon};

/// A way to the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Nats,
    Http,
}

/// All of them.
pub(crate) const WAYS: [Way; 2] = [Way::Nats, Way::Http];

/// A daemon that can be reached either way.
pub(crate) struct Ways {
    pub(crate) control: ControlPlane,
    pub(crate) http: Http,
    pub(crate) link: Connection,
    pub(crate) daemon: Daemon,
    pub(crate) broker: NatsServer,
}

/// A command to run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) command: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) stdin: Vec<u8>,
    pub(crate) timeout: Option<Duration>,
    /// Request id on one door, idempotency key on the other.
    pub(crate) id: Option<String>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    /// -1 when it did not return one.
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) timed_out: bool,
}

/// Why it was not run, or its outcome not told.
#[derive(Debug, Clone)]
pub(crate) enum Refusal {
    Nats(AgentError),
    Http(Answer),
}

impl Request {
    /// A line for `sh -c`.
    pub(crate) fn shell(line: &str) -> Self {
        Self::argv(&["sh", "-c", line])
    }

    /// A program with its arguments.
    pub(crate) fn argv(words: &[&str]) -> Self {
        Self {
            command: words.iter().map(|word| (*word).to_owned()).collect(),
            ..Self::default()
        }
    }

    /// With bytes for standard input.
    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// With a time limit.
    pub(crate) fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// In this directory.
    pub(crate) fn cwd(mut self, directory: &str) -> Self {
        directory.clone_into(&mut self.cwd);
        self
    }

    /// With a variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Under this id.
    pub(crate) fn id(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }

    /// As the control wire has it.
    pub(crate) fn op(&self) -> Op {
        Op::Exec(ExecRequest {
            command: self.command.clone(),
            cwd: self.cwd.clone(),
            env: self.env.clone(),
            stdin: self.stdin.clone().into(),
            timeout_ms: self.timeout.map_or(0, |limit| limit.as_millis() as u32),
            ..ExecRequest::default()
        })
    }

    /// As the HTTP door has it.
    pub(crate) fn json(&self) -> Value {
        let (command, args) = self
            .command
            .split_first()
            .map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
        let mut body = json!({
            "command": command, "args": args, "env": self.env, "encoding": "base64",
            "stdinB64": BASE64.encode(&self.stdin),
        });
        if !self.cwd.is_empty() {
            body["cwd"] = json!(self.cwd);
        }
        if let Some(limit) = self.timeout {
            body["timeoutMs"] = json!(limit.as_millis() as u64);
        }
        if let Some(id) = &self.id {
            body["idempotencyKey"] = json!(id);
        }
        body
    }
}

impl Ran {
    /// Standard output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    fn from_json(body: &Value) -> Self {
        let bytes = |name: &str| BASE64.decode(body[name].as_str().unwrap_or_default()).unwrap();
        Self {
            code: body["exitCode"].as_i64().unwrap_or(-1) as i32,
            stdout: bytes("stdout"),
            stderr: bytes("stderr"),
            timed_out: body["timedOut"].as_bool().unwrap(),
        }
    }
}

impl Refusal {
    /// The wire's error code or the problem's code, and the words for people.
    pub(crate) fn told(&self) -> (String, String) {
        match self {
            Self::Nats(error) => (error.code().as_str_name().to_owned(), error.message.clone()),
            Self::Http(answer) => {
                let problem = answer.json();
                let word = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
                (word("code"), word("detail"))
            }
        }
    }
}

impl Ways {
    /// The lines that the streaming operation `name` says over NATS, to its end.
    pub(crate) async fn stream(&self, name: &str, payload: &Value) -> Vec<Value> {
        let start = OpStart {
            ext: Some(Extension {
                op: name.into(),
                payload: payload.to_string().into(),
            }),
            ..OpStart::default()
        };
        let (started, mut client) = OpClient::start(&self.control, "streamed", start).await;
        assert!(started.accepted, "{started:?}");
        let said = client.finish().await;
        let lines = said
            .content
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    /// An ordinary daemon and broker.
    pub(crate) async fn start() -> Self {
        Self::with(Daemon::builder(), NatsServer::start()).await
    }

    /// A daemon that is to be linked to this broker.
    pub(crate) async fn with(builder: daemon::Builder, broker: NatsServer) -> Self {
        let link = Connection::to(&broker.url());
        let daemon = builder.connection(&link).start();
        let control = ControlPlane::connect(&link).await;
        let http = daemon.http();
        Self {
            control,
            http,
            link,
            daemon,
            broker,
        }
    }

    /// Follows the daemon after it was started again.
    pub(crate) fn follow(&mut self) {
        self.http = self.daemon.http();
    }

    /// Runs a command.
    pub(crate) async fn try_run(&self, way: Way, request: &Request) -> Result<Ran, Refusal> {
        match way {
            Way::Nats => {
                let id = request
                    .id
                    .clone()
                    .unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
                let response = self.control.ask_as(&id, 0, request.op()).await;
                match (response.error, response.result) {
                    (Some(error), None) => Err(Refusal::Nats(error)),
                    (None, Some(Outcome::Exec(exec))) => Ok(Ran {
                        code: exec.exit_code,
                        stdout: exec.stdout.to_vec(),
                        stderr: exec.stderr.to_vec(),
                        timed_out: exec.timed_out,
                    }),
                    other => panic!("neither an answer nor an error: {other:?}"),
                }
            }
            Way::Http => {
                let answer = self.http.run(&request.json()).await;
                if answer.status.is_success() {
                    Ok(Ran::from_json(&answer.json()))
                } else {
                    Err(Refusal::Http(answer))
                }
            }
        }
    }

    /// Runs a command that must be run.
    pub(crate) async fn run(&self, way: Way, request: &Request) -> Ran {
        self.try_run(way, request)
            .await
            .unwrap_or_else(|refusal| panic!("{way:?} {request:?}: {refusal:?}"))
    }

    /// Runs a command that must be refused; the code and the words.
    pub(crate) async fn refused(&self, way: Way, request: &Request) -> (String, String) {
        match self.try_run(way, request).await {
            Ok(ran) => panic!("{way:?} {request:?} was run: {ran:?}"),
            Err(refusal) => refusal.told(),
        }
    }

    /// Runs a command and says how long the answer took.
    pub(crate) async fn timed(&self, way: Way, request: &Request) -> (Ran, Duration) {
        let begin = Instant::now();
        let ran = self.run(way, request).await;
        (ran, begin.elapsed())
    }
}

/// A number of seconds that no other test sleeps: processes are found by it.
pub(crate) fn unique_seconds() -> String {
    format!("300.{:09}", fastrand::u32(..1_000_000_000))
}
