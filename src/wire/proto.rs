//! The protobuf messages of `proto/boxd_control.proto` as prost generates them. Nothing here is written by hand;
//! conversions to operations live beside this file.

#![allow(
    missing_docs,
    clippy::pedantic,
    reason = "generated code; the .proto documents each message"
)]

include!(concat!(env!("OUT_DIR"), "/boxd.control.v1.rs"));

/// The descriptor set of the messages, for tools and tests that encode by reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/boxd_control.bin"));
