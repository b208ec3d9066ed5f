//! IPv6 neighbour discovery from an endpoint: who asks for whom. The datapath answers itself, as it does ARP; no solicitation
//! ever reaches a neighbour. Refuses to build the answer.

use crate::net::{Ip, MacAddr};
use crate::port::Port;
use crate::route::{Hop, Route};
use crate::verdict::DropReason;

pub const ROUTER_SOLICITATION: u8 = 133;
pub const NEIGHBOR_SOLICITATION: u8 = 135;
pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// RFC 4861: what came from beyond a router is no neighbour's.
pub const HOP_LIMIT: u8 = 255;

/// A solicitation, and with a target's link-layer address behind it the answer too.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Neighbor {
    pub kind: u8,
    pub code: u8,
    pub checksum: [u8; 2],
    /// In an advertisement: router, solicited, override.
    pub flags: [u8; 4],
    pub target: [u8; 16],
}
const _: () = assert!(size_of::<Neighbor>() == 24 && align_of::<Neighbor>() == 1);

pub const FLAG_ROUTER: u8 = 0x80;
pub const FLAG_SOLICITED: u8 = 0x40;
pub const FLAG_OVERRIDE: u8 = 0x20;

/// The target's address as an option of the answer: type, length in units of eight bytes, address.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct TargetLinkLayer {
    pub kind: u8,
    pub length: u8,
    pub mac: MacAddr,
}
pub const OPTION_TARGET_LINK_LAYER: u8 = 2;

/// The address that the endpoint rightly asks for.
#[inline(always)]
pub fn question(port: &Port, source: &Ip, hop_limit: u8, asked: &Neighbor) -> Result<Ip, DropReason> {
    if asked.kind != NEIGHBOR_SOLICITATION {
        // Router solicitations, advertisements of itself: nobody needs to hear them.
        return Err(DropReason::NdAnnouncement);
    }
    let target = Ip { octets: asked.target };
    if asked.code != 0 || hop_limit != HOP_LIMIT || target.is_multicast_v6() {
        return Err(DropReason::NdMalformed);
    }
    if target == port.ipv6 {
        return Err(DropReason::NdAnnouncement);
    }
    // Without a source it is a probe for an address before its use, and nobody here may take another than its own.
    if *source != port.ipv6 {
        return Err(if source.is_unspecified() { DropReason::NdAnnouncement } else { DropReason::SpoofedNd });
    }
    // It would find IPv4's route.
    if target.is_v4() { Err(DropReason::NdUnknownTarget) } else { Ok(target) }
}

/// Whether the address asked for is one to answer for, and with which flags.
#[inline(always)]
pub fn answer_flags(route: Option<&Route>) -> Result<u8, DropReason> {
    match route.and_then(Route::hop) {
        Some(Hop::Local { .. }) => Ok(FLAG_SOLICITED | FLAG_OVERRIDE),
        Some(Hop::Gateway { .. }) => Ok(FLAG_SOLICITED | FLAG_OVERRIDE | FLAG_ROUTER),
        _ => Err(DropReason::NdUnknownTarget),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::tests::PORT;

    const PEER: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];

    fn asks(target: [u8; 16]) -> Neighbor {
        Neighbor { kind: NEIGHBOR_SOLICITATION, code: 0, checksum: [0; 2], flags: [0; 4], target }
    }

    #[test]
    fn questions() {
        let peer = Ip { octets: PEER };
        assert_eq!(question(&PORT, &PORT.ipv6, 255, &asks(PEER)), Ok(peer));
        assert_eq!(question(&PORT, &PORT.ipv6, 64, &asks(PEER)), Err(DropReason::NdMalformed));
        assert_eq!(question(&PORT, &peer, 255, &asks(PEER)), Err(DropReason::SpoofedNd));
        assert_eq!(question(&PORT, &Ip::UNSPECIFIED, 255, &asks(PEER)), Err(DropReason::NdAnnouncement));
        assert_eq!(question(&PORT, &PORT.ipv6, 255, &asks(PORT.ipv6.octets)), Err(DropReason::NdAnnouncement));
        let mapped = Ip::v4(PORT.ipv4).octets;
        assert_eq!(question(&PORT, &PORT.ipv6, 255, &asks(mapped)), Err(DropReason::NdUnknownTarget));
        let router = Neighbor { kind: ROUTER_SOLICITATION, ..asks(PEER) };
        assert_eq!(question(&PORT, &PORT.ipv6, 255, &router), Err(DropReason::NdAnnouncement));
    }

    #[test]
    fn only_the_gateway_is_a_router() {
        assert_eq!(answer_flags(Some(&Route::gateway(9))), Ok(0xe0));
        assert_eq!(answer_flags(Some(&Route::local(3))), Ok(0x60));
        assert_eq!(answer_flags(Some(&Route::internet())), Err(DropReason::NdUnknownTarget));
        assert_eq!(answer_flags(None), Err(DropReason::NdUnknownTarget));
    }
}
