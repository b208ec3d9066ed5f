//! What the daemon tells the programs of the host, in one row: it takes effect with the next packet. Refuses to have defaults:
//! the daemon writes the row before anything is attached.

use crate::limits;
use crate::nat::StandIns;
use crate::net::{Be32, Ip, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::tcp::{Phase, Tracked};

/// Value of `CC_SETTINGS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    pub timeouts: Timeouts,
    /// What flows remember of the world beyond the networks: changes with the host's addresses and routes.
    pub beyond_version: u64,
    /// The kernel's cookie of the network namespace whose sockets are the host's; 0: nobody's are.
    pub host_netns: u64,
    /// Flows that one endpoint may have, and of these how many that are not established.
    pub flows_per_endpoint: u32,
    pub half_open_per_endpoint: u32,
    /// Records of drops that one endpoint may cause in a second, and as many of what its rules decide.
    pub events_per_second: u32,
    /// The interface by which the host itself is reached, and whose routes are asked; 0 if there is none.
    pub host_ifindex: u32,
    pub stand_ins: StandIns,
    /// Blocks of ports for translated flows: the first one's number, and how many.
    pub nat_block_first: u16,
    pub nat_blocks: u16,
}
const _: () = assert!(size_of::<Settings>() == 128 && align_of::<Settings>() == 8);

/// How long a flow lives without a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Timeouts {
    pub tcp_opening_ns: u64,
    pub tcp_established_ns: u64,
    pub tcp_closing_ns: u64,
    /// Both sides are done, or one has reset.
    pub tcp_over_ns: u64,
    pub udp_opening_ns: u64,
    pub udp_established_ns: u64,
    /// ICMP queries, answered or not.
    pub icmp_ns: u64,
    pub other_opening_ns: u64,
    pub other_established_ns: u64,
}

const SECOND_NS: u64 = 1_000_000_000;

impl Timeouts {
    /// Established TCP outlives two hours of silence, after which Linux sends keep-alives (RFC 5382 asks for 2 h 4 min);
    /// the rest follows what Linux and Cilium do.
    pub const DEFAULT: Timeouts = Timeouts {
        tcp_opening_ns: 20 * SECOND_NS,
        tcp_established_ns: 8_000 * SECOND_NS,
        tcp_closing_ns: 300 * SECOND_NS,
        tcp_over_ns: 2 * SECOND_NS,
        udp_opening_ns: 30 * SECOND_NS,
        udp_established_ns: 120 * SECOND_NS,
        icmp_ns: 30 * SECOND_NS,
        other_opening_ns: 60 * SECOND_NS,
        other_established_ns: 600 * SECOND_NS,
    };

    /// Of a flow that has come this far.
    #[inline(always)]
    pub fn of(&self, protocol: u8, tracked: &Tracked) -> u64 {
        let is_tcp = protocol == PROTOCOL_TCP;
        if is_tcp && tracked.is_over() {
            return self.tcp_over_ns;
        }
        let phase = tracked.phase(is_tcp);
        match protocol {
            PROTOCOL_TCP => match phase {
                Phase::Opening => self.tcp_opening_ns,
                Phase::Established => self.tcp_established_ns,
                Phase::Closing => self.tcp_closing_ns,
                Phase::Closed => self.tcp_over_ns,
            },
            PROTOCOL_UDP => {
                if matches!(phase, Phase::Opening) {
                    self.udp_opening_ns
                } else {
                    self.udp_established_ns
                }
            }
            crate::net::PROTOCOL_ICMP | crate::net::PROTOCOL_ICMPV6 => self.icmp_ns,
            _ => {
                if matches!(phase, Phase::Opening) {
                    self.other_opening_ns
                } else {
                    self.other_established_ns
                }
            }
        }
    }
}

impl Settings {
    /// Of a host that has no uplink, no prefixes and nothing published yet.
    pub const DEFAULT: Settings = Settings {
        timeouts: Timeouts::DEFAULT,
        flows_per_endpoint: limits::FLOWS_PER_ENDPOINT,
        half_open_per_endpoint: limits::HALF_OPEN_PER_ENDPOINT,
        events_per_second: limits::EVENTS_PER_SECOND,
        host_ifindex: 0,
        stand_ins: StandIns { ipv4: Be32([0; 4]), ipv6: Ip::UNSPECIFIED },
        beyond_version: 1,
        host_netns: 0,
        nat_block_first: 0,
        nat_blocks: 0,
    };
}

/// Whether a flow may be forgotten.
#[inline(always)]
pub fn is_expired(timeouts: &Timeouts, protocol: u8, tracked: &Tracked, last_seen_ns: u64, now_ns: u64) -> bool {
    // Another CPU's clock may be a little ahead.
    now_ns.saturating_sub(last_seen_ns) > timeouts.of(protocol, tracked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Side;
    use crate::net::PROTOCOL_ICMP;
    use crate::packet::{TCP_ACK, TCP_FIN, TCP_SYN, Tcp};

    #[test]
    fn a_flow_lives_as_long_as_its_state_says() {
        let t = Timeouts::DEFAULT;
        let said = |flags| Tcp { sequence: 1, acknowledged: 1, window: 1, flags };
        let mut tracked = crate::tcp::tests::begun(Side::A, &said(TCP_SYN), None);
        assert_eq!(t.of(PROTOCOL_TCP, &tracked), t.tcp_opening_ns);
        tracked.segment(Side::B, &said(TCP_SYN | TCP_ACK), None);
        tracked.segment(Side::A, &said(TCP_ACK), None);
        assert_eq!(t.of(PROTOCOL_TCP, &tracked), t.tcp_established_ns);
        tracked.segment(Side::A, &said(TCP_FIN | TCP_ACK), None);
        assert_eq!(t.of(PROTOCOL_TCP, &tracked), t.tcp_closing_ns);
        tracked.segment(Side::B, &said(TCP_FIN | TCP_ACK), None);
        assert_eq!(t.of(PROTOCOL_TCP, &tracked), t.tcp_over_ns);
        let mut udp = Tracked::default();
        udp.spoke(Side::A);
        assert_eq!((t.of(PROTOCOL_UDP, &udp), t.of(PROTOCOL_ICMP, &udp)), (t.udp_opening_ns, t.icmp_ns));
        udp.spoke(Side::B);
        assert_eq!((t.of(PROTOCOL_UDP, &udp), t.of(47, &udp)), (t.udp_established_ns, t.other_established_ns));
        assert!(is_expired(&t, PROTOCOL_UDP, &udp, 5, 6 + t.udp_established_ns));
        assert!(!is_expired(&t, PROTOCOL_UDP, &udp, 5, 5 + t.udp_established_ns));
        assert!(!is_expired(&t, PROTOCOL_UDP, &udp, 500, 5), "seen by a clock that is ahead");
    }
}
