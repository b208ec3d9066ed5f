//! The gRPC contract `cc.v1`, as generated, and what both of its ends must agree on: the fault a person sees, and how a
//! request is signed. Refuses to connect or to listen.

pub mod fault;
pub mod frame;
pub mod signing;

/// Generated from `proto/cc/v1/cc.proto` by `cargo xtask proto`, and kept here: a build needs no compiler of protobuf.
#[allow(clippy::all, clippy::pedantic, clippy::unwrap_used, missing_docs, reason = "generated code")]
pub mod v1 {
    include!("generated/cc.v1.rs");
}
