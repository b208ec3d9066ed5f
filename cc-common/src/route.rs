//! Routes: where an address of a VPC leads. The VNI leads the key, so that VPCs may use the same addresses. Refuses to know
//! whether the destination wants the packet.

use crate::firewall::Be32Hash;
use crate::net::{Be32, Ip, MacAddr};
use crate::verdict::DropReason;

/// What `CC_ROUTES` matches prefixes of. The trie compares bits from the first byte on, hence network byte order throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct RouteKey {
    pub vni: Be32Hash,
    pub address: Ip,
}
const _: () = assert!(size_of::<RouteKey>() == 20 && align_of::<RouteKey>() == 4);

/// Bits of a key that names one address of one VPC.
pub const HOST_PREFIX_BITS: u32 = 160;
const VNI_BITS: u32 = 32;
/// Bits of a mapped IPv4 address before the address itself.
const MAPPED_BITS: u32 = 96;

impl RouteKey {
    #[inline(always)]
    pub const fn new(vni: u32, address: Ip) -> Self {
        RouteKey { vni: Be32Hash(vni.to_be_bytes()), address }
    }
}

/// Bits of a key whose address has a prefix of this length in its own family.
pub const fn prefix_bits(address: &Ip, prefix_len: u8) -> u32 {
    VNI_BITS + if address.is_v4() { MAPPED_BITS } else { 0 } + prefix_len as u32
}

/// Value of `CC_ROUTES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Route {
    /// One of `KIND_…`.
    pub kind: u32,
    pub endpoint: u32,
}
const _: () = assert!(size_of::<Route>() == 8 && align_of::<Route>() == 4);

/// An endpoint on this host.
pub const KIND_LOCAL: u32 = 1;
/// The VPC's gateway: the datapath itself, and behind it the endpoint of the VPC's resolver, if it has one.
pub const KIND_GATEWAY: u32 = 2;
/// By the host's own routes, with the host's address.
pub const KIND_INTERNET: u32 = 3;
/// The VPC's own range, where nobody has the address.
pub const KIND_NOBODY: u32 = 4;
/// Everything else, in a VPC that is not to reach it.
pub const KIND_NO_INTERNET: u32 = 5;

/// No endpoint's number.
pub const NO_ENDPOINT: u32 = u32::MAX;

/// A route, parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    Local {
        endpoint: u32,
    },
    /// `NO_ENDPOINT`, or the resolver's.
    Gateway {
        resolver: u32,
    },
    Internet,
    Nobody,
    NoInternet,
}

impl Route {
    pub const fn local(endpoint: u32) -> Self {
        Route { kind: KIND_LOCAL, endpoint }
    }
    pub const fn gateway(resolver: u32) -> Self {
        Route { kind: KIND_GATEWAY, endpoint: resolver }
    }
    pub const fn internet() -> Self {
        Route { kind: KIND_INTERNET, endpoint: NO_ENDPOINT }
    }
    pub const fn nobody() -> Self {
        Route { kind: KIND_NOBODY, endpoint: NO_ENDPOINT }
    }
    pub const fn no_internet() -> Self {
        Route { kind: KIND_NO_INTERNET, endpoint: NO_ENDPOINT }
    }
    /// `None` for a kind that this version does not know.
    #[inline(always)]
    pub const fn hop(&self) -> Option<Hop> {
        match self.kind {
            KIND_LOCAL => Some(Hop::Local { endpoint: self.endpoint }),
            KIND_GATEWAY => Some(Hop::Gateway { resolver: self.endpoint }),
            KIND_INTERNET => Some(Hop::Internet),
            KIND_NOBODY => Some(Hop::Nobody),
            KIND_NO_INTERNET => Some(Hop::NoInternet),
            _ => None,
        }
    }
}

