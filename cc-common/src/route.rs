//! Routes: where an address of a VPC leads. The VNI leads the key, so that VPCs may use the same addresses. Refuses to know
//! whether the destination wants the packet.

use crate::net::{Be32, MacAddr};
use crate::verdict::DropReason;

/// What `CC_ROUTES` matches prefixes of. The trie compares bits from the first byte on, hence network byte order throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct RouteKey {
    pub vni: Be32,
    pub ipv4: Be32,
}
const _: () = assert!(size_of::<RouteKey>() == 8 && align_of::<RouteKey>() == 1);

/// Bits of a key that names one address of one VPC.
pub const HOST_PREFIX_BITS: u32 = 64;

impl RouteKey {
    #[inline(always)]
    pub const fn new(vni: u32, ipv4: Be32) -> Self {
        RouteKey { vni: Be32::new(vni), ipv4 }
    }
}

/// Value of `CC_ROUTES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Route {
    /// Of the endpoint when the route was made.
    pub generation: u64,
    /// One of `KIND_…`.
    pub kind: u32,
    pub endpoint: u32,
}
const _: () = assert!(size_of::<Route>() == 16 && align_of::<Route>() == 8);

/// An endpoint on this host.
pub const KIND_LOCAL: u32 = 1;
/// The VPC's gateway: the datapath itself.
pub const KIND_GATEWAY: u32 = 2;

/// A route, parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    Local { endpoint: u32, generation: u64 },
    Gateway,
}

impl Route {
    pub const fn local(endpoint: u32, generation: u64) -> Self {
        Route { generation, kind: KIND_LOCAL, endpoint }
    }
    pub const fn gateway() -> Self {
        Route { generation: 0, kind: KIND_GATEWAY, endpoint: 0 }
    }
    /// `None` for a kind that this version does not know.
    #[inline(always)]
    pub const fn hop(&self) -> Option<Hop> {
        match self.kind {
            KIND_LOCAL => Some(Hop::Local { endpoint: self.endpoint, generation: self.generation }),
            KIND_GATEWAY => Some(Hop::Gateway),
            _ => None,
        }
    }
}

/// Value of `CC_ENDPOINTS`; generation 0 is an empty slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct EndpointEntry {
    pub generation: u64,
    pub ifindex: u32,
    pub vni: u32,
    pub group: u32,
    pub ipv4: Be32,
    pub mac: MacAddr,
    pub pad: [u8; 2],
    /// The container whose endpoint this is, by the number that its id spells. The daemon finds pins by it after a crash.
    pub container: u64,
    /// Key of its row in `CC_SOCKETS`, likewise.
    pub cgroup: u64,
}
const _: () = assert!(size_of::<EndpointEntry>() == 48 && align_of::<EndpointEntry>() == 8);

/// The way of a packet of network `vni`.
#[inline(always)]
pub fn decide(route: Option<&Route>) -> Result<Hop, DropReason> {
    match route.map(Route::hop) {
        Some(Some(hop)) => Ok(hop),
        _ => Err(DropReason::NoRoute),
    }
}

/// The destination that a route led to, if it is still the one that the route was made for.
#[inline(always)]
pub fn current(entry: Option<&EndpointEntry>, vni: u32, generation: u64) -> Result<&EndpointEntry, DropReason> {
    match entry {
        Some(entry) if generation != 0 && entry.generation == generation && entry.vni == vni => Ok(entry),
        _ => Err(DropReason::StaleEndpoint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hops() {
        assert_eq!(decide(None), Err(DropReason::NoRoute));
        assert_eq!(decide(Some(&Route::gateway())), Ok(Hop::Gateway));
        assert_eq!(decide(Some(&Route::local(4, 9))), Ok(Hop::Local { endpoint: 4, generation: 9 }));
        assert_eq!(decide(Some(&Route { kind: 77, ..Route::gateway() })), Err(DropReason::NoRoute));
    }

    proptest! {
        #[test]
        fn a_route_never_leads_to_another_network_or_generation(
            vni in 0u32..3, generation in 0u64..3, entry_vni in 0u32..3, entry_generation in 0u64..3,
        ) {
            let entry = EndpointEntry { vni: entry_vni, generation: entry_generation, ..EndpointEntry::default() };
            let found = current(Some(&entry), vni, generation).is_ok();
            prop_assert_eq!(found, vni == entry_vni && generation == entry_generation && generation != 0);
        }

        #[test]
        fn keys_of_two_networks_never_agree(a in 0u32..1 << 24, b in 0u32..1 << 24, ipv4: [u8; 4]) {
            let (x, y) = (RouteKey::new(a, Be32(ipv4)), RouteKey::new(b, Be32(ipv4)));
            prop_assert_eq!(x == y, a == b);
        }
    }
}
