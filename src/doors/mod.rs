//! The doors: they hold connections and move bytes; work is done behind [`crate::ops`].

pub mod http;
pub mod nats;
pub mod relay;
