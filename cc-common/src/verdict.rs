//! What becomes of a packet, and why: the numbers that cross into maps and `skb->cb`, and the names that people see. Refuses
//! to look at a packet.

/// What a hook decided. It becomes the kernel's integer on the hook's last line.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours to decide, or already decided by us.
    Pass,
    /// Into the network namespace behind this host-side interface.
    Deliver {
        ifindex: u32,
    },
    /// The same by the interface's queue, which shapes it.
    Queue {
        ifindex: u32,
    },
    /// Back to where it came from, rewritten into an answer.
    Answer,
    /// Out of this uplink, to whichever neighbour the host's routes name.
    Out {
        ifindex: u32,
    },
    /// To the host itself, as if it had come in by this interface.
    Host {
        ifindex: u32,
    },
    /// Done with: a copy of it comes in once more.
    Again,
    Drop(DropReason),
}

impl Verdict {
    /// As `code` gives it, where only the reason's number is known.
    pub const DROP_CODE: u32 = 4;

    /// The number in `skb->cb[0]`; 0 means that no hook of ours ran.
    #[inline(always)]
    pub const fn code(self) -> u32 {
        match self {
            Verdict::Pass => 1,
            Verdict::Deliver { .. } => 2,
            Verdict::Answer => 3,
            Verdict::Drop(_) => Verdict::DROP_CODE,
            Verdict::Queue { .. } => 5,
            Verdict::Out { .. } => 6,
            Verdict::Host { .. } => 7,
            Verdict::Again => 8,
        }
    }
}

/// As the endpoint sees it: `Egress` leaves the container, `Ingress` enters it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Direction {
    Egress = 0,
    Ingress = 1,
}

impl Direction {
    pub const ALL: [Direction; 2] = [Direction::Egress, Direction::Ingress];

    pub const fn name(self) -> &'static str {
        match self {
            Direction::Egress => "egress",
            Direction::Ingress => "ingress",
        }
    }
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)+) => {
        /// Why a packet was dropped. Numbers and names are stable: they are in pinned maps, metrics and scripts.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum DropReason { $($(#[$doc])* $variant = $number,)+ }

        impl DropReason {
            pub const ALL: &[DropReason] = &[$(DropReason::$variant,)+];

            /// The name in `cc metrics` and in the label of the exported metric.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }

            /// The reason with this number; `None` when a newer program wrote it.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(DropReason::$variant),)+ _ => None }
            }
        }
    };
}

