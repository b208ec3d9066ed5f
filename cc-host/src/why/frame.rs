//! The packet that is asked about, as bytes. Refuses to choose its ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cc_common::net::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};

use super::ends::Transport;

const TTL: u8 = 64;
const TCP_SYN: u8 = 2;
const WINDOW: u16 = 64_240;

/// One that begins a conversation: a SYN, an empty datagram, an echo request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Destination and source.
    pub macs: [[u8; 6]; 2],
    pub source: IpAddr,
    pub destination: IpAddr,
    pub transport: Transport,
    pub source_port: u16,
    pub port: u16,
}

impl Frame {
    /// `None` if its ends are not of one family.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        let [to, from] = self.macs;
        let ethernet = |ethertype: u16| [&to[..], &from, &ethertype.to_be_bytes()].concat();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let payload = self.payload(pseudo_v4(source, destination));
                Some([ethernet(ETHERTYPE_IPV4), self.ipv4(source, destination, payload.len()), payload].concat())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let payload = self.payload(pseudo_v6(source, destination));
                Some([ethernet(ETHERTYPE_IPV6), self.ipv6(source, destination, payload.len()), payload].concat())
            }
            _ => None,
        }
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp => PROTOCOL_TCP,
            Transport::Udp => PROTOCOL_UDP,
            Transport::Icmp if self.source.is_ipv4() => PROTOCOL_ICMP,
            Transport::Icmp => PROTOCOL_ICMPV6,
        }
    }

    fn ipv4(&self, source: Ipv4Addr, destination: Ipv4Addr, payload_bytes: usize) -> Vec<u8> {
        let total = 20 + payload_bytes as u16;
        let mut header = vec![0x45, 0];
        header.extend(total.to_be_bytes());
        // Not to be fragmented, as Linux sends.
        header.extend([0, 1, 0x40, 0, TTL, self.protocol(), 0, 0]);
        header.extend(source.octets());
        header.extend(destination.octets());
        let sum = checksum(add(0, &header));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn ipv6(&self, source: Ipv6Addr, destination: Ipv6Addr, payload_bytes: usize) -> Vec<u8> {
        let mut header = vec![0x60, 0, 0, 0];
        header.extend((payload_bytes as u16).to_be_bytes());
        header.extend([self.protocol(), TTL]);
        header.extend(source.octets());
        header.extend(destination.octets());
        header
    }

    /// With the checksum over `addresses` and itself.
    fn payload(&self, addresses: u32) -> Vec<u8> {
        let ports = [self.source_port.to_be_bytes(), self.port.to_be_bytes()].concat();
        let (mut payload, checksum_at) = match self.transport {
            Transport::Tcp => {
                let window = WINDOW.to_be_bytes();
                let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, TCP_SYN, window[0], window[1], 0, 0, 0, 0];
                ([&ports[..], &rest].concat(), 16)
            }
            Transport::Udp => ([&ports[..], &[0, 8, 0, 0]].concat(), 6),
            Transport::Icmp => {
                let kind = if self.source.is_ipv4() { 8 } else { 128 };
                let identifier = self.source_port.to_be_bytes();
                (vec![kind, 0, 0, 0, identifier[0], identifier[1], 0, 1], 2)
            }
        };
        let covers_addresses = self.protocol() != PROTOCOL_ICMP;
        let pseudo = addresses + u32::from(self.protocol()) + payload.len() as u32;
        let sum = checksum(add(if covers_addresses { pseudo } else { 0 }, &payload));
        payload[checksum_at..][..2].copy_from_slice(&sum.to_be_bytes());
        payload
    }
}

fn pseudo_v4(source: Ipv4Addr, destination: Ipv4Addr) -> u32 {
    add(add(0, &source.octets()), &destination.octets())
}

fn pseudo_v6(source: Ipv6Addr, destination: Ipv6Addr) -> u32 {
    add(add(0, &source.octets()), &destination.octets())
}

fn add(sum: u32, bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
    bytes.chunks(2).fold(sum, |sum, pair| sum + word(pair))
}

/// RFC 1071.
fn checksum(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    !(twice as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(source: &str, destination: &str, transport: Transport) -> Frame {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        Frame { macs: [[2; 6], [4; 6]], source, destination, transport, source_port: 40_000, port: 80 }
    }

    #[test]
    fn headers_are_as_a_stack_writes_them() {
        let bytes = frame("10.0.0.2", "10.0.0.3", Transport::Tcp).bytes().unwrap();
        assert_eq!((bytes.len(), &bytes[12..14], bytes[23]), (54, &[8, 0][..], 6));
        assert_eq!(checksum(add(0, &bytes[14..34])), 0);
        assert_eq!((&bytes[34..38], bytes[47]), (&[0x9c, 0x40, 0, 80][..], 2));
        let bytes = frame("fd00::2", "fd00::3", Transport::Icmp).bytes().unwrap();
        assert_eq!((bytes.len(), &bytes[12..14], bytes[20], bytes[54]), (62, &[0x86, 0xdd][..], 58, 128));
        assert_eq!(frame("10.0.0.2", "fd00::3", Transport::Udp).bytes(), None);
    }

    #[test]
    fn sums_cover_what_they_are_to_cover() {
        for transport in [Transport::Tcp, Transport::Udp, Transport::Icmp] {
            for (source, destination, at) in [("10.0.0.2", "10.0.0.3", 34), ("fd00::2", "fd00:1::3", 54)] {
                let frame = frame(source, destination, transport);
                let bytes = frame.bytes().unwrap();
                let pseudo = match frame.protocol() {
                    PROTOCOL_ICMP => 0,
                    protocol => {
                        let addresses = if at == 34 { &bytes[26..34] } else { &bytes[22..54] };
                        add(u32::from(protocol) + (bytes.len() - at) as u32, addresses)
                    }
                };
                assert_eq!(checksum(add(pseudo, &bytes[at..])), 0, "{frame:?}");
            }
        }
    }
}
