//! Fragments: only the first carries ports, so they are remembered for those that follow. Refuses to reassemble anything.

use crate::limits::{
    EARLY_BYTES, EARLY_EACH, EARLY_FRAGMENTS, EARLY_NS, EARLY_OUTSIDE, ENDPOINT_UNKNOWN, FRAGMENTS_EACH,
    FRAGMENTS_OUTSIDE,
};
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

/// Key of `CC_FRAGMENTS` and `CC_EARLY`: a place that its owner's packets take, each the place of an earlier one of the same owner's.
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

/// Value of `CC_EARLY`: of which packet fragments wait, how many, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Early {
    pub packet: FragmentKey,
    pub count: u32,
    pub since_ns: u64,
}
const _: () = assert!(size_of::<Early>() == 56 && align_of::<Early>() == 8);

/// Key of `CC_EARLY_BYTES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct EarlyKey {
    pub place: FragmentPlace,
    /// Below `EARLY_FRAGMENTS`, in the order in which they came.
    pub fragment: u32,
}
const _: () = assert!(size_of::<EarlyKey>() == 12);

/// Value of `CC_EARLY_BYTES`: a whole frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct EarlyFrame {
    pub length: u32,
    pub bytes: [u8; EARLY_BYTES as usize],
}
const _: () = assert!(size_of::<EarlyFrame>() == 2048);

impl Early {
    /// The first of a packet that waits.
    #[inline(always)]
    pub fn new(packet: FragmentKey, now_ns: u64) -> Self {
        Early { packet, count: 1, since_ns: now_ns }
    }

    /// Whether what waits here is of that packet. What has waited for too long is of none: numbers of packets come again.
    #[inline(always)]
    pub fn is_of(&self, packet: &FragmentKey, now_ns: u64) -> bool {
        self.packet == *packet && now_ns.wrapping_sub(self.since_ns) < EARLY_NS
    }

    /// The number of one more fragment of that packet, which takes the place if another had it; none if there are as many as there may be.
    #[inline(always)]
    pub fn add(&mut self, packet: &FragmentKey, now_ns: u64) -> Option<u32> {
        if !self.is_of(packet, now_ns) {
            *self = Early::new(*packet, now_ns);
            return Some(0);
        }
        let number = self.count;
        if number >= EARLY_FRAGMENTS {
            return None;
        }
        self.count = number + 1;
        Some(number)
    }
}

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
        FragmentPlace::among(
            if owner == ENDPOINT_UNKNOWN { FRAGMENTS_OUTSIDE } else { FRAGMENTS_EACH },
            owner,
            packet,
            id,
        )
    }

    /// Where fragments wait that came before their first.
    #[inline(always)]
    pub fn early(owner: u32, packet: &Packet, id: u32) -> Self {
        FragmentPlace::among(if owner == ENDPOINT_UNKNOWN { EARLY_OUTSIDE } else { EARLY_EACH }, owner, packet, id)
    }

    #[inline(always)]
    fn among(places: u32, owner: u32, packet: &Packet, id: u32) -> Self {
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
    fn what_waits_is_of_one_packet_and_for_a_second() {
        let key = |id| FragmentKey::of(7, &packet(PROTOCOL_UDP, 2, 0, 3, 0), id);
        let mut early = Early::new(key(1), 100);
        let numbers: Vec<_> = (0..EARLY_FRAGMENTS).map(|_| early.add(&key(1), 100 + EARLY_NS - 1)).collect();
        assert_eq!(numbers, (1..EARLY_FRAGMENTS).map(Some).chain([None]).collect::<Vec<_>>());
        assert_eq!(early.count, EARLY_FRAGMENTS);
        assert!(early.is_of(&key(1), 100 + EARLY_NS - 1) && !early.is_of(&key(2), 100));
        assert!(!early.is_of(&key(1), 100 + EARLY_NS));
        assert_eq!(early.add(&key(1), 100 + EARLY_NS), Some(0), "the same number again is another packet");
        assert_eq!((early.count, early.add(&key(2), 100 + EARLY_NS)), (1, Some(0)), "the place is taken");
        assert_eq!(early, Early::new(key(2), 100 + EARLY_NS));
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
