//! Numbered records and what is kept of them. Pure: no tokio, no clock, no locks; callers pass bytes and `now`.

mod log;

pub use log::{Channel, ChannelTotals, Item, Keep, Kept, Log, Record};
