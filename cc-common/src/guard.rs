//! What the guard lets in by an uplink: is the source denied, and is the packet one that an honest host could have sent. For the host
//! itself and everything behind it, so it refuses to be strict: what is only odd passes.

use crate::net::{Ip, Ipv4Header, Ipv6Header, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::packet::{TCP_FIN, TCP_SYN};

/// Value of `CC_GUARD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Guard {
    /// The table of prefixes that are denied; 0: none.
    pub table: u32,
    /// Not 0: `CC_BLOCKED` is a picture of its IPv4 prefixes.
    pub has_picture: u32,
}
const _: () = assert!(size_of::<Guard>() == 8);

macro_rules! guard_drops {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)+) => {
        /// Why the guard drops a packet. Numbers and names are stable: they are in a pinned map, metrics and scripts.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum GuardDrop { $($(#[$doc])* $variant = $number,)+ }

        impl GuardDrop {
            pub const ALL: &[GuardDrop] = &[$(GuardDrop::$variant,)+];

            /// The name in `cc guard list` and in the label of the exported metric.
            pub const fn name(self) -> &'static str {
                match self { $(GuardDrop::$variant => $name,)+ }
            }
        }
    };
}

guard_drops! {
    /// Its source is in the deny list.
    Denied = 0, "denied";
    /// Too short for the header that another one announces.
    Truncated = 1, "truncated";
    /// Not version 4, or a header shorter than the minimum.
    Ipv4Header = 2, "ipv4_header";
    /// A total length below the header's or beyond the frame's end.
    Ipv4Length = 3, "ipv4_length";
    /// Not version 6.
    Ipv6Header = 4, "ipv6_header";
    /// A payload length beyond the frame's end.
    Ipv6Length = 5, "ipv6_length";
    /// From its own destination.
    Land = 6, "land";
    SourceMulticast = 7, "source_multicast";
    SourceBroadcast = 8, "source_broadcast";
    SourceLoopback = 9, "source_loopback";
    /// No flag at all, or one that opens with one that closes.
    TcpFlags = 10, "tcp_flags";
}

/// Rows of `CC_GUARDED`, one per reason, with room for some more.
pub const GUARDED_ROWS: u32 = 16;
const _: () = assert!(GuardDrop::ALL.len() <= GUARDED_ROWS as usize);

/// Whatever is behind an IP header that is sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inside {
    pub protocol: u8,
    /// From the IP header on.
    pub offset: u32,
    /// How many bytes the IP header says there are of it.
    pub bytes: u32,
    /// A later fragment: what is in it is no header.
    pub is_later: bool,
}

const LOOPBACK_V6: Ip = Ip { octets: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] };

/// A buffer that stands for several segments may be longer than its header's field can say; the field is 0 then.
const FIELD_MAX: u32 = 65_535;

/// Judges an IPv4 header, given how many bytes of the frame begin with it.
#[inline(always)]
pub fn ipv4(header: &Ipv4Header, available_bytes: u32) -> Result<Inside, GuardDrop> {
    let header_bytes = u32::from(header.version_ihl & 0x0f) * 4;
    if header.version_ihl >> 4 != 4 || header_bytes < size_of::<Ipv4Header>() as u32 {
        return Err(GuardDrop::Ipv4Header);
    }
    let mut total_bytes = u32::from(header.total_len.get());
    if total_bytes == 0 && available_bytes > FIELD_MAX {
        total_bytes = available_bytes;
    }
    if total_bytes < header_bytes || total_bytes > available_bytes {
        return Err(GuardDrop::Ipv4Length);
    }
    let [first, ..] = header.source.0;
    if header.source.is_multicast() {
        return Err(GuardDrop::SourceMulticast);
    }
    if header.source.is_broadcast() {
        return Err(GuardDrop::SourceBroadcast);
    }
    if first == 127 {
        return Err(GuardDrop::SourceLoopback);
    }
    // Who has no address yet sends from 0.0.0.0, and to somebody else.
    if header.source == header.destination {
        return Err(GuardDrop::Land);
    }
    Ok(Inside {
        protocol: header.protocol,
        offset: header_bytes,
        bytes: total_bytes - header_bytes,
        is_later: header.fragment.get() & 0x1fff != 0,
    })
}

