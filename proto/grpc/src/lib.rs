//! The gRPC contracts of Vecino as Rust types: generated code and nothing else.
//!
//! [`v1`] is `vecino.v1`, what peers and the locator speak. [`product_service`] is the frozen
//! contract of the first system, which has no package. [`DESCRIPTORS`] serves reflection.

/// Messages and services of the package `vecino.v1`; the `.proto` file documents them.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("vecino.v1");
}

/// The frozen contract of the first system (`ProductService/getResource`).
#[allow(missing_docs, clippy::all)]
pub mod product_service {
    tonic::include_proto!("_");
}

/// With a refusal that ends by itself: after how many milliseconds it is of use to ask again. The
/// name is that of gRPC's own retries (proposal A6).
pub const RETRY_AFTER_MS: &str = "grpc-retry-pushback-ms";

/// The encoded `FileDescriptorSet` of every contract here, for gRPC server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
