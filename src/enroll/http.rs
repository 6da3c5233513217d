//! One JSON request to a control plane, over TLS but to this machine itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::Error;

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of an answer.
const LARGEST: usize = 1 << 20;

/// What came back.
pub(super) struct Answer {
    pub(super) status: u16,
    /// What `Retry-After` says, in seconds.
    pub(super) retry_after: Option<Duration>,
    /// Null when it is no JSON.
    pub(super) body: Value,
}

/// Posts JSON.
///
/// # Errors
///
/// [`Error::Invalid`] when the URL cannot be dialed, [`Error::Unavailable`] when nobody answers there, [`Error::Protocol`]
/// when a good answer is no JSON.
pub(super) async fn post(url: &str, body: &Value) -> Result<Answer, Error> {
    let uri: Uri = url
        .parse()
        .map_err(|error| invalid(&format!("{url:?} is no URL: {error}")))?;
    let exchange = tokio::time::timeout(LIMIT, exchange(&uri, body)).await;
    exchange.unwrap_or_else(|_| {
        Err(unavailable(
            &uri,
            &format!("nothing came within {} s", LIMIT.as_secs()),
        ))
    })
}

async fn exchange(uri: &Uri, body: &Value) -> Result<Answer, Error> {
    let host = uri.host().ok_or_else(|| invalid("names no host"))?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_tls = match uri.scheme_str() {
        Some("https") => true,
        // Credentials pass here.
        Some("http") if is_this_machine(bare) => false,
        Some("http") => {
            return Err(invalid(
                "http:// is for this machine alone, credentials pass; use https://",
            ));
        }
        _ => return Err(invalid("begins with neither https:// nor http://")),
    };
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let stream = TcpStream::connect((bare, port))
        .await
        .map_err(|error| unavailable(uri, &error))?;
    if !is_tls {
        return send(uri, stream, body).await;
    }
    let config = tokio::task::spawn_blocking(crate::tls::client_config).await;
    let config = config.map_err(|panic| Error::Internal {
        reason: format!("the certificate authorities: {panic}"),
    })?;
    let name = rustls::pki_types::ServerName::try_from(bare.to_owned())
        .map_err(|error| invalid(&format!("names no host: {error}")))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    send(uri, stream.map_err(|error| unavailable(uri, &error))?, body).await
}

fn is_this_machine(host: &str) -> bool {
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

async fn send<S>(uri: &Uri, stream: S, body: &Value) -> Result<Answer, Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let lost = |error: hyper::Error| unavailable(uri, &error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::post(path)
        .header(HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("boxd/", env!("CARGO_PKG_VERSION")))
        .body(Full::<Bytes>::from(body.to_string()))
        .map_err(|error| invalid(&error.to_string()))?;
    let answering = async {
        let response = sender.send_request(request).await.map_err(lost)?;
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER);
        let retry_after = retry_after
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let bytes = body.map_err(|error| unavailable(uri, &error))?.to_bytes();
        Ok((status, retry_after, bytes))
    };
    let (status, retry_after, bytes) = tokio::select! {
        biased;
        answer = answering => answer?,
        // It answers what it was asked first.
        ended = connection => match ended {
            Ok(()) => return Err(unavailable(uri, &"the connection was closed")),
            Err(error) => return Err(lost(error)),
        },
    };
    let body = match serde_json::from_slice(&bytes) {
        Ok(body) => body,
        Err(_) if status >= 400 => Value::Null,
        Err(_) => {
            return Err(Error::Protocol {
                reason: format!("{uri} answers {status} with something that is no JSON; is this the API?"),
            });
        }
    };
    Ok(Answer {
        status,
        retry_after,
        body,
    })
}

fn invalid(reason: &str) -> Error {
    Error::Invalid {
        field: "api-url",
        reason: reason.to_owned(),
    }
}

fn unavailable(uri: &Uri, error: &dyn std::fmt::Display) -> Error {
    Error::Unavailable {
        what: "the control plane".into(),
        reason: format!(
            "{}: {error}",
            uri.authority().map_or("", |authority| authority.as_str())
        ),
    }
}
