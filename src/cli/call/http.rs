//! A daemon over HTTP: one plain connection per request, TCP or a Unix socket.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::TryStreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, RANGE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::tungstenite::{self, handshake::client::generate_key};
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::io::ReaderStream;

use super::address::{Address, encoded};
use super::output;
use super::remote::{ExecAnswer, ExecRequest, WriteRequest, refused, unexpected};
use crate::config::{Config, Token};
use crate::error::Error;
use crate::lifecycle::Tasks;
use crate::state::Ready;
use crate::telemetry::Secret;

/// How long a connection may take to be made; answers may take as long as the command does.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of standard input read at once.
const CHUNK: usize = 256 * 1024;

pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Any stream that a connection is made of.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A `WebSocket` to a daemon.
pub(super) type Socket = WebSocketStream<Box<dyn Stream>>;

/// A daemon at an address.
#[derive(Debug)]
pub(super) struct Http {
    address: Address,
    token: Option<Secret<String>>,
    tasks: Tasks,
}

impl Http {
    /// The daemon that the configuration names, else the one whose ready file lies in the state directory.
    pub(super) fn find(config: &Config) -> Result<Self, Error> {
        let ready = match &config.url {
            Some(_) => None,
            None => Some(running(&config.state_dir)?),
        };
        let url = match (&config.url, &ready) {
            (Some(url), _) => url.clone(),
            (None, Some(ready)) => ready.http.first().cloned().ok_or_else(|| Error::Unavailable {
                what: "the daemon".into(),
                reason: "it runs without HTTP (--http off); use --nats-url".into(),
            })?,
            (None, None) => {
                return Err(Error::Internal {
                    reason: "neither a URL nor a ready file".into(),
                });
            }
        };
        let token = match &config.http.token {
            Token::Given(token) | Token::File { token, .. } => Some(token.clone()),
            Token::Off | Token::Generated => ready
                .and_then(|ready| ready.token_file)
                .map(|path| read_token(&path))
                .transpose()?,
        };
        Ok(Self {
            address: Address::parse(&url)?,
            token,
            tasks: Tasks::new(),
        })
    }

    /// Performs the operation `name` with a JSON payload.
    pub(super) async fn operation(&self, name: &str, payload: &Value) -> Result<Value, Error> {
        let path = format!("/v1/ops/{}", encoded(name.as_bytes()));
        let body = Full::from(payload.to_string())
            .map_err(|never| match never {})
            .boxed_unsync();
        let response = self
            .send(Method::POST, &path, &[(CONTENT_TYPE, "application/json")], body)
            .await?;
        parse(&collect(response).await?)
    }

    /// Runs a command to its end.
    pub(super) async fn exec(&self, request: ExecRequest) -> Result<ExecAnswer, Error> {
        let mut words = request.command.into_iter();
        let mut payload = Map::new();
        payload.insert("command".into(), words.next().into());
        payload.insert("args".into(), words.collect());
        payload.insert("shell".into(), request.shell.into());
        payload.insert(
            "env".into(),
            Value::Object(request.env.into_iter().map(|(k, v)| (k, v.into())).collect()),
        );
        payload.insert("encoding".into(), "base64".into());
        // The daemon lowers both to what it allows.
        let timeout = request
            .timeout
            .map_or(u64::MAX, |timeout| timeout.as_millis().max(1) as u64);
        payload.insert("timeoutMs".into(), timeout.into());
        payload.insert("maxOutputBytes".into(), u64::MAX.into());
        if !request.cwd.is_empty() {
            payload.insert("cwd".into(), request.cwd.into());
        }
        if !request.stdin.is_empty() {
            payload.insert("stdinB64".into(), STANDARD.encode(&request.stdin).into());
        }
        if let Some(id) = request.request_id {
            payload.insert("idempotencyKey".into(), id.into());
        }
        let json = self.operation("process.run", &payload.into()).await?;
        let channel = |name: &str| {
            let text = json[name]
                .as_str()
                .ok_or_else(|| unexpected("a run without output"))?;
            STANDARD
                .decode(text)
                .map_err(|_| unexpected("output that is not base64"))
        };
        Ok(ExecAnswer {
            stdout: channel("stdout")?,
            stderr: channel("stderr")?,
            exit_code: json["exitCode"].as_i64().map(|code| code as i32),
            signal: json["signalNumber"].as_i64().map(|number| number as i32),
            timed_out: json["timedOut"].as_bool().unwrap_or(false),
            omitted: (
                json["stdoutOmittedBytes"].as_u64().unwrap_or(0),
                json["stderrOmittedBytes"].as_u64().unwrap_or(0),
            ),
            json,
        })
    }

