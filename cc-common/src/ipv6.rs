//! IPv6: is the header sound, which extension headers may stand before the transport's, and, of an endpoint's, is the source
//! its own. Refuses to look beyond them.

use crate::net::{Be16, Be32, Ip, Ipv6Header};
use crate::packet::{Fragment, Packet, ipv6_fragment};
use crate::port::Port;
use crate::verdict::DropReason;

pub const HEADER_BYTES: u32 = 40;
/// Extension headers of one packet; more is nobody's honest packet.
pub const EXTENSIONS_MAX: u32 = 4;
/// Bytes of an extension header that say what it is.
pub const EXTENSION_BYTES: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Judges the fixed header, given how many bytes of the frame follow the Ethernet header.
#[inline(always)]
pub fn accept(header: &Ipv6Header, available_bytes: u32) -> Result<(), DropReason> {
    if header.version_class_label.0[0] >> 4 != 6 {
        return Err(DropReason::Ipv6Header);
    }
    // Of a quoted packet the rest may be missing: whoever asks says that there is enough.
    if HEADER_BYTES + u32::from(header.payload_len.get()) > available_bytes {
        return Err(DropReason::Ipv6Length);
    }
    Ok(())
}

/// A buffer that stands for several segments may be longer than its header's field can say; the field is 0 then.
const FIELD_MAX: u32 = 65_535;

/// Bytes of the whole packet that was accepted; what the frame has behind it is padding.
#[inline(always)]
pub fn total_bytes(header: &Ipv6Header, available_bytes: u32) -> u32 {
    match u32::from(header.payload_len.get()) {
        0 if available_bytes > FIELD_MAX => available_bytes,
        payload => HEADER_BYTES + payload,
    }
}

/// What the header says of its packet; its protocol is the first next header.
#[inline(always)]
pub fn begin(packet: &mut Packet, header: &Ipv6Header) {
    packet.begin(Ip { octets: header.source }, Ip { octets: header.destination }, header.next_header);
}

/// Whether an endpoint may call itself so. An IPv4-mapped source would be mistaken for IPv4.
#[inline(always)]
pub fn is_own(port: &Port, source: &Ip) -> Result<(), DropReason> {
    if *source == port.ipv6 { Ok(()) } else { Err(DropReason::SpoofedIpv6) }
}

/// Where a packet may go at all: mapped addresses are IPv4's, link-local ones are nobody's here.
#[inline(always)]
pub fn is_routable(destination: &Ip) -> Result<(), DropReason> {
    if destination.is_multicast_v6() {
        return Err(DropReason::Multicast);
    }
    if destination.is_v4() || destination.is_link_local() || destination.is_unspecified() {
        return Err(DropReason::NoRoute);
    }
    Ok(())
}

/// What stands behind the headers that were looked at so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The transport header, or no header of ours.
    Transport,
    /// Another extension header, so many bytes further.
    Skip {
        next: u8,
        bytes: u32,
    },
    Fragment {
        next: u8,
        bytes: u32,
        fragment: Fragment,
    },
}

/// Whether `next` is an extension header, whose first bytes are needed.
#[inline(always)]
pub fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION)
}

/// One step through the chain. A routing header is refused: it would take the packet past what was decided for its destination.
#[inline(always)]
pub fn step(next: u8, first: &[u8; EXTENSION_BYTES]) -> Result<Step, DropReason> {
    match next {
        ROUTING => Err(DropReason::Ipv6Extension),
        FRAGMENT => {
            let fragment = ipv6_fragment(Be16([first[2], first[3]]), Be32([first[4], first[5], first[6], first[7]]));
            Ok(Step::Fragment { next: first[0], bytes: EXTENSION_BYTES as u32, fragment })
        }
        HOP_BY_HOP | DESTINATION => Ok(Step::Skip { next: first[0], bytes: (u32::from(first[1]) + 1) * 8 }),
        _ => Ok(Step::Transport),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Place;
    use crate::port::tests::PORT;
    use proptest::prelude::*;

    fn header(payload_len: u16) -> Ipv6Header {
        Ipv6Header {
            version_class_label: Be32([0x60, 0, 0, 0]),
            payload_len: Be16::new(payload_len),
            next_header: 17,
            hop_limit: 64,
            source: PORT.ipv6.octets,
            destination: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3],
        }
    }

    #[test]
    fn headers_and_sources() {
        assert!(accept(&header(8), 48).is_ok() && accept(&header(8), 60).is_ok());
        assert_eq!(accept(&header(9), 48), Err(DropReason::Ipv6Length));
        assert_eq!((total_bytes(&header(8), 60), total_bytes(&header(0), 60)), (48, 40), "padded");
        assert_eq!(total_bytes(&header(0), 70_000), 70_000, "segments together");
        let four = Ipv6Header { version_class_label: Be32([0x40, 0, 0, 0]), ..header(8) };
        assert_eq!(accept(&four, 48), Err(DropReason::Ipv6Header));
        assert_eq!(is_own(&PORT, &PORT.ipv6), Ok(()));
        let mapped = Ip::v4(PORT.ipv4);
        assert_eq!(
            (is_own(&PORT, &mapped), is_routable(&mapped)),
            (Err(DropReason::SpoofedIpv6), Err(DropReason::NoRoute))
        );
        let multicast = Ip { octets: [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2] };
        assert_eq!(is_routable(&multicast), Err(DropReason::Multicast));
    }

    #[test]
    fn extension_headers() {
        assert_eq!(step(HOP_BY_HOP, &[6, 1, 0, 0, 0, 0, 0, 0]), Ok(Step::Skip { next: 6, bytes: 16 }));
        assert_eq!(step(ROUTING, &[6, 0, 0, 0, 0, 0, 0, 0]), Err(DropReason::Ipv6Extension));
        let fragment = Fragment { place: Place::Later, id: 5 };
        assert_eq!(step(FRAGMENT, &[17, 0, 0, 8, 0, 0, 0, 5]), Ok(Step::Fragment { next: 17, bytes: 8, fragment }));
        assert_eq!(step(6, &[0; 8]), Ok(Step::Transport));
        assert!(is_extension(DESTINATION) && !is_extension(58) && !is_extension(50));
    }

    proptest! {
        #[test]
        fn every_step_goes_forward(next: u8, first: [u8; 8]) {
            match step(next, &first) {
                Ok(Step::Skip { bytes, .. } | Step::Fragment { bytes, .. }) => {
                    prop_assert!((8..=2048).contains(&bytes) && bytes.is_multiple_of(8) && is_extension(next));
                }
                Ok(Step::Transport) => prop_assert!(!is_extension(next)),
                Err(_) => {}
            }
        }
    }
}
