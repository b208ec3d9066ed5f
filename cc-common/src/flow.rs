//! Flows: what is remembered of a conversation. One entry serves both directions: its key orders the two ends, and everything
//! that belongs to an end is an array indexed by its side. Refuses to decide whether a flow may exist.

use crate::life::LIFE_HALF_OPEN;
use crate::net::{Be16, Ip};
use crate::packet::Packet;
use crate::tcp::Tracked;

/// Key of `CC_FLOWS`; in `CC_NAT` the same with VNI 0: the conversation as the outside sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[repr(C)]
pub struct FlowKey {
    pub vni: u32,
    pub addresses: [Ip; 2],
    pub ports: [Be16; 2],
    pub protocol: u8,
    pub pad: [u8; 3],
}
const _: () = assert!(size_of::<FlowKey>() == 44 && align_of::<FlowKey>() == 4);

/// The VNI of the outside, which is nobody's network.
pub const VNI_OUTSIDE: u32 = 0;

/// Index of one end in a flow's arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    A = 0,
    B = 1,
}

impl Side {
    #[inline(always)]
    pub const fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }
    #[inline(always)]
    pub const fn index(self) -> usize {
        self as usize
    }
    #[inline(always)]
    pub const fn from_index(index: u8) -> Side {
        if index == 0 { Side::A } else { Side::B }
    }
}

impl FlowKey {
    /// The key of a packet, and the side that sent it.
    #[inline(always)]
    pub fn of(vni: u32, packet: &Packet) -> (FlowKey, Side) {
        let side = if before(&packet.source, &packet.destination, packet.source_port, packet.destination_port) {
            Side::A
        } else {
            Side::B
        };
        let (a, b, p, q) = match side {
            Side::A => (packet.source, packet.destination, packet.source_port, packet.destination_port),
            Side::B => (packet.destination, packet.source, packet.destination_port, packet.source_port),
        };
        let key = FlowKey { vni, addresses: [a, b], ports: [p, q], protocol: packet.protocol, pad: [0; 3] };
        (key, side)
    }

    /// As `of`, written where it will stay: the kernel programs' stacks are small.
    #[inline(always)]
    pub fn set(&mut self, vni: u32, packet: &Packet) -> Side {
        self.vni = vni;
        self.protocol = packet.protocol;
        self.pad = [0; 3];
        if before(&packet.source, &packet.destination, packet.source_port, packet.destination_port) {
            self.addresses[0] = packet.source;
            self.addresses[1] = packet.destination;
            self.ports[0] = packet.source_port;
            self.ports[1] = packet.destination_port;
            Side::A
        } else {
            self.addresses[0] = packet.destination;
            self.addresses[1] = packet.source;
            self.ports[0] = packet.destination_port;
            self.ports[1] = packet.source_port;
            Side::B
        }
    }
}

/// Any total order does, as long as both directions see the same one; the last words differ most often.
#[inline(always)]
fn before(source: &Ip, destination: &Ip, source_port: Be16, destination_port: Be16) -> bool {
    let ([a, b, c, d], [e, f, g, h]) = (source.words(), destination.words());
    if d != h {
        return d < h;
    }
    if c != g {
        return c < g;
    }
    if b != f {
        return b < f;
    }
    if a != e {
        return a < e;
    }
    source_port.get() <= destination_port.get()
}

impl FlowKey {
    /// The key of `CC_NAT` by which the outside knows a flow.
    #[inline(always)]
    pub fn set_outer(&mut self, flow: &Flow, protocol: u8) {
        let ([a, b], [p, q]) = (&flow.outer_addresses, flow.outer_ports);
        let in_order = before(a, b, p, q);
        self.vni = VNI_OUTSIDE;
        self.protocol = protocol;
        self.pad = [0; 3];
        self.addresses[0] = if in_order { *a } else { *b };
        self.addresses[1] = if in_order { *b } else { *a };
        self.ports[0] = if in_order { p } else { q };
        self.ports[1] = if in_order { q } else { p };
    }
}

/// No endpoint of this host: behind the uplink.
pub const BEYOND_UPLINK: u32 = u32::MAX;
/// No endpoint: the host itself, behind the `cc` device.
pub const BEYOND_HOST: u32 = u32::MAX - 1;
/// The rewritten tuple differs from the key.
pub const FLAG_TRANSLATED: u8 = 1;
/// Came in by a published port.
pub const FLAG_FORWARDED: u8 = 2;
/// The outside knows it by a row of `CC_NAT`, which goes with it.
pub const FLAG_OUTSIDE: u8 = 4;
/// The outer port of the side that began is leased.
pub const FLAG_LEASED: u8 = 8;
/// From a block that is not its own, which is counted.
pub const FLAG_SHARED: u8 = 16;

