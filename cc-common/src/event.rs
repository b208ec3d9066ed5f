//! A record of one dropped packet, one of a decision by a rule that is to be told, and how many of either an endpoint may cause. Refuses
//! to keep what a packet carries: addresses and ports tell which one it was.

use crate::limits::ENDPOINTS_MAX;
use crate::net::{Be16, Be32, Ip, PROTOCOL_TCP, PROTOCOL_UDP};

/// An element of the ring `CC_EVENTS`. Its length tells it from the other kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct DropRecord {
    /// Of the kernel's monotonic clock.
    pub at_ns: u64,
    /// The number of the container at whose door it was dropped; 0 if that is no container's.
    pub container: u64,
    /// Of the container by whose interface it went, likewise.
    pub sender: u64,
    pub bytes: u32,
    pub ifindex: u32,
    pub endpoint: u32,
    /// A `Direction`.
    pub direction: u16,
    /// A `DropReason`.
    pub reason: u16,
    /// As they are in the frame; unspecified where it is no IP.
    pub source: Ip,
    pub destination: Ip,
    /// Of TCP and UDP, where the frame has them and no extension header lies before.
    pub source_port: Be16,
    pub destination_port: Be16,
    pub ethertype: Be16,
    pub protocol: u8,
    pub pad: u8,
}
const _: () = assert!(size_of::<DropRecord>() == 80 && align_of::<DropRecord>() == 8);

/// The other kind of element: what a rule has decided that its group wants to be told of. All as the endpoint whose rule it is knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct RuleRecord {
    /// Of the kernel's monotonic clock.
    pub at_ns: u64,
    /// The number of the container whose rule it is.
    pub container: u64,
    pub endpoint: u32,
    pub rule: u32,
    pub source: Ip,
    pub destination: Ip,
    /// Of TCP and UDP.
    pub source_port: Be16,
    pub destination_port: Be16,
    pub protocol: u8,
    /// One of `ACTION_…`.
    pub action: u8,
    /// A `Direction`.
    pub direction: u8,
    pub pad: u8,
    /// Type and code, of ICMP and ICMPv6.
    pub icmp: [u8; 2],
    pub pad2: [u8; 6],
}
const _: () = assert!(size_of::<RuleRecord>() == 72 && align_of::<RuleRecord>() == 8);
// A reader that knows drops alone takes what is shorter for none.
const _: () = assert!(size_of::<RuleRecord>() < size_of::<DropRecord>());

/// Value of `CC_TOLD`, of drops, and of `CC_LOGGED`, of decisions: of one endpoint, and of drops in the row after the last of all that are no
/// endpoint's. All atomic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Told {
    /// When all records that were written would have been, at the rate.
    pub until_ns: u64,
    pub written: u64,
    /// Not written: beyond the rate, or for want of room in the ring.
    pub lost: u64,
}
const _: () = assert!(size_of::<Told>() == 24);

/// Value of `CC_WATCH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Watch {
    /// Not 0 while somebody watches drops.
    pub drops: u32,
}

/// The row of `CC_TOLD` for an endpoint, or for what is none.
#[inline(always)]
pub fn told_row(endpoint: u32) -> u32 {
    if endpoint < ENDPOINTS_MAX { endpoint } else { ENDPOINTS_MAX }
}

/// A header without its options.
pub const IPV4_BYTES: usize = 20;
pub const IPV6_BYTES: usize = 40;

const SECOND_NS: u64 = 1_000_000_000;

/// Whether one more record may be written, and until when all are then. A second's records may come at once.
#[inline(always)]
pub fn admit(per_second: u32, until_ns: u64, now_ns: u64) -> Option<u64> {
    let interval_ns = SECOND_NS.checked_div(u64::from(per_second))?;
    let from = if until_ns > now_ns { until_ns } else { now_ns };
    let until = from.wrapping_add(interval_ns);
    if until.wrapping_sub(now_ns) > SECOND_NS { None } else { Some(until) }
}

