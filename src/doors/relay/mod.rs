//! Stream ports over a relay: the producer of a channel, which dials out, and the embedded relay itself (`boxd relay`).
//!
//! A relay knows channels, not their content: it keeps the last bytes of each direction for whoever comes back, and hands them
//! on. It has no state of its own beyond that; after a restart, both ends find each other again.

mod admit;
mod channel;
mod connection;
mod dial;
mod direction;
mod gate;
mod hub;
mod pace;
mod producer;
mod rate;
mod server;
mod session;
mod terminal;
mod tls;

use crate::telemetry::Secret;

pub use admit::is_stream_port;
pub use server::{Config, Server};
pub use terminal::{Owner, Ports, Whereabouts};

/// Where a relay is, and what a producer presents to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `ws://` or `wss://`.
    pub url: String,
    /// The producer token.
    pub token: Secret<String>,
    /// Whether `ws://` may be dialed when the relay is not on loopback: the token travels in clear then.
    pub allow_plaintext: bool,
}
