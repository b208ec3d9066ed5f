//! Containers, from spec to gone. Refuses to know map names, image formats and gRPC.

mod adopt;
mod bandwidth;
mod boot;
mod create;
mod error;
mod files;
mod groups;
pub mod launch;
mod leave;
mod leftover;
mod log_options;
pub mod logs;
mod metrics;
mod names;
mod pace;
pub mod ports;
mod record;
mod remove_tree;
mod repair;
mod room;
pub mod shim_client;
mod start;
mod stop;
mod teardown;
mod tunnel;

pub use bandwidth::{BadLimit, Bandwidth, Queue, RateLimit};
pub use error::ContainerError;
pub use log_options::{BadLogOption, LogOptions};
pub use metrics::ContainerMetrics;
pub use record::{Attachment, ContainerRecord, Exit, Ipv6Attachment, RunSpec, State};
pub use room::{Containers, Rooms};
pub use start::{Started, Stdio};
