//! A port: the host-side interface of one endpoint, and what its frames may claim to be. Refuses to know where they go.

use crate::net::{
    Be32, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN, Ethernet, GATEWAY_MAC, Ip,
    MacAddr,
};
use crate::verdict::DropReason;

/// Key of `CC_PORTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct PortKey {
    pub ifindex: u32,
}

/// Value of `CC_PORTS`: the only identity a frame from this interface can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Port {
    pub generation: u64,
    pub endpoint: u32,
    pub vni: u32,
    /// Number of its rule set in `CC_RULESETS`, and of its set of groups. 0 in the table: programs copy it from the endpoint's row,
    /// which is written in place. To write a row of a hash table anew is to give another row its memory, while a program may read it.
    pub rule_set: u32,
    pub ipv4: Be32,
    /// Unspecified in a network without IPv6.
    pub ipv6: Ip,
    pub mac: MacAddr,
    /// `PORT_…`.
    pub flags: u16,
}
const _: () = assert!(size_of::<Port>() == 48 && align_of::<Port>() == 8);

/// What it sends is held to the rate in its endpoint's row of `CC_RATES`.
pub const PORT_RATED: u16 = 1;

/// It is a netkit pair's: the program runs while the other end sends, where no packet can be handed to a third interface's other end.
pub const PORT_NETKIT: u16 = 2;

/// What a frame that its port may send carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    Arp,
    Ipv4,
    Ipv6,
}

/// Judges the frame's header. `tagged` is whether the interface took a VLAN tag off it.
#[inline(always)]
pub fn admit(port: &Port, frame: &Ethernet, tagged: bool) -> Result<Payload, DropReason> {
    let ethertype = frame.ethertype.get();
    if tagged || ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ {
        return Err(DropReason::Vlan);
    }
    if frame.source != port.mac {
        return Err(DropReason::SpoofedMac);
    }
    match ethertype {
        ETHERTYPE_IPV4 if frame.destination == GATEWAY_MAC => Ok(Payload::Ipv4),
        // A request is broadcast, a repeated one goes to the address we answered with.
        ETHERTYPE_ARP if frame.destination.is_broadcast() || frame.destination == GATEWAY_MAC => Ok(Payload::Arp),
        // Before the destination: every IPv6 stack multicasts on its own accord, and one reason is enough for it.
        ETHERTYPE_IPV6 if port.ipv6.is_unspecified() => Err(DropReason::Ipv6),
        // Neighbour discovery is multicast: what is not that is told apart later.
        ETHERTYPE_IPV6 if frame.destination == GATEWAY_MAC || frame.destination.is_multicast() => Ok(Payload::Ipv6),
        ETHERTYPE_ARP | ETHERTYPE_IPV4 if frame.destination.is_broadcast() => Err(DropReason::Broadcast),
        ETHERTYPE_ARP | ETHERTYPE_IPV4 if frame.destination.is_multicast() => Err(DropReason::Multicast),
        ETHERTYPE_ARP | ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => Err(DropReason::WrongDestinationMac),
        _ => Err(DropReason::Ethertype),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::net::Be16;
    use proptest::prelude::*;

    pub(crate) const PORT: Port = Port {
        generation: 7,
        endpoint: 3,
        vni: 42,
        rule_set: 5,
        ipv4: Be32([10, 0, 0, 2]),
        ipv6: Ip { octets: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2] },
        mac: MacAddr([2, 0, 0, 0, 0, 9]),
        flags: 0,
    };

    fn frame(destination: MacAddr, ethertype: u16) -> Ethernet {
        Ethernet { destination, source: PORT.mac, ethertype: Be16::new(ethertype) }
    }

    #[test]
    fn table() {
        let broadcast = MacAddr([0xff; 6]);
        let multicast = MacAddr([1, 0, 0x5e, 0, 0, 1]);
        let other = MacAddr([2, 0, 0, 0, 0, 8]);
        for (destination, ethertype, expected) in [
            (GATEWAY_MAC, ETHERTYPE_IPV4, Ok(Payload::Ipv4)),
            (GATEWAY_MAC, ETHERTYPE_ARP, Ok(Payload::Arp)),
            (broadcast, ETHERTYPE_ARP, Ok(Payload::Arp)),
            (broadcast, ETHERTYPE_IPV4, Err(DropReason::Broadcast)),
            (multicast, ETHERTYPE_IPV4, Err(DropReason::Multicast)),
            (multicast, ETHERTYPE_ARP, Err(DropReason::Multicast)),
            (other, ETHERTYPE_IPV4, Err(DropReason::WrongDestinationMac)),
            (GATEWAY_MAC, ETHERTYPE_IPV6, Ok(Payload::Ipv6)),
            (multicast, ETHERTYPE_IPV6, Ok(Payload::Ipv6)),
            (other, ETHERTYPE_IPV6, Err(DropReason::WrongDestinationMac)),
            (GATEWAY_MAC, ETHERTYPE_VLAN, Err(DropReason::Vlan)),
            (GATEWAY_MAC, ETHERTYPE_QINQ, Err(DropReason::Vlan)),
            (GATEWAY_MAC, 0x88cc, Err(DropReason::Ethertype)),
        ] {
            assert_eq!(admit(&PORT, &frame(destination, ethertype), false), expected, "{destination:?} {ethertype:#x}");
        }
        assert_eq!(admit(&PORT, &frame(GATEWAY_MAC, ETHERTYPE_IPV4), true), Err(DropReason::Vlan));
        let without = Port { ipv6: Ip::UNSPECIFIED, ..PORT };
        assert_eq!(admit(&without, &frame(multicast, ETHERTYPE_IPV6), false), Err(DropReason::Ipv6));
    }

    proptest! {
        #[test]
        fn nobody_else_gets_in(source: [u8; 6], destination: [u8; 6], ethertype: u16, tagged: bool) {
            let frame = Ethernet {
                destination: MacAddr(destination), source: MacAddr(source), ethertype: Be16::new(ethertype),
            };
            if admit(&PORT, &frame, tagged).is_ok() {
                prop_assert_eq!(frame.source, PORT.mac);
                prop_assert!(!tagged);
            }
        }
    }
}
