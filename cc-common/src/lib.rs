//! What the kernel programs, the daemon and the command line share: the structs that cross the map boundary, the pure
//! decisions on them, and (feature `api`) the gRPC contract. Refuses to do I/O of any kind.
#![cfg_attr(not(feature = "api"), no_std)]
#![forbid(unsafe_code)]

#[cfg(feature = "api")]
pub mod api;
