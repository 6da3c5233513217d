//! Enrollment: how a machine that somebody brings gets the credentials of a link. The machine's key, the device flow and the
//! token exchange with the control plane, and the files that a running daemon picks up.

pub mod api;
pub mod flow;
mod http;
pub mod key;
pub mod store;

pub use api::{Api, Credentials, Machine, Polled, Started};