    /// Copies a file or a range of it to standard output as it arrives.
    pub(super) async fn read(&self, path: &Path, offset: u64, length: Option<u64>) -> Result<(), Error> {
        let uri = format!("/v1/fs/file?path={}", encoded(path.as_os_str().as_bytes()));
        let last = length
            .map(|length| offset.saturating_add(length - 1).to_string())
            .unwrap_or_default();
        let range = format!("bytes={offset}-{last}");
        let ranged = [(RANGE, range.as_str())];
        let headers: &[_] = if offset == 0 && length.is_none() {
            &[]
        } else {
            &ranged
        };
        let response = match self.send(Method::GET, &uri, headers, Body::default()).await {
            // A range past the end reads nothing, as it does over NATS.
            Err(Error::Range { .. }) => return Ok(()),
            other => other?,
        };
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            if let Some(bytes) = frame.map_err(|error| lost(&error))?.data_ref() {
                output::answer(bytes)?;
            }
        }
        Ok(())
    }

    /// Writes a file from a stream of bytes.
    pub(super) async fn write(
        &self,
        request: WriteRequest,
        source: Box<dyn AsyncRead + Send + Unpin>,
    ) -> Result<Value, Error> {
        let mut uri = format!(
            "/v1/fs/file?path={}",
            encoded(request.path.as_os_str().as_bytes())
        );
        if request.append {
            uri += "&append=true";
        }
        if let Some(mode) = request.mode {
            uri += "&mode=";
            uri += &encoded(mode.as_bytes());
        }
        let chunks = ReaderStream::with_capacity(source, CHUNK).map_ok(Frame::data);
        let body = StreamBody::new(chunks).boxed_unsync();
        let headers = [(CONTENT_TYPE, "application/octet-stream")];
        parse(&collect(self.send(Method::PUT, &uri, &headers, body).await?).await?)
    }

    /// Sends one request and answers what succeeded; a problem becomes an error in the daemon's words.
    pub(super) async fn send(
        &self,
        method: Method,
        uri: &str,
        headers: &[(hyper::header::HeaderName, &str)],
        body: Body,
    ) -> Result<Response<Incoming>, Error> {
        let host = match &self.address {
            Address::Tcp(authority) => authority.as_str(),
            Address::Unix(_) => "localhost",
        };
        let mut request = Request::builder().method(method).uri(uri).header(HOST, host);
        if !headers.iter().any(|(name, _)| *name == ACCEPT) {
            request = request.header(ACCEPT, "*/*");
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(body).map_err(|error| Error::Invalid {
            field: "request",
            reason: error.to_string(),
        })?;
        let response = match tokio::time::timeout(CONNECT_TIMEOUT, self.dial()).await {
            Ok(connection) => connection?
                .send_request(request)
                .await
                .map_err(|error| lost(&error))?,
            Err(_) => {
                return Err(Error::Timeout {
                    what: "connecting to the daemon",
                    after: CONNECT_TIMEOUT,
                });
            }
        };
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(problem(response).await)
        }
    }

    /// A `WebSocket`.
    pub(super) async fn socket(&self, path: &str) -> Result<Socket, Error> {
        let unavailable = |error: std::io::Error| Error::Unavailable {
            what: "the daemon".into(),
            reason: error.to_string(),
        };
        let connecting = async {
            Ok::<(&str, Box<dyn Stream>), std::io::Error>(match &self.address {
                Address::Tcp(authority) => {
                    let stream = TcpStream::connect(authority).await?;
                    stream.set_nodelay(true)?;
                    (authority.as_str(), Box::new(stream))
                }
                Address::Unix(path) => ("localhost", Box::new(UnixStream::connect(path).await?)),
            })
        };
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        let (host, stream) = connected
            .map_err(|_| Error::Timeout {
                what: "connecting to the daemon",
                after: CONNECT_TIMEOUT,
            })?
            .map_err(unavailable)?;
        let mut request = Request::get(format!("ws://{host}{path}"))
            .header(HOST, host)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", generate_key());
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        let request = request.body(()).map_err(|error| Error::Invalid {
            field: "request",
            reason: error.to_string(),
        })?;
        let shaking = tokio::time::timeout(CONNECT_TIMEOUT, client_async(request, stream)).await;
        let shaken = shaking.map_err(|_| Error::Timeout {
            what: "the handshake with the daemon",
            after: CONNECT_TIMEOUT,
        })?;
        match shaken {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(response)) => Err(problem_in(
                response.status(),
                response.body().as_deref().unwrap_or_default(),
            )),
            Err(error) => Err(Error::Unavailable {
                what: "the daemon".into(),
                reason: error.to_string(),
            }),
        }
    }

    async fn dial(&self) -> Result<http1::SendRequest<Body>, Error> {
        let (name, stream) = match &self.address {
            Address::Tcp(authority) => (
                authority.clone(),
                TcpStream::connect(authority)
                    .await
                    .map(|stream| self.speak(stream)),
            ),
            Address::Unix(path) => (
                path.display().to_string(),
                UnixStream::connect(path).await.map(|stream| self.speak(stream)),
            ),
        };
        let handshake = stream.map_err(|error| Error::Unavailable {
            what: format!("the daemon at {name}"),
            reason: error.to_string(),
        })?;
        handshake.await.map_err(|error| lost(&error))
    }

    /// The HTTP handshake; the connection's own task ends with it.
    fn speak<S>(
        &self,
        stream: S,
    ) -> std::pin::Pin<Box<dyn Future<Output = hyper::Result<http1::SendRequest<Body>>> + Send>>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let tasks = self.tasks.clone();
        Box::pin(async move {
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tasks.detach("connection", connection);
            Ok(sender)
        })
    }
}

