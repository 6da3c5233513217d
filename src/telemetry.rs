//! What the daemon says about itself: log lines on standard error, metrics, and the [`Secret`] that neither shows.
//!
//! Log lines carry data in fields and keep their message constant. Bodies, environment values and tokens are never
//! logged. Nothing here leaves the machine.

mod journal;
mod log;
mod metrics;
mod secret;
mod writer;

pub use log::{Filter, Format, init};
pub use metrics::Metrics;
pub use secret::Secret;
