//! Compiles `proto/` to Rust without `protoc`, leaves the descriptor set beside the code for tests that encode by
//! reflection, and deflates the document that the binary carries.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::DeflateEncoder;
use prost_build::Config;

const PROTO: &str = "proto/boxd_control.proto";
const OPENAPI: &str = "docs/openapi.json";

#[expect(
    clippy::disallowed_methods,
    reason = "cargo tells a build script where to write by the environment alone"
)]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO}");
    println!("cargo:rerun-if-changed={OPENAPI}");
    let target = std::env::var("TARGET")?;
    // Not named BOXD_...: cargo run hands it to the program, which refuses what it does not know.
    println!("cargo:rustc-env=TARGET_TRIPLE={target}");
    let directory = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    deflate(OPENAPI, &directory.join("openapi.json.deflate"))?;
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_source_info(true)
        .open_file("boxd_control.proto")?;
    std::fs::write(
        directory.join("boxd_control.bin"),
        compiler.encode_file_descriptor_set(),
    )?;

    let mut files = compiler.file_descriptor_set();
    extension_last(&mut files);
    Config::new().bytes(["."]).btree_map(["."]).compile_fds(files)?;
    Ok(())
}

fn deflate(from: &str, to: &Path) -> std::io::Result<()> {
    let mut encoder = DeflateEncoder::new(File::create(to)?, Compression::best());
    encoder.write_all(&std::fs::read(from)?)?;
    encoder.finish()?;
    Ok(())
}

/// Takes `ext` out of `OpStart`'s oneof for the generated Rust only. prost writes a oneof where its lowest tag
/// belongs, which would put tag 100 before tags 10 to 12; as a field of its own it is written in tag order, byte for
/// byte what other encoders write.
fn extension_last(files: &mut prost_types::FileDescriptorSet) {
    let messages = files.file.iter_mut().flat_map(|file| &mut file.message_type);
    for start in messages.filter(|message| message.name() == "OpStart") {
        for field in start.field.iter_mut().filter(|field| field.name() == "ext") {
            field.oneof_index = None;
        }
    }
}