/// The ready file of the daemon that uses the state directory.
fn running(state_dir: &Path) -> Result<Ready, Error> {
    Ready::read(state_dir).map_err(|error| match error {
        Error::NotFound { .. } => Error::Unavailable {
            what: "the daemon".into(),
            reason: format!(
                "none runs with the state directory {state_dir:?}; start `boxd run` or give --url"
            ),
        },
        other => other,
    })
}

fn read_token(path: &Path) -> Result<Secret<String>, Error> {
    std::fs::read_to_string(path)
        .map(|text| Secret::new(text.trim().to_owned()))
        .map_err(|source| Error::from_path_io("token file", "read", path, source))
}

async fn collect(response: Response<Incoming>) -> Result<Bytes, Error> {
    Ok(response
        .into_body()
        .collect()
        .await
        .map_err(|error| lost(&error))?
        .to_bytes())
}

/// The error that a response of `application/problem+json` stands for.
async fn problem(response: Response<Incoming>) -> Error {
    let status = response.status();
    match collect(response).await {
        Ok(body) => problem_in(status, &body),
        Err(error) => error,
    }
}

fn problem_in(status: StatusCode, body: &[u8]) -> Error {
    let problem: Value = serde_json::from_slice(body).unwrap_or_else(|_| json!({}));
    if status == StatusCode::RANGE_NOT_SATISFIABLE {
        return Error::Range { offset: 0, total: 0 };
    }
    let message = problem["detail"]
        .as_str()
        .or(problem["title"].as_str())
        .map_or_else(|| format!("the daemon answered HTTP {status}"), str::to_owned);
    if status == StatusCode::UNAUTHORIZED {
        let hint = "give the daemon's token by --token-file or BOXD_TOKEN";
        return refused("token_invalid", &message, problem["hint"].as_str().or(Some(hint)));
    }
    refused(
        problem["code"].as_str().unwrap_or_default(),
        &message,
        problem["hint"].as_str(),
    )
}

fn parse(body: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(body).map_err(|_| unexpected("something that is not JSON"))
}

pub(super) fn lost(error: &hyper::Error) -> Error {
    Error::Unavailable {
        what: "the daemon".into(),
        reason: format!("the connection was lost: {error}"),
    }
}
