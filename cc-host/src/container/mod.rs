//! Containers, from spec to gone. Refuses to know map names, image formats and gRPC.

pub mod launch;
mod leftover;
pub mod shim_client;