/// Value of `CC_FLOWS`. What is only read per packet comes first, what is written after it, so that the two directions on
/// two CPUs share the first part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Flow {
    /// Generations of the rule sets by which each side was judged; 0 where it is no endpoint of ours.
    pub rules: [u64; 2],
    /// Only in the layout that tests upgrade to: the struct is longer, and all that follows is somewhere else. The first field is not: the
    /// programs' stacks would not hold one more address.
    #[cfg(feature = "next-abi")]
    pub moved: [u64; 2],
    /// Generations of the endpoints; 0 likewise. A slot's next endpoint has another.
    pub generations: [u64; 2],
    /// The endpoints, or one of `BEYOND_…`.
    pub endpoints: [u32; 2],
    /// What allowed it: of the initiator's rules and of the responder's; 0 none, else a rule's number.
    pub allowed_by: [u32; 2],
    /// The side that began.
    pub initiator: u8,
    /// The side in whose quota it is counted.
    pub owner: u8,
    /// `FLAG_…`.
    pub flags: u8,
    pub pad: u8,
    /// Where a side beyond the uplink or the host is reached.
    pub ifindex: u32,
    /// The tuple as it is on the other face: by sides as in the key.
    pub outer_addresses: [Ip; 2],
    pub outer_ports: [Be16; 2],
    /// Of the settings' `beyond_version`, where no end is beyond and the flow lives by a published port all the same: its last 32 bits.
    pub beyond_version: u32,
    /// One of `LIFE_…`, and `LIFE_HALF_OPEN` (`life`). Atomic; the kernel's compiler has atomics of this size only.
    pub life: u64,
    pub created_ns: u64,
    pub last_seen_ns: u64,
    /// Who has spoken, and TCP's state.
    pub tracked: Tracked,
    /// As sent by each side; approximate where both directions meet on two CPUs.
    pub packets: [u64; 2],
    pub bytes: [u64; 2],
}
const _: () = assert!(size_of::<Flow>() == 176 + cfg!(feature = "next-abi") as usize * 16 && align_of::<Flow>() == 8);

/// Whether a number names something else than an endpoint of this host.
#[inline(always)]
pub const fn is_beyond(endpoint: u32) -> bool {
    endpoint >= BEYOND_HOST
}

impl Flow {
    #[inline(always)]
    pub fn initiator(&self) -> Side {
        Side::from_index(self.initiator)
    }

    /// Takes in what another account of this flow knows, of which both began as one. False, and nothing changes, if it is of another
    /// conversation between the same ends.
    pub fn join(&mut self, other: &Flow) -> bool {
        if self.created_ns != other.created_ns {
            return false;
        }
        self.tracked.join(&other.tracked);
        self.last_seen_ns = self.last_seen_ns.max(other.last_seen_ns);
        for side in [Side::A, Side::B].map(Side::index) {
            self.packets[side] = self.packets[side].max(other.packets[side]);
            self.bytes[side] = self.bytes[side].max(other.bytes[side]);
        }
        // Whoever took the bit away has done the books.
        if other.life & LIFE_HALF_OPEN == 0 {
            self.life &= !LIFE_HALF_OPEN;
        }
        true
    }

    /// The ends of a packet as they are behind us, when `side` has sent it within the network of the key.
    #[inline(always)]
    pub fn outward(&self, side: Side) -> Ends {
        let (from, to) = (side.index(), side.other().index());
        Ends {
            source: self.outer_addresses[from],
            destination: self.outer_addresses[to],
            source_port: self.outer_ports[from],
            destination_port: self.outer_ports[to],
        }
    }
}

/// Addresses and ports of a packet; the addresses lie together, as a packet's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Ends {
    pub source: Ip,
    pub destination: Ip,
    pub source_port: Be16,
    pub destination_port: Be16,
}

