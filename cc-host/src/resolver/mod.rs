//! The name server of each VPC, at its gateway's address. It answers for the VPC's containers from a directory in memory, and
//! asks the host's name servers for the rest of the world. Refuses to know containers, packets and the store: containers are
//! published in the directory, and packets come through an interface that another room puts into a resolver's namespace.

mod arpa;
mod counters;
mod directory;
mod error;
mod forward;
mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod limits;
mod listen;
mod message;
mod namespace;
mod room;
mod server;
mod servers;
mod zone;

pub use counters::ResolverCounters;
pub use directory::{Directory, Entry, GATEWAY_LABEL, LOCALHOST_LABEL};
pub use error::ResolverError;
pub use limits::Limits;
pub use room::{OpenResolver, ResolverHandle, Resolvers};
pub use servers::{NameServer, NameServerError, RESOLV_CONF, Upstreams};
pub use zone::{DOMAIN, Subnet, VpcNames};