/// Value of `CC_ENDPOINTS`; generation 0 is an empty slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct EndpointEntry {
    pub generation: u64,
    /// The container whose endpoint this is, by the number that its id spells. The daemon finds pins by it after a crash.
    pub container: u64,
    /// Key of its row in `CC_SOCKETS`, likewise.
    pub cgroup: u64,
    pub ifindex: u32,
    pub vni: u32,
    /// Number of its rule set in `CC_RULESETS`, and of its set of groups.
    pub rule_set: u32,
    /// `ENDPOINT_…`.
    pub flags: u32,
    pub ipv4: Be32,
    /// Unspecified in a network without IPv6.
    pub ipv6: Ip,
    pub mac: MacAddr,
    pub pad: [u8; 6],
}
const _: () = assert!(size_of::<EndpointEntry>() == 72 && align_of::<EndpointEntry>() == 8);

/// What it receives goes through its interface's queue, which shapes it, and not straight into its namespace.
pub const ENDPOINT_QUEUED: u32 = 1;
/// The resolver of its VPC: everybody there may ask it, and nobody else is reached by it.
pub const ENDPOINT_RESOLVER: u32 = 2;

/// The way of a packet within its network, or out of it.
#[inline(always)]
pub fn decide(route: Option<&Route>) -> Result<Hop, DropReason> {
    match route.and_then(Route::hop) {
        None | Some(Hop::Nobody) => Err(DropReason::NoRoute),
        Some(Hop::NoInternet) => Err(DropReason::NoInternet),
        Some(hop) => Ok(hop),
    }
}

/// The destination that a route led to, if it is still the one that the route was made for.
#[inline(always)]
pub fn current<'a>(entry: Option<&'a EndpointEntry>, vni: u32, address: &Ip) -> Result<&'a EndpointEntry, DropReason> {
    let Some(entry) = entry else { return Err(DropReason::StaleEndpoint) };
    let is_its = if address.is_v4() { address.last() == entry.ipv4 } else { *address == entry.ipv6 };
    if entry.generation != 0 && entry.vni == vni && is_its { Ok(entry) } else { Err(DropReason::StaleEndpoint) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hops() {
        assert_eq!(decide(None), Err(DropReason::NoRoute));
        assert_eq!(decide(Some(&Route::nobody())), Err(DropReason::NoRoute));
        assert_eq!(decide(Some(&Route::no_internet())), Err(DropReason::NoInternet));
        assert_eq!(decide(Some(&Route::gateway(9))), Ok(Hop::Gateway { resolver: 9 }));
        assert_eq!(decide(Some(&Route::local(4))), Ok(Hop::Local { endpoint: 4 }));
        assert_eq!(decide(Some(&Route { kind: 77, ..Route::gateway(0) })), Err(DropReason::NoRoute));
        assert_eq!(prefix_bits(&Ip::v4(Be32([10, 0, 0, 1])), 32), HOST_PREFIX_BITS);
        assert_eq!(prefix_bits(&Ip { octets: [0xfd; 16] }, 128), HOST_PREFIX_BITS);
    }

    proptest! {
        #[test]
        fn a_route_never_leads_to_another_network_or_address(
            vni in 0u32..3, address in 0u8..3, entry_vni in 0u32..3, entry_address in 0u8..3, generation in 0u64..2,
        ) {
            let ipv4 = |last| Be32([10, 0, 0, last]);
            let entry = EndpointEntry { vni: entry_vni, generation, ipv4: ipv4(entry_address), ..EndpointEntry::default() };
            let found = current(Some(&entry), vni, &Ip::v4(ipv4(address))).is_ok();
            prop_assert_eq!(found, vni == entry_vni && address == entry_address && generation != 0);
        }

        #[test]
        fn keys_of_two_networks_never_agree(a in 0u32..1 << 24, b in 0u32..1 << 24, octets: [u8; 16]) {
            let (x, y) = (RouteKey::new(a, Ip { octets }), RouteKey::new(b, Ip { octets }));
            prop_assert_eq!(x == y, a == b);
        }
    }
}