impl Ends {
    #[inline(always)]
    pub fn of(packet: &Packet) -> Self {
        Ends {
            source: packet.source,
            destination: packet.destination,
            source_port: packet.source_port,
            destination_port: packet.destination_port,
        }
    }
    /// Of what is sent the other way.
    #[inline(always)]
    pub fn turned(&self) -> Self {
        Ends {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
    /// Gives them to a packet.
    #[inline(always)]
    pub fn apply(&self, packet: &mut Packet) {
        packet.source = self.source;
        packet.destination = self.destination;
        packet.source_port = self.source_port;
        packet.destination_port = self.destination_port;
    }
}

impl FlowKey {
    /// The ends of a packet as they are within the network of this key, when `side` has sent it outside.
    #[inline(always)]
    pub fn inward(&self, side: Side) -> Ends {
        let (from, to) = (side.index(), side.other().index());
        Ends {
            source: self.addresses[from],
            destination: self.addresses[to],
            source_port: self.ports[from],
            destination_port: self.ports[to],
        }
    }
}

/// Value of `CC_NAT`: the flow that a packet from outside belongs to, and which of its sides the outside is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct NatEntry {
    pub flow: FlowKey,
    /// Side of the flow's key that is beyond.
    pub beyond: u8,
    pub pad: [u8; 3],
}
const _: () = assert!(size_of::<NatEntry>() == 48);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::life::LIFE_LIVE;
    use crate::net::{Be32, PROTOCOL_TCP};
    use crate::packet::tests::packet;
    use proptest::prelude::*;

    fn any_ip() -> impl Strategy<Value = Ip> {
        prop_oneof![
            any::<[u8; 4]>().prop_map(|v4| Ip::v4(Be32(v4))),
            any::<[u8; 16]>().prop_map(|octets| Ip { octets }),
            Just(Ip::v4(Be32([10, 0, 0, 1]))),
        ]
    }

    proptest! {
        #[test]
        fn both_directions_have_one_key_and_different_sides(
            vni: u32, source in any_ip(), destination in any_ip(), p: u16, q: u16,
        ) {
            let packet = Packet {
                source, destination, source_port: Be16::new(p), destination_port: Be16::new(q), ..packet(PROTOCOL_TCP, 0, 0, 0, 0)
            };
            let ((there, side), (back, other)) = (FlowKey::of(vni, &packet), FlowKey::of(vni, &packet.reversed()));
            prop_assert_eq!(there, back);
            let mut set = FlowKey { pad: [1; 3], ..FlowKey::default() };
            prop_assert_eq!((set.set(vni, &packet), set), (side, there));
            if source != destination || p != q {
                prop_assert_eq!(side.other(), other);
                prop_assert_eq!(there.addresses[side.index()], source);
                prop_assert_eq!(there.ports[other.index()], packet.destination_port);
            }
        }

        #[test]
        fn an_account_that_is_joined_goes_never_back(packets: [u64; 2], others: [u64; 2], seen: u64, later: u64, bits in 0u64..8) {
            let one = Flow { created_ns: 1, packets, last_seen_ns: seen, life: LIFE_LIVE | LIFE_HALF_OPEN, ..Flow::default() };
            let other = Flow { packets: others, last_seen_ns: later, life: bits, ..one };
            let mut joined = one;
            prop_assert!(joined.join(&other));
            prop_assert!((0..2).all(|n| joined.packets[n] >= packets[n] && joined.packets[n] >= others[n]));
            prop_assert!(joined.last_seen_ns >= seen && joined.last_seen_ns >= later);
            prop_assert_eq!(joined.life, LIFE_LIVE | (bits & LIFE_HALF_OPEN));
            let mut kept = one;
            let stranger = Flow { created_ns: 2, ..other };
            prop_assert!(!kept.join(&stranger));
            prop_assert_eq!(kept, one);
        }

        #[test]
        fn translation_is_reversible(
            source in any_ip(), destination in any_ip(), p: u16, q: u16, outer: [u8; 4], outer_port: u16,
        ) {
            let packet = Packet {
                source, destination, source_port: Be16::new(p), destination_port: Be16::new(q), ..packet(PROTOCOL_TCP, 0, 0, 0, 0)
            };
            let (key, side) = FlowKey::of(7, &packet);
            let mut flow = Flow { outer_addresses: key.addresses, outer_ports: key.ports, ..Flow::default() };
            flow.outer_addresses[side.index()] = Ip::v4(Be32(outer));
            flow.outer_ports[side.index()] = Be16::new(outer_port);
            let out = flow.outward(side);
            prop_assert_eq!((out.source, out.destination), (Ip::v4(Be32(outer)), destination));
            // The answer comes to the outer address, and leaves for the inner one.
            prop_assert_eq!(key.inward(side.other()), Ends::of(&packet.reversed()));
            prop_assert_eq!(out.turned(), flow.outward(side.other()));
            let mut known = FlowKey::default();
            known.set_outer(&flow, packet.protocol);
            let outside = Packet { source: out.source, source_port: out.source_port, ..packet };
            prop_assert_eq!(known, FlowKey::of(VNI_OUTSIDE, &outside).0);
        }
    }
}
