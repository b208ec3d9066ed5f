//! A packet as the decisions see it: addresses, ports, and what its transport header says, the same for IPv4 and IPv6. Made from
//! headers that a hook has copied out of the frame. Refuses to look at memory itself, and to judge addresses.

use crate::net::{Be16, Be32, Ip, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};

/// Bytes of a transport header that say all that is asked of it: TCP's up to its window.
pub const TCP_BYTES: usize = 16;
/// The same of UDP, ICMP and ICMPv6.
pub const SHORT_BYTES: usize = 8;

pub const TCP_FIN: u8 = 0x01;
pub const TCP_SYN: u8 = 0x02;
pub const TCP_RST: u8 = 0x04;
pub const TCP_ACK: u8 = 0x10;

/// What a packet is to connection tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Kind {
    /// Belongs to a flow of its own addresses and ports.
    #[default]
    Plain,
    /// An ICMP error: belongs to the flow of the packet that it quotes.
    Error,
    /// What leads hosts to routers and neighbours: belongs to no flow, and no container sends it to another.
    Advice,
}

/// What a packet of a TCP connection says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tcp {
    pub sequence: u32,
    pub acknowledged: u32,
    pub window: u16,
    pub flags: u8,
}

/// Its two addresses lie together, so that one sum over both serves every checksum that covers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Packet {
    pub source: Ip,
    pub destination: Ip,
    /// Of TCP and UDP; an ICMP query's identifier in both; else 0.
    pub source_port: Be16,
    pub destination_port: Be16,
    /// Type and code of ICMP and ICMPv6.
    pub icmp: [u8; 2],
    pub protocol: u8,
    pub kind: Kind,
    pub tcp: Tcp,
}

/// A fragment's place in its packet. Two whole words: what a program copies has no bytes that nobody wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Fragment {
    pub place: Place,
    /// The same for all fragments of a packet; 0 of a whole one.
    pub id: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u32)]
pub enum Place {
    #[default]
    Whole,
    /// Has the transport header; others follow.
    First,
    /// Has none.
    Later,
}

impl Fragment {
    pub const WHOLE: Fragment = Fragment { place: Place::Whole, id: 0 };

    #[inline(always)]
    pub fn is_whole(self) -> bool {
        matches!(self.place, Place::Whole)
    }
    #[inline(always)]
    pub fn is_later(self) -> bool {
        matches!(self.place, Place::Later)
    }
}

impl Packet {
    #[inline(always)]
    pub fn is_tcp(&self) -> bool {
        self.protocol == PROTOCOL_TCP
    }

    /// Whether it can only belong to a conversation that is there: TCP's answer to a beginning, and its reset. Of a later fragment
    /// nothing is known.
    #[inline(always)]
    pub fn begins_nothing(&self) -> bool {
        const ANSWER: u8 = TCP_SYN | TCP_ACK;
        self.is_tcp() && (self.tcp.flags & ANSWER == ANSWER || self.tcp.flags & TCP_RST != 0)
    }

    #[inline(always)]
    pub fn is_icmp(&self) -> bool {
        self.protocol == PROTOCOL_ICMP || self.protocol == PROTOCOL_ICMPV6
    }

    /// What rules call the port: TCP's and UDP's of the destination, ICMP's type and code.
    #[inline(always)]
    pub fn service(&self) -> Be16 {
        if self.is_icmp() { Be16(self.icmp) } else { self.destination_port }
    }

    /// The same packet the other way: as its answer, or as whoever got it would quote it.
    #[inline(always)]
    pub fn reversed(&self) -> Packet {
        Packet {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..*self
        }
    }

    /// Turns an answer into the packet that began it, as far as rules look at it.
    #[inline(always)]
    pub fn turn_to_begun(&mut self) {
        core::mem::swap(&mut self.source, &mut self.destination);
        core::mem::swap(&mut self.source_port, &mut self.destination_port);
        self.icmp[0] = match (self.protocol, self.icmp[0]) {
            (PROTOCOL_ICMP, 0) => 8,
            (PROTOCOL_ICMP, 14) => 13,
            (PROTOCOL_ICMPV6, 129) => 128,
            (_, kind) => kind,
        };
    }

