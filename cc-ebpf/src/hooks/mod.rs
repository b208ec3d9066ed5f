//! One file per hook. Refuses shared helpers: those have rooms of their own beside this one.

pub mod cgroup;
pub mod from_endpoint;
pub mod from_host;
pub mod from_uplink;
pub mod socket;
pub mod sweep;
pub mod to_endpoint;
pub mod xdp_guard;