drop_reasons! {
    /// The interface has no entry in `CC_PORTS`.
    UnknownPort = 1, "unknown_port";
    /// Too short for the header that its type announces.
    Truncated = 2, "truncated";
    /// A VLAN tag, in the frame or offloaded.
    Vlan = 3, "vlan";
    /// The frame's source address is not the port's.
    SpoofedMac = 4, "spoofed_mac";
    /// The packet's source address is not the port's.
    SpoofedIpv4 = 5, "spoofed_ipv4";
    /// An ARP sender that is not the port.
    SpoofedArp = 6, "spoofed_arp";
    /// ARP that is not IPv4 over Ethernet, or neither request nor reply.
    ArpMalformed = 7, "arp_malformed";
    /// The endpoint announcing its own address: legitimate, and nobody needs to hear it.
    ArpAnnouncement = 8, "arp_announcement";
    /// A request for an address that nobody in this VPC has.
    ArpUnknownTarget = 9, "arp_unknown_target";
    /// Not version 4, or a header shorter than the minimum.
    Ipv4Header = 10, "ipv4_header";
    /// A total length below the header's or beyond the frame's end.
    Ipv4Length = 11, "ipv4_length";
    /// IPv6 from an endpoint of a network that has none.
    Ipv6 = 12, "ipv6";
    /// A type that is neither IPv4, IPv6 nor ARP.
    Ethertype = 13, "ethertype";
    Broadcast = 14, "broadcast";
    Multicast = 15, "multicast";
    /// A unicast frame that is addressed to something else than our gateway address.
    WrongDestinationMac = 16, "wrong_destination_mac";
    /// No endpoint of this VPC has the destination address.
    NoRoute = 17, "no_route";
    /// The route's endpoint was replaced between two lookups.
    StaleEndpoint = 18, "stale_endpoint";
    /// The destination's rules do not admit the sender.
    FirewallIngress = 19, "firewall_ingress";
    /// For the gateway itself, and not an echo request.
    GatewayClosed = 20, "gateway_closed";
    /// Sent to the host-side interface by something else than the datapath.
    NotFromDatapath = 21, "not_from_datapath";
    /// The packet could not be rewritten.
    Rewrite = 22, "rewrite";
    /// The packet's IPv6 source address is not the port's.
    SpoofedIpv6 = 24, "spoofed_ipv6";
    /// A neighbour solicitation whose source is not the port.
    SpoofedNd = 25, "spoofed_nd";
    /// Neighbour discovery that came from beyond a router, or asks for a group.
    NdMalformed = 26, "nd_malformed";
    /// The endpoint announcing itself, or looking for routers: legitimate, and nobody needs to hear it.
    NdAnnouncement = 27, "nd_announcement";
    /// A solicitation for an address that nobody in this VPC has.
    NdUnknownTarget = 28, "nd_unknown_target";
    /// Not version 6.
    Ipv6Header = 29, "ipv6_header";
    /// A payload length beyond the frame's end.
    Ipv6Length = 30, "ipv6_length";
    /// A routing header, or more extension headers than an honest packet has.
    Ipv6Extension = 31, "ipv6_extension";
    /// The sender's own rules do not allow it.
    FirewallEgress = 32, "firewall_egress";
    /// The destination is the host's own or link-local, and no rule names it.
    ClosedDestination = 33, "closed_destination";
    /// The endpoint has as many flows as it may have.
    FlowQuota = 34, "flow_quota";
    /// It has as many flows that nobody has answered as it may have.
    HalfOpenQuota = 35, "half_open_quota";
    /// What all endpoints share beyond their own parts is used up.
    FlowTableFull = 36, "flow_table_full";
    /// Its flow was being forgotten at this very moment.
    FlowClosing = 37, "flow_closing";
    /// A reset that its receiver does not await.
    TcpReset = 38, "tcp_reset_out_of_window";
    /// An ICMP error that quotes no packet of a flow, or a redirect or a router's word, which belongs to none.
    IcmpUnrelated = 39, "icmp_unrelated";
    /// A later fragment that came before its first one, where ports decide. What was kept of it goes on all the same if that comes within a
    /// second.
    FragmentUnknown = 40, "fragment_unknown";
    /// The VPC has no way out.
    NoInternet = 41, "no_internet";
    /// The host has no route there.
    NoWayOut = 42, "no_way_out";
    /// No port was left to translate to.
    NatExhausted = 43, "nat_exhausted";
    /// A protocol that has no ports to tell conversations apart by.
    NatProtocol = 44, "nat_protocol";
    /// Its time to live ended here.
    TtlExceeded = 45, "ttl_exceeded";
    /// Larger than the way out takes; the sender was told.
    TooBig = 46, "too_big";
    /// The guard's list of denied sources has it.
    GuardDenied = 47, "guard_denied";
    /// On the uplink: no sound packet.
    GuardMalformed = 48, "guard_malformed";
    /// Beyond its limit of what it may send, past the queue that holds it to that.
    EgressRate = 49, "egress_rate";
    /// Not a packet's: a conversation from outside that nobody has followed up on, forgotten for a newer one at its endpoint's quota.
    HalfOpenRecycled = 50, "half_open_recycled";
    /// TCP's answer to a beginning that there was not, or a reset of a conversation that there is not.
    TcpUnrelated = 51, "tcp_unrelated";
    /// Not a reason by itself: drops that `CC_DROPS` had no room for, whatever their reason.
    Uncounted = 23, "uncounted";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_and_numbers_are_unique_and_well_formed() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        for &reason in DropReason::ALL {
            assert_eq!(DropReason::from_number(reason as u16), Some(reason));
            let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            assert!(reason.name().bytes().all(ok), "{}", reason.name());
        }
        assert_eq!(DropReason::from_number(0), None);
    }
}
