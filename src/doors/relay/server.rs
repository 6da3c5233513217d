//! The relay as a server: `/stream` for both ends, `/healthz` and `/metrics` for its operator.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::admit::Query;
use super::connection;
use super::gate::Gate;
use super::hub::Hub;
use super::tls;
use crate::error::Error;
use crate::lifecycle::Tasks;
use crate::telemetry::Secret;

/// Bytes of one message.
const MESSAGE: usize = 16 << 20;
/// How long the head of a request, or a TLS handshake, may take.
const HEAD: Duration = Duration::from_secs(10);
/// How often channels that nobody uses are looked for.
const LOOK: Duration = Duration::from_secs(5);

type Body = BoxBody<Bytes, Infallible>;

/// Settings of a relay.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens.
    pub bind: SocketAddr,
    /// What tokens are signed with.
    pub secret: Secret<Vec<u8>>,
    /// Certificate chain and key, PEM; plaintext without.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Bytes that each direction of a channel keeps for who comes back.
    pub ring: usize,
    /// Bytes a second that one end may send, and how many at once.
    pub rate: u64,
    /// See `rate`.
    pub burst: u64,
    /// How long a channel is kept that nobody is attached to.
    pub idle: Duration,
}

/// What a connection is held to.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) secret: Arc<[u8]>,
    pub(super) rate: u64,
    pub(super) burst: u64,
}

/// A relay that is bound to its address.
pub struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    hub: Arc<Hub>,
    limits: Limits,
    idle: Duration,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Server")
            .field("listener", &self.listener)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Binds.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot listen there, [`Error::Invalid`] when certificate or key cannot be used.
    pub async fn bind(config: Config) -> Result<Self, Error> {
        let tls = config
            .tls
            .map(|(certificates, key)| tls::acceptor(&certificates, &key))
            .transpose()?;
        let listener = TcpListener::bind(config.bind).await.map_err(|source| Error::Io {
            doing: format!("listen on {}", config.bind),
            source,
        })?;
        Ok(Self {
            listener,
            tls,
            hub: Arc::new(Hub::new(config.ring)?),
            limits: Limits {
                secret: config.secret.expose().as_slice().into(),
                rate: config.rate,
                burst: config.burst,
            },
            idle: config.idle,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the kernel does not tell.
    pub fn address(&self) -> Result<SocketAddr, Error> {
        self.listener.local_addr().map_err(|source| Error::Io {
            doing: "ask for the own address".into(),
            source,
        })
    }

    /// The pillar: serves until told to stop.
    pub async fn serve(self, tasks: Tasks) -> Result<(), Error> {
        let relay = Arc::new(self);
        let mut look = tokio::time::interval(LOOK.min(relay.idle));
        loop {
            let accepted = tokio::select! {
                () = tasks.stopping() => return Ok(()),
                _ = look.tick() => {
                    relay.hub.reap(Instant::now(), relay.idle);
                    continue;
                }
                accepted = relay.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (relay, stopping) = (Arc::clone(&relay), tasks.clone());
                    drop(tasks.detach("relay-connection", async move {
                        tokio::select! {
                            () = relay.accept(stream, &stopping) => {}
                            () = stopping.stopping() => {}
                        }
                    }));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn accept(self: Arc<Self>, stream: TcpStream, tasks: &Tasks) {
        // Keys are small and are not to wait for more.
        let _only_slower = stream.set_nodelay(true);
        match self.tls.clone() {
            None => self.connection(stream, tasks).await,
            Some(tls) => match tokio::time::timeout(HEAD, tls.accept(stream)).await {
                Ok(Ok(stream)) => self.connection(stream, tasks).await,
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            },
        }
    }

    async fn connection<S>(self: Arc<Self>, stream: S, tasks: &Tasks)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = service_fn(move |request| {
            let (relay, tasks) = (Arc::clone(&self), tasks.clone());
            async move { Ok::<_, Infallible>(relay.answer(request, &tasks)) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection ended");
        }
    }

    fn answer(self: Arc<Self>, mut request: Request<Incoming>, tasks: &Tasks) -> Response<Body> {
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
        }
        match request.uri().path() {
            "/stream" => self.upgrade(&mut request, tasks),
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/metrics" => match self.hub.metrics() {
                Ok(metrics) => text(StatusCode::OK, metrics),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            _ => text(StatusCode::NOT_FOUND, "/stream, /healthz and /metrics are here\n"),
        }
    }

    fn upgrade(self: Arc<Self>, request: &mut Request<Incoming>, tasks: &Tasks) -> Response<Body> {
        let query = match Query::parse(request.uri().query().unwrap_or_default()) {
            Ok(query) => query,
            Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        };
        let mut head = Request::new(());
        *head.version_mut() = request.version();
        *head.headers_mut() = request.headers().clone();
        let response = match create_response(&head) {
            Ok(response) => response,
            Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        };
        let upgraded = hyper::upgrade::on(request);
        let stopping = tasks.clone();
        drop(tasks.detach("relay-stream", async move {
            let Ok(stream) = upgraded.await else { return };
            let config = WebSocketConfig::default()
                .max_message_size(Some(MESSAGE))
                .max_frame_size(Some(MESSAGE));
            let (stream, opener) = Gate::new(TokioIo::new(stream));
            let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
            tokio::select! {
                () = connection::serve(Arc::clone(&self.hub), query, self.limits.clone(), socket, opener) => {}
                () = stopping.stopping() => {}
            }
        }));
        response.map(|()| Empty::new().boxed())
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
