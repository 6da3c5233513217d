//! Stream ports over a relay: the embedded relay itself (`boxd relay`), which both ends of a stream dial.
//!
//! A relay knows channels, not their content: it keeps the last bytes of each direction for whoever comes back, and hands them
//! on. It has no state of its own beyond that; after a restart, both ends find each other again.

mod admit;
mod channel;
mod connection;
mod direction;
mod hub;
mod rate;
mod server;
mod tls;

pub use server::{Config, Server};