/// Judges the fixed IPv6 header likewise; extension headers may follow.
#[inline(always)]
pub fn ipv6(header: &Ipv6Header, available_bytes: u32) -> Result<Inside, GuardDrop> {
    let header_bytes = size_of::<Ipv6Header>() as u32;
    if header.version_class_label.0[0] >> 4 != 6 {
        return Err(GuardDrop::Ipv6Header);
    }
    let mut payload_bytes = u32::from(header.payload_len.get());
    if payload_bytes == 0 && available_bytes > FIELD_MAX {
        payload_bytes = available_bytes - header_bytes;
    }
    if header_bytes + payload_bytes > available_bytes {
        return Err(GuardDrop::Ipv6Length);
    }
    let (source, destination) = (Ip { octets: header.source }, Ip { octets: header.destination });
    if header.source[0] == 0xff {
        return Err(GuardDrop::SourceMulticast);
    }
    if source == LOOPBACK_V6 {
        return Err(GuardDrop::SourceLoopback);
    }
    if source == destination {
        return Err(GuardDrop::Land);
    }
    Ok(Inside { protocol: header.next_header, offset: header_bytes, bytes: payload_bytes, is_later: false })
}

/// Whether there is as much of the transport header as its protocol has at least.
#[inline(always)]
pub fn transport(inside: &Inside) -> Result<(), GuardDrop> {
    let least = match inside.protocol {
        PROTOCOL_TCP => 20,
        PROTOCOL_UDP | PROTOCOL_ICMP => 8,
        PROTOCOL_ICMPV6 => 4,
        _ => 0,
    };
    if inside.is_later || inside.bytes >= least { Ok(()) } else { Err(GuardDrop::Truncated) }
}

