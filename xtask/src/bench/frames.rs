//! Ethernet frames with small UDP datagrams and TCP segments, for programs that are run on them. Refuses to send any.

use std::net::Ipv4Addr;

const ETHERTYPE_IPV4: [u8; 2] = [8, 0];
const UDP: u8 = 17;
const TCP: u8 = 6;
const PAYLOAD_BYTES: usize = 18;

/// From where to where, at both layers.
#[derive(Clone, Copy)]
pub struct Ends {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    pub source: (Ipv4Addr, u16),
    pub destination: (Ipv4Addr, u16),
}

impl Ends {
    /// To the loopback interface, whose address is all zeros.
    pub fn from_outside(source: Ipv4Addr) -> Ends {
        Ends {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [0; 6],
            source: (source, 40_000),
            destination: (Ipv4Addr::new(192, 0, 2, 1), 53),
        }
    }
}

pub fn udp(ends: Ends) -> Vec<u8> {
    let mut transport = ports(ends);
    transport.extend(((8 + PAYLOAD_BYTES) as u16).to_be_bytes());
    // No checksum: allowed over IPv4.
    transport.extend([0; 2 + PAYLOAD_BYTES]);
    ipv4(ends, UDP, &transport)
}

/// Without options.
pub fn tcp(ends: Ends, flags: u8, sequence: u32, acknowledged: u32) -> Vec<u8> {
    let mut transport = ports(ends);
    transport.extend(sequence.to_be_bytes());
    transport.extend(acknowledged.to_be_bytes());
    transport.extend([0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    ipv4(ends, TCP, &transport)
}

fn ports(ends: Ends) -> Vec<u8> {
    [ends.source.1.to_be_bytes(), ends.destination.1.to_be_bytes()].concat()
}

fn ipv4(ends: Ends, protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend(((20 + transport.len()) as u16).to_be_bytes());
    header.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    header.extend(ends.source.0.octets());
    header.extend(ends.destination.0.octets());
    let words = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes());
    [&ends.destination_mac[..], &ends.source_mac, &ETHERTYPE_IPV4, &header, transport].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_sums_to_nothing_and_says_its_length() {
        let frame = udp(Ends::from_outside(Ipv4Addr::new(198, 51, 100, 7)));
        let words = frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let sum = words.sum::<u32>();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert_eq!(usize::from(u16::from_be_bytes([frame[16], frame[17]])), frame.len() - 14);
    }
}
