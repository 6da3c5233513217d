//! One test binary: real processes, real servers, one module per room and door.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where by panicking"
)]

mod wire_vectors;
