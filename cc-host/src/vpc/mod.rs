//! VPCs: private subnets of a project. Two may use the same CIDR. Refuses to know containers; it is told who uses what.

pub mod cidr;
pub mod cidr6;
mod error;
mod gateways;
pub mod ipam;
mod record;
mod room;

pub use error::VpcError;
pub use gateways::{Gateway, Gateways};
pub use record::VpcRecord;
pub use room::{NewVpc, Vpcs};
