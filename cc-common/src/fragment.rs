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
    /// Not zero: it is the host's own, and those that follow pass.
    pub hosts: u8,
    pub pad: u8,
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
    /// Of which it is a fragment: what waits by a key may be an earlier packet's.
    pub packet: FragmentKey,
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

    /// How many fragments of that packet wait. What has waited for too long is of none: numbers of packets come again. Another CPU's clock may
    /// be a tick ahead.
    #[inline(always)]
    pub fn waiting(&self, packet: &FragmentKey, now_ns: u64) -> Option<u32> {
        let is_it = self.packet == *packet && now_ns.saturating_sub(self.since_ns) < EARLY_NS;
        is_it.then_some(self.count)
    }

    /// The number of one more fragment of that packet, which takes the place if another had it; none if there are as many as there may be.
    #[inline(always)]
    pub fn next(&self, packet: &FragmentKey, now_ns: u64) -> Option<u32> {
        match self.waiting(packet, now_ns) {
            Some(count) if count >= EARLY_FRAGMENTS => None,
            Some(count) => Some(count),
            None => Some(0),
        }
    }

    /// It waits, by the number that `next` has said.
    #[inline(always)]
    pub fn add(&mut self, packet: &FragmentKey, now_ns: u64) {
        match self.waiting(packet, now_ns) {
            Some(count) => self.count = count + 1,
            None => *self = Early::new(*packet, now_ns),
        }
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
    pub fn of(vni: u32, packet: &Packet, id: u32, hosts: bool) -> Self {
        FragmentEntry {
            packet: FragmentKey::of(vni, packet, id),
            source_port: packet.source_port,
            destination_port: packet.destination_port,
            icmp: packet.icmp,
            hosts: hosts.into(),
            pad: 0,
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
        FragmentEntry::of(7, &first, 9, false).complete(&mut later);
        assert_eq!(later, first);
    }

    #[test]
    fn what_waits_is_of_one_packet_and_for_a_second() {
        let key = |id| FragmentKey::of(7, &packet(PROTOCOL_UDP, 2, 0, 3, 0), id);
        let mut early = Early::new(key(1), 100);
        let late = 100 + EARLY_NS;
        for number in 1..EARLY_FRAGMENTS {
            assert_eq!(early.next(&key(1), late - 1), Some(number));
            early.add(&key(1), late - 1);
        }
        assert_eq!((early.next(&key(1), late - 1), early.count), (None, EARLY_FRAGMENTS));
        assert_eq!(early.waiting(&key(1), 0), Some(EARLY_FRAGMENTS), "by a clock that is behind");
        assert_eq!((early.waiting(&key(2), 100), early.waiting(&key(1), late)), (None, None));
        assert_eq!(early.next(&key(1), late), Some(0), "the same number again is another packet");
        early.add(&key(1), late);
        assert_eq!(early, Early::new(key(1), late));
        early.add(&key(2), late);
        assert_eq!(early, Early::new(key(2), late), "the place is taken");
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
