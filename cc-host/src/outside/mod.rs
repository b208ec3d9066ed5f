//! The world beyond the networks: by which interfaces and addresses this host is part of it, and which of its ports lead to containers.
//! Refuses to add routes, rules or connection tracking to the host: its routes are asked, as they are.

mod error;
mod held;
mod published;
mod room;
mod uplinks;

pub use error::OutsideError;
pub use published::{Owner, PortMapping};
pub use room::{Outside, OutsideConfig, Parts, closed_ranges};
