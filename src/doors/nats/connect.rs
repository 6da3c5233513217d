//! One connection to one broker: its options, its credential, TLS, and what the broker says while it lives.
//!
//! The client library would reconnect by itself; the supervisor owns that (`link.rs`). So the credential is handed
//! out only until the connection stands: a reconnect of the library finds none, fails, and its tasks end.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{Auth, AuthError, Client, ConnectOptions, Event, ServerAddr, ServerError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::broker_error::{self, BrokerError};
use super::config::Credential;
use crate::error::Error;

/// A connection that is not up after this long is given up.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Time between pings to the broker; two missed ones end the connection.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Commands waiting inside the client. Bytes are bounded in `outbound.rs`.
const CLIENT_COMMANDS: usize = 1024;
/// Requests waiting to be decoded. When full the broker's messages are dropped by the client, which says so.
const REQUESTS: usize = 16 * 1024;
/// What a broker says in short order; more than that is repetition.
const NEWS: usize = 64;

/// What happens to a connection.
#[derive(Debug)]
pub(super) enum News {
    /// The client dropped requests because they were not taken in time.
    Dropped,
    /// The broker will shut down soon.
    LameDuck,
    /// The broker complained.
    Said(BrokerError),
}

/// Why a connection could not be made.
#[derive(Debug)]
pub(super) enum Failure {
    /// The broker does not accept the credential.
    Refused(String),
    /// Nobody there, no TLS, a timeout.
    Unreachable(String),
    /// The link cannot be dialled as it is configured; only a change of it helps.
    Unusable(Error),
}

/// An open connection. Dropping it lets the library's tasks end.
pub(super) struct Connection {
    /// The library's handle.
    pub(super) client: Client,
    /// What happens to it.
    pub(super) news: mpsc::Receiver<News>,
    /// Cancelled when it is gone.
    pub(super) lost: CancellationToken,
    /// Largest payload the broker carries, bytes.
    pub(super) max_payload: usize,
    /// What the broker calls itself; another one calls itself differently.
    pub(super) server_id: String,
}

/// Where to connect, and as whom.
pub(super) struct Target<'a> {
    /// `nats://`, `tls://`, `ws://` or `wss://`.
    pub(super) url: &'a str,
    /// What is presented.
    pub(super) credential: &'a Credential,
    /// The name the broker shows.
    pub(super) client_name: &'a str,
    /// Whether `nats://` and `ws://` may leave the machine.
    pub(super) allow_plaintext: bool,
}

/// Dials `target` once; `read_buffer` is how many bytes are read at once.
pub(super) async fn connect(target: &Target<'_>, read_buffer: u16) -> Result<Connection, Failure> {
    let address = address(target.url, target.allow_plaintext).map_err(Failure::Unusable)?;
    let secret = Secret::read(target.credential, &address)
        .await
        .map_err(Failure::Unusable)?;
    let (sender, news) = mpsc::channel(NEWS);
    let lost = CancellationToken::new();
    let on_loss = lost.clone();
    let standing = Arc::new(AtomicBool::new(false));
    let guard = Arc::clone(&standing);
    let secret = Arc::new(secret);
    let options = ConnectOptions::with_auth_callback(move |nonce| {
        let answer = if guard.load(Ordering::Acquire) {
            Err(AuthError::new("the supervisor reconnects, not the client"))
        } else {
            secret.answer(&nonce)
        };
        async move { answer }
    });
    let mut options = options
        .name(target.client_name)
        .max_reconnects(1)
        .ignore_discovered_servers()
        .connection_timeout(CONNECT_LIMIT)
        .ping_interval(PING_INTERVAL)
        .client_capacity(CLIENT_COMMANDS)
        .subscription_capacity(REQUESTS)
        .read_buffer_capacity(read_buffer)
        .event_callback(move |event| {
            if matches!(event, Event::Disconnected | Event::Closed) {
                on_loss.cancel();
            }
            tell(&sender, event);
            std::future::ready(())
        });
    if may_speak_tls(&address) {
        let tls = tokio::task::spawn_blocking(crate::tls::client_config).await;
        let tls = tls.map_err(|panic| Failure::Unreachable(format!("TLS cannot be set up: {panic}")))?;
        options = options.tls_client_config(tls);
    }
    let port = address.port();
    let client = options
        .connect(address)
        .await
        .map_err(|error| failure(target.url, &error))?;
    standing.store(true, Ordering::Release);
    super::socket::hold_back_little(port);
    let info = client.server_info();
    Ok(Connection {
        client,
        news,
        lost,
        max_payload: info.max_payload,
        server_id: info.server_id,
    })
}

/// Parses a URL and refuses plaintext that would leave the machine.
fn address(url: &str, allow_plaintext: bool) -> Result<ServerAddr, Error> {
    let address: ServerAddr = url.parse().map_err(|error: std::io::Error| Error::Invalid {
        field: "nats_urls",
        reason: format!("{} cannot be dialled: {error}", without_secret(url)),
    })?;
    let plaintext = matches!(address.scheme(), "nats" | "ws");
    if plaintext && !allow_plaintext && !is_loopback(address.host()) {
        let reason = format!(
            "{} would send the credential unencrypted; use tls:// or wss://, or set nats.allow_plaintext",
            without_secret(url)
        );
        return Err(Error::Invalid {
            field: "nats_urls",
            reason,
        });
    }
    Ok(address)
}