impl DropRecord {
    /// Nothing is known of the packet.
    #[inline(always)]
    pub fn begin(&mut self, ethertype: Be16) {
        self.source = Ip::UNSPECIFIED;
        self.destination = Ip::UNSPECIFIED;
        self.source_port = Be16([0; 2]);
        self.destination_port = Be16([0; 2]);
        self.ethertype = ethertype;
        self.protocol = 0;
        self.pad = 0;
    }

    /// What an IPv4 header says, sound or not; the offset of the ports behind it, if there are any.
    #[inline(always)]
    pub fn ipv4(&mut self, h: &[u8; IPV4_BYTES]) -> Option<u32> {
        self.source = Ip::v4(Be32([h[12], h[13], h[14], h[15]]));
        self.destination = Ip::v4(Be32([h[16], h[17], h[18], h[19]]));
        self.protocol = h[9];
        let is_first = h[6] & 0x1f == 0 && h[7] == 0;
        (is_first && self.has_ports()).then_some(u32::from(h[0] & 0x0f) * 4)
    }

    /// Likewise; extension headers are not looked behind.
    #[inline(always)]
    pub fn ipv6(&mut self, h: &[u8; IPV6_BYTES]) -> Option<u32> {
        self.source.octets.copy_from_slice(&h[8..24]);
        self.destination.octets.copy_from_slice(&h[24..40]);
        self.protocol = h[6];
        self.has_ports().then_some(IPV6_BYTES as u32)
    }

    #[inline(always)]
    fn has_ports(&self) -> bool {
        matches!(self.protocol, PROTOCOL_TCP | PROTOCOL_UDP)
    }

    #[inline(always)]
    pub fn ports(&mut self, bytes: &[u8; 4]) {
        self.source_port = Be16([bytes[0], bytes[1]]);
        self.destination_port = Be16([bytes[2], bytes[3]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However they come, no second has more than a burst and what its time allows; and whoever waits a second may go on.
        #[test]
        fn the_rate_holds(per_second in 1u32..200, gaps in proptest::collection::vec(0u64..50_000_000, 1..400)) {
            let (mut now, mut until, mut written) = (SECOND_NS * 5, 0, 0u64);
            let start = now;
            for gap in gaps {
                now += gap;
                if let Some(next) = admit(per_second, until, now) {
                    (until, written) = (next, written + 1);
                }
            }
            let allowed = u64::from(per_second) + (now - start) * u64::from(per_second) / SECOND_NS + 1;
            prop_assert!(written <= allowed, "{written} of {allowed}");
            prop_assert!(admit(per_second, until, now + SECOND_NS).is_some());
        }
    }

    #[test]
    fn a_rate_of_nothing_writes_nothing() {
        assert_eq!(admit(0, 0, 1), None);
        assert_eq!((told_row(3), told_row(ENDPOINTS_MAX), told_row(u32::MAX)), (3, ENDPOINTS_MAX, ENDPOINTS_MAX));
    }

    #[test]
    fn a_packet_is_told_by_its_headers() {
        let mut record = DropRecord { protocol: 9, source_port: Be16::new(1), ..DropRecord::default() };
        record.begin(Be16::new(0x0800));
        assert_eq!((record.protocol, record.source_port), (0, Be16::new(0)), "nothing of another packet stays");
        let mut header = [0x46, 0, 0, 60, 0, 1, 0x20, 0, 64, PROTOCOL_UDP, 0, 0, 10, 0, 0, 2, 10, 0, 0, 3];
        assert_eq!(record.ipv4(&header), Some(24));
        header[7] = 1;
        assert_eq!(record.ipv4(&header), None, "no port is in a later fragment");
        (header[7], header[9]) = (0, 1);
        assert_eq!(record.ipv4(&header), None);
        record.ports(&[0x1f, 0x90, 0, 53]);
        assert_eq!((record.source_port.get(), record.destination_port.get()), (8080, 53));
        assert!(record.source.is_v4());
        let mut header = [0xfd; IPV6_BYTES];
        header[6] = PROTOCOL_TCP;
        assert_eq!((record.ipv6(&header), record.destination.octets), (Some(40), [0xfd; 16]));
    }
}
