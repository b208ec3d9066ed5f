//! What the datapath is told of containers' interfaces and of VPCs, in its own terms. Refuses to know either.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cc_common::net::{Be32, Ip};
use cc_common::port::PORT_RATED;
use cc_common::rate::Rate;
use cc_common::route::ENDPOINT_QUEUED;

/// Everything the datapath needs to know of one container's interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Index of the endpoint in the per-endpoint arrays; unique on this host while the endpoint lives.
    pub id: u32,
    /// The VPC's 24-bit network identifier.
    pub vni: u32,
    /// Number of its rule set; also what it is to others' rules that name groups.
    pub rule_set: u32,
    /// The host-side veth.
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub ipv4: Ipv4Addr,
    pub ipv6: Option<Ipv6Addr>,
    /// What it receives goes through its interface's queue, which shapes it.
    pub queued: bool,
    /// What it sends beyond this is dropped.
    pub egress_rate: Option<Rate>,
}

impl Endpoint {
    pub(super) fn entry_flags(&self) -> u32 {
        if self.queued { ENDPOINT_QUEUED } else { 0 }
    }

    pub(super) fn port_flags(&self) -> u16 {
        if self.egress_rate.is_some() { PORT_RATED } else { 0 }
    }
}

/// What the datapath needs to know of a VPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    pub vni: u32,
    pub ipv4: Range<Ipv4Addr>,
    pub ipv6: Option<Range<Ipv6Addr>>,
    /// Whether it reaches anything but itself.
    pub internet: bool,
    /// The endpoint of its resolver, which the gateway's address leads to.
    pub resolver: Option<u32>,
}

/// A network's addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range<A> {
    pub network: A,
    pub prefix_len: u8,
    pub gateway: A,
}

/// An address as the maps have it.
pub fn ip(address: IpAddr) -> Ip {
    match address {
        IpAddr::V4(v4) => Ip::v4(Be32(v4.octets())),
        IpAddr::V6(v6) => Ip { octets: v6.octets() },
    }
}
