//! Which address a new container gets: the next free one after the last that was given, around the range. So a freed address
//! is not given again while another is free that was freed before it or never used. Its IPv6 address has the same host part. Refuses
//! to remember anything: the cursor lives in the VPC's record.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::cidr::Cidr;
use super::cidr6::Cidr6;

/// The address after `last` that is not in `taken`; `None` when all are.
pub fn next_address(cidr: Cidr, last: Option<Ipv4Addr>, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let (first, end) = cidr.container_range();
    let (first, end) = (first.to_bits(), end.to_bits());
    let start = match last.map(Ipv4Addr::to_bits) {
        Some(last) if (first..end).contains(&last) => last + 1,
        _ => first,
    };
    // At most `taken.len() + 1` candidates are looked at: each that is not free is one of `taken`.
    (start..=end).chain(first..start).map(Ipv4Addr::from_bits).find(|address| !taken.contains(address))
}

/// Whether every address of `cidr` has its like in `cidr6`.
pub fn is_as_large(cidr6: Cidr6, cidr: Cidr) -> bool {
    cidr6.host_bits() >= cidr.host_bits()
}

/// The IPv6 address that belongs to a container's IPv4 address: as unique as that, and as easily read.
pub fn ipv6_of(cidr6: Cidr6, cidr: Cidr, address: Ipv4Addr) -> Ipv6Addr {
    cidr6.address(cidr.host_part(address))
}

/// The MAC address that belongs to a container's address: locally administered, unique within its VPC.
pub fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0xcc, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cidr() -> Cidr {
        Cidr::parse("10.0.0.0/29").unwrap()
    }

    #[test]
    fn addresses_go_up_and_around() {
        let mut taken = BTreeSet::new();
        let mut last = None;
        for d in 2..=6 {
            last = next_address(cidr(), last, &taken);
            assert_eq!(last, Some(Ipv4Addr::new(10, 0, 0, d)));
            taken.extend(last);
        }
        assert_eq!(next_address(cidr(), last, &taken), None);
        taken.remove(&Ipv4Addr::new(10, 0, 0, 4));
        assert_eq!(next_address(cidr(), last, &taken), Some(Ipv4Addr::new(10, 0, 0, 4)));
    }

    #[test]
    fn a_freed_address_waits_for_the_unused_ones() {
        let taken = BTreeSet::from([Ipv4Addr::new(10, 0, 0, 3)]);
        // .2 was freed, .3 was the last one given.
        assert_eq!(next_address(cidr(), Some(Ipv4Addr::new(10, 0, 0, 3)), &taken), Some(Ipv4Addr::new(10, 0, 0, 4)));
    }

    #[test]
    fn both_addresses_have_one_host_part() {
        let (cidr, cidr6) = (Cidr::parse("10.0.0.0/22").unwrap(), Cidr6::parse("fd00:1::/64").unwrap());
        for (ipv4, ipv6) in [("10.0.0.2", "fd00:1::2"), ("10.0.1.5", "fd00:1::105"), ("10.0.3.254", "fd00:1::3fe")] {
            assert_eq!(ipv6_of(cidr6, cidr, ipv4.parse().unwrap()), ipv6.parse::<Ipv6Addr>().unwrap());
        }
        assert_eq!(ipv6_of(cidr6, cidr, cidr.gateway()), cidr6.gateway());
        let fits = |cidr6, cidr| is_as_large(Cidr6::parse(cidr6).unwrap(), Cidr::parse(cidr).unwrap());
        assert!(
            fits("fd00::/120", "10.0.0.0/24") && fits("fd00::/104", "10.0.0.0/8") && fits("fd00::/48", "10.0.0.0/8")
        );
        assert!(!fits("fd00::/120", "10.0.0.0/23") && !fits("fd00::/105", "10.0.0.0/8"));
    }

    proptest! {
        #[test]
        fn two_containers_never_share_an_ipv6_address(a in 0u32..1 << 24, b in 0u32..1 << 24, length in 8u8..=30, length6 in 48u8..=120) {
            let cidr = Cidr::parse(&format!("10.0.0.0/{length}")).unwrap();
            let cidr6 = Cidr6::parse(&format!("fd00::/{length6}")).unwrap();
            prop_assume!(is_as_large(cidr6, cidr));
            let (first, last) = cidr.container_range();
            let within = |n: u32| Ipv4Addr::from_bits(first.to_bits() + n % (last.to_bits() - first.to_bits() + 1));
            let (x, y) = (within(a), within(b));
            let (x6, y6) = (ipv6_of(cidr6, cidr, x), ipv6_of(cidr6, cidr, y));
            prop_assert_eq!(x == y, x6 == y6);
            prop_assert!(x6 != cidr6.gateway() && x6 != cidr6.network());
            prop_assert_eq!(x6.to_bits() >> cidr6.host_bits(), cidr6.network().to_bits() >> cidr6.host_bits());
        }

        #[test]
        fn never_a_taken_one_nor_the_gateway(taken in proptest::collection::btree_set(0u8..8, 0..8), last: Option<u8>) {
            let taken: BTreeSet<_> = taken.into_iter().map(|d| Ipv4Addr::new(10, 0, 0, d)).collect();
            match next_address(cidr(), last.map(|d| Ipv4Addr::new(10, 0, 0, d)), &taken) {
                Some(address) => {
                    prop_assert!(!taken.contains(&address));
                    prop_assert!((2..=6).contains(&address.octets()[3]));
                }
                None => prop_assert!((2..=6).all(|d| taken.contains(&Ipv4Addr::new(10, 0, 0, d)))),
            }
        }
    }
}
