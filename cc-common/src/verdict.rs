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
    /// Back to where it came from, rewritten into an answer.
    Answer,
    Drop(DropReason),
}

impl Verdict {
    /// The number in `skb->cb[0]`; 0 means that no hook of ours ran.
    #[inline(always)]
    pub const fn code(self) -> u32 {
        match self {
            Verdict::Pass => 1,
            Verdict::Deliver { .. } => 2,
            Verdict::Answer => 3,
            Verdict::Drop(_) => 4,
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
