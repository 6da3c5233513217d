//! A control plane that enrolls machines as a test tells it to, by the documented endpoints.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// An answer: status, `Retry-After`, body.
pub(crate) type Reply = (u16, Option<u64>, String);

/// The server; it ends with the test.
pub(crate) struct Enrollment {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    start: Mutex<Option<Reply>>,
    polls: Mutex<VecDeque<Reply>>,
    exchange: Mutex<Option<Reply>>,
    /// What was asked: path and body.
    seen: Mutex<Vec<(String, Value)>>,
    /// It is to go away.
    gone: tokio::sync::Notify,
}

/// Credentials as they are answered.
pub(crate) fn credentials(nats_url: &str) -> Value {
    json!({
        "agentId": "agent-1", "workspaceId": "workspace-1", "bearer": "the bearer", "natsUrls": [nats_url],
        "relayUrl": "", "relayToken": "", "updatePublicKey": "", "consentedWholeMachine": true,
        "consentedScreenControl": false,
    })
}

/// An answer without more.
pub(crate) fn reply(status: u16, body: &Value) -> Reply {
    (status, None, body.to_string())
}

impl Enrollment {
    /// One that starts device flows which nobody has decided.
    pub(crate) fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = tokio::select! {
                        accepted = listener.accept() => accepted.unwrap(),
                        () = serving.gone.notified() => return,
                    };
                    let shared = Arc::clone(&serving);
                    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    tokio::spawn(connection);
                }
            });
        });
        Self { address, shared }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// It goes away, with every connection that it has.
    pub(crate) fn leave(&self) {
        self.shared.gone.notify_one();
    }

    /// What the start of a device flow is answered.
    pub(crate) fn starts(&self, reply: Reply) {
        *self.shared.start.lock() = Some(reply);
    }

    /// What the next questions are answered, one by one; the last one is answered for ever.
    pub(crate) fn polls(&self, replies: impl IntoIterator<Item = Reply>) {
        *self.shared.polls.lock() = replies.into_iter().collect();
    }

    /// What a token is answered.
    pub(crate) fn exchanges(&self, reply: Reply) {
        *self.shared.exchange.lock() = Some(reply);
    }

    /// The bodies that were sent to a path ending so.
    pub(crate) fn seen(&self, path: &str) -> Vec<Value> {
        let seen = self.shared.seen.lock();
        seen.iter()
            .filter(|(seen, _)| seen.ends_with(path))
            .map(|(_, body)| body.clone())
            .collect()
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    shared.seen.lock().push((path.clone(), body));
    let started = json!({
        "deviceCode": "device", "userCode": "ABCD-EFGH", "verificationUri": "https://example.com/device",
        "verificationUriComplete": "https://example.com/device?code=ABCD-EFGH", "intervalSeconds": 0,
        "expiresInSeconds": 30,
    });
    let (status, retry_after, body) = match path.as_str() {
        "/v1/enrollments/device/start" => {
            let given = shared.start.lock().clone();
            given.unwrap_or_else(|| reply(201, &started))
        }
        "/v1/enrollments/device/poll" => {
            let mut polls = shared.polls.lock();
            let next = if polls.len() > 1 {
                polls.pop_front()
            } else {
                polls.front().cloned()
            };
            next.unwrap_or_else(|| reply(200, &json!({ "state": "pending" })))
        }
        "/v1/enrollments/token/exchange" => {
            let given = shared.exchange.lock().clone();
            given.unwrap_or_else(|| reply(404, &json!({})))
        }
        _ => reply(404, &json!({ "message": "no such route" })),
    };
    let mut response = Response::builder().status(status);
    if let Some(seconds) = retry_after {
        response = response.header("retry-after", seconds.to_string());
    }
    Ok(response.body(Full::from(body)).unwrap())
}
