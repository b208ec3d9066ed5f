//! The datapath: the only room that knows map and program names. It loads the object, pins it, and says what each endpoint
//! may send and receive. Refuses to know containers: it knows endpoints.

use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Everything the datapath needs to know of one container's interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Index of the endpoint in the per-endpoint arrays; unique on this host while the endpoint lives.
    pub id: u32,
    /// The VPC's 24-bit network identifier.
    pub vni: u32,
    /// Security group; members of the same group reach each other.
    pub group: u32,
    /// The host-side veth.
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub ipv4: Ipv4Addr,
}

/// What the datapath needs to know of a VPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    pub vni: u32,
    pub gateway: Ipv4Addr,
}

#[derive(Debug, Clone)]
pub struct DatapathConfig {
    pub bpffs_dir: PathBuf,
    /// Depth of a container's cgroup below the v2 root, for counting per container; the root itself is 0.
    pub cgroup_level: u32,
}
