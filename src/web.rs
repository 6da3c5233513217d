//! Servers that we dial by URL: over TLS, but to this machine itself. What is sent and what comes back is the affair of
//! the caller.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::Error;

/// Any stream that a connection is made of.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// How long a server may take to be connected to, and then to begin its answer.
const ANSWER: Duration = Duration::from_secs(60);

/// What a server is to those who read the error.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// What it is: `the control plane`.
    pub name: &'static str,
    /// The field or flag that its URL came from.
    pub field: &'static str,
}

/// Connects, and secures the connection where that is asked for.
///
/// # Errors
///
/// As the system or the TLS handshake says.
pub async fn dial(host: &str, port: u16, is_tls: bool) -> io::Result<Box<dyn Stream>> {
    // A literal IPv6 address stands in brackets.
    let host = bare(host);
    let stream = TcpStream::connect((host, port)).await?;
    // Small messages are not to wait for more.
    let _only_slower = stream.set_nodelay(true);
    if !is_tls {
        return Ok(Box::new(stream));
    }
    let config = tokio::task::spawn_blocking(crate::tls::client_config).await;
    let config = config.map_err(io::Error::other)?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let secured = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(Box::new(secured))
}

async fn in_time<T>(step: impl Future<Output = T>) -> io::Result<T> {
    let done = tokio::time::timeout(ANSWER, step).await;
    done.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("nothing came for {ANSWER:?}")))
}

fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

impl Peer {
    /// A URL that may be dialed: `https://`, or `http://` to this machine.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the reason.
    pub fn url(&self, url: &str) -> Result<Uri, Error> {
        let uri: Uri = url
            .parse()
            .map_err(|error| self.invalid(format!("{url:?} is no URL: {error}")))?;
        let host = uri
            .host()
            .ok_or_else(|| self.invalid(format!("{url:?} names no host")))?;
        match uri.scheme_str() {
            Some("https") => Ok(uri),
            Some("http") if is_this_machine(bare(host)) => Ok(uri),
            Some("http") => Err(self.invalid("http:// is for this machine alone; use https://".into())),
            _ => Err(self.invalid(format!("{url:?} begins with neither https:// nor http://"))),
        }
    }

    /// Sends one request and hands the response to `take`, which reads its body.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] when nobody answers, and whatever `take` says.
    pub async fn exchange<T>(
        &self,
        uri: &Uri,
        mut request: Request<Full<Bytes>>,
        take: impl AsyncFnOnce(Response<Incoming>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let host = uri.host().unwrap_or_default();
        let stream = in_time(dial(host, port, is_tls))
            .await
            .and_then(|dialed| dialed)
            .map_err(|error| self.unavailable(uri, &error))?;
        let lost = |error: hyper::Error| self.unavailable(uri, &error);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let headers = request.headers_mut();
        headers.insert(
            HOST,
            HeaderValue::from_str(authority).map_err(|error| self.invalid(error.to_string()))?,
        );
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("boxd/", env!("CARGO_PKG_VERSION"))),
        );
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path
            .parse()
            .map_err(|error| self.invalid(format!("{path:?}: {error}")))?;
        let answering = async {
            let answered = in_time(sender.send_request(request)).await;
            let answered = answered.map_err(|error| self.unavailable(uri, &error))?;
            take(answered.map_err(lost)?).await
        };
        let (mut answering, mut connection) = (std::pin::pin!(answering), std::pin::pin!(connection));
        tokio::select! {
            biased;
            answer = &mut answering => answer,
            // A body that is there already is read after the server has closed.
            ended = &mut connection => match ended {
                Ok(()) => answering.await,
                Err(error) => Err(lost(error)),
            },
        }
    }

    /// The URL cannot be used.
    pub fn invalid(&self, reason: String) -> Error {
        Error::Invalid {
            field: self.field,
            reason,
        }
    }

    /// Nobody answers as is needed.
    pub fn unavailable(&self, uri: &Uri, reason: &dyn std::fmt::Display) -> Error {
        Error::Unavailable {
            what: self.name.into(),
            reason: format!(
                "{}: {reason}",
                uri.authority().map_or("", |authority| authority.as_str())
            ),
        }
    }
}

/// Whether a host of a URL is this machine, so that nobody else sees what is sent there.
pub fn is_this_machine(host: &str) -> bool {
    let host = bare(host);
    let address = host.parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Peer = Peer {
        name: "the server",
        field: "url",
    };

    #[test]
    fn only_this_machine_is_dialed_in_the_clear() {
        for url in [
            "https://example.com/a?b",
            "http://127.0.0.1:80",
            "http://[::1]:1/",
            "http://localhost",
        ] {
            assert!(PEER.url(url).is_ok(), "{url}");
        }
        for url in [
            "http://example.com",
            "http://127.0.0.1.example.com",
            "ftp://localhost",
            "/path",
            "",
        ] {
            let refused = PEER.url(url);
            assert!(
                matches!(refused, Err(Error::Invalid { field: "url", .. })),
                "{url}"
            );
        }
    }
}
