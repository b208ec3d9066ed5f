//! ARP from an endpoint: who may ask, and what for. The datapath answers itself; no request ever reaches a neighbour.
//! Refuses to build the answer.

use crate::net::{ArpPacket, Be32, ETHERTYPE_IPV4};
use crate::port::Port;
use crate::route::{Hop, Route};
use crate::verdict::DropReason;

pub const HARDWARE_ETHERNET: u16 = 1;
pub const OPERATION_REQUEST: u16 = 1;
pub const OPERATION_REPLY: u16 = 2;

/// The address that the endpoint rightly asks for.
///
/// A sender of 0.0.0.0 is a probe before an address is taken into use (RFC 5227): allowed in a request, since it claims
/// nothing and its answer tells of a conflict.
#[inline(always)]
pub fn question(port: &Port, arp: &ArpPacket) -> Result<Be32, DropReason> {
    if arp.hardware_type.get() != HARDWARE_ETHERNET
        || arp.protocol_type.get() != ETHERTYPE_IPV4
        || arp.hardware_len != 6
        || arp.protocol_len != 4
    {
        return Err(DropReason::ArpMalformed);
    }
    let operation = arp.operation.get();
    if operation != OPERATION_REQUEST && operation != OPERATION_REPLY {
        return Err(DropReason::ArpMalformed);
    }
    let probe = operation == OPERATION_REQUEST && arp.sender_ipv4.is_unspecified();
    if arp.sender_mac != port.mac || !(probe || arp.sender_ipv4 == port.ipv4) {
        return Err(DropReason::SpoofedArp);
    }
    if operation == OPERATION_REPLY || arp.target_ipv4 == port.ipv4 {
        return Err(DropReason::ArpAnnouncement);
    }
    Ok(arp.target_ipv4)
}

/// Whether the address asked for is one to answer for: the gateway's, or that of an endpoint of the same VPC.
#[inline(always)]
pub fn answerable(route: Option<&Route>) -> Result<(), DropReason> {
    match route.map(Route::hop) {
        Some(Some(Hop::Local { .. } | Hop::Gateway { .. })) => Ok(()),
        _ => Err(DropReason::ArpUnknownTarget),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Be16, MacAddr};
    use crate::port::tests::PORT;
    use proptest::prelude::*;

    fn request(target: [u8; 4]) -> ArpPacket {
        ArpPacket {
            hardware_type: Be16::new(1),
            protocol_type: Be16::new(0x0800),
            hardware_len: 6,
            protocol_len: 4,
            operation: Be16::new(OPERATION_REQUEST),
            sender_mac: PORT.mac,
            sender_ipv4: PORT.ipv4,
            target_mac: MacAddr([0; 6]),
            target_ipv4: Be32(target),
        }
    }

    #[test]
    fn forms() {
        let ask = request([10, 0, 0, 1]);
        assert_eq!(question(&PORT, &ask), Ok(Be32([10, 0, 0, 1])));
        assert_eq!(question(&PORT, &ArpPacket { sender_ipv4: Be32([0; 4]), ..ask }), Ok(Be32([10, 0, 0, 1])));
        assert_eq!(question(&PORT, &request(PORT.ipv4.0)), Err(DropReason::ArpAnnouncement));
        let reply = ArpPacket { operation: Be16::new(2), ..ask };
        assert_eq!(question(&PORT, &reply), Err(DropReason::ArpAnnouncement));
        for spoofed in [
            ArpPacket { sender_ipv4: Be32([10, 0, 0, 1]), ..ask },
            ArpPacket { sender_ipv4: Be32([10, 0, 0, 1]), ..reply },
            ArpPacket { sender_ipv4: Be32([0; 4]), ..reply },
            ArpPacket { sender_mac: MacAddr([2, 0, 0, 0, 0, 8]), ..ask },
        ] {
            assert_eq!(question(&PORT, &spoofed), Err(DropReason::SpoofedArp), "{spoofed:?}");
        }
        for malformed in [
            ArpPacket { hardware_type: Be16::new(6), ..ask },
            ArpPacket { protocol_type: Be16::new(0x86dd), ..ask },
            ArpPacket { hardware_len: 8, ..ask },
            ArpPacket { protocol_len: 16, ..ask },
            ArpPacket { operation: Be16::new(3), ..ask },
            ArpPacket { operation: Be16::new(0), ..ask },
        ] {
            assert_eq!(question(&PORT, &malformed), Err(DropReason::ArpMalformed), "{malformed:?}");
        }
    }

    #[test]
    fn only_the_living_are_answered_for() {
        assert_eq!(answerable(None), Err(DropReason::ArpUnknownTarget));
        assert_eq!(answerable(Some(&Route::gateway(9))), Ok(()));
        assert_eq!(answerable(Some(&Route::local(1))), Ok(()));
        assert_eq!(answerable(Some(&Route { kind: 99, ..Route::gateway(9) })), Err(DropReason::ArpUnknownTarget));
    }

    proptest! {
        #[test]
        fn whoever_is_answered_is_the_port(mac: [u8; 6], sender: [u8; 4], target: [u8; 4], operation in 0u16..4) {
            let arp = ArpPacket {
                sender_mac: MacAddr(mac), sender_ipv4: Be32(sender), operation: Be16::new(operation), ..request(target)
            };
            if question(&PORT, &arp).is_ok() {
                prop_assert_eq!(arp.sender_mac, PORT.mac);
                prop_assert!(arp.sender_ipv4 == PORT.ipv4 || arp.sender_ipv4.is_unspecified());
            }
        }
    }
}
