//! How much an endpoint may send in a time. A queue on the container's own interface holds it to that, and makes whoever sends
//! wait; but a program that may open packet sockets can send past every queue. So what comes out of it is measured again, on the
//! host's side, and what is too much is dropped. Refuses to delay: a program cannot.

use crate::net::PROTOCOL_TCP;

const NS_PER_S: u64 = 1_000_000_000;
/// The shortest headers of the two protocols whose packets the kernel joins.
const TCP_HEADER_BYTES: u64 = 20;
const UDP_HEADER_BYTES: u64 = 8;

/// Value of `CC_RATES`: of an endpoint whose port has `PORT_RATED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Rate {
    pub bytes_per_s: u64,
    /// How far what was sent may be ahead of the rate.
    pub burst_ns: u64,
    /// When all that was sent would have been, at the rate; of the kernel's monotonic clock, and atomic.
    pub sent_until_ns: u64,
}
const _: () = assert!(size_of::<Rate>() == 24 && align_of::<Rate>() == 8);

impl Rate {
    /// With its whole burst to be had at once. A rate of nothing is one byte a second.
    pub fn new(bytes_per_s: u64, burst_bytes: u64) -> Self {
        let bytes_per_s = bytes_per_s.max(1);
        let burst_ns = u128::from(burst_bytes) * u128::from(NS_PER_S) / u128::from(bytes_per_s);
        Rate { bytes_per_s, burst_ns: u64::try_from(burst_ns).unwrap_or(u64::MAX), sent_until_ns: 0 }
    }

    /// How long a packet takes: no packet has the 2^34 bytes from which on this would overflow.
    #[inline(always)]
    pub fn time_of(&self, bytes: u64) -> u64 {
        bytes.wrapping_mul(NS_PER_S).checked_div(self.bytes_per_s).unwrap_or(0)
    }

    /// Whether a packet that takes `time_ns` may pass at `now_ns`, and until when all is sent then. `sent_until_ns` is what the row
    /// said just now.
    #[inline(always)]
    pub fn admit(&self, sent_until_ns: u64, now_ns: u64, time_ns: u64) -> Option<u64> {
        let until = sent_until_ns.max(now_ns).saturating_add(time_ns);
        if until - now_ns > self.burst_ns { None } else { Some(until) }
    }
}

/// Bytes of a buffer as they will be on the wire: the headers again before each of its segments. Options are not counted, so that a
/// queue, which counts them, never lets pass what is too much here.
#[inline(always)]
pub fn wire_bytes(frame_bytes: u32, segments: u64, transport_offset: u32, protocol: u8) -> u64 {
    let transport = if protocol == PROTOCOL_TCP { TCP_HEADER_BYTES } else { UDP_HEADER_BYTES };
    u64::from(frame_bytes) + segments.saturating_sub(1) * (u64::from(transport_offset) + transport)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::PROTOCOL_UDP;
    use proptest::prelude::*;

    #[test]
    fn segments_have_their_headers() {
        assert_eq!(wire_bytes(1514, 1, 34, PROTOCOL_TCP), 1514);
        assert_eq!(wire_bytes(1514, 0, 34, PROTOCOL_UDP), 1514);
        // 45 segments of 1,448 bytes, 44 of them without a header of their own until they are cut.
        assert_eq!(wire_bytes(65_226, 45, 34, PROTOCOL_TCP), 65_226 + 44 * 54);
        assert_eq!(wire_bytes(65_226, 45, 54, PROTOCOL_UDP), 65_226 + 44 * 62);
    }

    #[test]
    fn a_burst_passes_at_once_and_then_the_rate_holds() {
        let rate = Rate::new(1_000_000, 3000);
        let (now, packet) = (5_000_000_000, rate.time_of(1000));
        let mut until = 0;
        for _ in 0..3 {
            until = rate.admit(until, now, packet).unwrap();
        }
        assert_eq!(rate.admit(until, now, packet), None);
        assert_eq!(rate.admit(until, now + packet - 1, packet), None);
        assert_eq!(rate.admit(until, now + packet, packet), Some(until + packet));
        // What was not used is there again, up to the burst.
        assert_eq!(rate.admit(until, now + NS_PER_S, 3 * packet), Some(now + NS_PER_S + 3 * packet));
        assert_eq!(rate.admit(until, now + NS_PER_S, 3 * packet + 1), None);
    }

    #[test]
    fn a_row_of_zeros_is_no_panic() {
        assert_eq!(Rate::default().time_of(1500), 0);
        assert_eq!(Rate::new(0, u64::MAX).bytes_per_s, 1);
    }

    proptest! {
        /// Whatever is sent whenever, no span of time sees more than the rate and one burst.
        #[test]
        fn no_more_than_rate_and_burst(
            bytes_per_s in 8_192u64..125_000_000_000, burst in 2_000u64..10_000_000,
            packets in prop::collection::vec((0u64..20_000_000, 60u64..70_000), 1..200),
        ) {
            let rate = Rate::new(bytes_per_s, burst);
            let (mut now, mut until, mut passed) = (1_000_000_000, 0, Vec::new());
            for (gap_ns, bytes) in packets {
                now += gap_ns;
                if let Some(after) = rate.admit(until, now, rate.time_of(bytes)) {
                    until = after;
                    passed.push((now, bytes));
                }
            }
            for first in 0..passed.len() {
                let sent: u64 = passed[first..].iter().map(|(_, bytes)| bytes).sum();
                let span = passed.last().unwrap().0 - passed[first].0;
                let allowed = u128::from(bytes_per_s) * u128::from(span) / u128::from(NS_PER_S) + u128::from(burst);
                // A nanosecond is lost by rounding for each packet.
                let rounding = (passed.len() as u128 + 1) * u128::from(bytes_per_s.div_ceil(NS_PER_S));
                prop_assert!(u128::from(sent) <= allowed + rounding, "{sent} in {span} ns");
            }
        }
    }
}
