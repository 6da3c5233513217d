//! A small HTTP client: ordinary requests over hyper, and bare sockets for what no proper client would send.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::PATIENCE;

/// Where the daemon listens and the token to show.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    /// The listener.
    pub(crate) address: SocketAddr,
    /// Shown as bearer; `None` shows nothing.
    pub(crate) token: Option<String>,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as JSON; panics with the body when it is none.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {} {:?}", self.status, self.text()))
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header as text, empty when it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Asserts an `application/problem+json` of this status and stable code.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> serde_json::Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert!(
            self.header("content-type")
                .starts_with("application/problem+json"),
            "{:?}",
            self.headers
        );
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(
            problem["type"],
            format!("urn:sandbox-agent:error:{code}"),
            "{problem}"
        );
        assert!(
            problem["title"].is_string() && problem["detail"].is_string(),
            "{problem}"
        );
        assert!(problem["requestId"].is_string(), "{problem}");
        problem
    }
}

impl Http {
    /// The same listener, with no token.
    pub(crate) fn anonymous(&self) -> Self {
        Self {
            token: None,
            ..self.clone()
        }
    }

    /// The same listener, with another token.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// A request to be filled in: address, host and token are there.
    pub(crate) fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string());
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    /// Sends one request over a connection of its own and reads the whole answer.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        whole(self.open(request).await).await
    }

    /// Sends one request with a body of any kind and answers when the head of the answer is there.
    pub(crate) async fn open<B>(&self, request: Request<B>) -> Response<hyper::body::Incoming>
    where
        B: hyper::body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    }

    /// Like [`Http::open`], where the daemon may go away in between.
    pub(crate) async fn try_open<B>(
        &self,
        request: Request<B>,
    ) -> anyhow::Result<Response<hyper::body::Incoming>>
    where
        B: hyper::body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender.send_request(request).await?)
    }

    /// A connection that is kept for many requests.
    pub(crate) async fn keep(&self) -> Kept {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Kept { sender }
    }

    /// GET.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path).body(Full::default()).unwrap())
            .await
    }

    /// DELETE.
    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path).body(Full::default()).unwrap())
            .await
    }

    /// PUT of bytes.
    pub(crate) async fn put(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(
            self.request(Method::PUT, path)
                .body(Full::new(body.into()))
                .unwrap(),
        )
        .await
    }

    /// POST of JSON.
    pub(crate) async fn post(&self, path: &str, body: &serde_json::Value) -> Answer {
        self.send(self.posting(path, body)).await
    }

    /// Like [`Http::post`], where the daemon may go away in between.
    pub(crate) async fn try_post(&self, path: &str, body: &serde_json::Value) -> anyhow::Result<Answer> {
        Ok(whole(self.try_open(self.posting(path, body)).await?).await)
    }

    fn posting(&self, path: &str, body: &serde_json::Value) -> Request<Full<Bytes>> {
        let request = self
            .request(Method::POST, path)
            .header(CONTENT_TYPE, "application/json");
        request.body(Full::from(body.to_string())).unwrap()
    }

    /// Waits until the log of a process is this.
    pub(crate) async fn until_logged(&self, id: &str, text: &str) {
        let path = format!("/v1/processes/{id}/logs?format=raw");
        let logged = async {
            while self.get(&path).await.text() != text {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), logged)
            .await
            .unwrap_or_else(|_| panic!("{id} does not write {text:?}"));
    }

    /// `POST /v1/processes/run`.
    pub(crate) async fn run(&self, body: &serde_json::Value) -> Answer {
        self.post("/v1/processes/run", body).await
    }

    /// A bare socket, for requests cut in the middle or not HTTP at all.
    pub(crate) async fn socket(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes as they are, reads until the daemon closes the connection.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut socket = self.socket().await;
        socket.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await;
        // A daemon that refuses to read on may reset the connection; what it said before counts.
        let _ = read.expect("the daemon closes the connection");
        answer
    }
}

/// One connection for many requests, for measuring.
pub(crate) struct Kept {
    sender: http1::SendRequest<Full<Bytes>>,
}

impl Kept {
    /// Sends one request and reads the whole answer.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        self.sender.ready().await.unwrap();
        whole(self.sender.send_request(request).await.unwrap()).await
    }
}

/// Reads an answer to its end.
pub(crate) async fn whole(response: Response<hyper::body::Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        status: head.status,
        headers: head.headers,
        body,
    }
}
