//! The host room: metrics and capacity of the machine and of the container around the daemon.

mod sample;

pub use sample::{Capacity, Gpu, Limits, Sample};
