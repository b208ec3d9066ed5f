//! Fragments: only the first carries ports, so they are remembered for those that follow. Refuses to reassemble anything.

use crate::net::{Be16, Ip};
use crate::packet::Packet;

/// Key of `CC_FRAGMENTS`: a packet on its way in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// Value of `CC_FRAGMENTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct FragmentEntry {
    pub source_port: Be16,
    pub destination_port: Be16,
    /// Type and code of ICMP.
    pub icmp: [u8; 2],
    pub pad: [u8; 2],
}
const _: () = assert!(size_of::<FragmentEntry>() == 8);

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

impl FragmentEntry {
    #[inline(always)]
    pub fn of(packet: &Packet) -> Self {
        FragmentEntry {
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
        FragmentEntry::of(&first).complete(&mut later);
        assert_eq!(later, first);
    }
}