    /// Everything but addresses and protocol is as if the packet had none.
    #[inline(always)]
    pub fn begin(&mut self, source: Ip, destination: Ip, protocol: u8) {
        self.source = source;
        self.destination = destination;
        self.source_port = Be16([0; 2]);
        self.destination_port = Be16([0; 2]);
        self.icmp = [0; 2];
        self.protocol = protocol;
        self.kind = Kind::Plain;
        self.tcp.flags = 0;
    }

    #[inline(always)]
    pub fn set_tcp(&mut self, header: &[u8; TCP_BYTES]) {
        let h = header;
        self.source_port = Be16([h[0], h[1]]);
        self.destination_port = Be16([h[2], h[3]]);
        self.tcp = Tcp {
            sequence: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
            acknowledged: u32::from_be_bytes([h[8], h[9], h[10], h[11]]),
            flags: h[13],
            window: u16::from_be_bytes([h[14], h[15]]),
        };
    }

    /// Of a quoted TCP header, of which there may be no more than the ports.
    #[inline(always)]
    pub fn set_ports(&mut self, header: &[u8; SHORT_BYTES]) {
        self.source_port = Be16([header[0], header[1]]);
        self.destination_port = Be16([header[2], header[3]]);
    }

    /// UDP, ICMP or ICMPv6.
    #[inline(always)]
    pub fn set_short(&mut self, header: &[u8; SHORT_BYTES]) {
        let h = header;
        if self.protocol == PROTOCOL_UDP {
            return self.set_ports(h);
        }
        self.icmp = [h[0], h[1]];
        if is_icmp_error(self.protocol, h[0]) {
            self.kind = Kind::Error;
        } else if is_icmp_advice(self.protocol, h[0]) {
            self.kind = Kind::Advice;
        } else {
            let identifier = Be16([h[4], h[5]]);
            self.source_port = identifier;
            self.destination_port = identifier;
        }
    }
}

/// Whether an ICMP or ICMPv6 type quotes a packet and tells what became of it. A redirect is none: it would change routes.
#[inline(always)]
pub fn is_icmp_error(protocol: u8, kind: u8) -> bool {
    if protocol == PROTOCOL_ICMPV6 { kind < 128 } else { matches!(kind, 3 | 4 | 11 | 12) }
}

/// Whether an ICMP or ICMPv6 type changes where its receiver sends: redirects, router discovery (RFC 1256), neighbour discovery
/// (RFC 4861).
#[inline(always)]
pub fn is_icmp_advice(protocol: u8, kind: u8) -> bool {
    if protocol == PROTOCOL_ICMPV6 { matches!(kind, 133..=137) } else { matches!(kind, 5 | 9 | 10) }
}

/// Whether a protocol's header is understood: of others only addresses count.
#[inline(always)]
pub fn has_ports(protocol: u8) -> bool {
    matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_ICMP | PROTOCOL_ICMPV6)
}

/// IPv4's flags and offset. The reserved bit and "don't fragment" do not matter.
#[inline(always)]
pub fn ipv4_fragment(field: Be16, id: Be16) -> Fragment {
    let (field, id) = (field.get(), u32::from(id.get()));
    match (field & 0x1fff, field & 0x2000) {
        (0, 0) => Fragment::WHOLE,
        (0, _) => Fragment { place: Place::First, id },
        _ => Fragment { place: Place::Later, id },
    }
}

