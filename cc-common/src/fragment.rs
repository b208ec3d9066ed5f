//! Fragments: only the first carries ports, so they are remembered for those that follow. Refuses to reassemble anything.

use crate::limits::{ENDPOINT_UNKNOWN, FRAGMENTS_EACH, FRAGMENTS_OUTSIDE};
use crate::net::{Be16, Ip};
use crate::packet::Packet;

/// A packet on its way in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct FragmentKey {
    pub vni: u32,
    pub source: Ip,
    pub destination: Ip,
    pub id: u32,
    pub protocol: u8,
    pub pad: [u8; 3],
}
const _: () = assert!(size_of::<FragmentKey>() == 44 && align_of::<FragmentKey>() == 4);

/// Key of `CC_FRAGMENTS`: a place that its owner's packets take, each the place of an earlier one of the same owner's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FragmentPlace {
    /// The endpoint that sends, or `ENDPOINT_UNKNOWN`: whoever is outside.
    pub owner: u32,
    pub place: u32,
}
const _: () = assert!(size_of::<FragmentPlace>() == 8);

/// Value of `CC_FRAGMENTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct FragmentEntry {
    /// Whose place this is now.
    pub packet: FragmentKey,
    pub source_port: Be16,
    pub destination_port: Be16,
    /// Type and code of ICMP.
    pub icmp: [u8; 2],
    pub pad: [u8; 2],
}
const _: () = assert!(size_of::<FragmentEntry>() == 52);

impl FragmentKey {
    #[inline(always)]
    pub fn of(vni: u32, packet: &Packet, id: u32) -> Self {
        FragmentKey {
            vni,
            source: packet.source,
            destination: packet.destination,
            id,
            protocol: packet.protocol,
            pad: [0; 3],
        }
    }
}

impl FragmentPlace {
    /// Numbers of packets are often one after the other: those are in places one after the other. A place is of the source and of the
    /// destination too, since each pair may count for itself.
    #[inline(always)]
    pub fn of(owner: u32, packet: &Packet, id: u32) -> Self {
        let places = if owner == ENDPOINT_UNKNOWN { FRAGMENTS_OUTSIDE } else { FRAGMENTS_EACH };
        let pair = last(&packet.source) ^ last(&packet.destination).rotate_left(16);
        FragmentPlace { owner, place: id.wrapping_add(pair.wrapping_mul(GOLDEN) >> 16) % places }
    }
}

/// 2³² divided by the golden ratio: spreads numbers that are near each other (Knuth, The Art of Computer Programming, 6.4).
const GOLDEN: u32 = 0x9e37_79b1;

#[inline(always)]
fn last(address: &Ip) -> u32 {
    let [.., a, b, c, d] = address.octets;
    u32::from_be_bytes([a, b, c, d])
}

impl FragmentEntry {
    #[inline(always)]
    pub fn of(vni: u32, packet: &Packet, id: u32) -> Self {
        FragmentEntry {
            packet: FragmentKey::of(vni, packet, id),
            source_port: packet.source_port,
            destination_port: packet.destination_port,
            icmp: packet.icmp,
            pad: [0; 2],
        }
    }

    /// Gives a later fragment what the first one said.
    #[inline(always)]
    pub fn complete(&self, packet: &mut Packet) {
        packet.source_port = self.source_port;
        packet.destination_port = self.destination_port;
        packet.icmp = self.icmp;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::PROTOCOL_UDP;
    use crate::packet::tests::packet;

    #[test]
    fn a_later_fragment_gets_the_ports_of_the_first() {
        let first = packet(PROTOCOL_UDP, 2, 1234, 3, 53);
        let mut later = packet(PROTOCOL_UDP, 2, 0, 3, 0);
        assert_eq!(FragmentKey::of(7, &first, 9), FragmentKey::of(7, &later, 9));
        assert_ne!(FragmentKey::of(7, &first, 9), FragmentKey::of(8, &later, 9));
        FragmentEntry::of(7, &first, 9).complete(&mut later);
        assert_eq!(later, first);
    }

    #[test]
    fn places_are_of_their_owner_and_within_its_share() {
        let packet = packet(PROTOCOL_UDP, 2, 1234, 3, 53);
        for (owner, share) in [(5, FRAGMENTS_EACH), (ENDPOINT_UNKNOWN, FRAGMENTS_OUTSIDE)] {
            let places: std::collections::BTreeSet<u32> = (u32::MAX - share / 2..=u32::MAX)
                .chain(0..share / 2 - 1)
                .map(|id| FragmentPlace::of(owner, &packet, id))
                .map(|place| (assert_eq!(place.owner, owner), place.place).1)
                .collect();
            assert_eq!((places.len() as u32, places.last()), (share, Some(&(share - 1))), "one after the other");
        }
    }
}
