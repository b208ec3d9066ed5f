//! Frames as somebody else reads them, and their sums counted anew: what the programs say is held against this. Refuses to share a line
//! with them.

use etherparse::{IpNumber, IpSlice};

pub const ETHERNET_BYTES: usize = 14;

/// What a frame says to etherparse.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub source: [u8; 16],
    pub destination: [u8; 16],
    pub protocol: u8,
    /// Where the transport's header begins.
    pub transport: usize,
    /// Where the packet ends; what follows is padding.
    pub end: usize,
    pub fragmented: bool,
    pub ttl: u8,
}

/// Of IPv4 and IPv6 alone, and only what both understand: to us an authentication header and the like are transports.
pub fn see(frame: &[u8]) -> Option<Seen> {
    let packet = frame.get(ETHERNET_BYTES..)?;
    let ip = IpSlice::from_slice(packet).ok()?;
    let payload = ip.payload();
    let (source, destination, first, ttl) = match &ip {
        IpSlice::Ipv4(v4) => {
            let header = v4.header();
            (mapped(header.source()), mapped(header.destination()), header.protocol(), header.ttl())
        }
        IpSlice::Ipv6(v6) => {
            let header = v6.header();
            (header.source(), header.destination(), header.next_header(), header.hop_limit())
        }
    };
    let mut strange =
        [IpNumber::AUTHENTICATION_HEADER, IpNumber::MOBILITY_HEADER, IpNumber::HIP, IpNumber::SHIM6].iter();
    if strange.any(|number| *number == first) || chain_has_strange(&ip) {
        return None;
    }
    let transport = ETHERNET_BYTES + packet.len() - behind(packet, payload.payload);
    Some(Seen {
        source,
        destination,
        protocol: payload.ip_number.0,
        transport,
        end: transport + payload.payload.len(),
        fragmented: payload.fragmented,
        ttl,
    })
}

/// Bytes from where the part begins to the end of the whole.
fn behind(whole: &[u8], part: &[u8]) -> usize {
    whole.as_ptr_range().end.addr() - part.as_ptr().addr()
}

fn chain_has_strange(ip: &IpSlice<'_>) -> bool {
    use etherparse::Ipv6ExtensionSlice as Extension;
    let IpSlice::Ipv6(v6) = ip else { return false };
    let known = |extension: Extension<'_>| {
        matches!(extension, Extension::HopByHop(_) | Extension::DestinationOptions(_) | Extension::Fragment(_))
    };
    !v6.extensions().clone().into_iter().all(known)
}

pub fn mapped(v4: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = v4;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// RFC 1071.
pub fn sum(parts: &[&[u8]]) -> u16 {
    let word = |pair: &[u8]| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u64 = parts.iter().flat_map(|part| part.chunks(2)).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Where the sum of a transport header lies, if it has one that is known here.
pub fn sum_at(seen: &Seen) -> Option<usize> {
    match seen.protocol {
        6 => Some(seen.transport + 16),
        17 => Some(seen.transport + 6),
        1 | 58 => Some(seen.transport + 2),
        _ => None,
    }
}

/// The sum of a whole packet's transport: 0 if what it holds is right.
fn transport_sum(frame: &[u8], seen: &Seen) -> u16 {
    let payload = &frame[seen.transport..seen.end];
    let v4 = frame[ETHERNET_BYTES] >> 4 == 4;
    // ICMP's own sum covers no addresses.
    if seen.protocol == 1 {
        return sum(&[payload]);
    }
    let length = u32::try_from(payload.len()).expect("frames are short").to_be_bytes();
    let addresses = if v4 { &frame[26..34] } else { &frame[22..54] };
    sum(&[addresses, &length, &[0, 0, 0, seen.protocol], payload])
}

/// Whether each sum in a packet is right, of whole packets: the header's, and the transport's. A datagram may have none.
pub fn sums_hold(frame: &[u8]) -> bool {
    let Some(seen) = see(frame) else { return false };
    if frame[ETHERNET_BYTES] >> 4 == 4 {
        let header = usize::from(frame[ETHERNET_BYTES] & 0xf) * 4;
        if sum(&[&frame[ETHERNET_BYTES..ETHERNET_BYTES + header]]) != 0 {
            return false;
        }
    }
    let Some(at) = sum_at(&seen).filter(|at| !seen.fragmented && at + 2 <= seen.end) else { return !seen.fragmented };
    let none = seen.protocol == 17 && frame[at..at + 2] == [0; 2];
    // A sum that is adjusted cannot tell the two zeros of one's complement apart, where all else is zero, too (RFC 1624, 3). Linux's own
    // translation cannot either.
    let nothing = seen.protocol == 1 && frame[seen.transport..seen.end].iter().all(|byte| *byte == 0);
    none || nothing || transport_sum(frame, &seen) == 0
}

/// Makes every sum right, of what is a whole packet.
pub fn set_sums(frame: &mut [u8]) {
    let Some(seen) = see(frame) else { return };
    if frame[ETHERNET_BYTES] >> 4 == 4 {
        let header = usize::from(frame[ETHERNET_BYTES] & 0xf) * 4;
        frame[24..26].fill(0);
        let right = sum(&[&frame[ETHERNET_BYTES..ETHERNET_BYTES + header]]);
        frame[24..26].copy_from_slice(&right.to_be_bytes());
    }
    let Some(at) = sum_at(&seen).filter(|at| !seen.fragmented && at + 2 <= seen.end) else { return };
    frame[at..at + 2].fill(0);
    let right = match transport_sum(frame, &seen) {
        // Zero would say that there is none.
        0 if seen.protocol == 17 => 0xffff,
        right => right,
    };
    frame[at..at + 2].copy_from_slice(&right.to_be_bytes());
}

/// The answer to a frame: both ends swapped, an echo turned into its reply, a SYN acknowledged; sums made right.
pub fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    let seen = see(frame)?;
    let mut answer = frame.to_vec();
    answer[..12].rotate_left(6);
    let addresses = if frame[ETHERNET_BYTES] >> 4 == 4 { 26..34 } else { 22..54 };
    let half = addresses.len() / 2;
    answer[addresses].rotate_left(half);
    if !seen.fragmented {
        match (seen.protocol, answer.get_mut(seen.transport..)) {
            (6 | 17, Some(ports)) if ports.len() >= 4 => ports[..4].rotate_left(2),
            (1, Some([kind @ 8, ..])) => *kind = 0,
            (58, Some([kind @ 128, ..])) => *kind = 129,
            _ => {}
        }
        if seen.protocol == 6 && answer.len() >= seen.transport + 20 {
            let (sequence, acknowledged) = (seen.transport + 4, seen.transport + 8);
            let next = u32::from_be_bytes(answer[sequence..acknowledged].try_into().ok()?).wrapping_add(1);
            answer[acknowledged..acknowledged + 4].copy_from_slice(&next.to_be_bytes());
            answer[seen.transport + 13] |= 0x10;
        }
        set_sums(&mut answer);
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_right_and_its_answer_is_the_question() {
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 2], [192, 0, 2, 9], 64);
        let mut frame = Vec::new();
        builder.udp(5000, 53).write(&mut frame, b"hello").expect("a vector takes it");
        assert!(sums_hold(&frame));
        let answer_ = answer(&frame).expect("it is a packet");
        assert!(sums_hold(&answer_) && answer_ != frame);
        assert_eq!(answer(&answer_).as_ref(), Some(&frame));
        let mut broken = frame.clone();
        broken[40] ^= 1;
        assert!(!sums_hold(&broken));
        set_sums(&mut broken);
        assert!(sums_hold(&broken));
    }
}