/// The fragment extension header of IPv6: next header, reserved, offset and flag, identification.
#[inline(always)]
pub fn ipv6_fragment(offset_and_flag: Be16, id: Be32) -> Fragment {
    let (field, id) = (offset_and_flag.get(), id.get());
    match (field >> 3, field & 1) {
        // An atomic fragment is a whole packet (RFC 6946).
        (0, 0) => Fragment::WHOLE,
        (0, _) => Fragment { place: Place::First, id },
        _ => Fragment { place: Place::Later, id },
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn ip(last: u8) -> Ip {
        Ip::v4(Be32([10, 0, 0, last]))
    }

    pub(crate) fn packet(protocol: u8, source: u8, source_port: u16, destination: u8, destination_port: u16) -> Packet {
        Packet {
            source: ip(source),
            destination: ip(destination),
            source_port: Be16::new(source_port),
            destination_port: Be16::new(destination_port),
            protocol,
            ..Packet::default()
        }
    }

    #[test]
    fn transport_headers() {
        let mut tcp = packet(PROTOCOL_TCP, 2, 0, 3, 0);
        tcp.set_tcp(&[0x1f, 0x90, 0, 80, 0, 0, 0, 9, 0, 0, 0, 7, 0x50, 0x12, 0x01, 0x00]);
        assert_eq!((tcp.source_port.get(), tcp.destination_port.get()), (8080, 80));
        let said = Tcp { sequence: 9, acknowledged: 7, window: 256, flags: TCP_SYN | TCP_ACK };
        assert_eq!((tcp.tcp, tcp.service()), (said, Be16::new(80)));
        for (flags, begins) in
            [(TCP_SYN, true), (TCP_ACK, true), (0, true), (TCP_SYN | TCP_ACK, false), (TCP_RST, false)]
        {
            tcp.tcp.flags = flags;
            assert_eq!(tcp.begins_nothing(), !begins, "{flags:#x}");
        }
        let short = |protocol, header| {
            let mut packet = packet(protocol, 2, 0, 3, 0);
            packet.set_short(header);
            packet
        };
        let echo = short(PROTOCOL_ICMP, &[8, 0, 0, 0, 0x12, 0x34, 0, 1]);
        assert_eq!((echo.source_port, echo.destination_port), (Be16::new(0x1234), Be16::new(0x1234)));
        assert_eq!((echo.kind, echo.service()), (Kind::Plain, Be16([8, 0])));
        let error = short(PROTOCOL_ICMP, &[3, 4, 0, 0, 0, 0, 5, 0]);
        assert_eq!((error.kind, error.source_port, error.service()), (Kind::Error, Be16::new(0), Be16([3, 4])));
        assert!(is_icmp_error(PROTOCOL_ICMPV6, 2) && !is_icmp_error(PROTOCOL_ICMPV6, 128));
        assert!(!is_icmp_error(PROTOCOL_ICMP, 5), "a redirect is not forwarded as an error");
        let redirect = short(PROTOCOL_ICMP, &[5, 0, 0, 0, 0x12, 0x34, 0, 1]);
        assert_eq!((redirect.kind, redirect.source_port), (Kind::Advice, Be16::new(0)));
        for (protocol, kinds) in [(PROTOCOL_ICMP, &[5, 9, 10][..]), (PROTOCOL_ICMPV6, &[133, 134, 135, 136, 137])] {
            let advice: Vec<u8> = (0..=255).filter(|&kind| is_icmp_advice(protocol, kind)).collect();
            assert_eq!(advice, kinds);
        }
    }

    #[test]
    fn fragments() {
        let (first, later) = (|id| Fragment { place: Place::First, id }, |id| Fragment { place: Place::Later, id });
        let v4 = |field| ipv4_fragment(Be16::new(field), Be16::new(7));
        assert_eq!((v4(0), v4(0x4000), v4(0x8000)), (Fragment::WHOLE, Fragment::WHOLE, Fragment::WHOLE));
        assert_eq!((v4(0x2000), v4(0x2001), v4(1)), (first(7), later(7), later(7)));
        let v6 = |field| ipv6_fragment(Be16::new(field), Be32::new(9));
        assert_eq!((v6(0), v6(1), v6(8), v6(9)), (Fragment::WHOLE, first(9), later(9), later(9)));
    }

    #[test]
    fn nothing_of_another_packet_stays() {
        let mut used = packet(PROTOCOL_ICMP, 2, 0, 3, 0);
        used.set_short(&[3, 4, 0, 0, 0, 0, 5, 0]);
        used.begin(ip(2), ip(3), 47);
        assert_eq!(used, packet(47, 2, 0, 3, 0));
    }

    #[test]
    fn the_request_of_a_reply() {
        let mut reply = Packet { icmp: [0, 0], ..packet(PROTOCOL_ICMP, 3, 7, 2, 7) };
        reply.turn_to_begun();
        assert_eq!(reply, Packet { icmp: [8, 0], ..packet(PROTOCOL_ICMP, 2, 7, 3, 7) });
        let mut tcp = packet(PROTOCOL_TCP, 3, 80, 2, 999);
        tcp.turn_to_begun();
        assert_eq!(tcp.service(), Be16::new(80));
    }

    proptest! {
        #[test]
        fn turning_twice_changes_nothing(a: u8, b: u8, p: u16, q: u16) {
            let packet = packet(PROTOCOL_UDP, a, p, b, q);
            prop_assert_eq!(packet.reversed().reversed(), packet);
        }
    }
}
