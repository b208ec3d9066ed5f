//! The doors and what is behind them: the unix socket, the TLS port, and the gRPC services. A service checks the caller's role,
//! calls a room, and puts its answer into the contract's words. Refuses to touch aya, netlink or the store.

mod container;
mod convert;
mod copy;
mod firewall;
mod follow;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod health;
pub mod host;
mod image;
mod inspect;
pub mod listen;
mod net;
mod rules;
mod run;
pub mod seats;
pub mod server;
pub mod session;
pub mod tls;
mod tunnel;
mod view;
mod volume;
mod vpc;
mod why;

pub use container::ContainerApi;
pub use firewall::FirewallApi;
pub use guard::GuardApi;
pub use image::ImageApi;
pub use net::NetApi;
pub use volume::VolumeApi;
pub use vpc::VpcApi;
pub use why::WhyApi;
