//! The gRPC services: they check the caller's role, call a room, and put its answer into the contract's words. Refuses to touch
//! the kernel, the store or a map.

mod container;
mod convert;
mod image;
mod run;
mod tunnel;
mod vpc;

pub use container::ContainerApi;
pub use image::ImageApi;
pub use vpc::VpcApi;
