//! IPv4: is the header sound, and, of an endpoint's, the source its own. Refuses to look beyond the header.

use crate::net::{Be32, Ip, Ipv4Header};
use crate::packet::{Fragment, Packet, ipv4_fragment};
use crate::port::Port;
use crate::verdict::DropReason;

const HEADER_LEN_MIN: u32 = 20;

/// A sound header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    pub fragment: Fragment,
    /// 20 to 60.
    pub header_bytes: u32,
    /// Of the whole packet; what the frame has behind it is padding.
    pub total_bytes: u32,
    pub ttl: u8,
}

/// Judges a header, given how many bytes of the frame follow the Ethernet header. A longer frame is fine: short packets are
/// padded.
#[inline(always)]
pub fn accept(header: &Ipv4Header, available_bytes: u32) -> Result<Accepted, DropReason> {
    let header_bytes = u32::from(header.version_ihl & 0x0f) * 4;
    if header.version_ihl >> 4 != 4 || header_bytes < HEADER_LEN_MIN {
        return Err(DropReason::Ipv4Header);
    }
    let total_bytes = u32::from(header.total_len.get());
    if header_bytes > total_bytes || total_bytes > available_bytes {
        return Err(DropReason::Ipv4Length);
    }
    if header.destination.is_broadcast() {
        return Err(DropReason::Broadcast);
    }
    if header.destination.is_multicast() {
        return Err(DropReason::Multicast);
    }
    Ok(Accepted { fragment: ipv4_fragment(header.fragment, header.id), header_bytes, total_bytes, ttl: header.ttl })
}

/// What the header says of its packet.
#[inline(always)]
pub fn begin(packet: &mut Packet, header: &Ipv4Header) {
    packet.begin(Ip::v4(header.source), Ip::v4(header.destination), header.protocol);
}

/// Whether an endpoint may call itself so.
#[inline(always)]
pub fn is_own(port: &Port, source: Be32) -> Result<(), DropReason> {
    if source == port.ipv4 { Ok(()) } else { Err(DropReason::SpoofedIpv4) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Be16;
    use crate::port::tests::PORT;
    use proptest::prelude::*;

    fn header(version_ihl: u8, total_len: u16) -> Ipv4Header {
        Ipv4Header {
            version_ihl,
            tos: 0,
            total_len: Be16::new(total_len),
            id: Be16::new(0),
            fragment: Be16::new(0),
            ttl: 64,
            protocol: 17,
            checksum: Be16::new(0),
            source: PORT.ipv4,
            destination: Be32([10, 0, 0, 3]),
        }
    }

    #[test]
    fn table() {
        let accept = |header: &Ipv4Header, available| accept(header, available).map(|accepted| accepted.header_bytes);
        let ok = Ok;
        assert_eq!(accept(&header(0x45, 28), 28), ok(20));
        assert_eq!(accept(&header(0x45, 28), 46), ok(20), "padded");
        assert_eq!(accept(&header(0x4f, 60), 60), ok(60), "options");
        assert_eq!(accept(&header(0x65, 28), 28), Err(DropReason::Ipv4Header));
        assert_eq!(accept(&header(0x44, 28), 28), Err(DropReason::Ipv4Header));
        assert_eq!(accept(&header(0x46, 20), 60), Err(DropReason::Ipv4Length), "shorter than its header");
        assert_eq!(accept(&header(0x45, 29), 28), Err(DropReason::Ipv4Length), "longer than the frame");
        assert_eq!(accept(&header(0x45, 0), 28), Err(DropReason::Ipv4Length));
        let to = |destination| Ipv4Header { destination: Be32(destination), ..header(0x45, 28) };
        assert_eq!(accept(&to([255; 4]), 28), Err(DropReason::Broadcast));
        assert_eq!(accept(&to([224, 0, 0, 251]), 28), Err(DropReason::Multicast));
        assert_eq!(
            (is_own(&PORT, PORT.ipv4), is_own(&PORT, Be32([10, 0, 0, 3]))),
            (Ok(()), Err(DropReason::SpoofedIpv4))
        );
    }

    proptest! {
        #[test]
        fn what_is_accepted_lies_within_the_frame(
            version_ihl: u8, total_len: u16, source: [u8; 4], destination: [u8; 4], available in 0u32..70_000,
        ) {
            let header = Ipv4Header {
                source: Be32(source), destination: Be32(destination), ..header(version_ihl, total_len)
            };
            if let Ok(accepted) = accept(&header, available) {
                prop_assert!(accepted.header_bytes >= 20 && accepted.header_bytes <= 60);
                prop_assert!(accepted.header_bytes <= u32::from(total_len) && u32::from(total_len) <= available);
                prop_assert!(!header.destination.is_multicast() && !header.destination.is_broadcast());
            }
        }
    }
}
