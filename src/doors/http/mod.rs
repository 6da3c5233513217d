//! The HTTP door: `/v1`, a superset of the compatible contract, over TCP and Unix sockets.
//!
//! ```text
//!   listener -> connection -> front (size, Host, Origin, token, request id) -> router -> one file per room
//! ```
//!
//! [`bind`] takes the sockets so that their addresses and errors are known before anything else starts;
//! [`Bound::serve`] runs them as pillars. Handlers decode, call `perform` and encode; streams and
//! `WebSocket`s are readers of a process's log. Static pages are not here yet.

mod accept;
mod auth;
mod body;
mod changes;
mod codec;
mod connection;
#[cfg(test)]
mod documentation;
mod error;
mod events;
mod file;
mod front;
mod fs;
mod git;
mod git_changes;
mod host;
mod listener;
mod listing;
mod logs;
mod meter;
mod openapi;
mod operations;
mod origin;
mod process;
mod processes;
mod query;
mod range;
mod router;
mod search;
mod stored;
mod terminal;
mod terminals;
mod turn;
mod unparsed;
mod update;
mod viewer;
mod websocket;

use std::sync::Arc;

use crate::error::Error;
use crate::ids::InstanceId;
use crate::lifecycle::Tasks;
use crate::ops::Rooms;
use crate::telemetry::Metrics;

pub use auth::{Access, Token};
pub use listener::{Listen, TAKEN};
pub use openapi::openapi;

/// What the door needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; empty is off.
    pub listen: Vec<Listen>,
    /// Who may speak.
    pub access: Access,
    /// Names that a Host header may have besides the loopback ones. When there are any, the header is checked on
    /// every TCP listener, else only on loopback.
    pub hosts: Vec<String>,
    /// Origins whose pages may read answers and change things: `https://app.example`.
    pub origins: Vec<String>,
    /// User ids that may use a Unix socket besides root and the daemon's own.
    pub unix_users: Vec<u32>,
    /// Connections at once; `None` follows the limit on file descriptors.
    pub max_connections: Option<usize>,
}

/// Everything behind the door.
#[derive(Debug, Clone)]
pub struct Behind {
    /// The rooms.
    pub rooms: Arc<Rooms>,
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// This run of the daemon.
    pub instance: InstanceId,
}

/// Listeners that are bound and not served yet.
#[derive(Debug)]
pub struct Bound {
    listeners: Vec<listener::Listener>,
    config: Config,
}

/// Binds every listener of `config`.
///
/// # Errors
///
/// [`Error::AlreadyExists`] when an address or a socket path is in use, [`Error::Denied`] when it may not be bound,
/// [`Error::NotFound`] when the directory of a socket is missing, [`Error::Io`] otherwise.
pub fn bind(config: Config) -> Result<Bound, Error> {
    let listeners = config
        .listen
        .iter()
        .map(listener::Listener::bind)
        .collect::<Result<_, _>>()?;
    Ok(Bound { listeners, config })
}

impl Bound {
    /// Where it listens, with ports as they were given: `http://127.0.0.1:2468`, `unix:/run/boxd.sock`.
    pub fn addresses(&self) -> Vec<String> {
        self.listeners.iter().map(ToString::to_string).collect()
    }

    /// Serves every listener as a pillar of `tasks`, until they stop; then open requests are finished.
    pub fn serve(self, behind: Behind, tasks: &Tasks) {
        let config = self.config;
        let front = Arc::new(front::Front::new(&config, behind));
        let slots = connection::Slots::new(config.max_connections);
        for listener in self.listeners {
            let server = connection::Server::new(
                Arc::clone(&front),
                slots.clone(),
                &config.unix_users,
                tasks.clone(),
            );
            tasks.pillar("http", server.run(listener));
        }
    }
}

/// For fuzzers: the query and the range of a request for a file of `size` bytes.
#[cfg(fuzzing)]
pub fn fuzzed_address(query: &str, range: &[u8], size: u64) {
    use axum::http::{HeaderMap, HeaderValue, header};

    if let Ok(query) = query::Query::parse(query) {
        let _ = (query.path(), query.optional_path(), query.mode());
        let _ = (query.text("path"), query.flag("last"), query.number("offset"));
    }
    let Ok(range) = HeaderValue::from_bytes(range) else {
        return;
    };
    for name in [
        header::RANGE,
        header::IF_RANGE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        headers.insert(name, range.clone());
        if let range::Part::Range { first, length } = range::part(&headers, size, "\"tag\"", None) {
            assert!(length > 0 && first.checked_add(length).is_some_and(|end| end <= size));
        }
    }
}
