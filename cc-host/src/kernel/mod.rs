//! Kernel objects as guards: links, network namespaces, cgroups, mounts. Refuses to decide which of them are wanted.

pub mod bpffs;
pub mod carrier;
pub mod cgroup;
pub mod check;
pub mod departure;
pub mod ethtool;
pub mod filters;
pub mod host_device;
mod ifreq;
pub mod link;
pub mod local;
pub mod netns;
pub mod offload;
pub mod qdisc;
pub mod shape;
pub mod surroundings;
pub mod tampering;
pub mod uplink;