/// Reading the machine's certificate authorities takes time that a broker on this machine does not need.
fn may_speak_tls(address: &ServerAddr) -> bool {
    match address.scheme() {
        "tls" | "wss" => true,
        "nats" => !is_loopback(address.host()),
        _ => false,
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The URL without the user and password it may carry, which may also stand without a scheme.
pub(super) fn without_secret(url: &str) -> String {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    match url.rsplit_once('@') {
        Some((_, host)) if scheme.is_empty() => host.to_owned(),
        Some((_, host)) => format!("{scheme}://{host}"),
        None => url.to_owned(),
    }
}

/// The credential as it was when this attempt began.
enum Secret {
    Anonymous,
    Token(String),
    UserPassword(String, String),
    Creds { jwt: String, key: Box<nkeys::KeyPair> },
}

impl Secret {
    async fn read(credential: &Credential, address: &ServerAddr) -> Result<Self, Error> {
        match credential {
            Credential::Anonymous if address.has_user_pass() => {
                let user = address.username().unwrap_or_default().to_owned();
                Ok(Self::UserPassword(
                    user,
                    address.password().unwrap_or_default().to_owned(),
                ))
            }
            Credential::Anonymous => Ok(Self::Anonymous),
            Credential::Token(token) => Self::token(token),
            Credential::TokenFile(path) => Self::token(&read_text(path).await?),
            Credential::CredsFile(path) => Self::creds(&read_text(path).await?),
            Credential::Creds(text) => Self::creds(text),
        }
    }

    /// An empty bearer never dials: a broker without authentication would let it in as anyone.
    fn token(text: &str) -> Result<Self, Error> {
        let token = text.trim();
        if token.is_empty() {
            return Err(Error::Invalid {
                field: "nats_bearer",
                reason: "is empty, enroll again".into(),
            });
        }
        Ok(Self::Token(token.to_owned()))
    }

    fn creds(text: &str) -> Result<Self, Error> {
        let bad = |reason: &str| Error::Invalid {
            field: "nats credentials",
            reason: reason.to_owned(),
        };
        let section = |title: &str| {
            let from = text.find(&format!("-----BEGIN {title}-----"))?;
            text[from..]
                .lines()
                .skip(1)
                .map(str::trim)
                .find(|line| !line.is_empty())
        };
        let jwt = section("NATS USER JWT").ok_or_else(|| bad("have no user JWT"))?;
        let seed = section("USER NKEY SEED").ok_or_else(|| bad("have no user NKEY seed"))?;
        let key =
            nkeys::KeyPair::from_seed(seed).map_err(|error| bad(&format!("have a bad seed: {error}")))?;
        Ok(Self::Creds {
            jwt: jwt.to_owned(),
            key: Box::new(key),
        })
    }

    fn answer(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let mut auth = Auth::new();
        match self {
            Self::Anonymous => {}
            Self::Token(token) => auth.token = Some(token.clone()),
            Self::UserPassword(user, password) => {
                auth.username = Some(user.clone());
                auth.password = Some(password.clone());
            }
            Self::Creds { jwt, key } => {
                auth.jwt = Some(jwt.clone());
                auth.signature = Some(key.sign(nonce).map_err(AuthError::new)?);
            }
        }
        Ok(auth)
    }
}

async fn read_text(path: &std::path::Path) -> Result<String, Error> {
    let text = tokio::fs::read_to_string(path).await;
    text.map_err(|source| Error::from_path_io("credential file", "read", path, source))
}

fn tell(sender: &mpsc::Sender<News>, event: Event) {
    let news = match event {
        Event::SlowConsumer(_) => News::Dropped,
        Event::LameDuckMode => News::LameDuck,
        Event::ServerError(ServerError::Other(line)) => News::Said(broker_error::read(&line)),
        Event::ServerError(ServerError::AuthorizationViolation) => News::Said(BrokerError::Refused),
        Event::ServerError(ServerError::SlowConsumer(_))
        | Event::Connected
        | Event::Disconnected
        | Event::Closed
        | Event::Draining
        | Event::ClientError(_) => return,
    };
    if sender.try_send(news).is_err() {
        tracing::debug!("the link is gone or is told more than it can hear");
    }
}

/// What a failed attempt means; the library keeps the broker's line as the source of its error.
fn failure(url: &str, error: &async_nats::ConnectError) -> Failure {
    let source = std::error::Error::source(error);
    let line = source
        .and_then(|source| source.downcast_ref::<ServerError>())
        .map(ToString::to_string);
    match line.as_deref().map(broker_error::read) {
        Some(BrokerError::Refused | BrokerError::Expired) => Failure::Refused(line.unwrap_or_default()),
        _ if error.kind() == async_nats::ConnectErrorKind::AuthorizationViolation => {
            Failure::Refused(error.to_string())
        }
        _ => Failure::Unreachable(format!("{}: {error}", without_secret(url))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_stays_on_the_machine_unless_allowed() {
        for fine in [
            "nats://127.0.0.1:4222",
            "nats://[::1]:1",
            "ws://localhost:80",
            "tls://h",
            "wss://h",
        ] {
            assert!(address(fine, false).is_ok(), "{fine}");
        }
        for bad in ["nats://broker:4222", "ws://10.0.0.1", "nats://localhost.example"] {
            assert!(address(bad, false).is_err(), "{bad}");
            assert!(address(bad, true).is_ok(), "{bad}");
        }
        assert!(address("http://127.0.0.1", true).is_err());
    }

    #[test]
    fn messages_never_show_the_password_of_a_url() {
        assert_eq!(without_secret("nats://u:p@h:1"), "nats://h:1");
        assert_eq!(without_secret("nats://h:1"), "nats://h:1");
        assert_eq!(without_secret("u:p@h:1"), "h:1");
        let error = address("nats://u:hunter2@far:1", false).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn an_empty_token_is_not_a_credential() {
        for empty in ["", " \n"] {
            assert!(Secret::token(empty).is_err());
        }
        assert!(Secret::creds("nothing here").is_err());
    }
}