/// Judges TCP's flags: every segment of a connection has one, and none opens and closes it.
#[inline(always)]
pub fn tcp_flags(flags: u8) -> Result<(), GuardDrop> {
    let known = flags & 0x3f;
    if known == 0 || known & (TCP_SYN | TCP_FIN) == TCP_SYN | TCP_FIN { Err(GuardDrop::TcpFlags) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Be16, Be32};
    use crate::packet::TCP_ACK;
    use proptest::prelude::*;

    fn v4(source: [u8; 4], destination: [u8; 4]) -> Ipv4Header {
        Ipv4Header {
            version_ihl: 0x45,
            tos: 0,
            total_len: Be16::new(40),
            id: Be16::new(1),
            fragment: Be16::new(0),
            ttl: 64,
            protocol: PROTOCOL_TCP,
            checksum: Be16::new(0),
            source: Be32(source),
            destination: Be32(destination),
        }
    }

    fn v6(source: &str, destination: &str) -> Ipv6Header {
        let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        Ipv6Header {
            version_class_label: Be32([0x60, 0, 0, 0]),
            payload_len: Be16::new(20),
            next_header: PROTOCOL_TCP,
            hop_limit: 64,
            source: octets(source),
            destination: octets(destination),
        }
    }

    const US: [u8; 4] = [192, 0, 2, 1];
    const THEM: [u8; 4] = [198, 51, 100, 7];

    #[test]
    fn headers_of_ipv4() {
        let sound = Inside { protocol: PROTOCOL_TCP, offset: 20, bytes: 20, is_later: false };
        let header = v4(THEM, US);
        assert_eq!(ipv4(&header, 40), Ok(sound));
        assert_eq!(ipv4(&header, 46), Ok(sound), "a short frame is padded");
        assert_eq!(ipv4(&header, 39), Err(GuardDrop::Ipv4Length));
        assert_eq!(ipv4(&Ipv4Header { version_ihl: 0x44, ..header }, 40), Err(GuardDrop::Ipv4Header));
        assert_eq!(ipv4(&Ipv4Header { version_ihl: 0x65, ..header }, 40), Err(GuardDrop::Ipv4Header));
        assert_eq!(ipv4(&Ipv4Header { version_ihl: 0x4f, ..header }, 60), Err(GuardDrop::Ipv4Length));
        let large = Ipv4Header { total_len: Be16::new(0), ..header };
        assert_eq!(ipv4(&large, 40), Err(GuardDrop::Ipv4Length));
        assert_eq!(ipv4(&large, 70_000).map(|inside| inside.bytes), Ok(69_980), "segments that were joined");
        assert!(ipv4(&Ipv4Header { fragment: Be16::new(1), ..header }, 40).unwrap().is_later);
    }

    #[test]
    fn sources_that_nobody_has() {
        for (source, expected) in [
            ([224, 0, 0, 1], GuardDrop::SourceMulticast),
            ([239, 1, 2, 3], GuardDrop::SourceMulticast),
            ([255, 255, 255, 255], GuardDrop::SourceBroadcast),
            ([127, 0, 0, 1], GuardDrop::SourceLoopback),
            (US, GuardDrop::Land),
        ] {
            assert_eq!(ipv4(&v4(source, US), 40), Err(expected), "{source:?}");
        }
        assert!(ipv4(&v4([0, 0, 0, 0], [255, 255, 255, 255]), 40).is_ok(), "who asks for an address");
        for (source, expected) in [
            ("ff02::1", GuardDrop::SourceMulticast),
            ("::1", GuardDrop::SourceLoopback),
            ("2001:db8::1", GuardDrop::Land),
        ] {
            assert_eq!(ipv6(&v6(source, "2001:db8::1"), 60), Err(expected), "{source}");
        }
        for sound in ["::", "fe80::1", "2001:db8::2", "::2"] {
            assert!(ipv6(&v6(sound, "ff02::1"), 60).is_ok(), "{sound}");
        }
        assert_eq!(ipv6(&v6("fe80::1", "ff02::1"), 59), Err(GuardDrop::Ipv6Length));
        let old = Ipv6Header { version_class_label: Be32([0x40, 0, 0, 0]), ..v6("fe80::1", "ff02::1") };
        assert_eq!(ipv6(&old, 60), Err(GuardDrop::Ipv6Header));
    }

    #[test]
    fn transport_headers_are_whole() {
        let of = |protocol, bytes| transport(&Inside { protocol, bytes, offset: 20, is_later: false });
        assert_eq!((of(PROTOCOL_TCP, 19), of(PROTOCOL_TCP, 20)), (Err(GuardDrop::Truncated), Ok(())));
        assert_eq!((of(PROTOCOL_UDP, 7), of(PROTOCOL_ICMPV6, 4)), (Err(GuardDrop::Truncated), Ok(())));
        assert_eq!(of(47, 0), Ok(()), "of others nothing is known");
        assert_eq!(transport(&Inside { protocol: PROTOCOL_TCP, bytes: 1, offset: 20, is_later: true }), Ok(()));
    }

    proptest! {
        #[test]
        fn flags_of_honest_segments_pass(flags: u8) {
            let expected = flags & 0x3f != 0 && flags & 3 != 3;
            prop_assert_eq!(tcp_flags(flags).is_ok(), expected);
            prop_assert!(tcp_flags(TCP_ACK | flags & 0xc0).is_ok());
        }

        /// Whatever the bytes are, nothing that passes claims more than there is.
        #[test]
        fn nothing_reaches_beyond_the_frame(bytes: [u8; 8], source: [u8; 4], available in 20u32..100_000) {
            let header = Ipv4Header {
                version_ihl: bytes[0], total_len: Be16([bytes[1], bytes[2]]), fragment: Be16([bytes[3], bytes[4]]),
                protocol: bytes[5], ..v4(source, US)
            };
            if let Ok(inside) = ipv4(&header, available) {
                prop_assert!(inside.offset + inside.bytes <= available && (20..=60).contains(&inside.offset));
            }
        }
    }
}
