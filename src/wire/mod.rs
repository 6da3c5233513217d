//! The types that cross the doors and their conversion to and from [`crate::ops`]: pure, no sockets, no clock.

pub mod file_reply;
pub mod json;
pub mod opstream;
pub mod proto;
pub mod relay;
pub mod relay_token;
pub mod reply;
pub mod request;
pub mod status;
