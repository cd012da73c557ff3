//! Compiles the `.proto` files with protox, so that no `protoc` needs to be installed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 7] = [
    "vecino/v1/accounts.proto",
    "vecino/v1/control.proto",
    "vecino/v1/directory.proto",
    "vecino/v1/chord.proto",
    "vecino/v1/gossip.proto",
    "vecino/v1/zone.proto",
    "product_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is set by cargo")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // Digests, ids and tokens are `bytes`: hand them over without a copy.
    tonic_prost_build::configure()
        .bytes(".vecino.v1")
        .compile_fds(descriptors)?;
    Ok(())
}
