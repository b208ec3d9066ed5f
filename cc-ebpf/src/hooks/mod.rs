//! One file per hook. Refuses shared helpers: those have rooms of their own beside this one.

pub mod cgroup;
pub mod from_endpoint;
pub mod sweep;
pub mod to_endpoint;
