//! Containers, from spec to gone. Refuses to know map names, image formats and gRPC.

mod adopt;
mod again;
mod bandwidth;
mod boot;
mod create;
mod error;
mod exec;
mod files;
mod groups;
pub mod launch;
mod leave;
mod leftover;
pub mod logs;
mod metrics;
mod names;
pub mod options;
mod pace;
pub mod ports;
mod record;
mod remove_tree;
mod repair;
mod restart;
mod room;
pub mod shim_client;
mod start;
mod stop;
mod teardown;
mod tunnel;

pub use bandwidth::{BadLimit, Bandwidth, Queue, RateLimit};
pub use create::parse_signal;
pub use error::ContainerError;
pub use metrics::ContainerMetrics;
pub use record::{Attachment, ContainerRecord, Exit, Ipv6Attachment, RunSpec, State};
pub use restart::Restart;
pub use room::{Containers, Rooms};
pub use start::{Started, Stdio};
