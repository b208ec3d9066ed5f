//! What the kernel programs, the daemon and the command line share: the structs that cross the map boundary, the pure
//! decisions on them, and (feature `api`) the gRPC contract. Refuses to do I/O of any kind.
#![cfg_attr(not(any(feature = "api", test)), no_std)]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]
#![cfg_attr(feature = "user", deny(unsafe_code))]

#[cfg(feature = "api")]
pub mod api;
pub mod arp;
pub mod blocks;
pub mod counters;
pub mod event;
pub mod firewall;
pub mod flow;
pub mod fragment;
pub mod guard;
pub mod ipv4;
pub mod ipv6;
pub mod life;
pub mod limits;
pub mod names;
pub mod nat;
pub mod nd;
pub mod net;
pub mod packet;
#[cfg(feature = "user")]
mod pod;
pub mod port;
pub mod quota;
pub mod rate;
pub mod route;
pub mod settings;
pub mod tcp;
pub mod trace;
pub mod verdict;
