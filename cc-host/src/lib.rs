//! The rooms of the daemon, as a library so that their tests and the shim can use them. Refuses to hold a `main`.

mod inside;
pub mod mutation;
pub mod shim;

#[cfg(feature = "daemon")]
pub mod api;
#[cfg(feature = "daemon")]
pub mod auth;
#[cfg(feature = "daemon")]
mod blocking;
#[cfg(any(feature = "daemon", feature = "oci"))]
mod bpf;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod container;
#[cfg(feature = "daemon")]
pub mod copy;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "daemon")]
pub mod datapath;
#[cfg(feature = "daemon")]
mod demand;
#[cfg(any(feature = "daemon", feature = "oci"))]
pub mod devices;
#[cfg(feature = "daemon")]
pub mod disk;
#[cfg(feature = "daemon")]
pub mod explain;
#[cfg(feature = "daemon")]
mod fault;
#[cfg(feature = "daemon")]
pub mod firewall;
#[cfg(feature = "daemon")]
pub mod guard;
#[cfg(feature = "daemon")]
pub mod ids;
#[cfg(feature = "daemon")]
pub mod image;
#[cfg(feature = "daemon")]
pub mod kernel;
#[cfg(feature = "daemon")]
pub mod manual;
#[cfg(feature = "daemon")]
pub mod metrics;
#[cfg(any(feature = "daemon", feature = "oci"))]
mod mountinfo;
#[cfg(feature = "oci")]
pub mod oci;
#[cfg(feature = "daemon")]
pub mod outside;
#[cfg(feature = "daemon")]
pub mod resolver;
#[cfg(any(feature = "daemon", feature = "oci"))]
pub mod seccomp;
#[cfg(feature = "daemon")]
mod slots;
#[cfg(feature = "daemon")]
pub mod store;
#[cfg(feature = "daemon")]
pub mod volume;
#[cfg(feature = "daemon")]
pub mod vpc;
#[cfg(feature = "daemon")]
pub mod web;
#[cfg(feature = "daemon")]
pub mod why;

/// The causes of an error in one line, outermost first: what a log or a fault's "why" needs.
#[cfg(feature = "daemon")]
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    if text.is_empty() { error.to_string() } else { text }
}
