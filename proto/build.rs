//! Generates the Rust of `pincer/v1/*.proto` with protox (no protoc is needed) and keeps the
//! descriptors for reflection.
//!
//! Reads only this folder and writes only into `OUT_DIR`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=pincer");
    println!("cargo:rerun-if-changed=google");
    let descriptors =
        protox::compile(["pincer/v1/peer.proto", "pincer/v1/node.proto", "pincer/v1/control.proto"], ["."])?;
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join("pincer.v1.bin"), descriptors.encode_to_vec())?;
    // Messages with secrets write their own `Debug`, in src/secret.rs.
    let code = tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("crate::codec::BoundedCodec")
        .skip_debug([".pincer.v1.KeySecret", ".pincer.v1.CacheKey", ".pincer.v1.CacheKeyDigest"]);
    code.compile_fds(descriptors)?;
    Ok(())
}
